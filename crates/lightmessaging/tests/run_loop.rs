//! Several services on one thread.

mod common;

use std::sync::mpsc;
use std::time::Duration;

use common::{Folder, HANG, Process, hear, play, tell, until};
use lightmessaging::{Connection, Deadline, Ended, Error, RunLoop, Service};

#[test]
fn role() {
    play(&[("two", two), ("nested", nested), ("flooded", flooded)]);
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
    services.dispatch().unwrap();
    assert!(!is_readable(&services, Duration::ZERO), "nothing to do");
    let calls: Vec<_> = ["a", "b"]
        .iter()
        .map(|name| {
            let connection = folder.connect(name);
            std::thread::spawn(move || connection.send_two_way(1, "hello").unwrap().into_vec())
        })
        .collect();
    let mut handled = 0;
    while handled < 2 {
        assert!(is_readable(&services, HANG), "there is a call");
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
    let calls = [(); 2].map(|()| call_outer(&folder));
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

/// Half a second of a process that has nothing to do.
#[track_caller]
fn assert_sleeps(server: &Process) {
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = ticks();
    std::thread::sleep(Duration::from_millis(500));
    // Ticks of 10 ms; a loop that spins takes 50.
    assert!(ticks() - before <= 5, "it spins");
}

/// A thread that calls the service whose handler runs the loop again.
fn call_outer(folder: &Folder) -> std::thread::JoinHandle<Vec<u8>> {
    let outer = folder.connect("outer");
    std::thread::spawn(move || outer.send_two_way(1, []).unwrap().into_vec())
}

#[test]
fn a_sleeping_loop_costs_nothing() {
    let folder = Folder::new();
    let server = folder.serve("two", &[]);
    let (a, b) = (folder.connect("a"), folder.connect("b"));
    for connection in [&a, &b] {
        connection.send_two_way(1, []).unwrap();
    }
    std::thread::sleep(Duration::from_millis(300));
    assert_sleeps(&server);
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

/// The descriptor of a loop, as a foreign loop sees it.
fn is_readable(services: &RunLoop, timeout: Duration) -> bool {
    let mut fds = [rustix::event::PollFd::new(services, rustix::event::PollFlags::IN)];
    let timeout = rustix::event::Timespec::try_from(timeout).unwrap();
    rustix::event::poll(&mut fds, Some(&timeout)).unwrap() > 0
}

/// A service that takes its time, flooded with messages, beside one that has nothing to do.
fn flooded(_: &[String]) {
    let services = RunLoop::new().unwrap();
    let slow = Service::start("flooded", |_| std::thread::sleep(Duration::from_micros(20)));
    services.add(slow.unwrap()).unwrap();
    services.add(Service::start("quiet", echo).unwrap()).unwrap();
    tell("ready");
    services.run().unwrap();
}

#[test]
fn a_flooded_service_does_not_starve_the_others_of_its_loop() {
    let folder = Folder::new();
    let _server = folder.serve("flooded", &[]);
    let flood = folder.connect("flooded");
    let (done, is_done) = mpsc::channel::<()>();
    let flooding = std::thread::spawn(move || {
        while is_done.try_recv() == Err(mpsc::TryRecvError::Empty) {
            flood.send_one_way(1, [0; 64]).unwrap();
        }
    });
    // The flood is on its way: a queue's worth of it takes 20 ms at least.
    std::thread::sleep(Duration::from_millis(50));
    for _ in 0..5 {
        // A lane that is new to the service every time.
        let quiet = folder.connection("quiet").deadline(Duration::from_secs(5)).build().unwrap();
        assert_eq!(quiet.send_two_way(1, "x").unwrap().data(), b"x");
    }
    drop(done);
    flooding.join().unwrap();
}

#[test]
fn after_a_run_the_descriptor_tells_what_there_is_to_do() {
    let folder = Folder::new();
    for count in [1, 2] {
        let services = RunLoop::new().unwrap();
        for number in 0..count {
            let name = format!("{count}-{number}");
            services.add(folder.service(&name).start(echo).unwrap()).unwrap();
        }
        let connection = folder.connect(&format!("{count}-0"));
        for round in 0..20 {
            let connection = connection.clone();
            let caller = std::thread::spawn(move || connection.send_two_way(1, "x").unwrap());
            if round % 2 == 0 {
                assert_eq!(services.run_within(HANG, true).unwrap(), Ended::Handled);
            } else {
                assert!(is_readable(&services, HANG), "a call is there");
                while services.run_within(Duration::ZERO, true).unwrap() != Ended::Handled {}
            }
            caller.join().unwrap();
        }
        // A wake-up or two may be left of all that, and no more.
        for _ in 0..5 {
            services.dispatch().unwrap();
        }
        assert!(!is_readable(&services, Duration::ZERO), "nothing is left");
    }
}

#[test]
fn stopping_waits_for_a_handler_that_dispatches_its_loop() {
    thread_local! {
        static SERVICES: RunLoop = RunLoop::new().unwrap();
    }
    let folder = Folder::new();
    let (entered, has_entered) = mpsc::channel();
    let (leave, may_leave) = mpsc::channel::<()>();
    let left = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let leaves = left.clone();
    let service = folder.service("x").start(move |_| {
        SERVICES.with(|services| services.dispatch().unwrap());
        entered.send(()).unwrap();
        may_leave.recv().unwrap();
        leaves.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    let service = service.unwrap();
    let stop = service.stop_handle();
    let connection = folder.connect("x");
    let caller = std::thread::spawn(move || {
        connection.send_one_way(1, []).unwrap();
        has_entered.recv().unwrap();
        let stopper = std::thread::spawn(move || stop.stop());
        std::thread::sleep(Duration::from_millis(50));
        assert!(!stopper.is_finished(), "the handler is still running");
        leave.send(()).unwrap();
        stopper.join().unwrap();
        assert!(left.load(std::sync::atomic::Ordering::SeqCst));
    });
    SERVICES.with(|services| {
        // A second one, so that the loop takes turns.
        services.add(folder.service("other").start(drop).unwrap()).unwrap();
        services.add(service).unwrap();
        while !caller.is_finished() {
            services.run_within(Duration::from_millis(5), false).unwrap();
        }
    });
    caller.join().unwrap();
}

#[test]
fn an_idle_service_is_stopped_while_its_neighbours_handler_waits_for_that() {
    let folder = Folder::new();
    let services = RunLoop::new().unwrap();
    let idle = folder.service("idle").start(drop).unwrap();
    let stop = idle.stop_handle();
    let waiting = folder.service("waiting").start(move |request| {
        let stop = stop.clone();
        std::thread::spawn(move || stop.stop()).join().unwrap();
        let _ = request.reply("stopped");
    });
    services.add(idle).unwrap();
    services.add(waiting.unwrap()).unwrap();
    let connection = folder.connect("waiting");
    let caller = std::thread::spawn(move || connection.send_two_way(1, []).unwrap().into_vec());
    assert_eq!(services.run_within(HANG, true).unwrap(), Ended::Handled);
    assert_eq!(caller.join().unwrap(), b"stopped");
    folder.service("idle").start(drop).unwrap();
}

#[test]
fn a_handler_that_panics_does_not_take_its_service_out_of_the_loop() {
    let folder = Folder::new();
    let services = RunLoop::new().unwrap();
    let service = folder.service("x").start(|request| {
        assert!(request.is_two_way(), "on purpose");
        let _ = request.reply("fine");
    });
    let service = service.unwrap();
    let stop = service.stop_handle();
    services.add(service).unwrap();
    let connection = folder.connect("x");
    connection.send_one_way(1, []).unwrap();
    let run = || services.run_within(HANG, true).unwrap();
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_err();
    let caller = std::thread::spawn(move || connection.send_two_way(1, []).unwrap().into_vec());
    assert_eq!(run(), Ended::Handled);
    assert_eq!(caller.join().unwrap(), b"fine");
    stop.stop();
    assert_eq!(run(), Ended::Finished);
}

#[test]
fn a_service_of_the_calling_threads_loop_cannot_be_called_from_it_even_before_it_runs() {
    let folder = Folder::new();
    let services = RunLoop::new().unwrap();
    services.add(folder.service("x").start(echo).unwrap()).unwrap();
    let error = folder.connect("x").send_two_way(1, []).unwrap_err();
    assert!(matches!(error, Error::WouldDeadlock { .. }), "{error}");
}

#[test]
fn of_threads_that_meet_a_service_at_once_none_is_left_asleep() {
    let folder = Folder::new();
    let server = folder.serve("two", &[]);
    for _ in 0..300 {
        // One of them takes the welcome from the socket that the others sleep on too.
        let connection = folder.connection("a").deadline(Deadline::Never).build().unwrap();
        let call = |connection: Connection| {
            std::thread::spawn(move || drop(connection.send_two_way(1, []).unwrap()))
        };
        let callers = [call(connection.clone()), call(connection.clone())];
        assert_eq!(connection.peer(HANG).unwrap().pid(), server.pid());
        for caller in callers {
            until(|| caller.is_finished());
            caller.join().unwrap();
        }
    }
}

#[test]
fn a_handler_that_runs_the_loop_again_lets_it_sleep() {
    let folder = Folder::new();
    let server = folder.serve("nested", &[]);
    let calls = [(); 2].map(|()| call_outer(&folder));
    server.expect("outer");
    // One call is being answered, and the other waits in its own service's queue.
    std::thread::sleep(Duration::from_millis(100));
    assert_sleeps(&server);
    for _ in 0..2 {
        assert_eq!(folder.connect("inner").send_two_way(1, []).unwrap().data(), b"inner");
    }
    for call in calls {
        assert_eq!(call.join().unwrap(), b"outer");
    }
}
