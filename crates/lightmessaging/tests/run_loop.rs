//! Several services on one thread.

mod common;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc;
use std::time::Duration;

use common::{Folder, HANG, hear, play, tell, until};
use lightmessaging::{Connection, Deadline, Ended, Error, RunLoop, Service};

#[test]
fn role() {
    play(&[("two", two), ("nested", nested)]);
}

fn echo(request: lightmessaging::Request) {
    let (message, reply) = request.split();
    let _ = reply.reply(message.data());
}

/// Two services on one loop; says what each run returns.
fn two(_: &[String]) {
    let services = RunLoop::new().unwrap();
    services.add(Service::start("a", echo).unwrap()).unwrap();
    services.add(Service::start("b", echo).unwrap()).unwrap();
    let handle = services.handle();
    std::thread::spawn(move || {
        while let Some(line) = hear() {
            match line.as_str() {
                "stop" => handle.stop(),
                "add" => handle.add(Service::start("c", echo).unwrap()).unwrap(),
                other => panic!("{other}"),
            }
            tell(line);
        }
    });
    tell("ready");
    loop {
        tell(format!("{:?}", services.run().unwrap()));
    }
}

#[test]
fn two_services_of_one_thread_are_served_side_by_side() {
    let folder = Folder::new();
    let _server = folder.serve("two", &[]);
    let (a, b) = (folder.connect("a"), folder.connect("b"));
    for round in 0..200u32 {
        let sent = round.to_le_bytes();
        assert_eq!(a.send_two_way(1, sent).unwrap().data(), sent);
        assert_eq!(b.send_two_way(1, sent).unwrap().data(), sent);
    }
    // And from two threads at once.
    let threads: Vec<_> = [a, b]
        .into_iter()
        .map(|connection| {
            std::thread::spawn(move || {
                for _ in 0..500 {
                    assert_eq!(connection.send_two_way(1, "x").unwrap().data(), b"x");
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_service_is_added_to_a_loop_that_sleeps() {
    let folder = Folder::new();
    let mut server = folder.serve("two", &[]);
    assert!(matches!(folder.connect("c").send_two_way(1, []), Err(Error::NotFound { .. })));
    server.say("add");
    server.expect("add");
    assert_eq!(folder.connect("c").send_two_way(1, "there").unwrap().data(), b"there");
}

#[test]
fn another_thread_stops_a_loop_that_sleeps() {
    let folder = Folder::new();
    let mut server = folder.serve("two", &[]);
    for _ in 0..3 {
        folder.connect("a").send_two_way(1, []).unwrap();
        server.say("stop");
        let mut said = [server.line(), server.line()];
        said.sort();
        assert_eq!(said, ["Stopped", "stop"]);
        folder.connect("b").send_two_way(1, "and it goes on").unwrap();
    }
}

#[test]
fn a_loop_without_services_returns_at_once() {
    assert_eq!(RunLoop::new().unwrap().run().unwrap(), Ended::Finished);
}

#[test]
fn a_loop_returns_when_its_last_service_is_stopped() {
    let folder = Folder::new();
    let services = RunLoop::new().unwrap();
    let one = folder.service("one").start(drop).unwrap();
    let other = folder.service("other").start(drop).unwrap();
    let (stop_one, stop_other) = (one.stop_handle(), other.stop_handle());
    services.add(one).unwrap();
    services.add(other).unwrap();
    let handle = services.handle();
    let stopper = std::thread::spawn(move || {
        until(|| handle.is_running());
        stop_one.stop();
        stop_other.stop();
    });
    assert_eq!(services.run().unwrap(), Ended::Finished);
    stopper.join().unwrap();
    assert!(services.is_empty());
    folder.service("one").start(drop).unwrap();
}

#[test]
fn a_deadline_ends_a_run_whether_there_is_work_or_not() {
    let folder = Folder::new();
    let services = RunLoop::new().unwrap();
    services.add(folder.service("x").start(echo).unwrap()).unwrap();
    let soon = Duration::from_millis(20);
    assert_eq!(services.run_within(soon, false).unwrap(), Ended::TimedOut);
    let connection = folder.connect("x");
    let (done, is_done) = mpsc::channel::<()>();
    let caller = std::thread::spawn(move || {
        let end = Deadline::After(HANG);
        while is_done.try_recv() == Err(mpsc::TryRecvError::Empty) {
            connection.send_two_way_within(1, "x", end).unwrap();
        }
    });
    assert_eq!(services.run_within(soon, false).unwrap(), Ended::TimedOut);
    assert_eq!(services.run_within(HANG, true).unwrap(), Ended::Handled);
    drop(done);
    while !caller.is_finished() {
        services.run_within(soon, false).unwrap();
    }
    caller.join().unwrap();
}

#[test]
fn a_foreign_loop_polls_all_services_through_one_descriptor() {
    let folder = Folder::new();
    let services = RunLoop::new().unwrap();
    for name in ["a", "b"] {
        services.add(folder.service(name).start(echo).unwrap()).unwrap();
    }
    let readable = |fd: BorrowedFd<'_>, timeout: Duration| {
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(fd, rustix::event::PollFlags::IN)];
        let timeout = rustix::event::Timespec::try_from(timeout).unwrap();
        rustix::event::poll(&mut fds, Some(&timeout)).unwrap() > 0
    };
    services.dispatch().unwrap();
    assert!(!readable(services.as_fd(), Duration::ZERO), "nothing to do");
    let calls: Vec<_> = ["a", "b"]
        .iter()
        .map(|name| {
            let connection = folder.connect(name);
            std::thread::spawn(move || connection.send_two_way(1, "hello").unwrap().into_vec())
        })
        .collect();
    let mut handled = 0;
    while handled < 2 {
        assert!(readable(services.as_fd(), HANG), "there is a call");
        handled += services.dispatch().unwrap();
    }
    for call in calls {
        assert_eq!(call.join().unwrap(), b"hello");
    }
}

/// `outer` runs the loop again in its handler, until `inner` was called.
fn nested(_: &[String]) {
    thread_local! {
        static SERVICES: RunLoop = RunLoop::new().unwrap();
    }
    let outer = Service::start("outer", |request| {
        tell("outer");
        SERVICES.with(|services| {
            // Its own next message has to wait, and keeps nobody from sleeping meanwhile.
            assert_eq!(services.run_within(HANG, true).unwrap(), Ended::Handled);
        });
        let _ = request.reply("outer");
    });
    let inner = Service::start("inner", |request| {
        tell("inner");
        let _ = request.reply("inner");
    });
    SERVICES.with(|services| {
        services.add(outer.unwrap()).unwrap();
        services.add(inner.unwrap()).unwrap();
        tell("ready");
        services.run().unwrap();
    });
}

#[test]
fn a_handler_may_run_the_loop_again() {
    let folder = Folder::new();
    let server = folder.serve("nested", &[]);
    let calls: Vec<_> = (0..2)
        .map(|_| {
            let outer = folder.connect("outer");
            std::thread::spawn(move || outer.send_two_way(1, []).unwrap().into_vec())
        })
        .collect();
    for _ in 0..2 {
        server.expect("outer");
        assert_eq!(folder.connect("inner").send_two_way(1, []).unwrap().data(), b"inner");
        server.expect("inner");
    }
    for call in calls {
        assert_eq!(call.join().unwrap(), b"outer");
    }
}

#[test]
fn a_dropped_loop_stops_its_services() {
    let folder = Folder::new();
    let services = RunLoop::new().unwrap();
    let handle = services.handle();
    services.add(folder.service("x").start(drop).unwrap()).unwrap();
    assert!(matches!(folder.service("x").start(drop), Err(Error::NameInUse { .. })));
    drop(services);
    let late = folder.service("x").start(drop).unwrap();
    assert!(handle.add(late).is_err(), "there is no loop to add it to");
    folder.service("x").start(drop).unwrap();
}

#[test]
fn a_sleeping_loop_costs_nothing() {
    let folder = Folder::new();
    let server = folder.serve("two", &[]);
    let (a, b) = (folder.connect("a"), folder.connect("b"));
    for connection in [&a, &b] {
        connection.send_two_way(1, []).unwrap();
    }
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    std::thread::sleep(Duration::from_millis(300));
    let before = ticks();
    std::thread::sleep(Duration::from_millis(500));
    // Ticks of 10 ms; a loop that spins takes 50.
    assert!(ticks() - before <= 5, "it spins");
}

#[test]
fn a_client_learns_who_runs_a_service_and_whether_it_lives() {
    let folder = Folder::new();
    let mut server = folder.serve("two", &[]);
    let connection: Connection = folder.connect("a");
    let peer = connection.peer(HANG).unwrap();
    assert_eq!(peer.pid(), server.pid());
    assert_eq!(peer.uid(), rustix::process::geteuid().as_raw());
    assert!(connection.is_alive());
    server.freeze();
    assert!(connection.is_alive(), "a stopped process lives");
    let fresh = folder.connect("a");
    let soon = Duration::from_millis(20);
    assert!(matches!(fresh.peer(soon), Err(Error::TimedOut { delivered: false, .. })));
    server.thaw();
    assert_eq!(fresh.peer(HANG).unwrap().pid(), server.pid());
    server.kill();
    assert!(!connection.is_alive());
    assert!(matches!(connection.peer(HANG), Err(Error::NotFound { .. })));
}
