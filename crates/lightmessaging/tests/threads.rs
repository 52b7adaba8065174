//! A service over several threads serves everybody at once, and each connection in order.

mod common;
#[path = "common/lies.rs"]
mod lies;
#[path = "common/team.rs"]
mod team;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use common::{Call, Folder, descriptors, play, tell, until};
use lightmessaging::{ClientEvent, Connection, Error, RunLoop, Service};
use team::*;

#[test]
fn role() {
    play(&[("team", team), ("mixed", mixed), ("dying", dying), ("watched", watched)]);
}

#[test]
fn a_handler_that_blocks_delays_no_other_connection() {
    let folder = Folder::new();
    let mut server = folder.serve("team", &["2"]);
    let blocked = Call::start(&folder.connect("x"), BLOCK, &[]);
    server.expect("took");
    let other = folder.connect("x");
    for number in 0..500u32 {
        let sent = number.to_ne_bytes();
        assert_eq!(other.send_two_way(ECHO, sent).unwrap().data(), sent);
        other.send_one_way(0, []).unwrap();
    }
    // Somebody new as well.
    folder.connect("x").send_two_way(ECHO, []).unwrap();
    server.say("go");
    assert_eq!(blocked.end().unwrap().data(), b"released");
}

#[test]
fn a_handler_that_blocks_when_all_were_short_delays_nobody_who_is_in_full_swing() {
    let folder = Folder::new();
    let mut server = folder.serve("team", &["3"]);
    let callers = Callers::start(&folder, 4);
    let connection = folder.connect("x");
    for _ in 0..10 {
        callers.each_makes(300);
        let blocked = Call::start(&connection, BLOCK, &[]);
        server.expect("took");
        callers.each_makes(300);
        server.say("go");
        blocked.end().unwrap();
    }
    callers.end();
}

#[test]
fn all_threads_but_one_may_block_and_then_all() {
    let folder = Folder::new();
    let mut server = folder.serve("team", &["4"]);
    let callers = Callers::start(&folder, 2);
    let block = || Call::start(&folder.connect("x"), BLOCK, &[]);
    let mut blocked = Vec::new();
    for _ in 0..3 {
        blocked.push(block());
        server.expect("took");
    }
    callers.each_makes(300);
    blocked.push(block());
    server.expect("took");
    server.say("go");
    callers.each_makes(300);
    blocked.into_iter().for_each(|call| assert_eq!(call.end().unwrap().data(), b"released"));
    callers.end();
}

#[test]
fn a_connection_stays_in_order_behind_a_handler_that_blocks() {
    let folder = Folder::new();
    let (path, text) = ledger(&folder);
    let mut server = folder.serve("team", &["4", &text]);
    let connection = folder.connect("x");
    connection.send_one_way(BLOCK, []).unwrap();
    server.expect("took");
    for number in 0..20 {
        connection.send_one_way(NOTE, format!("0 {number}\n")).unwrap();
    }
    let last = Call::start(&connection, CALL, b"0 20\n");
    last.wait_until_it_sleeps();
    folder.connect("x").send_two_way(ECHO, []).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"", "nothing overtakes it");
    server.say("go");
    last.end().unwrap();
    let expected: String = (0..21).map(|number| format!("0 {number}\n")).collect();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
}

#[test]
fn sixteen_clients_on_four_threads_are_handled_exactly_once_and_in_order() {
    let folder = Folder::new();
    let (path, text) = ledger(&folder);
    let server = folder.serve("team", &["4", &text]);
    let mut clients: Vec<_> =
        (0..16).map(|number| folder.start("mixed", &[&number.to_string(), "1500"])).collect();
    clients.iter().for_each(|client| client.expect("going"));
    check(&path, &mut clients);
    drop(server);
}

#[test]
fn handlers_that_take_their_time_are_shared_among_the_threads() {
    let folder = Folder::new();
    let mut server = folder.serve("team", &["4"]);
    let connections: Vec<_> = (0..4).map(|_| folder.connect("x")).collect();
    for _ in 0..5 {
        let calls: Vec<_> = connections.iter().map(|c| Call::start(c, BLOCK, &[])).collect();
        // Each of the four is in a handler at once.
        calls.iter().for_each(|_| server.expect("took"));
        server.say("go");
        calls.into_iter().for_each(|call| drop(call.end().unwrap()));
    }
    assert_eq!(connections[0].send_two_way(THREADS, []).unwrap().data(), b"4");
}

