//! Forked children leave their parents' connections and services alone.
#![allow(unsafe_code)]

mod common;
#[path = "common/executor.rs"]
mod executor;

use std::os::fd::AsFd;

use common::{Call, ECHO, Folder, HANG, HANG_UP, LATER, hear, play, server, tell};
use executor::Set;
use lightmessaging::{Connection, Error, Service};

#[test]
fn role() {
    play(&[
        ("server", server),
        ("client", client),
        ("lender", lender),
        ("forking_server", forking_server),
        ("execs", execs),
        ("awaiting", awaiting),
    ]);
}

/// Runs `child` in a forked child, which ends when it returns; returns its pid.
fn fork(child: impl FnOnce()) -> i32 {
    // SAFETY: the roles that fork have no other threads that hold locks: the test harness waits.
    match unsafe { libc::fork() } {
        -1 => panic!("{}", std::io::Error::last_os_error()),
        0 => {
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
            // SAFETY: ends this process without running what the parent would run too.
            unsafe { libc::_exit(if ended.is_ok() { 0 } else { 1 }) }
        }
        pid => pid,
    }
}

fn wait_for(pid: i32) -> bool {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let (_, status) = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
        .unwrap()
        .unwrap();
    status.exit_status() == Some(0)
}

fn ask(connection: &Connection, text: &str) {
    assert_eq!(connection.send_two_way(ECHO, text).unwrap().data(), text.as_bytes());
}

/// Uses a connection, forks, and uses it on both sides; then drops it in a child.
fn client(arguments: &[String]) {
    let connection = Connection::new(&arguments[0]).unwrap();
    let large = "large ".repeat(5000);
    ask(&connection, "before");
    ask(&connection, &large);
    let response = connection.send_two_way(ECHO, &large).unwrap();
    let child = fork(|| {
        // A lane of its own.
        for _ in 0..100 {
            ask(&connection, "child");
            ask(&connection, &large);
        }
        assert_eq!(response.data(), large.as_bytes());
        let grandchild = fork(|| ask(&connection, "grandchild"));
        assert!(wait_for(grandchild));
        connection.send_one_way(0, &large).unwrap();
    });
    for _ in 0..100 {
        ask(&connection, "parent");
        ask(&connection, &large);
    }
    assert!(wait_for(child));
    let second = connection.clone();
    assert!(wait_for(fork(move || drop((second, response)))));
    ask(&connection, &large);
    tell("fine");
}

/// Forks while calls are on their way, in line and half sent.
fn awaiting(arguments: &[String]) {
    let connection = Connection::builder(&arguments[0]).calls_in_flight(2).build().unwrap();
    let events = connection.events().unwrap();
    let later = || connection.send_two_way_async(LATER, "50");
    let mut calls = Set::new(&events, (0..5).map(|_| later()));
    calls.run_until_it_sleeps();
    assert_eq!(calls.ready(), 0);
    let mut calls = Some(calls);
    let child = fork(|| {
        assert!(matches!(events.wait(common::HANG), Err(Error::Os { .. })));
        events.notify();
        let own = connection.events().unwrap();
        // Whatever was sent is the parent's; the rest is sent on a lane of the child's own.
        let ended = calls.take().unwrap().with_events(&own).join();
        let theirs = ended.iter().filter(|end| matches!(end, Err(Error::Os { .. }))).count();
        assert_eq!((theirs, ended.iter().filter(|end| end.is_ok()).count()), (2, 3));
        assert!(Set::new(&own, (0..5).map(|_| later())).join().iter().all(Result::is_ok));
    });
    assert!(wait_for(child));
    assert!(calls.take().unwrap().join().iter().all(Result::is_ok));
    let mut calls = Some(Set::new(&events, (0..5).map(|_| later())));
    calls.as_mut().unwrap().run_until_it_sleeps();
    assert!(wait_for(fork(|| drop(calls.take()))));
    assert!(calls.take().unwrap().join().iter().all(Result::is_ok));
    tell("fine");
}

