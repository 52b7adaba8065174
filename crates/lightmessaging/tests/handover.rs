//! A name goes from one process to another while it is in use.

mod common;
#[path = "common/executor.rs"]
mod executor;
#[path = "common/lies.rs"]
mod lies;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{
    Call, ECHO, Folder, HANG, LATER, LOG, LOGGED, ON_CUE, Process, Running, hear, pattern, play,
    server, tell, until,
};
use lightmessaging::{Connection, Error, Request, RunLoop, Service};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Kinds of messages in these tests. All are written down.
const NOTE: i32 = 1;
const CALL: i32 = 2;
/// Answered from another thread, a little later.
const KEEP: i32 = 3;

/// Nobody in particular.
const STRANGER: u32 = 54_321;

#[test]
fn role() {
    play(&[
        ("server", server),
        ("instance", instance),
        ("shuttle", shuttle),
        ("taker", taker),
        ("client", client),
        ("sender", sender),
        ("burst", burst),
        ("robber", robber),
    ]);
}

/// Writes down what comes, in a file that all instances share.
fn ledger(path: &str, nap: Duration) -> impl FnMut(Request) + Send + use<> {
    let mut file = File::options().append(true).create(true).open(path).unwrap();
    move |request| {
        let data = request.data();
        let end = data.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let (line, padding) = data.split_at(end);
        assert!(padding == pattern(padding.len()));
        file.write_all(line).unwrap();
        if !nap.is_zero() {
            std::thread::sleep(nap);
        }
        match request.id() {
            CALL => {
                let (message, reply) = request.split();
                reply.reply(message.data()).unwrap();
            }
            KEEP => drop(std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(3));
                let (message, reply) = request.split();
                // The client may have it, and be gone, before this returns.
                let _ = reply.reply(message.data());
            })),
            _ => {}
        }
    }
}

/// An instance that takes the name over, and ends when another does.
fn instance(arguments: &[String]) {
    let nap = Duration::from_micros(arguments[1].parse().unwrap());
    let ledger = ledger(&arguments[0], nap);
    let mut service = Service::builder("x").take_over(HANG, ledger).unwrap();
    tell("ready");
    service.run().unwrap();
    assert!(service.was_handed_over());
    let stats = service.stats();
    assert_eq!((stats.malformed, stats.version, stats.busy, stats.clients), (0, 0, 0, 0));
    tell("handed over");
}

/// Takes the name over again and again, until a file appears.
fn shuttle(arguments: &[String]) {
    let end = Path::new(&arguments[1]);
    let mut rounds = 0;
    while !end.exists() {
        let ledger = ledger(&arguments[0], Duration::ZERO);
        let mut service = Service::builder("x").take_over(HANG, ledger).unwrap();
        if rounds == 0 {
            tell("ready");
        }
        service.run().unwrap();
        assert!(service.was_handed_over());
        rounds += 1;
    }
    tell(rounds);
}

/// Says what became of trying to take the name over.
fn taker(arguments: &[String]) {
    let deadline = Duration::from_millis(arguments[0].parse().unwrap());
    let taken = Service::builder("x").take_over(deadline, |request| {
        let (message, reply) = request.split();
        let _ = reply.reply(message.data());
    });
    match taken {
        Ok(mut service) => {
            tell("ready");
            service.run().unwrap();
        }
        Err(error) => tell(error),
    }
}

fn line(client: &str, number: u32, padding: usize) -> Vec<u8> {
    let mut line = format!("{client} {number}\n").into_bytes();
    line.extend(pattern(padding));
    line
}

