//! The same work through the library.

use std::path::Path;
use std::time::{Duration, Instant};

use lightmessaging::{Connection, Loan, Payload, Registry, Service, Wait};

use crate::floors::payload::{Form, make, sum_all};
use crate::floors::{Floor, time};
use crate::peer::{Peer, tell};
use crate::place::Place;
use crate::stats::Block;

pub const NAME: &str = "bench";
pub const ECHO: i32 = 1;
const HANDED_OVER: i32 = 2;
const CONSUMED: i32 = 3;
/// As `CONSUMED`, but of a slice in place, which takes unsafe code.
const CONSUMED_IN_PLACE: i32 = 6;
/// Answered on loan with as many bytes as the payload says.
const LENT: i32 = 7;
/// Counted; a number that is not the next one is not forgotten.
const COUNT: i32 = 4;
/// Answered with the count, which starts anew.
const COUNTED: i32 = 5;

/// In the other process: serves.
pub fn serve(arguments: &[String]) {
    let wait = if arguments[1] == "block" { Wait::Block } else { Wait::Adaptive };
    let mut count = 0u64;
    let mut payload = Vec::new();
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
                    let sum = word_a_page(message.payload());
                    drop(message);
                    reply.reply(sum.to_le_bytes())
                }
                CONSUMED => {
                    let mut sum = 0u64;
                    message.payload().chunks(|piece| sum = sum.wrapping_add(sum_all(piece)));
                    drop(message);
                    reply.reply(sum.to_le_bytes())
                }
                CONSUMED_IN_PLACE => {
                    let sum = sum_in_place(&message);
                    drop(message);
                    reply.reply(sum.to_le_bytes())
                }
                LENT => {
                    let len = message.data().first_chunk().map(|word| u64::from_ne_bytes(*word));
                    let loan = reply.alloc(len.expect("a length") as usize);
                    let mut loan = loan.expect("a region");
                    fill_once(&mut loan, &mut payload);
                    reply.reply(loan)
                }
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

/// The sum of the first words of all pages.
fn word_a_page(payload: Payload<'_>) -> u64 {
    let (mut sum, mut word, mut at) = (0u64, [0; 8], 0);
    while at < payload.len() {
        payload.read_at(at, &mut word);
        sum = sum.wrapping_add(u64::from_le_bytes(word));
        at += 4096;
    }
    sum
}

/// The sum of a message's words where they are.
#[allow(unsafe_code)]
fn sum_in_place(message: &lightmessaging::Message) -> u64 {
    // SAFETY: the client is this program, and writes nothing until it is answered.
    sum_all(unsafe { message.as_slice() })
}

/// Fills a loan unless that was done when its memory was lent before, so that what is measured is the
/// way there and not the filling. `payload` is made when it is first needed.
fn fill_once(loan: &mut Loan, payload: &mut Vec<u8>) {
    if payload.len() != loan.len() {
        *payload = make(loan.len());
    }
    let end = loan.len() - 64;
    if loan[end..] != payload[end..] || loan[..64] != payload[..64] {
        loan.copy_from_slice(payload);
    }
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
    SetUp,
    Payload(i32, Vec<u8>, u64),
    /// The payload is there already.
    Loan(Vec<u8>, u64),
    /// The reply is there already.
    LentReply(u64, u64),
}

/// How a payload travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// Copied in, and read in private pieces where all of it is read.
    Copied,
    /// Copied in, and read in place, all of it.
    CopiedAndSliced,
    /// On loan, filled before.
    Loan,
    /// The reply is on loan, filled before, and the client reads one word a page.
    LentReply,
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
    pub fn start_payload(place: Place, form: Form, len: usize, carried: Carried) -> Ours {
        let mut ours = Ours::start(place, Wait::Adaptive);
        let id = match form {
            Form::HandedOver => HANDED_OVER,
            Form::Consumed if carried == Carried::CopiedAndSliced => CONSUMED_IN_PLACE,
            Form::Consumed => CONSUMED,
        };
        let payload = make(len);
        let sum = form.sum(&payload);
        ours.call = match carried {
            Carried::Copied | Carried::CopiedAndSliced => Call::Payload(id, payload, sum),
            Carried::Loan => Call::Loan(payload, sum),
            Carried::LentReply => Call::LentReply(len as u64, sum),
        };
        ours
    }

    /// A new connection each time, to its first reply and its end.
    pub fn start_set_up(place: Place) -> Ours {
        Ours { call: Call::SetUp, ..Ours::start(place, Wait::Adaptive) }
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

    /// Another connection to the same service.
    pub fn connect(folder: &str) -> Connection {
        let connection = Connection::builder(NAME).registry(Registry::at(folder));
        connection.deadline(Duration::from_secs(60)).build().expect("a name")
    }
}

impl Floor for Ours {
    fn block(&mut self, calls: usize) -> Block {
        time(calls, || match &mut self.call {
            Call::Echo => Ours::echo_on(&self.connection),
            Call::SetUp => {
                let connection =
                    Connection::builder(NAME).registry(Registry::at(self.folder.path()));
                Ours::echo_on(&connection.build().expect("a name"));
            }
            Call::Loan(payload, sum) => {
                let mut loan = self.connection.alloc(payload.len()).expect("a region");
                fill_once(&mut loan, payload);
                let response = self.connection.send_two_way(HANDED_OVER, loan).expect("an answer");
                assert_eq!(response.data(), sum.to_le_bytes());
            }
            Call::LentReply(len, sum) => {
                let asked = len.to_ne_bytes();
                let response = self.connection.send_two_way(LENT, asked).expect("an answer");
                assert_eq!(word_a_page(response.payload()), *sum);
            }
            Call::Payload(id, payload, sum) => {
                let response = self.connection.send_two_way(*id, &*payload).expect("an answer");
                assert_eq!(response.data(), sum.to_le_bytes());
            }
        })
    }
}

/// Uses a connection for a while: so many calls of several sizes, and messages without a reply.
pub fn use_it(connection: &Connection, calls: usize) {
    for len in [64, 4096, 65536] {
        let payload = make(len);
        for _ in 0..calls {
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
