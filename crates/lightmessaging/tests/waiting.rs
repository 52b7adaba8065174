//! The ways of waiting: whatever they cost, they end alike.

mod common;

use std::time::Duration;

use common::{ECHO, Folder, HANG_UP, LATER, ON_CUE, hear, play, tell};
use lightmessaging::{Error, Registry, Service, Wait};

const WAYS: [Wait; 3] = [Wait::Adaptive, Wait::Block, Wait::Spin];

#[test]
fn role() {
    play(&[("waiter", waiter)]);
}

/// Echoes, waiting in the way that is named; says how many it has handled once it is told to stop.
fn waiter(arguments: &[String]) {
    let wait = WAYS[arguments[1].parse::<usize>().unwrap()];
    let mut service = Service::builder(&arguments[0])
        .registry(Registry::from_env())
        .wait(wait)
        .start(|request| match request.id() {
            HANG_UP => std::process::abort(),
            LATER => {
                let (message, reply) = request.split();
                let bytes = message.data().to_vec();
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(50));
                    let _ = reply.reply(bytes);
                });
            }
            ON_CUE => std::mem::forget(request),
            _ => {
                let (message, reply) = request.split();
                let _ = reply.reply(message.data());
            }
        })
        .unwrap();
    let stop = service.stop_handle();
    tell("ready");
    std::thread::spawn(move || {
        hear();
        stop.stop();
    });
    service.run().unwrap();
    tell(service.stats().messages);
}

/// A service and a connection to it for each pair of ways.
fn pairs(each: impl Fn(&mut common::Process, &lightmessaging::Connection)) {
    for (number, _) in WAYS.iter().enumerate() {
        for wait in WAYS {
            let folder = Folder::new();
            let mut server = folder.serve("waiter", &["x", &number.to_string()]);
            let connection = folder.connection("x").wait(wait).build().unwrap();
            each(&mut server, &connection);
        }
    }
}

#[test]
fn every_way_of_waiting_works_with_every_other() {
    pairs(|server, connection| {
        for number in 0..200u32 {
            let response = connection.send_two_way(ECHO, number.to_ne_bytes()).unwrap();
            assert_eq!(response.data(), number.to_ne_bytes());
            connection.send_one_way(ECHO, [1; 100]).unwrap();
        }
        // After a while in which both sides may have gone to sleep.
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(connection.send_two_way(ECHO, "more").unwrap().data(), b"more");
        assert_eq!(connection.send_two_way(LATER, "late").unwrap().data(), b"late");
        server.say("stop");
        server.expect("402");
    });
}

#[test]
fn every_way_of_waiting_ends_with_the_service() {
    pairs(|_, connection| {
        connection.send_two_way(ECHO, []).unwrap();
        let error = connection.send_two_way(HANG_UP, []).unwrap_err();
        assert!(matches!(error, Error::PeerDied { .. }), "{error}");
    });
}

#[test]
fn every_way_of_waiting_ends_with_the_deadline() {
    pairs(|_, connection| {
        let moment = Duration::from_millis(30);
        let error = connection.send_two_way_within(ON_CUE, [], moment).unwrap_err();
        assert!(matches!(error, Error::TimedOut { delivered: true, .. }), "{error}");
    });
}