/// Sends without pause until it is told to stop, in one manner or another, and says how much it was.
fn client(arguments: &[String]) {
    let (name, manner) = (&arguments[0], arguments[1].as_str());
    let connection = Connection::builder("x").deadline(HANG).build().unwrap();
    let events = connection.events().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopper = stop.clone();
    std::thread::spawn(move || {
        hear();
        stopper.store(true, Ordering::Relaxed);
    });
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let number = count;
        let call = |id, padding| {
            let sent = line(name, number, padding);
            assert!(connection.send_two_way(id, &sent).unwrap().data() == sent);
        };
        let note = |padding| connection.send_one_way(NOTE, line(name, number, padding)).unwrap();
        match (manner, count % 7) {
            // Fills the ring.
            ("notes", _) => note(300),
            ("calls", _) => call(CALL, 20),
            ("kept", _) => call(KEEP, 20),
            ("awaited", _) => {
                // More than the ring holds, and one that sees that they have come.
                let (first, last) = (count, count + 300);
                let note = |number| connection.send_one_way_async(NOTE, line(name, number, 300));
                let notes = executor::Set::new(&events, (first..last).map(note));
                assert!(notes.join().iter().all(Result::is_ok));
                count = last;
                let sent = line(name, count, 20);
                let answer = connection.send_two_way_async(KEEP, &sent);
                assert!(executor::block_on(&events, answer).unwrap().data() == sent);
            }
            ("large", 0) => call(CALL, 70_000),
            ("large", 3) => call(KEEP, 20_000),
            ("large", _) => note(6_000),
            (_, 0) => call(CALL, 10),
            (_, 4) => call(KEEP, 5_000),
            _ => note(100),
        }
        if number == 0 {
            tell("going");
        }
        count += 1;
    }
    tell(count);
}

/// What the ledger says of each client, in order.
fn read(path: &Path) -> HashMap<String, Vec<u32>> {
    let mut clients = HashMap::<String, Vec<u32>>::new();
    for line in fs::read_to_string(path).unwrap_or_default().lines() {
        let (client, number) = line.split_once(' ').unwrap();
        clients.entry(client.to_owned()).or_default().push(number.parse().unwrap());
    }
    clients
}

/// Waits until everything that was sent is in the ledger, and looks whether it is there once and in
/// order.
fn check(path: &Path, sent: &[(String, u32)]) {
    let all: usize = sent.iter().map(|(_, count)| *count as usize).sum();
    let end = Instant::now() + HANG / 4;
    let mut lines = 0;
    while lines < all && Instant::now() < end {
        lines = fs::read(path).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count();
        std::thread::sleep(Duration::from_millis(5));
    }
    let ledger = read(path);
    for (client, count) in sent {
        let found = ledger.get(client).map(Vec::as_slice).unwrap_or_default();
        if let Some(wrong) = (0..*count).zip(found).find(|(number, found)| number != *found) {
            panic!("of client {client}, {} came when it was the turn of {}", wrong.1, wrong.0);
        }
        assert_eq!(found.len(), *count as usize, "of client {client}");
    }
    assert_eq!(lines, all);
}

fn ledger_of(folder: &Folder) -> (PathBuf, String) {
    let path = folder.path().join(".ledger");
    let text = path.to_str().unwrap().to_owned();
    (path, text)
}

/// Some clients, and a name that goes from hand to hand.
fn hand_over_under_load(times: u64, nap: &str) {
    let folder = Folder::new();
    let (path, text) = ledger_of(&folder);
    let mut instance = folder.serve("instance", &[&text, nap]);
    let manners =
        ["notes", "notes", "calls", "calls", "kept", "large", "mixed", "mixed", "awaited"];
    let mut clients: Vec<_> = manners
        .iter()
        .enumerate()
        .map(|(number, manner)| folder.start("client", &[&number.to_string(), manner]))
        .collect();
    clients.iter().for_each(|client| client.expect("going"));
    for round in 0..times {
        let next = folder.serve("instance", &[&text, nap]);
        instance.expect("handed over");
        instance.finish();
        instance = next;
        std::thread::sleep(Duration::from_millis(round * 7 % 10));
    }
    let stop = |(number, client): (usize, &mut Process)| {
        client.say("stop");
        let count = client.line().parse().unwrap();
        client.finish();
        (number.to_string(), count)
    };
    let sent: Vec<_> = clients.iter_mut().enumerate().map(stop).collect();
    check(&path, &sent);
    let listed = folder.registry().services().unwrap();
    assert_eq!(listed.iter().map(|info| info.pid).collect::<Vec<_>>(), [Some(instance.pid())]);
}

#[test]
fn a_name_changes_hands_under_load_and_nothing_is_lost_doubled_or_reordered() {
    hand_over_under_load(10, "0");
}

#[test]
fn a_name_changes_hands_while_handlers_sleep() {
    hand_over_under_load(4, "200");
}

