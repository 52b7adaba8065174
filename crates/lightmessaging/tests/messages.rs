//! What is sent arrives, whole and in order.

mod common;

use std::io::Read;
use std::sync::mpsc::channel;

use common::{Folder, pattern, play, tell};
use lightmessaging::{Connection, Service};

#[test]
fn role() {
    play(&[("echo", echo), ("ledger", ledger), ("send_and_exit", send_and_exit)]);
}

/// Answers every call with its own bytes.
fn echo(_: &[String]) {
    let mut service = Service::start("echo", |request| {
        let data = request.data().to_vec();
        let _ = request.reply(data);
    })
    .unwrap();
    tell("ready");
    service.run().unwrap();
}

/// Writes down the id of every message; a call is answered with everything so far.
fn ledger(_: &[String]) {
    let mut ids: Vec<u8> = Vec::new();
    let mut service = Service::start("ledger", move |request| {
        ids.extend(request.id().to_le_bytes());
        if request.is_two_way() {
            let _ = request.reply(&ids);
        }
    })
    .unwrap();
    tell("ready");
    service.run().unwrap();
}

fn ids(bytes: &[u8]) -> Vec<i32> {
    bytes.chunks(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn payloads_of_every_size_come_back_as_they_were_sent() {
    let folder = Folder::new();
    let _echo = folder.serve("echo", &[]);
    let connection = folder.connect("echo");
    for len in [0, 1, 15, 16, 63, 64, 65, 4095, 4096, 4097, 65_536, 1 << 20, 100 << 20, 1, 0] {
        let sent = pattern(len);
        let response = connection.send_two_way(7, &sent).unwrap();
        assert_eq!(response.len(), len);
        assert!(response.data() == sent, "{len} bytes changed on the way");
    }
}

#[test]
fn a_payload_reads_the_same_in_every_way() {
    let folder = Folder::new();
    let _echo = folder.serve("echo", &[]);
    let connection = folder.connect("echo");
    for len in [0, 100, 4096, 4097, 100_000] {
        let sent = pattern(len);
        let response = connection.send_two_way(0, &sent).unwrap();
        let payload = response.payload();
        assert_eq!(payload.len(), len);
        assert!(payload.to_vec() == sent);
        let mut chunks = Vec::new();
        payload.chunks(|chunk| chunks.extend_from_slice(chunk));
        assert!(chunks == sent);
        let mut read = Vec::new();
        payload.reader().read_to_end(&mut read).unwrap();
        assert!(read == sent);
        let mut some = [0; 50];
        let there = len.saturating_sub(len / 2).min(50);
        assert_eq!(payload.read_at(len / 2, &mut some), there);
        assert_eq!(some[..there], sent[len / 2..len / 2 + there]);
        assert_eq!(payload.read_at(len, &mut some), 0);
        assert_eq!(payload.read_at(usize::MAX, &mut some), 0);
        assert!(response.into_vec() == sent);
    }
}

#[test]
fn a_region_whose_number_is_used_again_is_not_taken_for_the_old_one() {
    let folder = Folder::new();
    let _echo = folder.serve("echo", &[]);
    let connection = folder.connect("echo");
    // Neither fits into the other's region, and both together are more than is kept.
    for round in 0..12u8 {
        let len = if round % 2 == 0 { 33 << 20 } else { 49 << 20 };
        let sent = vec![round; len];
        assert!(connection.send_two_way(0, &sent).unwrap().data() == sent, "round {round}");
    }
}

#[test]
fn every_id_arrives_as_it_was_sent() {
    let folder = Folder::new();
    let _ledger = folder.serve("ledger", &[]);
    let connection = folder.connect("ledger");
    let sent = [0, 1, -1, i32::MIN, i32::MAX, 12345];
    for id in sent {
        connection.send_one_way(id, []).unwrap();
    }
    let response = connection.send_two_way(99, []).unwrap();
    assert_eq!(ids(response.data())[..6], sent);
}

#[test]
fn one_way_and_two_way_messages_keep_their_order() {
    let folder = Folder::new();
    let _ledger = folder.serve("ledger", &[]);
    let connection = folder.connect("ledger");
    let large = pattern(10_000);
    for id in 0..2000 {
        match id % 5 {
            0 => drop(connection.send_two_way(id, b"call").unwrap()),
            1 => connection.send_one_way(id, &large).unwrap(),
            _ => connection.send_one_way(id, &large[..id as usize % 300]).unwrap(),
        }
    }
    let all = connection.send_two_way(2000, []).unwrap();
    assert_eq!(ids(all.data()), (0..=2000).collect::<Vec<_>>());
}

#[test]
fn a_stream_arrives_whole_and_in_order_with_calls_in_between() {
    let folder = Folder::new();
    let _ledger = folder.serve("ledger", &[]);
    let connection = folder.connect("ledger");
    // Many times around the ring, faster than the service looks at it, then with pauses.
    for id in 0..30_000 {
        match id % 1000 {
            999 => drop(connection.send_two_way(id, b"call").unwrap()),
            _ => connection.send_one_way(id, [id as u8; 64]).unwrap(),
        }
        if id > 29_000 && id % 10 == 0 {
            std::thread::sleep(std::time::Duration::from_micros(20));
        }
    }
    let all = connection.send_two_way(30_000, []).unwrap();
    assert!(ids(all.data()).into_iter().eq(0..=30_000));
}

#[test]
fn eight_threads_on_one_connection_keep_their_order() {
    let folder = Folder::new();
    let _ledger = folder.serve("ledger", &[]);
    let connection = folder.connect("ledger");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let connection = connection.clone();
            scope.spawn(move || {
                for count in 0..250 {
                    let id = thread * 1000 + count;
                    if count % 10 == 0 {
                        connection.send_two_way(id, []).unwrap();
                    } else {
                        connection.send_one_way(id, [0; 40]).unwrap();
                    }
                }
            });
        }
    });
    let all = connection.send_two_way(-1, []).unwrap();
    let all = ids(all.data());
    assert_eq!(all.len(), 8 * 250 + 1);
    for thread in 0..8 {
        let mine: Vec<_> = all.iter().filter(|id| **id / 1000 == thread && **id >= 0).collect();
        assert_eq!(mine.len(), 250);
        assert!(mine.is_sorted());
    }
}

fn send_and_exit(arguments: &[String]) {
    let connection = Connection::new("here").unwrap();
    for id in 0..100 {
        connection.send_one_way(id, pattern(arguments[0].parse().unwrap())).unwrap();
    }
    // No destructor runs, no answer was waited for.
    std::process::exit(0);
}

#[test]
fn what_was_sent_before_an_exit_is_delivered() {
    for len in ["10", "500", "5000"] {
        let folder = Folder::new();
        let (sender, received) = channel();
        let mut service = folder
            .service("here")
            .start(move |request| {
                assert!(request.data() == pattern(request.len()));
                sender.send(request.id()).unwrap();
            })
            .unwrap();
        let stop = service.stop_handle();
        // The client is gone before the service looks for the first time, where it all fits.
        let mut client = folder.start("send_and_exit", &[len]);
        if len != "5000" {
            client.finish();
        }
        let serving = std::thread::spawn(move || service.run());
        for id in 0..100 {
            assert_eq!(received.recv_timeout(common::HANG), Ok(id));
        }
        stop.stop();
        serving.join().unwrap().unwrap();
    }
}
