//! What happens when something is full, or used up, or very many.

mod common;

use std::time::Duration;

use common::{
    Call, ECHO, Folder, HANG, HANG_UP, LOG, LOGGED, ON_CUE, Running, descriptors, hear, pattern,
    play, server, tell, until,
};
use lightmessaging::{Connection, Deadline, Error};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn role() {
    play(&[
        ("server", server),
        ("many", many),
        ("poor_server", poor_server),
        ("poor_client", poor_client),
    ]);
}

/// So many descriptors more than it has now, and never again any more than that.
fn leave_descriptors(more: u64) {
    let most = Some(descriptors(std::process::id()) as u64 + more);
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
}

/// Opens many connections and keeps them.
fn many(arguments: &[String]) {
    let count: usize = arguments[1].parse().unwrap();
    let connections: Vec<_> = (0..count).map(|_| Connection::new(&arguments[0]).unwrap()).collect();
    for round in 0..2 {
        for (number, connection) in connections.iter().enumerate() {
            let text = format!("{round} {number}");
            assert_eq!(connection.send_two_way(ECHO, &text).unwrap().data(), text.as_bytes());
        }
    }
    tell("done");
    hear();
}

/// A service with few descriptors to spare; says how many clients it has after each.
fn poor_server(arguments: &[String]) {
    leave_descriptors(40);
    server(arguments);
}

/// A client that runs out of descriptors, and has some again.
fn poor_client(arguments: &[String]) {
    let connection = Connection::new(&arguments[0]).unwrap();
    let mut hoard = Vec::new();
    leave_descriptors(12);
    while let Ok(file) = std::fs::File::open("/dev/null") {
        hoard.push(file);
    }
    for _ in 0..3 {
        let error = connection.send_two_way(ECHO, b"poor").unwrap_err();
        assert!(matches!(error, Error::Os { .. } | Error::Denied { .. }), "{error}");
        hoard.pop();
    }
    drop(hoard);
    assert_eq!(connection.send_two_way(ECHO, b"rich").unwrap().data(), b"rich");
    // With none left again, what is connected works.
    let mut hoard = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        hoard.push(file);
    }
    assert_eq!(connection.send_two_way(ECHO, b"still").unwrap().data(), b"still");
    tell("fine");
}