/// Lives of clients, one after the other: each has met the service, sends a little, and is gone.
fn burst(arguments: &[String]) {
    let end = Path::new(&arguments[1]);
    let mut count = 0;
    tell("going");
    while !end.exists() {
        let connection = Connection::builder("x").deadline(HANG).build().unwrap();
        connection.send_two_way(CALL, line(&arguments[0], count, 0)).unwrap();
        count += 1;
        for _ in 0..1 + count % 3 {
            connection.send_one_way(NOTE, line(&arguments[0], count, 0)).unwrap();
            count += 1;
        }
    }
    tell(count);
}

#[test]
fn those_who_send_and_go_while_a_name_changes_hands_all_the_time_lose_nothing() {
    let folder = Folder::new();
    let (path, text) = ledger_of(&folder);
    let end = folder.path().join(".end");
    let end_text = end.to_str().unwrap();
    let mut players = vec![folder.serve("shuttle", &[&text, end_text])];
    let mut bursts: Vec<_> =
        ["a", "b", "c"].iter().map(|name| folder.start("burst", &[name, end_text])).collect();
    bursts.iter().for_each(|burst| burst.expect("going"));
    players.push(folder.serve("shuttle", &[&text, end_text]));
    std::thread::sleep(Duration::from_secs(1));
    File::create(&end).unwrap();
    let counts = bursts.iter_mut().map(|burst| burst.line().parse().unwrap());
    let sent: Vec<(String, u32)> =
        ["a", "b", "c"].iter().map(|name| (*name).to_owned()).zip(counts).collect();
    let all: usize = sent.iter().map(|(_, count)| *count as usize).sum();
    let found = || read(&path).values().map(Vec::len).sum::<usize>();
    let patience = Instant::now() + HANG / 4;
    while found() < all && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(5));
    }
    for (client, mut numbers) in read(&path) {
        // Each life was a connection of its own, between which nothing is promised.
        numbers.sort();
        let count = sent.iter().find(|(name, _)| *name == client).unwrap().1;
        let missing = (0..count).find(|number| numbers.binary_search(number).is_err());
        assert_eq!(missing, None, "of client {client}");
        assert_eq!(numbers.len(), count as usize, "of client {client}");
    }
}

/// Sends some messages and exits at once.
fn sender(arguments: &[String]) {
    let connection = Connection::builder("x").deadline(HANG).build().unwrap();
    for number in 0..60 {
        let padding = if number % 20 == 19 { 5_000 } else { 40 };
        connection.send_one_way(NOTE, line(&arguments[0], number, padding)).unwrap();
    }
    // No destructor runs, no answer was waited for.
    std::process::exit(0);
}

#[test]
fn who_sends_and_exits_while_a_name_changes_hands_loses_nothing() {
    let folder = Folder::new();
    let (path, text) = ledger_of(&folder);
    let mut instance = folder.serve("instance", &[&text, "0"]);
    let mut sent = Vec::new();
    for round in 0..6 {
        let names: Vec<_> = (0..4).map(|number| format!("{round}.{number}")).collect();
        let mut senders: Vec<_> =
            names.iter().map(|name| folder.start("sender", &[name])).collect();
        let next = folder.serve("instance", &[&text, "0"]);
        instance.expect("handed over");
        instance.finish();
        instance = next;
        senders.iter_mut().for_each(Process::finish);
        sent.extend(names.into_iter().map(|name| (name, 60)));
    }
    check(&path, &sent);
}

/// A hand that has been stopped halfway, and what was sent to it.
fn ask_for_name(folder: &Folder) -> OwnedFd {
    let socket = lies::connect(&folder.path().join("x"));
    lies::send(&socket, &lies::packet(9, &[0]), &[]);
    socket
}

/// The answer to that: done, with the listening socket and the lock.
fn expect_offer(socket: &OwnedFd) -> Vec<OwnedFd> {
    let (packet, fds) = lies::receive(socket);
    assert_eq!(packet, lies::packet(11, &[0]));
    assert_eq!(fds.len(), 2);
    fds
}

