//! The packets that rocketd exchanges with those who look a service up and with services that are
//! unlocked. They have the head of all others; a name is the rest of its packet.

use super::{Bytes, Misread, SHORT, encode_number, open, take_text};
use crate::ServiceName;

const LOOK_UP: u16 = 32;
const FOUND: u16 = 33;
const NO: u16 = 34;
const ANNOUNCE: u16 = 35;
const LIST: u16 = 36;
const ENTRY: u16 = 37;
const END: u16 = 38;

/// Why rocketd does not do what it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum No {
    /// There is no such name, or none that this asker may know of.
    NotFound,
    /// The asker may not.
    Denied,
    /// The service was to be started, and could not be.
    NotStarted,
    /// The asker asks too much.
    TooMuch,
    /// The packet was not understood.
    Malformed,
}

/// A name that may be looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub name: ServiceName,
    /// The process that runs it; 0 if none does.
    pub pid: u32,
    /// The user who runs it, or would.
    pub uid: u32,
    /// It may be looked up through rocketd.
    pub is_unlocked: bool,
    /// The program that is started on demand, if it is.
    pub command: Option<String>,
}

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rocket {
    /// Client: connect me to this service, and wait until there is one if the flag is set.
    LookUp {
        /// The service.
        name: ServiceName,
        /// Wait until there is one.
        wait: bool,
    },
    /// rocketd: the socket comes along.
    Found,
    /// rocketd: no.
    No(No),
    /// Service: let my name be looked up for as long as this connection lasts. Its socket's file
    /// comes along, opened with `O_PATH`.
    Announce(ServiceName),
    /// Anybody: which names may I look up, of those behind this one?
    List(Option<ServiceName>),
    /// rocketd: this one, and more may follow.
    Entry(Entry),
    /// rocketd: done. There are more names, to be asked for, if the flag is set.
    End {
        /// There are more.
        more: bool,
    },
}

impl Rocket {
    /// The longest packet, in bytes.
    pub const MAX: usize = super::PACKET_MAX;

    /// The packet's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let named = |kind, number: u32, name: &ServiceName| {
            let mut bytes = encode_number(kind, number);
            bytes.push(name.as_bytes());
            bytes
        };
        let bytes: Bytes = match self {
            Rocket::LookUp { name, wait } => named(LOOK_UP, (*wait).into(), name),
            Rocket::Found => encode_number(FOUND, 0),
            Rocket::No(no) => encode_number(
                NO,
                match no {
                    No::NotFound => 1,
                    No::Denied => 2,
                    No::NotStarted => 3,
                    No::TooMuch => 4,
                    No::Malformed => 5,
                },
            ),
            Rocket::Announce(name) => named(ANNOUNCE, 0, name),
            Rocket::List(Some(after)) => named(LIST, 1, after),
            Rocket::List(None) => encode_number(LIST, 0),
            Rocket::Entry(entry) => {
                let mut bytes = encode_number(ENTRY, entry.is_unlocked.into());
                bytes.push_u32(entry.pid);
                bytes.push_u32(entry.uid);
                bytes.push_text(entry.command.as_deref().map(shorten));
                bytes.push(entry.name.as_bytes());
                bytes
            }
            Rocket::End { more } => encode_number(END, (*more).into()),
        };
        bytes.as_slice().to_vec()
    }

    /// Understands a packet.
    pub fn decode(bytes: &[u8]) -> Result<Rocket, Misread> {
        let (kind, body) = open(bytes)?;
        let (number, rest) = take_u32(body)?;
        Ok(match kind {
            LOOK_UP => Rocket::LookUp { name: name(rest)?, wait: number & 1 != 0 },
            FOUND => Rocket::Found,
            NO => Rocket::No(match number {
                1 => No::NotFound,
                2 => No::Denied,
                3 => No::NotStarted,
                4 => No::TooMuch,
                _ => No::Malformed,
            }),
            ANNOUNCE => Rocket::Announce(name(rest)?),
            LIST => Rocket::List(if number == 0 { None } else { Some(name(rest)?) }),
            ENTRY => {
                let (pid, rest) = take_u32(rest)?;
                let (uid, rest) = take_u32(rest)?;
                let (command, rest) = take_text(rest)?;
                let command = String::from_utf8_lossy(command).into_owned();
                Rocket::Entry(Entry {
                    name: name(rest)?,
                    pid,
                    uid,
                    is_unlocked: number & 1 != 0,
                    command: Some(command).filter(|command| !command.is_empty()),
                })
            }
            END => Rocket::End { more: number & 1 != 0 },
            _ => return Err(Misread::Malformed("a packet of unknown kind")),
        })
    }
}

/// The longest command that an entry tells of, in bytes; a longer one is cut.
const COMMAND_MAX: usize = 512;

fn shorten(command: &str) -> &str {
    let end = command.char_indices().map(|(at, c)| at + c.len_utf8());
    &command[..end.take_while(|end| *end <= COMMAND_MAX).last().unwrap_or(0)]
}

fn name(bytes: &[u8]) -> Result<ServiceName, Misread> {
    ServiceName::new(bytes).map_err(|_| Misread::Malformed("a name that is none"))
}

fn take_u32(bytes: &[u8]) -> Result<(u32, &[u8]), Misread> {
    let (number, rest) = bytes.split_first_chunk().ok_or(SHORT)?;
    Ok((u32::from_le_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_is_read_as_it_was_written() {
        let name = ServiceName::new("n".repeat(ServiceName::MAX_LEN)).unwrap();
        let entry = |command: Option<&str>| {
            let command = command.map(str::to_owned);
            Rocket::Entry(Entry { name: name.clone(), pid: 7, uid: 8, is_unlocked: true, command })
        };
        for packet in [
            Rocket::LookUp { name: name.clone(), wait: true },
            Rocket::LookUp { name: name.clone(), wait: false },
            Rocket::Found,
            Rocket::No(No::NotFound),
            Rocket::No(No::Denied),
            Rocket::No(No::NotStarted),
            Rocket::No(No::TooMuch),
            Rocket::No(No::Malformed),
            Rocket::Announce(name.clone()),
            Rocket::List(None),
            Rocket::List(Some(name.clone())),
            entry(None),
            entry(Some("/usr/bin/clockd")),
            entry(Some(&"c".repeat(COMMAND_MAX))),
            Rocket::End { more: false },
            Rocket::End { more: true },
        ] {
            assert_eq!(Rocket::decode(&packet.encode()), Ok(packet));
        }
        let long = entry(Some(&"\u{e9}".repeat(COMMAND_MAX)));
        let Ok(Rocket::Entry(read)) = Rocket::decode(&long.encode()) else { panic!() };
        assert_eq!(read.command.unwrap().len(), COMMAND_MAX);
    }

    #[test]
    fn no_bytes_are_too_strange_to_be_refused() {
        for kind in 0..64u16 {
            for len in [0, 1, 3, 4, 5, 12, 14, 127, 128, 131, 132, 1024] {
                for fill in [0, 1, b'/', b'.', 0xff] {
                    let mut bytes = encode_number(kind, 0).as_slice()[..8].to_vec();
                    bytes.resize(8 + len, fill);
                    if let Ok(Rocket::LookUp { name, .. } | Rocket::Announce(name)) =
                        Rocket::decode(&bytes)
                    {
                        assert!(name.as_bytes().len() <= ServiceName::MAX_LEN);
                        assert!(!name.as_bytes().contains(&0));
                    }
                }
            }
        }
    }
}
