//! Many busy clients share a service: nobody waits for more than a few turns of the others.
//!
//! It is an order that is looked at, and no time: while the service stands still in a handler everybody
//! publishes, then it goes on and writes down whose messages it takes.

mod common;

use std::future::Future;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use common::{Call, Folder, Process, hear, play, tell};
use lightmessaging::{Connection, Request, Service};

/// The service says `took`, and goes on once the test says a line.
const GATE: i32 = 1;
/// Written down: the payload is the client's number, two bytes.
const WRITE: i32 = 2;
/// Answered with all that was written down.
const WRITTEN: i32 = 3;

/// Messages of others that a client may have to wait for: two rounds of 512 each.
const MOST: usize = 1024;
/// How many messages one who floods sends.
const FLOOD: usize = 2000;

#[test]
fn role() {
    play(&[("service", service), ("callers", callers), ("floods", floods)]);
}

/// With a handler that takes so many microseconds.
fn service(arguments: &[String]) {
    let work = Duration::from_micros(arguments[0].parse().unwrap());
    let mut written = Vec::new();
    let handle = move |request: Request| match request.id() {
        GATE => {
            tell("took");
            hear();
            let _ = request.reply([]);
        }
        WRITTEN => drop(request.reply(written.as_slice())),
        _ => {
            written.extend_from_slice(request.data());
            let started = Instant::now();
            while started.elapsed() < work {
                std::hint::spin_loop();
            }
            let _ = request.reply([]);
        }
    };
    let mut service = Service::start("x", handle).unwrap();
    tell("ready");
    service.run().unwrap();
}

/// Clients from this number on, so many, each of which makes so many calls at once.
fn callers(arguments: &[String]) {
    let [first, clients, calls] = [0, 1, 2].map(|at| arguments[at].parse::<usize>().unwrap());
    let connections = connect(clients, calls);
    let mut context = Context::from_waker(Waker::noop());
    let mut made = Vec::new();
    for (at, connection) in connections.iter().enumerate() {
        for _ in 0..calls {
            let number = ((first + at) as u16).to_ne_bytes();
            // Published when it is polled first.
            let mut call = Box::pin(connection.send_two_way_async(WRITE, number));
            assert!(call.as_mut().poll(&mut context).is_pending());
            made.push(call);
        }
    }
    tell("sent");
    hear();
}

/// Clients from this number on, so many, each of which fills its queue, and stays (1) or goes (0).
fn floods(arguments: &[String]) {
    let [first, clients, stays] = [0, 1, 2].map(|at| arguments[at].parse::<usize>().unwrap());
    let mut connections = connect(clients, 1);
    for (at, connection) in connections.iter().enumerate() {
        for _ in 0..FLOOD {
            connection.send_one_way(WRITE, ((first + at) as u16).to_ne_bytes()).unwrap();
        }
    }
    if stays == 0 {
        connections.clear();
    }
    tell("sent");
    hear();
}

/// Connections that are known to the service; goes on when the test says so.
fn connect(clients: usize, calls: usize) -> Vec<Connection> {
    let connections: Vec<_> = (0..clients)
        .map(|_| Connection::builder("x").calls_in_flight(calls).build().unwrap())
        .collect();
    connections.iter().for_each(|connection| drop(connection.send_two_way(WRITTEN, []).unwrap()));
    tell("ready");
    hear();
    connections
}

/// A service and its clients, whose messages are all there when it takes the first.
struct Race {
    folder: Folder,
    server: Process,
    clients: Vec<Process>,
    count: usize,
}

impl Race {
    fn new(work: u64) -> Race {
        let folder = Folder::new();
        let server = folder.serve("service", &[&work.to_string()]);
        Race { folder, server, clients: Vec::new(), count: 0 }
    }

    fn add(&mut self, role: &str, clients: usize, calls: usize) {
        let arguments = [self.count, clients, calls].map(|number| number.to_string());
        let arguments = arguments.each_ref().map(|argument| &**argument);
        self.clients.push(self.folder.serve(role, &arguments));
        self.count += clients;
    }

    /// Whose message was taken, one after the other.
    fn run(mut self) -> Vec<u16> {
        let gate = Call::start(&self.folder.connect("x"), GATE, &[]);
        self.server.expect("took");
        for client in &mut self.clients {
            assert_eq!(client.ask("go"), "sent");
        }
        self.server.say("go");
        gate.end().unwrap();
        let (observer, mut len) = (self.folder.connect("x"), None);
        loop {
            let written = observer.send_two_way(WRITTEN, []).unwrap();
            let written = written.data();
            // Until nothing more comes.
            if len.replace(written.len()) == Some(written.len()) {
                let (numbers, _) = written.as_chunks();
                return numbers.iter().map(|number| u16::from_ne_bytes(*number)).collect();
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// For a client's messages, the most of others that were taken before one of them, from the beginning
/// or its last one on.
fn longest_wait(order: &[u16], client: usize) -> usize {
    let waits = order.split(|number| usize::from(*number) == client);
    // What comes after its last message is not waited for.
    let count = order.iter().filter(|number| usize::from(**number) == client).count();
    waits.take(count).map(<[u16]>::len).max().expect("a message of it")
}

fn longest_of(order: &[u16], clients: std::ops::Range<usize>) -> usize {
    clients.map(|client| longest_wait(order, client)).max().unwrap()
}

#[test]
fn of_64_busy_callers_none_waits_longer_than_a_few_turns() {
    for work in [0, 30] {
        let mut race = Race::new(work);
        (0..4).for_each(|_| race.add("callers", 16, 60));
        let order = race.run();
        assert_eq!(order.len(), 64 * 60);
        let longest = longest_of(&order, 0..64);
        assert!(longest <= MOST, "{longest} of others in between, {work} µs");
    }
}

#[test]
fn callers_do_not_wait_for_all_of_a_flood() {
    for work in [0, 30] {
        wait_behind_a_flood(work, 1);
    }
}

#[test]
fn callers_do_not_wait_for_all_of_a_flood_whose_senders_have_gone() {
    for work in [0, 30] {
        wait_behind_a_flood(work, 0);
    }
}

fn wait_behind_a_flood(work: u64, stays: usize) {
    let mut race = Race::new(work);
    race.add("floods", 8, stays);
    race.add("callers", 100, 1);
    let order = race.run();
    assert_eq!(order.len(), 8 * FLOOD + 100);
    let longest = longest_of(&order, 8..108);
    assert!(longest <= MOST, "{longest} of others before, {work} µs");
}

#[test]
fn one_who_floods_gets_as_much_as_another() {
    let mut race = Race::new(0);
    race.add("floods", 4, 1);
    let order = race.run();
    assert_eq!(order.len(), 4 * FLOOD);
    // While all four have something left, which is so in the first half at least.
    let first = &order[..2 * FLOOD];
    let longest = longest_of(first, 0..4);
    assert!(longest <= MOST, "{longest} of others in between");
}
