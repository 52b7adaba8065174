//! LightMessaging itself, as it is used by default, and in other ways.
//!
//! By default a large payload is read with `Payload::chunks` where all of it is read, as the README
//! recommends, and sent as bytes, which are copied into shared memory. Sent on loan it is written there in
//! the first place, as iceoryx2's loans are: both copy the same bytes once.

use lightmessaging::{Connection, Message, Registry, Service, Wait};

use super::{ALL, Caller, Kind, Setting, ready};
use crate::floors::payload::sum_all;
use crate::work::{Ask, Desk, Result, numbered};

pub const KINDS: &[Kind] = &[
    Kind {
        name: "LightMessaging",
        how: "the defaults; large payloads are read with Payload::chunks",
        polls: false,
        has_one_way: true,
        lengths: ALL,
        serve: |setting| serve(setting, Wait::Adaptive, sum_pieces),
        connect: |setting| connect(setting, Wait::Adaptive, false),
    },
    Kind {
        name: "LightMessaging, block-only",
        how: "Wait::Block on both sides",
        polls: false,
        has_one_way: true,
        lengths: ALL,
        serve: |setting| serve(setting, Wait::Block, sum_pieces),
        connect: |setting| connect(setting, Wait::Block, false),
    },
    Kind {
        name: "LightMessaging, on loan",
        how: "the defaults, each message written into a loan of Connection::alloc",
        polls: false,
        has_one_way: false,
        lengths: LARGE,
        serve: |setting| serve(setting, Wait::Adaptive, sum_pieces),
        connect: |setting| connect(setting, Wait::Adaptive, true),
    },
    Kind {
        name: "LightMessaging, copied out",
        how: "the defaults, consuming with Message::data, which copies the whole payload first",
        polls: false,
        has_one_way: false,
        lengths: LARGE,
        serve: |setting| serve(setting, Wait::Adaptive, sum_copy),
        connect: |setting| connect(setting, Wait::Adaptive, false),
    },
];

/// From the length on where it makes a difference.
const LARGE: (usize, usize) = (4 << 10, usize::MAX);
const NAME: &str = "peers";
const CALL: i32 = 1;
const HANDED_OVER: i32 = 2;
const CONSUMED: i32 = 3;
const COUNT: i32 = 4;

/// The sum of a payload's words.
type Sum = fn(&Message) -> u64;

fn sum_pieces(message: &Message) -> u64 {
    let mut sum = 0u64;
    message.payload().chunks(|piece| sum = sum.wrapping_add(sum_all(piece)));
    sum
}

fn sum_copy(message: &Message) -> u64 {
    sum_all(message.data())
}

fn serve(setting: &Setting, wait: Wait, consume: Sum) -> Result<()> {
    let desk = Desk::default();
    let mut service = Service::builder(NAME)
        .wait(wait)
        .registry(Registry::at(&setting.folder))
        .start(move |request| {
            let (message, reply) = request.split();
            let sum = match message.id() {
                HANDED_OVER => {
                    let payload = message.payload();
                    let (mut sum, mut word) = (0u64, [0; 8]);
                    for at in (0..payload.len()).step_by(4096) {
                        payload.read_at(at, &mut word);
                        sum = sum.wrapping_add(u64::from_le_bytes(word));
                    }
                    Some(sum)
                }
                CONSUMED => Some(consume(&message)),
                _ => desk.serve(message.data()),
            };
            // A client that has gone waits for no reply.
            if let Some(sum) = sum {
                let _ = reply.reply(sum.to_le_bytes());
            }
        })?;
    ready();
    Ok(service.run()?)
}

struct Ours {
    connection: Connection,
    lends: bool,
}

fn connect(setting: &Setting, wait: Wait, lends: bool) -> Result<Box<dyn Caller>> {
    let registry = Registry::at(&setting.folder);
    let connection = Connection::builder(NAME).registry(registry).wait(wait).build()?;
    Ok(Box::new(Ours { connection, lends }))
}

impl Caller for Ours {
    fn call(&mut self, message: &[u8]) -> Result<u64> {
        let id = match Ask::of(message) {
            Some(Ask::HandedOver) => HANDED_OVER,
            Some(Ask::Consumed) => CONSUMED,
            _ => CALL,
        };
        let response = if self.lends {
            let mut loan = self.connection.alloc(message.len())?;
            loan.copy_from_slice(message);
            self.connection.send_two_way(id, loan)?
        } else {
            self.connection.send_two_way(id, message)?
        };
        Ok(u64::from_le_bytes(response.data().try_into()?))
    }

    fn send_all(&mut self, count: u64) -> Result<()> {
        for number in 0..count {
            self.connection.send_one_way(COUNT, numbered(number))?;
        }
        Ok(())
    }
}
