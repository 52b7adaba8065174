//! LightMessaging itself, as it is used by default, and without its spinning.

use lightmessaging::{Connection, Registry, Service, Wait};

use super::{ALL, Caller, Kind, Setting, ready};
use crate::floors::payload::sum_all;
use crate::work::{Ask, Desk, Result, numbered};

pub const KINDS: &[Kind] = &[
    Kind {
        name: "LightMessaging",
        how: "the defaults",
        polls: false,
        has_one_way: true,
        lengths: ALL,
        serve: |setting| serve(setting, Wait::Adaptive, false),
        connect: |setting| connect(setting, Wait::Adaptive),
    },
    Kind {
        name: "LightMessaging, block-only",
        how: "Wait::Block on both sides",
        polls: false,
        has_one_way: true,
        lengths: ALL,
        serve: |setting| serve(setting, Wait::Block, false),
        connect: |setting| connect(setting, Wait::Block),
    },
    Kind {
        name: "LightMessaging, read in place",
        how: "the defaults, consuming with Payload::chunks and not with Message::data",
        polls: false,
        has_one_way: false,
        lengths: (64 << 10, usize::MAX),
        serve: |setting| serve(setting, Wait::Adaptive, true),
        connect: |setting| connect(setting, Wait::Adaptive),
    },
];

const NAME: &str = "peers";
const CALL: i32 = 1;
const HANDED_OVER: i32 = 2;
const CONSUMED: i32 = 3;
const COUNT: i32 = 4;

fn serve(setting: &Setting, wait: Wait, is_in_place: bool) -> Result<()> {
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
                CONSUMED if is_in_place => {
                    let mut sum = 0u64;
                    message.payload().chunks(|piece| sum = sum.wrapping_add(sum_all(piece)));
                    Some(sum)
                }
                CONSUMED => Some(sum_all(message.data())),
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

struct Ours(Connection);

fn connect(setting: &Setting, wait: Wait) -> Result<Box<dyn Caller>> {
    let registry = Registry::at(&setting.folder);
    Ok(Box::new(Ours(Connection::builder(NAME).registry(registry).wait(wait).build()?)))
}

impl Caller for Ours {
    fn call(&mut self, message: &[u8]) -> Result<u64> {
        let id = match Ask::of(message) {
            Some(Ask::HandedOver) => HANDED_OVER,
            Some(Ask::Consumed) => CONSUMED,
            _ => CALL,
        };
        let response = self.0.send_two_way(id, message)?;
        Ok(u64::from_le_bytes(response.data().try_into()?))
    }

    fn send_all(&mut self, count: u64) -> Result<()> {
        for number in 0..count {
            self.0.send_one_way(COUNT, numbered(number))?;
        }
        Ok(())
    }
}