/// Sends a message whose handler blocks and some more, and waits for its end.
fn dying(arguments: &[String]) {
    let connection = Connection::new("x").unwrap();
    connection.send_one_way(BLOCK, []).unwrap();
    for number in 0..arguments[0].parse().unwrap() {
        connection.send_one_way(NOTE, format!("0 {number}\n")).unwrap();
    }
    tell("sent");
    common::hear();
}

/// Serves on two threads and says who comes and goes.
fn watched(arguments: &[String]) {
    let builder = Service::builder("x").on_client(|event| {
        tell(if matches!(event, ClientEvent::Came(_)) { "came" } else { "gone" });
    });
    let handler = handler(Some(&arguments[0]), &STOPPER);
    run(&mut builder.threads(2).start(handler).unwrap());
}

#[test]
fn a_client_that_dies_while_its_message_is_in_a_handler_is_gone_once_all_was_handled() {
    let folder = Folder::new();
    let (path, text) = ledger(&folder);
    let mut server = folder.serve("watched", &[&text]);
    let before = descriptors(server.pid());
    let mut client = folder.start("dying", &["5"]);
    server.expect("came");
    server.expect("took");
    client.expect("sent");
    client.kill();
    let other = folder.connect("x");
    for _ in 0..100 {
        other.send_two_way(ECHO, []).unwrap();
    }
    server.expect("came");
    assert!(server.is_quiet(), "it is not gone yet");
    assert_eq!(std::fs::read(&path).unwrap(), b"");
    server.say("go");
    server.expect("gone");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "0 0\n0 1\n0 2\n0 3\n0 4\n");
    drop(other);
    server.expect("gone");
    until(|| descriptors(server.pid()) == before);
}

#[test]
fn a_client_that_breaks_the_protocol_while_its_message_is_in_a_handler_goes_when_that_returns() {
    let folder = Folder::new();
    let (_, text) = ledger(&folder);
    let mut server = folder.serve("watched", &[&text]);
    let before = descriptors(server.pid());
    for _ in 0..3 {
        let mut liar = lies::Liar::new(&folder.path().join("x"));
        liar.record(0, 0, 16);
        server.expect("came");
        // The id of a record by hand is that of an echo; a call that blocks has to be another's.
        lies::send(&liar.socket, &lies::packet(99, &[]), &[]);
        lies::wait_for_the_end(&liar.socket);
        server.expect("gone");
    }
    let mut liar = lies::Liar::new(&folder.path().join("x"));
    server.expect("came");
    liar.annex.u32(lies::CLIENT_RING + 4, BLOCK as u32);
    let seq = liar.next();
    liar.annex.u32(lies::CLIENT_RING, seq as u32);
    liar.memory.u64(0, 16);
    liar.ring();
    server.expect("took");
    lies::send(&liar.socket, &lies::packet(99, &[]), &[]);
    lies::wait_for_the_end(&liar.socket);
    folder.connect("x").send_two_way(ECHO, []).unwrap();
    server.expect("came");
    server.expect("gone");
    assert!(server.is_quiet());
    server.say("go");
    server.expect("gone");
    until(|| descriptors(server.pid()) == before);
}

#[test]
fn clients_that_come_and_go_leave_no_descriptor_behind() {
    let folder = Folder::new();
    let mut server = folder.serve("team", &["4"]);
    folder.connect("x").send_two_way(ECHO, []).unwrap();
    let registry = folder.registry();
    let is_alone = || registry.services().unwrap()[0].connections == 0;
    until(is_alone);
    let before = descriptors(server.pid());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..50 {
                    let connection = folder.connect("x");
                    let sent = common::pattern(if round % 5 == 0 { 10_000 } else { 10 });
                    assert!(connection.send_two_way(ECHO, &sent).unwrap().data() == sent);
                    connection.send_one_way(0, &sent).unwrap();
                }
            });
        }
    });
    until(is_alone);
    until(|| descriptors(server.pid()) == before);
    stop(&mut server);
}