/// Forks with loans at hand: they are its own, and the child has none of them.
fn lender(arguments: &[String]) {
    let connection = Connection::new(&arguments[0]).unwrap();
    let mut loans: Vec<_> = (0..32).map(|_| connection.alloc(5000).unwrap()).collect();
    for loan in &mut loans {
        loan.fill(b'p');
    }
    let child = fork(|| {
        let mut ours = loans.pop().unwrap();
        assert!(ours.is_empty());
        ours.fill(b'c');
        ours.truncate(10);
        assert_eq!(connection.send_two_way(ECHO, ours).unwrap().data(), []);
        drop(std::mem::take(&mut loans));
        let mut own = connection.alloc(5000).unwrap();
        own.fill(b'c');
        assert_eq!(connection.send_two_way(ECHO, own).unwrap().data(), [b'c'; 5000]);
    });
    assert!(wait_for(child));
    let moment = std::time::Duration::from_millis(10);
    assert!(connection.alloc_within(5000, moment).is_err(), "all are out as before");
    for loan in loans {
        assert_eq!(connection.send_two_way(ECHO, loan).unwrap().data(), [b'p'; 5000]);
    }
    tell("fine");
}

/// Serves, after a fork whose child lives on and tries to get at the service.
fn forking_server(arguments: &[String]) {
    let service = Service::start(&arguments[0], |request| match request.id() {
        ECHO => {
            let (message, reply) = request.split();
            let _ = reply.reply(message.data());
        }
        _ => {
            // The child inherits everything, this request too.
            let mut request = Some(request);
            let child = fork(|| {
                assert!(request.take().unwrap().reply("from the child").is_err());
                std::thread::sleep(common::HANG);
            });
            tell(child);
            std::thread::sleep(common::HANG);
        }
    })
    .unwrap();
    let mut service = Some(service);
    let child = fork(|| {
        let mut service = service.take().unwrap();
        assert!(matches!(service.run(), Err(Error::Os { .. })));
        assert!(service.dispatch().is_err());
        service.stop_handle().stop();
        // Its descriptor is still there, and still nobody else's.
        assert!(rustix::io::fcntl_getfd(service.as_fd()).is_ok());
        drop(service);
    });
    assert!(wait_for(child));
    tell("ready");
    service.unwrap().run().unwrap();
}

/// Runs a program that looks at what it has inherited.
fn execs(arguments: &[String]) {
    let inherited = || {
        let listed = std::process::Command::new("ls").arg("/proc/self/fd").output().unwrap();
        String::from_utf8(listed.stdout).unwrap().lines().count()
    };
    let before = inherited();
    let connection = Connection::new(&arguments[0]).unwrap();
    ask(&connection, "x");
    ask(&connection, &"x".repeat(10_000));
    let _service = Service::start("another", drop).unwrap();
    let _watch = connection.watch().unwrap();
    tell(inherited() - before);
    hear();
}

#[test]
fn both_sides_of_a_fork_have_a_lane_of_their_own() {
    let folder = Folder::new();
    let _server = folder.serve("server", &["x"]);
    let mut client = folder.start("client", &["x"]);
    client.expect("fine");
    client.finish();
}

#[test]
fn futures_on_both_sides_of_a_fork_are_answered_once() {
    let folder = Folder::new();
    let _server = folder.serve("server", &["x"]);
    let mut client = folder.start("awaiting", &["x"]);
    client.expect("fine");
    client.finish();
}

#[test]
fn a_forked_child_has_none_of_its_parents_loans() {
    let folder = Folder::new();
    let _server = folder.serve("server", &["x"]);
    let mut lender = folder.start("lender", &["x"]);
    lender.expect("fine");
    lender.finish();
}

#[test]
fn a_forked_child_holds_neither_the_name_nor_the_clients() {
    let folder = Folder::new();
    let mut server = folder.serve("forking_server", &["x"]);
    let connection = folder.connect("x");
    ask(&connection, "hello");
    let call = Call::start(&connection, HANG_UP, &[]);
    let child: i32 = server.line().parse().unwrap();
    server.kill();
    let error = call.end().unwrap_err();
    assert!(matches!(error, Error::PeerDied { .. }), "{error}");
    let next = folder.serve("server", &["x"]);
    ask(&connection, "hello again");
    drop(next);
    let child = rustix::process::Pid::from_raw(child).unwrap();
    rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_program_that_is_run_inherits_no_descriptor() {
    let folder = Folder::new();
    let _server = folder.serve("server", &["x"]);
    let client = folder.start("execs", &["x"]);
    client.expect("0");
}
