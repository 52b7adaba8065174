//! A service over several threads, and clients that see whether it keeps their order.
#![allow(dead_code)]

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use lightmessaging::{ClientId, Connection, Error, Request, Service, StopHandle};

use super::common::{Folder, HANG, Process, hear, pattern, tell};

/// Answered at once with what was sent.
pub const ECHO: i32 = 1;
/// Says `took` and answers once somebody has sent [`RELEASE`] or the test has said so.
pub const BLOCK: i32 = 2;
/// Lets those go that are blocked now.
pub const RELEASE: i32 = 3;
/// Written down, with the client's name and its number in the payload.
pub const NOTE: i32 = 4;
/// The same, and answered.
pub const CALL: i32 = 5;
/// Stops the service from within, and answers.
pub const STOP: i32 = 6;
/// A panic.
pub const PANIC: i32 = 7;
/// Calls the service's own name and answers with what became of it.
pub const CALL_SELF: i32 = 8;
/// Answered at once, and then as [`BLOCK`].
pub const LINGER: i32 = 9;
/// Answered with how many threads have run handlers.
pub const THREADS: i32 = 10;
/// Answered from another thread once somebody has sent [`RELEASE`].
pub const KEEP: i32 = 11;
/// Reads all of what was sent, and then as [`BLOCK`].
pub const HOLD: i32 = 13;
/// Answered at once, which must not fail.
pub const STRICT: i32 = 12;

/// Where handlers block.
#[derive(Default)]
pub struct Barrier {
    released: Mutex<usize>,
    changed: Condvar,
}

impl Barrier {
    pub fn wait(&self) {
        let released = self.released.lock().unwrap();
        let before = *released;
        tell("took");
        drop(self.changed.wait_while(released, |now| *now == before).unwrap());
    }

    pub fn release(&self) {
        *self.released.lock().unwrap() += 1;
        self.changed.notify_all();
    }
}

pub static BARRIER: Barrier = Barrier { released: Mutex::new(0), changed: Condvar::new() };

/// Sees that no two messages of a client are handled at once, and who handles any.
#[derive(Default)]
struct Order {
    busy: Mutex<HashMap<ClientId, bool>>,
    threads: Mutex<Vec<std::thread::ThreadId>>,
}

impl Order {
    fn enter(&self, client: ClientId) {
        let before = self.busy.lock().unwrap().insert(client, true);
        assert_ne!(before, Some(true), "two messages of a client at once");
        let me = std::thread::current().id();
        let mut threads = self.threads.lock().unwrap();
        if !threads.contains(&me) {
            threads.push(me);
        }
    }

    fn leave(&self, client: ClientId) {
        self.busy.lock().unwrap().insert(client, false);
    }
}

/// A handler with a bit of everything. It writes down in this file, if there is one.
pub fn handler(
    ledger: Option<&str>,
    stop: &'static Mutex<Option<StopHandle>>,
) -> impl Fn(Request) + Send + Sync + 'static {
    let ledger = ledger.map(|path| File::options().append(true).create(true).open(path).unwrap());
    let order = Order::default();
    move |request| {
        let client = request.client();
        order.enter(client);
        match request.id() {
            ECHO => {
                let (message, reply) = request.split();
                let _ = reply.reply(message.data());
            }
            STRICT => {
                let (message, reply) = request.split();
                reply.reply(message.data()).unwrap();
            }
            BLOCK => {
                BARRIER.wait();
                let _ = request.reply("released");
            }
            HOLD => {
                assert!(request.data().iter().all(|byte| *byte == 1));
                BARRIER.wait();
                let _ = request.reply("released");
            }
            LINGER => {
                let _ = request.reply("at once");
                BARRIER.wait();
            }
            KEEP => drop(std::thread::spawn(move || {
                BARRIER.wait();
                let _ = request.reply("kept");
            })),
            RELEASE => {
                BARRIER.release();
                let _ = request.reply([]);
            }
            NOTE | CALL => {
                let (message, reply) = request.split();
                let data = message.data();
                let end = data.iter().position(|byte| *byte == b'\n').unwrap() + 1;
                let (line, padding) = data.split_at(end);
                assert!(padding == pattern(padding.len()));
                ledger.as_ref().unwrap().write_all(line).unwrap();
                let _ = reply.reply(data);
            }
            STOP => {
                stop.lock().unwrap().as_ref().unwrap().stop();
                let _ = request.reply("stopped");
            }
            PANIC => {
                order.leave(client);
                panic!("as it was told");
            }
            CALL_SELF => {
                let own = Connection::new("x").unwrap();
                let end = own.send_two_way(ECHO, []).map(drop);
                let refused = matches!(end, Err(Error::WouldDeadlock { .. }));
                let _ = request.reply(if refused { "refused" } else { "let through" });
            }
            THREADS => {
                let count = order.threads.lock().unwrap().len();
                let _ = request.reply(count.to_string());
            }
            _ => {}
        }
        order.leave(client);
    }
}

/// The service that is being run in this process.
pub static STOPPER: Mutex<Option<StopHandle>> = Mutex::new(None);