#[test]
fn a_reply_that_has_reached_its_client_is_no_error_although_that_is_gone_already() {
    let folder = Folder::new();
    let mut server = folder.serve("team", &["3"]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..300 {
                    folder.connect("x").send_two_way(STRICT, []).unwrap();
                }
            });
        }
    });
    stop(&mut server);
}

#[test]
fn a_call_to_its_own_service_is_refused_in_each_of_the_threads() {
    let folder = Folder::new();
    let mut server = folder.serve("team", &["3"]);
    let connections: Vec<_> = (0..3).map(|_| folder.connect("x")).collect();
    let mut blocked = Vec::new();
    // Each time in a thread that is left.
    for (number, connection) in connections.iter().enumerate() {
        let response = connection.send_two_way(CALL_SELF, []).unwrap();
        assert_eq!(response.data(), b"refused");
        if number < 2 {
            blocked.push(Call::start(connection, BLOCK, &[]));
            server.expect("took");
        }
    }
    server.say("go");
    blocked.into_iter().for_each(|call| drop(call.end().unwrap()));
}

#[test]
fn a_service_runs_on_1_to_256_threads() {
    let folder = Folder::new();
    for threads in [0, 257, usize::MAX] {
        let error = folder.service("x").threads(threads).start(drop).unwrap_err();
        assert!(matches!(error, Error::Os { .. }), "{error}");
        assert!(error.to_string().contains("1 to 256"), "{error}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "it leaves nothing behind");
    for threads in ["1", "256"] {
        let mut server = folder.serve("team", &[threads]);
        folder.connect("x").send_two_way(ECHO, []).unwrap();
        stop(&mut server);
    }
}

#[test]
fn a_client_that_goes_as_a_run_loop_stops_looking_is_let_go_in_the_next_run() {
    let folder = Folder::new();
    let gone = Arc::new(AtomicUsize::new(0));
    let builder = folder.service("x").on_client({
        let gone = gone.clone();
        move |event| {
            gone.fetch_add(matches!(event, ClientEvent::Gone(_)).into(), Relaxed);
        }
    });
    let services = RunLoop::new().unwrap();
    services.add(builder.threads(2).start(drop).unwrap()).unwrap();
    let client = std::thread::spawn(move || {
        for _ in 0..20 {
            folder.connect("x").send_one_way(0, []).unwrap();
        }
    });
    until(|| {
        services.run_within(Duration::ZERO, false).unwrap();
        gone.load(Relaxed) == 20
    });
    client.join().unwrap();
}

#[test]
fn in_a_run_loop_or_a_loop_of_somebody_elses_it_serves_on_that_thread() {
    let folder = Folder::new();
    let start = |name| {
        let me = std::thread::current().id();
        let service = folder.service(name).threads(4).start(move |request| {
            assert_eq!(std::thread::current().id(), me);
            let (message, reply) = request.split();
            let _ = reply.reply(message.data());
        });
        service.unwrap()
    };
    let calls = |name| {
        let connection = folder.connect(name);
        std::thread::spawn(move || {
            for number in 0..300u32 {
                let sent = number.to_ne_bytes();
                connection.send_one_way(0, []).unwrap();
                assert_eq!(connection.send_two_way(ECHO, sent).unwrap().data(), sent);
            }
        })
    };
    let mut service = start("x");
    let client = calls("x");
    while !client.is_finished() {
        service.dispatch().unwrap();
    }
    client.join().unwrap();
    until(|| {
        service.dispatch().unwrap();
        service.stats().clients == 0
    });
    assert_eq!(service.stats().messages, 600);
    let services = RunLoop::new().unwrap();
    services.add(service).unwrap();
    services.add(start("y")).unwrap();
    let clients = [calls("x"), calls("y")];
    while !clients.iter().all(|client| client.is_finished()) {
        services.run_within(Duration::from_millis(5), false).unwrap();
    }
    clients.into_iter().for_each(|client| client.join().unwrap());
}
