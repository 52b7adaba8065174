//! The death of either side, at every point of a call.

mod common;

use std::sync::mpsc::channel;
use std::time::Duration;

use common::{
    Call, ECHO, Folder, HANG_UP, LOG, LOGGED, ON_CUE, Running, descriptors, hear, play, server,
    tell, until,
};
use lightmessaging::{ClientEvent, Connection, Error};

#[test]
fn role() {
    play(&[("server", server), ("caller", caller), ("forker", forker)]);
}

/// Sends one call after the other, as the test says: an id and a payload.
fn caller(arguments: &[String]) {
    let connection = Connection::new(&arguments[0]).unwrap();
    tell("ready");
    while let Some(line) = hear() {
        let (id, payload) = line.split_once(' ').unwrap();
        match connection.send_two_way(id.parse().unwrap(), payload) {
            Ok(response) => tell(String::from_utf8_lossy(response.data())),
            Err(error) => tell(error),
        }
    }
}

/// Serves, and has a child that lives on.
fn forker(arguments: &[String]) {
    let mut child = std::process::Command::new("sleep");
    // A plain fork in the library's eyes: the child runs other code only after exec, and until
    // then it holds everything; `fork.rs` has the child that never execs.
    child.arg("60").stdout(std::process::Stdio::null());
    let mut child = child.spawn().unwrap();
    tell(child.id());
    server(arguments);
    let _ = child.kill();
    let _ = child.wait();
}

#[test]
fn a_call_that_a_dead_service_never_took_is_not_delivered() {
    let folder = Folder::new();
    let mut server = folder.serve("server", &["x"]);
    let connection = folder.connect("x");
    connection.send_two_way(ECHO, []).unwrap();
    server.freeze();
    let call = Call::start(&connection, ECHO, b"hello");
    call.wait_until_it_sleeps();
    server.kill();
    let error = call.end().unwrap_err();
    assert!(matches!(error, Error::NotDelivered { .. }), "{error}");
}

#[test]
fn a_call_that_was_not_taken_goes_to_the_next_service() {
    let folder = Folder::new();
    let mut server = folder.serve("server", &["x"]);
    let patience = Duration::from_secs(20);
    let connection = folder.connection("x").wait_for_service(patience).build().unwrap();
    connection.send_two_way(ECHO, []).unwrap();
    server.freeze();
    let call = Call::start(&connection, ECHO, b"hello");
    call.wait_until_it_sleeps();
    server.kill();
    let _next = folder.serve("server", &["x"]);
    assert_eq!(call.end().unwrap().data(), b"hello");
}

#[test]
fn a_call_whose_handler_ran_when_the_service_died_may_have_run() {
    let folder = Folder::new();
    let mut server = folder.serve("server", &["x"]);
    let connection = folder.connect("x");
    let call = Call::start(&connection, HANG_UP, &[]);
    server.expect("took");
    server.kill();
    let error = call.end().unwrap_err();
    assert!(matches!(error, Error::PeerDied { .. }), "{error}");
    // It is not sent again, but the connection goes on.
    let next = folder.serve("server", &["x"]);
    assert_eq!(connection.send_two_way(ECHO, b"again").unwrap().data(), b"again");
    assert!(next.is_quiet());
}

#[test]
fn a_reply_stands_although_the_service_dies_after_it() {
    let folder = Folder::new();
    let mut server = folder.serve("server", &["x"]);
    let connection = folder.connect("x");
    for len in [10, 100_000] {
        let sent = common::pattern(len);
        let response = connection.send_two_way(ECHO, &sent).unwrap();
        server.kill();
        assert!(response.data() == sent, "what was received stays");
        let error = connection.send_two_way(ECHO, []).unwrap_err();
        assert!(matches!(error, Error::NotFound { .. } | Error::NotDelivered { .. }), "{error}");
        server = folder.serve("server", &["x"]);
        assert_eq!(connection.send_two_way(ECHO, b"again").unwrap().data(), b"again");
    }
}

#[test]
fn one_way_messages_that_were_not_taken_go_to_the_next_service_in_order() {
    let folder = Folder::new();
    let mut server = folder.serve("server", &["x"]);
    let connection = folder.connect("x");
    connection.send_two_way(ECHO, []).unwrap();
    server.freeze();
    let large = "l".repeat(5000);
    for text in ["a", "b", &large, "c"] {
        connection.send_one_way(LOG, text).unwrap();
    }
    server.kill();
    let _next = folder.serve("server", &["x"]);
    connection.send_one_way(LOG, "d").unwrap();
    let logged = connection.send_two_way(LOGGED, []).unwrap();
    assert_eq!(String::from_utf8_lossy(logged.data()), format!("a b {large} c d"));
}

#[test]
fn a_client_that_dies_harms_nobody_at_any_point_of_a_call() {
    let folder = Folder::new();
    let (sender, events) = channel();
    let (taken, took) = channel();
    let (go_on, wait) = channel::<()>();
    let service = folder.service("x").on_client(move |event| sender.send(event).unwrap()).start(
        move |request| match request.id() {
            ON_CUE => {
                taken.send(()).unwrap();
                wait.recv().unwrap();
                until(|| request.is_cancelled());
                let _ = request.reply(vec![1; 100_000]);
            }
            _ => drop(request.reply("yes")),
        },
    );
    let running = Running::new(service.unwrap());
    let witness = folder.connect("x");
    witness.send_two_way(ECHO, []).unwrap();
    assert!(matches!(events.recv().unwrap(), ClientEvent::Came(_)));
    let before = descriptors(std::process::id());
    for point in ["before", "while", "after"] {
        let mut client = folder.serve("caller", &["x"]);
        match point {
            "before" => {}
            "while" => {
                client.say(&format!("{ON_CUE} x"));
                took.recv().unwrap();
            }
            _ => {
                client.say(&format!("{ECHO} x"));
                client.expect("yes");
            }
        }
        client.kill();
        if point == "while" {
            go_on.send(()).unwrap();
        }
        assert_eq!(witness.send_two_way(ECHO, []).unwrap().data(), b"yes");
        if point != "before" {
            let ClientEvent::Came(came) = events.recv().unwrap() else { panic!("it came") };
            assert_eq!(came.peer.pid(), client.pid());
            let ClientEvent::Gone(gone) = events.recv().unwrap() else { panic!("it went") };
            assert_eq!(came.id, gone.id);
        }
        drop(client);
        until(|| descriptors(std::process::id()) <= before);
    }
    assert_eq!(running.stop().malformed, 0);
}

#[test]
fn a_service_that_dies_is_dead_although_a_process_it_started_lives() {
    let folder = Folder::new();
    let mut server = folder.start("forker", &["x"]);
    let child: i32 = server.line().parse().unwrap();
    server.expect("ready");
    let connection = folder.connect("x");
    let call = Call::start(&connection, HANG_UP, &[]);
    server.expect("took");
    server.kill();
    assert!(matches!(call.end(), Err(Error::PeerDied { .. })));
    let _next = folder.serve("server", &["x"]);
    connection.send_two_way(ECHO, []).unwrap();
    let child = rustix::process::Pid::from_raw(child).unwrap();
    rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
}