fn still_serves(folder: &Folder, server: &Process, known: &Connection) {
    for connection in [known, &folder.connect("x")] {
        assert_eq!(connection.send_two_way(ECHO, b"still").unwrap().data(), b"still");
        assert_eq!(connection.peer(HANG).unwrap().pid(), server.pid());
    }
    let listed = folder.registry().services().unwrap();
    assert_eq!(listed.iter().map(|info| info.pid).collect::<Vec<_>>(), [Some(server.pid())]);
}

#[test]
fn one_who_asks_for_the_name_and_goes_halfway_leaves_it_where_it_was() {
    let folder = Folder::new();
    let mut server = folder.serve("server", &["x"]);
    let known = folder.connect("x");
    still_serves(&folder, &server, &known);
    let before = common::descriptors(server.pid());
    for round in 0..20 {
        // It goes before it has read the offer, or between that and its answer.
        let socket = ask_for_name(&folder);
        if round % 2 == 0 {
            expect_offer(&socket);
        }
        drop(socket);
        still_serves(&folder, &server, &known);
    }
    // It answers, and is gone before the name is its own.
    for _ in 0..20 {
        let socket = ask_for_name(&folder);
        expect_offer(&socket);
        rustix::net::shutdown(&socket, rustix::net::Shutdown::Read).unwrap();
        lies::send(&socket, &lies::packet(11, &[0]), &[]);
        still_serves(&folder, &server, &known);
    }
    // It answers with something else.
    for packet in
        [lies::packet(11, &[5]), lies::packet(9, &[0]), lies::packet(1, &[0]), vec![0; 30]]
    {
        let socket = ask_for_name(&folder);
        expect_offer(&socket);
        lies::send(&socket, &packet, &[]);
        assert!(lies::receive(&socket).0.is_empty());
        still_serves(&folder, &server, &known);
    }
    until(|| common::descriptors(server.pid()) <= before + 3);
    server.say("x");
    let next = folder.serve("taker", &["60000"]);
    server.finish();
    still_serves(&folder, &next, &known);
}

/// Gets an offer, and then is killed.
fn robber(_: &[String]) {
    let folder = std::env::var("LIGHTMESSAGING_DIR").unwrap();
    let socket = lies::connect(&Path::new(&folder).join("x"));
    lies::send(&socket, &lies::packet(9, &[0]), &[]);
    let _loot = expect_offer(&socket);
    tell("offered");
    hear();
}

#[test]
fn one_who_is_killed_or_stalls_with_the_offer_in_hand_leaves_the_name_where_it_was() {
    let folder = Folder::new();
    let server = folder.serve("server", &["x"]);
    let known = folder.connect("x");
    let mut robber = folder.start("robber", &[]);
    robber.expect("offered");
    still_serves(&folder, &server, &known);
    robber.kill();
    still_serves(&folder, &server, &known);
    // One that stalls is left out after a while, and may not have the name then.
    let socket = ask_for_name(&folder);
    let loot = expect_offer(&socket);
    still_serves(&folder, &server, &known);
    let busy = ask_for_name(&folder);
    assert_eq!(lies::receive(&busy).0, lies::packet(11, &[3]), "one at a time");
    lies::wait_for_the_end(&socket);
    lies::send(&socket, &lies::packet(11, &[0]), &[]);
    assert!(lies::receive(&socket).0.is_empty());
    drop(loot);
    still_serves(&folder, &server, &known);
    let next = folder.serve("taker", &["60000"]);
    still_serves(&folder, &next, &known);
}

#[test]
fn a_busy_instance_lets_the_deadline_pass_and_keeps_its_name() {
    let folder = Folder::new();
    let mut server = folder.serve("server", &["x"]);
    let known = folder.connect("x");
    let call = Call::start(&known, ON_CUE, b"");
    server.expect("took");
    let taken = folder.service("x").take_over(Duration::from_millis(50), drop);
    assert!(matches!(taken, Err(Error::TimedOut { delivered: false, .. })), "{taken:?}");
    server.say("go");
    assert_eq!(call.end().unwrap().data(), b"on cue");
    still_serves(&folder, &server, &known);
}

#[test]
fn an_instance_that_dies_when_asked_is_succeeded() {
    let folder = Folder::new();
    let mut server = folder.serve("server", &["x"]);
    let known = folder.connect("x");
    known.send_two_way(ECHO, []).unwrap();
    server.freeze();
    let next = folder.start("taker", &["60000"]);
    std::thread::sleep(Duration::from_millis(30));
    server.kill();
    next.expect("ready");
    still_serves(&folder, &next, &known);
}

