//! Forked children leave their parents' connections and services alone.
#![allow(unsafe_code)]

mod common;

use std::os::fd::AsFd;

use common::{Call, ECHO, Folder, HANG_UP, hear, play, server, tell};
use lightmessaging::{Connection, Error, Service};

#[test]
fn role() {
    play(&[
        ("server", server),
        ("client", client),
        ("forking_server", forking_server),
        ("execs", execs),
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
