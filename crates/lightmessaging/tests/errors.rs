//! Every error state, provoked.

mod common;

use std::time::{Duration, Instant};

use common::{Call, DROP, ECHO, Folder, HANG_UP, Running, play, server};
use lightmessaging::{Connection, Deadline, Error, Service};

#[test]
fn role() {
    play(&[("server", server)]);
}

const SOON: Duration = Duration::from_millis(50);

#[track_caller]
fn names(error: &Error, name: &str) {
    assert_eq!(error.service().map(|s| s.as_bytes()), Some(name.as_bytes()));
    assert!(error.to_string().contains(name), "{error}");
}

#[test]
fn a_name_that_cannot_be_one_is_refused_before_anything_is_done() {
    for name in [&b""[..], &[b'x'; 128], b"a\0b"] {
        assert!(matches!(Connection::new(name), Err(Error::InvalidName { .. })));
        assert!(matches!(Service::start(name, drop), Err(Error::InvalidName { .. })));
    }
}

#[test]
fn a_service_that_is_not_there_is_not_found() {
    let folder = Folder::new();
    let connection = folder.connect("nobody");
    let error = connection.send_two_way(1, []).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }));
    names(&error, "nobody");
    assert!(matches!(connection.send_one_way(1, []), Err(Error::NotFound { .. })));
}

#[test]
fn a_second_service_of_one_name_is_refused() {
    let folder = Folder::new();
    let _server = folder.serve("server", &["taken"]);
    let error = folder.service("taken").start(drop).unwrap_err();
    assert!(matches!(error, Error::NameInUse { .. }));
    names(&error, "taken");
    folder.connect("taken").send_two_way(ECHO, []).unwrap();
}

#[test]
fn a_dropped_request_is_no_reply_at_once() {
    let folder = Folder::new();
    let _server = folder.serve("server", &["silent"]);
    let error = folder.connect("silent").send_two_way(DROP, []).unwrap_err();
    assert!(matches!(error, Error::NoReply { .. }));
    names(&error, "silent");
}

#[test]
fn a_deadline_ends_a_call_and_says_whether_it_was_delivered() {
    let folder = Folder::new();
    let server = folder.serve("server", &["slow"]);
    let connection = folder.connect("slow");
    let error = connection.send_two_way_within(HANG_UP, [], SOON).unwrap_err();
    assert!(matches!(error, Error::TimedOut { delivered: true, .. }), "{error}");
    names(&error, "slow");
    server.expect("took");
    // Its handler runs for ever, so this one is never taken.
    let error = connection.send_two_way_within(ECHO, [], SOON).unwrap_err();
    assert!(matches!(error, Error::TimedOut { delivered: false, .. }), "{error}");
}

#[test]
fn a_deadline_of_nothing_still_asks_and_does_not_hang() {
    let folder = Folder::new();
    let _server = folder.serve("server", &["quick"]);
    let connection = folder.connect("quick");
    connection.send_two_way(ECHO, []).unwrap();
    match connection.send_two_way_within(ECHO, [], Duration::ZERO) {
        Ok(_) | Err(Error::TimedOut { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    connection.send_two_way(ECHO, []).unwrap();
}

#[test]
fn a_full_queue_is_reported_when_the_deadline_ends() {
    let folder = Folder::new();
    let server = folder.serve("server", &["full"]);
    let connection = folder.connect("full");
    server.freeze();
    let mut sent = 0;
    let error = loop {
        match connection.send_one_way_within(ECHO, [0; 1000], SOON) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 1000);
    };
    assert!(matches!(error, Error::QueueFull { .. }), "{error}");
    names(&error, "full");
    server.thaw();
    connection.send_two_way(ECHO, []).unwrap();
}

#[test]
fn a_payload_of_four_gibibytes_is_too_large() {
    let folder = Folder::new();
    let _server = folder.serve("server", &["large"]);
    let payload = vec![0; 1 << 32];
    let error = folder.connect("large").send_one_way(1, &payload).unwrap_err();
    assert!(matches!(error, Error::TooLarge { len: 0x1_0000_0000, .. }));
    names(&error, "large");
}

#[test]
fn a_call_to_a_service_of_the_calling_thread_would_deadlock() {
    let folder = Folder::new();
    let inner = folder.connect("self");
    let other = folder.connect("self");
    let (sender, said) = std::sync::mpsc::channel();
    let service = folder.service("self").start(move |request| {
        if request.id() == 1 {
            let errors = [&inner, &other].map(|connection| {
                connection.send_two_way_within(2, [], Deadline::Never).unwrap_err()
            });
            sender.send(errors).unwrap();
        }
        let _ = request.reply([]);
    });
    let _running = Running::new(service.unwrap());
    folder.connect("self").send_two_way(1, []).unwrap();
    for error in said.recv().unwrap() {
        assert!(matches!(error, Error::WouldDeadlock { .. }), "{error}");
        names(&error, "self");
    }
}

#[test]
fn another_threads_service_in_this_process_can_be_called() {
    let folder = Folder::new();
    let service = folder.service("inside").start(|request| drop(request.reply("yes")));
    let _running = Running::new(service.unwrap());
    assert_eq!(folder.connect("inside").send_two_way(1, []).unwrap().data(), b"yes");
}

#[test]
fn a_loop_that_dispatches_may_not_call_itself_either() {
    let folder = Folder::new();
    let mut service = folder.service("loop").start(drop).unwrap();
    service.dispatch().unwrap();
    let error = folder.connect("loop").send_two_way(1, []).unwrap_err();
    assert!(matches!(error, Error::WouldDeadlock { .. }));
    // A one-way message to oneself is fine.
    folder.connect("loop").send_one_way(1, []).unwrap();
    drop(service);
    let error = folder.connect("loop").send_two_way(1, []).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }));
}

#[test]
fn never_waits_for_as_long_as_the_service_lives() {
    let folder = Folder::new();
    let mut server = folder.serve("server", &["patient"]);
    let connection = folder.connection("patient").deadline(Deadline::Never).build().unwrap();
    let call = Call::start(&connection, HANG_UP, &[]);
    server.expect("took");
    call.wait_until_it_sleeps();
    server.kill();
    assert!(matches!(call.end(), Err(Error::PeerDied { .. })));
}

#[test]
fn errors_come_long_before_the_deadline() {
    let folder = Folder::new();
    let mut server = folder.serve("server", &["mortal"]);
    let connection = folder.connect("mortal");
    connection.send_two_way(ECHO, []).unwrap();
    server.kill();
    let started = Instant::now();
    for _ in 0..10 {
        let error = connection.send_two_way(ECHO, []).unwrap_err();
        assert!(matches!(error, Error::NotFound { .. } | Error::NotDelivered { .. }), "{error}");
    }
    assert!(started.elapsed() < Duration::from_secs(10), "the deadline is 30 s");
}