#[test]
fn a_full_ring_keeps_its_senders_deadline_and_loses_nothing() {
    let folder = Folder::new();
    let server = folder.serve("server", &["x"]);
    let connection = folder.connect("x");
    connection.send_two_way(ECHO, []).unwrap();
    server.freeze();
    let mut accepted = Vec::new();
    for number in 0.. {
        let text = format!("{number:0300}");
        match connection.send_one_way_within(LOG, &text, Duration::from_millis(30)) {
            Ok(()) => accepted.push(text),
            Err(Error::QueueFull { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(accepted.len() > 50);
    server.thaw();
    let logged = connection.send_two_way(LOGGED, []).unwrap();
    assert_eq!(String::from_utf8_lossy(logged.data()), accepted.join(" "));
}

#[test]
fn a_sender_that_waits_for_room_goes_on_when_there_is_some() {
    let folder = Folder::new();
    let server = folder.serve("server", &["x"]);
    let connection = folder.connection("x").deadline(HANG).build().unwrap();
    connection.send_two_way(ECHO, []).unwrap();
    server.freeze();
    let sender = {
        let connection = connection.clone();
        std::thread::spawn(move || {
            for number in 0..2000 {
                connection.send_one_way(LOG, format!("{number:0100}")).unwrap();
            }
        })
    };
    std::thread::sleep(Duration::from_millis(50));
    server.thaw();
    sender.join().unwrap();
    let logged = connection.send_two_way(LOGGED, []).unwrap();
    let expected: Vec<_> = (0..2000).map(|number| format!("{number:0100}")).collect();
    assert_eq!(String::from_utf8_lossy(logged.data()), expected.join(" "));
}

#[test]
fn large_messages_wait_for_regions_and_arrive() {
    let folder = Folder::new();
    let server = folder.serve("server", &["x"]);
    let connection = folder.connection("x").deadline(HANG).build().unwrap();
    connection.send_two_way(ECHO, []).unwrap();
    server.freeze();
    let text = |number: usize| format!("{number:05000}");
    let mut sent = 0;
    while connection.send_one_way_within(LOG, text(sent), Duration::from_millis(30)).is_ok() {
        sent += 1;
    }
    assert!(sent >= 8, "{sent}");
    let sender = {
        let connection = connection.clone();
        std::thread::spawn(move || {
            for number in sent..sent + 100 {
                connection.send_one_way(LOG, text(number)).unwrap();
            }
        })
    };
    std::thread::sleep(Duration::from_millis(20));
    server.thaw();
    sender.join().unwrap();
    let logged = connection.send_two_way(LOGGED, []).unwrap();
    let expected: Vec<_> = (0..sent + 100).map(text).collect();
    assert!(logged.data() == expected.join(" ").as_bytes());
}

#[test]
fn more_calls_than_slots_wait_for_their_turn() {
    let folder = Folder::new();
    let server = folder.serve("server", &["x"]);
    let connection = folder.connect("x");
    connection.send_two_way(ECHO, []).unwrap();
    server.freeze();
    let calls: Vec<_> =
        (0..20).map(|n| Call::start(&connection, ECHO, &pattern(n * 1000))).collect();
    std::thread::sleep(Duration::from_millis(20));
    let error = connection.send_two_way_within(ECHO, [], Duration::from_millis(20)).unwrap_err();
    assert!(matches!(error, Error::QueueFull { .. }), "{error}");
    server.thaw();
    for (n, call) in calls.into_iter().enumerate() {
        assert!(call.end().unwrap().data() == pattern(n * 1000));
    }
}

#[test]
fn a_thousand_connections_are_served() {
    let folder = Folder::new();
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(1 << 20);
    let count = if hard > 8000 { 1000 } else { hard as usize / 16 };
    let server = folder.serve("server", &["x"]);
    let mut client = folder.start("many", &["x", &count.to_string()]);
    client.expect("done");
    let listed = folder.registry().services().unwrap();
    assert_eq!(listed[0].connections as usize, count);
    client.finish();
    let connection = folder.connect("x");
    connection.send_two_way(ECHO, []).unwrap();
    until(|| folder.registry().services().unwrap()[0].connections == 1);
    let left = descriptors(server.pid());
    assert!(left < 40, "{left} descriptors are open with one client");
}

#[test]
fn no_descriptor_is_left_on_either_side() {
    let folder = Folder::new();
    let server = folder.serve("server", &["x"]);
    let mut before = None;
    for round in 0..30 {
        let connection = folder.connect("x");
        for len in [0, 10, 5000, 300_000] {
            let sent = pattern(len);
            assert!(connection.send_two_way(ECHO, &sent).unwrap().data() == sent);
            connection.send_one_way(0, &sent).unwrap();
        }
        drop(connection);
        until(|| folder.registry().services().unwrap()[0].connections == 0);
        // Other tests of this process run beside this one; the server's count is exact.
        if let Some(before) = before {
            until(|| descriptors(server.pid()) == before);
        } else if round == 2 {
            before = Some(descriptors(server.pid()));
        }
    }
}

#[test]
fn a_service_without_descriptors_serves_those_it_has_and_others_later() {
    let folder = Folder::new();
    let server = folder.serve("poor_server", &["x"]);
    let mut connections = Vec::new();
    loop {
        let connection =
            folder.connection("x").deadline(Duration::from_millis(300)).build().unwrap();
        match connection.send_two_way(ECHO, b"in") {
            Ok(_) => connections.push(connection),
            Err(Error::TimedOut { .. } | Error::NotDelivered { .. }) => break,
            Err(error) => panic!("{error}"),
        }
        assert!(connections.len() < 100);
    }
    assert!(connections.len() >= 3, "{}", connections.len());
    for connection in &connections {
        assert_eq!(connection.send_two_way(ECHO, b"still").unwrap().data(), b"still");
    }
    // It waits; it does not spin.
    let used = cpu_ticks(server.pid());
    std::thread::sleep(Duration::from_millis(500));
    assert!(cpu_ticks(server.pid()) - used <= 10, "of 50 that half a second has");
    connections.truncate(1);
    let late = folder.connect("x");
    assert_eq!(late.send_two_way(ECHO, b"late").unwrap().data(), b"late");
}

/// The processor time that a process has used, in hundredths of a second.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_client_without_descriptors_gets_an_error_and_recovers() {
    let folder = Folder::new();
    let _server = folder.serve("server", &["x"]);
    let mut client = folder.start("poor_client", &["x"]);
    client.expect("fine");
    client.finish();
}

#[test]
fn an_idle_service_sleeps() {
    let folder = Folder::new();
    let server = folder.serve("server", &["x"]);
    let connections: Vec<_> = (0..50).map(|_| folder.connect("x")).collect();
    for connection in &connections {
        connection.send_two_way(ECHO, []).unwrap();
    }
    let switches = || -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("voluntary")).unwrap();
        line.split_whitespace().last().unwrap().parse().unwrap()
    };
    // Once it has given its memory back, it has no reason to wake.
    std::thread::sleep(Duration::from_millis(2500));
    let before = switches();
    std::thread::sleep(Duration::from_millis(1500));
    assert!(switches() - before <= 2);
    connections[7].send_two_way(ECHO, []).unwrap();
}

#[test]
fn a_large_one_way_message_without_a_reader_ends_with_the_deadline() {
    let folder = Folder::new();
    let mut server = folder.serve("server", &["x"]);
    let connection = folder.connection("x").deadline(Deadline::Never).build().unwrap();
    let busy = Call::start(&connection, HANG_UP, &[]);
    server.expect("took");
    let large = vec![7; 1 << 20];
    let short = Duration::from_millis(50);
    let error = (0..1000).find_map(|_| connection.send_one_way_within(LOG, &large, short).err());
    assert!(matches!(error, Some(Error::QueueFull { .. })));
    server.kill();
    assert!(matches!(busy.end(), Err(Error::PeerDied { .. })));
}

#[test]
fn an_answer_on_the_deadlines_edge_is_one_or_the_other() {
    let folder = Folder::new();
    let service = folder.service("x").start(|request| {
        std::thread::sleep(Duration::from_micros(300));
        let _ = request.reply([]);
    });
    let _running = Running::new(service.unwrap());
    let connection = folder.connect("x");
    connection.send_two_way(ON_CUE, []).unwrap();
    for wait in (0..600).step_by(3) {
        match connection.send_two_way_within(1, [], Duration::from_micros(wait)) {
            Ok(_) | Err(Error::TimedOut { .. } | Error::QueueFull { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    connection.send_two_way(1, []).unwrap();
}