/// A role: serves on so many threads, and says how the run ended. A line from the test releases who is
/// blocked, and `stop` stops it.
pub fn team(arguments: &[String]) {
    let threads = arguments[0].parse().unwrap();
    let ledger = arguments.get(1).map(String::as_str);
    let mut service =
        Service::builder("x").threads(threads).start(handler(ledger, &STOPPER)).unwrap();
    run(&mut service);
}

/// Runs it as the test says.
pub fn run(service: &mut Service) {
    let stop = service.stop_handle();
    *STOPPER.lock().unwrap() = Some(stop.clone());
    std::thread::spawn(move || {
        while let Some(line) = hear() {
            if line == "stop" {
                // It may wait for a handler that the next line releases.
                let stop = stop.clone();
                std::thread::spawn(move || stop.stop());
            } else {
                BARRIER.release();
            }
        }
    });
    tell("ready");
    service.run().unwrap();
    tell("ended");
}

/// A message's payload: what is written down, and so many bytes more.
pub fn line(client: &str, number: u32, padding: usize) -> Vec<u8> {
    let mut line = format!("{client} {number}\n").into_bytes();
    line.extend(pattern(padding));
    line
}

/// A role: sends so many messages of all kinds, or until it is told to stop (0), and says how many it was.
pub fn mixed(arguments: &[String]) {
    let (name, most) = (&arguments[0], arguments[1].parse::<u32>().unwrap());
    let connection = Connection::builder("x").deadline(HANG).build().unwrap();
    static STOP: AtomicBool = AtomicBool::new(false);
    std::thread::spawn(|| {
        hear();
        STOP.store(true, Ordering::Relaxed);
    });
    let mut count = 0;
    while if most == 0 { !STOP.load(Ordering::Relaxed) } else { count < most } {
        match count % 7 {
            0 | 3 => {
                let sent = line(name, count, if count % 5 == 0 { 6_000 } else { 10 });
                assert!(connection.send_two_way(CALL, &sent).unwrap().data() == sent);
            }
            kind => {
                let padding = if kind == 5 { 5_000 } else { 100 };
                connection.send_one_way(NOTE, line(name, count, padding)).unwrap();
            }
        }
        if count == 0 {
            tell("going");
        }
        count += 1;
    }
    // One more, so that all before it were handled.
    connection.send_two_way(CALL, line(name, count, 0)).unwrap();
    tell(count + 1);
}

/// Stops a service that [`run`]s, and waits for its end.
pub fn stop(server: &mut Process) {
    server.say("stop");
    server.expect("ended");
    server.finish();
}

/// Where they write down.
pub fn ledger(folder: &Folder) -> (PathBuf, String) {
    let path = folder.path().join(".ledger");
    let text = path.to_str().unwrap().to_owned();
    (path, text)
}

/// The numbers that were written down, by client.
pub fn written(path: &Path) -> HashMap<String, Vec<u32>> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut written = HashMap::<_, Vec<u32>>::new();
    for line in text.lines() {
        let (client, number) = line.split_once(' ').unwrap();
        written.entry(client.to_owned()).or_default().push(number.parse().unwrap());
    }
    written
}

/// Waits until clients have ended, and sees whether everything that they sent is in the ledger, once and
/// in order.
pub fn check(path: &Path, clients: &mut [Process]) {
    let sent: Vec<u32> = clients.iter().map(|client| client.line().parse().unwrap()).collect();
    let written = written(path);
    assert_eq!(written.len(), clients.len());
    for (client, count) in sent.into_iter().enumerate() {
        let numbers = &written[&client.to_string()];
        let wrong = (0..).zip(numbers).find(|(number, found)| number != *found);
        assert_eq!(wrong, None, "of client {client}");
        assert_eq!(numbers.len(), count as usize, "of client {client}");
    }
}

/// Calls without pause on threads of this process, each with its own connection.
pub struct Callers {
    counts: std::sync::Arc<(AtomicBool, Vec<AtomicUsize>)>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Callers {
    pub fn start(folder: &Folder, count: usize) -> Callers {
        let counts: Vec<_> = (0..count).map(|_| AtomicUsize::new(0)).collect();
        let counts = std::sync::Arc::new((AtomicBool::new(false), counts));
        let threads = (0..count).map(|number| {
            let (connection, counts) = (folder.connect("x"), counts.clone());
            std::thread::spawn(move || {
                while !counts.0.load(Ordering::Relaxed) {
                    let sent = number.to_ne_bytes();
                    assert_eq!(connection.send_two_way(ECHO, sent).unwrap().data(), sent);
                    counts.1[number].fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let threads = threads.collect();
        Callers { counts, threads }
    }

    /// Waits until each of them has made so many more calls.
    pub fn each_makes(&self, calls: usize) {
        let made = || self.counts.1.iter().map(|count| count.load(Ordering::Relaxed));
        let before: Vec<_> = made().collect();
        let end = Instant::now() + HANG;
        while !made().zip(&before).all(|(now, before)| now >= before + calls) {
            assert!(
                Instant::now() < end,
                "somebody is kept waiting: {before:?} {:?}",
                made().collect::<Vec<_>>()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn end(self) {
        self.counts.0.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