#[test]
fn a_request_that_is_kept_is_answered_by_the_instance_that_has_it() {
    let folder = Folder::new();
    let mut server = folder.serve("server", &["x"]);
    let known = folder.connect("x");
    let call = Call::start(&known, LATER, b"300");
    call.wait_until_it_sleeps();
    let next = folder.serve("taker", &["60000"]);
    // The same connection is served by the next one meanwhile.
    still_serves(&folder, &next, &known);
    assert_eq!(call.end().unwrap().data(), b"late");
    server.finish();
}

#[test]
fn a_service_that_has_left_waits_for_what_it_keeps_until_it_is_stopped() {
    let folder = Folder::new();
    let (sender, kept) = std::sync::mpsc::channel();
    let service = folder.service("x").start(move |request| sender.send(request).unwrap());
    let mut service = service.unwrap();
    let stop = service.stop_handle();
    let serving = std::thread::spawn(move || {
        service.run().unwrap();
        service.was_handed_over()
    });
    let call = Call::start(&folder.connect("x"), ECHO, b"");
    let request = kept.recv().unwrap();
    let next = folder.serve("taker", &["60000"]);
    std::thread::sleep(Duration::from_millis(50));
    assert!(!serving.is_finished());
    stop.stop();
    assert!(serving.join().unwrap());
    still_serves(&folder, &next, &folder.connect("x"));
    request.reply("late").unwrap();
    assert_eq!(call.end().unwrap().data(), b"late");
}

#[test]
fn a_guest_who_has_not_said_hello_when_the_name_changes_hands_is_told() {
    let folder = Folder::new();
    let mut server = folder.serve("server", &["x"]);
    let guests: Vec<_> = (0..3).map(|_| lies::connect(&folder.path().join("x"))).collect();
    folder.connect("x").send_two_way(ECHO, []).unwrap();
    let next = folder.serve("taker", &["60000"]);
    server.finish();
    guests.iter().for_each(lies::wait_for_the_end);
    still_serves(&folder, &next, &folder.connect("x"));
}

#[test]
fn a_sender_that_waits_for_room_goes_on_with_the_next_instance() {
    let folder = Folder::new();
    let (path, text) = ledger_of(&folder);
    let instance = folder.serve("instance", &[&text, "100"]);
    let connection = folder.connection("x").deadline(HANG).build().unwrap();
    let sending = std::thread::spawn(move || {
        for number in 0..1_000 {
            connection.send_one_way(NOTE, line("me", number, 1_000)).unwrap();
        }
    });
    until(|| read(&path).get("me").is_some_and(|numbers| numbers.len() > 50));
    let _next = folder.serve("instance", &[&text, "0"]);
    instance.expect("handed over");
    sending.join().unwrap();
    check(&path, &[("me".to_owned(), 1_000)]);
}

/// A server that is about to leave, and has a message yet to handle that takes its time; the call of
/// that message, and what was offered to its heir, which is none. `None` if it took the message
/// before it heard that it is to leave.
fn caught_leaving(
    folder: &Folder,
    server: &Process,
    connection: &Connection,
) -> Option<(Call, Vec<OwnedFd>)> {
    connection.send_two_way(ECHO, []).unwrap();
    let socket = ask_for_name(folder);
    let offer = expect_offer(&socket);
    server.freeze();
    let call = Call::start(connection, ON_CUE, b"");
    call.wait_until_it_sleeps();
    lies::send(&socket, &lies::packet(11, &[0]), &[]);
    server.thaw();
    server.expect("took");
    let mut fds = [PollFd::new(&socket, PollFlags::IN)];
    let is_heir = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0;
    is_heir.then_some((call, offer))
}

