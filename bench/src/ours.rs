//! The same work through the library.

use std::path::Path;
use std::time::{Duration, Instant};

use lightmessaging::{Connection, Registry, Service, Wait};

use crate::floors::payload::{Form, make, sum_all};
use crate::floors::{Floor, time};
use crate::peer::{Peer, tell};
use crate::place::Place;
use crate::stats::Block;

pub const NAME: &str = "bench";
pub const ECHO: i32 = 1;
const HANDED_OVER: i32 = 2;
const CONSUMED: i32 = 3;
/// Counted; a number that is not the next one is not forgotten.
const COUNT: i32 = 4;
/// Answered with the count, which starts anew.
const COUNTED: i32 = 5;

/// In the other process: serves.
pub fn serve(arguments: &[String]) {
    let wait = if arguments[1] == "block" { Wait::Block } else { Wait::Adaptive };
    let mut count = 0u64;
    let mut registry = Registry::at(&arguments[0]);
    let mut builder = Service::builder(NAME).wait(wait);
    if let Some(rocketd) = arguments.get(2) {
        registry = registry.with_rocketd(rocketd);
        builder = builder.unlocked();
    }
    let mut service = builder
        .registry(registry)
        .start(move |request| {
            let (message, reply) = request.split();
            let answered = match message.id() {
                ECHO => reply.reply(message.data()),
                HANDED_OVER => {
                    let payload = message.payload();
                    let (mut sum, mut word, mut at) = (0u64, [0; 8], 0);
                    while at < payload.len() {
                        payload.read_at(at, &mut word);
                        sum = sum.wrapping_add(u64::from_le_bytes(word));
                        at += 4096;
                    }
                    reply.reply(sum.to_le_bytes())
                }
                CONSUMED => reply.reply(sum_all(message.data()).to_le_bytes()),
                COUNT => {
                    let number = message.data().first_chunk().map(|word| u64::from_ne_bytes(*word));
                    assert_eq!(number, Some(count), "a message was lost");
                    count += 1;
                    Ok(())
                }
                _ => reply.reply(std::mem::take(&mut count).to_le_bytes()),
            };
            answered.expect("a client that lives");
        })
        .expect("the service starts");
    tell("ready");
    service.run().expect("the service runs");
}

/// A service in another process, and a connection to it.
pub struct Ours {
    pub connection: Connection,
    pub peer: Peer,
    folder: tempfile::TempDir,
    call: Call,
}

enum Call {
    Echo,
    Payload(i32, Vec<u8>, u64),
}

impl Ours {
    /// 64 bytes there and back.
    pub fn start(place: Place, wait: Wait) -> Ours {
        Ours::start_with(place, wait, None)
    }

    /// The same, unlocked at a rocketd.
    pub fn start_unlocked(place: Place, rocketd: &Path) -> Ours {
        Ours::start_with(place, Wait::Adaptive, Some(rocketd))
    }

    fn start_with(place: Place, wait: Wait, rocketd: Option<&Path>) -> Ours {
        let folder = tempfile::tempdir().expect("a folder");
        let wait_name = if wait == Wait::Block { "block" } else { "adaptive" };
        let path = folder.path().display().to_string();
        let mut arguments = vec!["serve".to_owned(), path, wait_name.to_owned()];
        arguments.extend(rocketd.map(|rocketd| rocketd.display().to_string()));
        let peer = Peer::start(place.far(), &arguments);
        let connection = Connection::builder(NAME).registry(Registry::at(folder.path())).wait(wait);
        let connection = connection.build().expect("a name");
        Ours { connection, peer, folder, call: Call::Echo }
    }

    /// A payload there, its sum back.
    pub fn start_payload(place: Place, form: Form, len: usize) -> Ours {
        let mut ours = Ours::start(place, Wait::Adaptive);
        let id = if form == Form::Consumed { CONSUMED } else { HANDED_OVER };
        let payload = make(len);
        let sum = form.sum(&payload);
        ours.call = Call::Payload(id, payload, sum);
        ours
    }

    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// One call of 64 bytes.
    pub fn echo(&self) {
        Ours::echo_on(&self.connection);
    }

    /// One call of 64 bytes on some connection.
    pub fn echo_on(connection: &Connection) {
        let response = connection.send_two_way(ECHO, [7; 64]).expect("an answer");
        assert_eq!(response.data()[63], 7);
    }

    /// Sends so many one-way messages, waits until all were handled, and says how many a second.
    pub fn rate(&mut self, size: usize, messages: usize) -> f64 {
        let mut payload = vec![7; size];
        let started = Instant::now();
        for number in 0..messages as u64 {
            payload[..8].copy_from_slice(&number.to_ne_bytes());
            self.connection.send_one_way(COUNT, &payload).expect("room");
        }
        let counted = self.connection.send_two_way(COUNTED, []).expect("the count");
        let rate = messages as f64 / started.elapsed().as_secs_f64();
        assert_eq!(counted.data(), (messages as u64).to_le_bytes(), "no message may be lost");
        rate
    }

    /// New connections to their first reply.
    pub fn set_up(&self, times: usize) -> Block {
        time(times, || {
            let registry = Registry::at(self.folder());
            let connection = Connection::builder(NAME).registry(registry).build().expect("a name");
            let response = connection.send_two_way(ECHO, [7; 64]).expect("an answer");
            assert_eq!(response.len(), 64);
        })
    }

    /// Another connection to the same service.
    pub fn connect(folder: &str) -> Connection {
        let connection = Connection::builder(NAME).registry(Registry::at(folder));
        connection.deadline(Duration::from_secs(60)).build().expect("a name")
    }
}

impl Floor for Ours {
    fn block(&mut self, calls: usize) -> Block {
        time(calls, || match &self.call {
            Call::Echo => self.echo(),
            Call::Payload(id, payload, sum) => {
                let response = self.connection.send_two_way(*id, payload).expect("an answer");
                assert_eq!(response.data(), sum.to_le_bytes());
            }
        })
    }
}

/// Uses a connection for a while: calls of several sizes.
pub fn use_it(connection: &Connection) {
    for len in [64, 4096, 65536] {
        let payload = make(len);
        for _ in 0..700 {
            let response = connection.send_two_way(CONSUMED, &payload).expect("an answer");
            assert_eq!(response.data(), sum_all(&payload).to_le_bytes());
        }
    }
    for number in 0..700u64 {
        connection.send_one_way(COUNT, number.to_ne_bytes()).expect("room");
    }
    connection.send_two_way(COUNTED, []).expect("the count");
}

/// One call on a connection.
pub fn use_once(connection: &Connection) {
    Ours::echo_on(connection);
}