#[test]
fn a_sender_whose_time_is_up_while_the_name_changes_hands_has_sent_nothing() {
    let (folder, mut server, connection, (call, offer)) = loop {
        let folder = Folder::new();
        let server = folder.serve("server", &["x"]);
        let connection = folder.connect("x");
        if let Some(caught) = caught_leaving(&folder, &server, &connection) {
            break (folder, server, connection, caught);
        }
    };
    let short = Duration::from_millis(20);
    let error = connection.send_one_way_within(LOG, "one-way", short).unwrap_err();
    assert!(matches!(error, Error::QueueFull { .. }), "{error}");
    let error = connection.send_two_way_within(LOG, "two-way", short).unwrap_err();
    assert!(matches!(error, Error::QueueFull { .. }), "{error}");
    let error = connection.look_up(short).unwrap_err();
    assert!(matches!(error, Error::TimedOut { delivered: false, .. }), "{error}");
    let waiting = Call::start(&connection, ECHO, b"waits");
    waiting.wait_until_it_sleeps();
    server.say("go");
    server.expect("wanted");
    assert_eq!(call.end().unwrap().data(), b"on cue");
    server.finish();
    // What was offered is the name: with it that is gone.
    drop(offer);
    let error = waiting.end().unwrap_err();
    assert!(matches!(error, Error::NotFound { .. } | Error::NotDelivered { .. }), "{error}");
    let _next = folder.serve("server", &["x"]);
    connection.send_one_way(LOG, "after").unwrap();
    assert_eq!(connection.send_two_way(LOGGED, []).unwrap().data(), b"after");
}

#[test]
fn a_service_of_a_run_loop_hands_its_name_over_and_the_others_stay() {
    let folder = Folder::new();
    let registry = folder.registry();
    let (sender, handles) = std::sync::mpsc::channel();
    let loops = std::thread::spawn(move || {
        let echo = |request: Request| {
            let (message, reply) = request.split();
            let _ = reply.reply(message.data());
        };
        let services = RunLoop::new().unwrap();
        for name in ["x", "y"] {
            let service = Service::builder(name).registry(registry.clone()).start(echo);
            services.add(service.unwrap()).unwrap();
        }
        sender.send(services.handle()).unwrap();
        services.run().unwrap()
    });
    let handle = handles.recv().unwrap();
    let (x, y) = (folder.connect("x"), folder.connect("y"));
    assert_eq!(y.send_two_way(ECHO, b"y").unwrap().data(), b"y");
    assert_eq!(x.send_two_way(ECHO, b"x").unwrap().data(), b"x");
    let next = folder.serve("taker", &["60000"]);
    still_serves_as(&x, next.pid());
    assert_eq!(y.send_two_way(ECHO, b"y").unwrap().data(), b"y");
    until(|| handle.is_running());
    handle.stop();
    loops.join().unwrap();
    still_serves_as(&x, next.pid());
}

fn still_serves_as(connection: &Connection, pid: u32) {
    assert_eq!(connection.send_two_way(ECHO, b"still").unwrap().data(), b"still");
    assert_eq!(connection.peer(HANG).unwrap().pid(), pid);
}

#[test]
fn a_thread_does_not_wait_for_a_name_that_it_holds_itself() {
    let folder = Folder::new();
    let mut service = folder.service("own").start(drop).unwrap();
    service.dispatch().unwrap();
    let taken = folder.service("own").take_over(HANG, drop);
    assert!(matches!(taken, Err(Error::WouldDeadlock { .. })), "{taken:?}");
    // Another thread of the process may have it.
    let running = Running::new(folder.service("x").start(drop).unwrap());
    let next = folder.service("x").take_over(HANG, |request| drop(request.reply("next"))).unwrap();
    let _next = Running::new(next);
    assert_eq!(folder.connect("x").send_two_way(ECHO, []).unwrap().data(), b"next");
    running.stop();
    assert_eq!(folder.connect("x").send_two_way(ECHO, []).unwrap().data(), b"next");
}

#[test]
fn the_name_of_another_user_is_not_handed_over() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can start a process of another user");
        return;
    }
    let folder = Folder::new();
    fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let service = folder.service("x").mode(0o666).start(|request| drop(request.reply([])));
    let _running = Running::new(service.unwrap());
    let stranger = folder.start_as(STRANGER, "taker", &["60000"]);
    stranger.expect("service \"x\": access denied: it is run by another user");
    folder.connect("x").send_two_way(ECHO, []).unwrap();
    let info = &folder.registry().services().unwrap()[0];
    assert_eq!(info.pid, Some(std::process::id()));
}
