//! The packets on a lane's socket, and every check of what is in them. No I/O.
//!
//! All of them are little-endian structures behind a common head: 4 bytes of magic, a version, a
//! kind. See PROTOCOL.md. Those that rocketd exchanges are in `rocket`.

pub(crate) mod rocket;

use crate::peer::Introduction;
use crate::shm::layout::{
    Answer, AnswerWord, Call, Control, RING_MAX, RING_MIN, SLOT_ROOM, SLOTS_MAX, Shape, Word,
};

/// The version of the protocol that this library speaks.
pub(crate) const VERSION: u16 = 1;
/// The longest packet, in bytes: an introduction with the longest texts.
pub(crate) const PACKET_MAX: usize = 1152;

const MAGIC: [u8; 4] = *b"LtMs";

const HELLO: u16 = 1;
const WELCOME: u16 = 2;
const REFUSE: u16 = 3;
const BELL: u16 = 4;
const REGION: u16 = 5;
const REGION_GONE: u16 = 6;
const INTRODUCTION: u16 = 7;
const UNLOCK: u16 = 8;
const TAKE_OVER: u16 = 9;
const SHARE: u16 = 10;
const DONE: u16 = 11;
const ANNEX: u16 = 12;

/// The parts of a side's memory that the hello and the welcome name.
const CONTROL: u32 = 1;
const LINES: u32 = 2;
const ROOMS: u32 = 3;
const RING: u32 = 4;
const TAKEN: u32 = 5;
const WORDS: u32 = 6;
const ROOM: u32 = 7;

/// What differs between the two sides' memories: the sizes of a slot's word and line, and the one
/// section that the other side does not have.
struct Side {
    word: usize,
    line: usize,
    own: u32,
}

/// Whether a section lies in the annex.
const fn is_annexed(section: u32) -> bool {
    section == ROOMS || section == RING
}

const CLIENT: Side = Side { word: size_of::<Word>(), line: size_of::<Call>(), own: RING };
const SERVICE: Side = Side { word: size_of::<AnswerWord>(), line: size_of::<Answer>(), own: TAKEN };

/// Why a service will not serve a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It speaks another version, the one in the packet's head.
    Version,
    /// The hello or a later packet broke the protocol.
    Malformed,
    /// It has no descriptors or memory left.
    Busy,
    /// It was to be started, and could not be.
    NotStarted,
    /// It does not let this client in.
    Denied,
}

/// One packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    /// Client: its memory, the service's bell and the bell of slot 0 come along.
    Hello(Shape),
    /// Service: its memory comes along.
    Welcome(Shape),
    /// Service: no.
    Refuse(Refusal),
    /// Client: the bell of a slot comes along; the one past the last slot is for room in the ring.
    Bell(u32),
    /// Either: a region of this number comes along, and which of those that had the number it is.
    Region(u32, u32),
    /// Either: a region was let go.
    RegionGone(u32),
    /// rocketd, before the client's hello: who it is that comes ([`introduction`]). What tells it
    /// of the lane's end comes along, and the client's pidfd if there is one.
    Introduction,
    /// Its owner, instead of a hello: the name shall be unlocked, or not any more.
    Unlock(bool),
    /// Its owner: hand the name over to me.
    TakeOver,
    /// Its owner: let me listen with you.
    Share,
    /// The service to its owner: done, or why not. What was asked for comes along.
    Done(Option<Refusal>),
    /// Either: the annex of its memory comes along.
    Annex,
}

/// Why a packet was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misread {
    /// It is of this version of the protocol.
    Version(u16),
    /// What is wrong with it.
    Malformed(&'static str),
}

/// A packet's bytes, on the stack.
pub(crate) struct Bytes {
    bytes: [u8; PACKET_MAX],
    len: usize,
}

impl Bytes {
    fn new(kind: u16) -> Bytes {
        let mut bytes = Bytes { bytes: [0; PACKET_MAX], len: 0 };
        bytes.push(&MAGIC);
        bytes.push(&VERSION.to_le_bytes());
        bytes.push(&kind.to_le_bytes());
        bytes
    }

    fn push(&mut self, part: &[u8]) {
        self.bytes[self.len..self.len + part.len()].copy_from_slice(part);
        self.len += part.len();
    }

    fn push_u32(&mut self, value: u32) {
        self.push(&value.to_le_bytes());
    }

    /// A text of up to 65,535 bytes behind its length, 0 for none.
    fn push_text(&mut self, text: Option<&str>) {
        let text = text.unwrap_or_default().as_bytes();
        self.push(&(text.len() as u16).to_le_bytes());
        self.push(text);
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Refusal {
    fn encode(self) -> u32 {
        match self {
            Refusal::Version => 1,
            Refusal::Malformed => 2,
            Refusal::Busy => 3,
            Refusal::NotStarted => 4,
            Refusal::Denied => 5,
        }
    }

    fn decode(number: u32) -> Refusal {
        match number {
            1 => Refusal::Version,
            2 => Refusal::Malformed,
            4 => Refusal::NotStarted,
            5 => Refusal::Denied,
            _ => Refusal::Busy,
        }
    }
}

impl Packet {
    pub(crate) fn encode(self) -> Bytes {
        match self {
            Packet::Hello(shape) => {
                encode_shape(HELLO, &shape, &CLIENT, shape.ring, shape.ring_len)
            }
            Packet::Welcome(shape) => {
                let taken = shape.slots * size_of::<Word>();
                encode_shape(WELCOME, &shape, &SERVICE, shape.taken, taken)
            }
            Packet::Refuse(refusal) => encode_number(REFUSE, refusal.encode()),
            Packet::Bell(slot) => encode_number(BELL, slot),
            Packet::Region(number, incarnation) => {
                let mut bytes = encode_number(REGION, number);
                bytes.push_u32(incarnation);
                bytes
            }
            Packet::RegionGone(number) => encode_number(REGION_GONE, number),
            Packet::Introduction => encode_introduction(&Introduction::default()),
            Packet::Unlock(unlock) => encode_number(UNLOCK, unlock.into()),
            Packet::TakeOver => encode_number(TAKE_OVER, 0),
            Packet::Share => encode_number(SHARE, 0),
            Packet::Done(refusal) => encode_number(DONE, refusal.map_or(0, Refusal::encode)),
            Packet::Annex => encode_number(ANNEX, 0),
        }
    }

    /// Understands a packet. The sections of a shape are checked against each other; that they lie
    /// in the memory is for whoever has the memory to check ([`Shape::len`]).
    pub(crate) fn decode(bytes: &[u8]) -> Result<Packet, Misread> {
        let (kind, body) = open(bytes)?;
        let mut words = body.chunks_exact(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]));
        let first = words.next().ok_or(SHORT)?;
        Ok(match kind {
            HELLO => Packet::Hello(decode_shape(first, words, &CLIENT)?),
            WELCOME => Packet::Welcome(decode_shape(first, words, &SERVICE)?),
            REFUSE => Packet::Refuse(Refusal::decode(first)),
            BELL => Packet::Bell(first),
            REGION => Packet::Region(first, words.next().ok_or(SHORT)?),
            REGION_GONE => Packet::RegionGone(first),
            INTRODUCTION => Packet::Introduction,
            UNLOCK => Packet::Unlock(first != 0),
            TAKE_OVER => Packet::TakeOver,
            SHARE => Packet::Share,
            DONE => Packet::Done((first != 0).then(|| Refusal::decode(first))),
            ANNEX => Packet::Annex,
            _ => return Err(Misread::Malformed("a packet of unknown kind")),
        })
    }
}

const SHORT: Misread = Misread::Malformed("a packet that is too short");

/// The kind of a packet, and what is behind its head.
fn open(bytes: &[u8]) -> Result<(u16, &[u8]), Misread> {
    let (head, body) = bytes.split_first_chunk::<8>().ok_or(SHORT)?;
    if head[..4] != MAGIC {
        return Err(Misread::Malformed("a packet of some other protocol"));
    }
    let version = u16::from_le_bytes([head[4], head[5]]);
    if version != VERSION {
        return Err(Misread::Version(version));
    }
    Ok((u16::from_le_bytes([head[6], head[7]]), body))
}

/// A packet of kind [`Packet::Introduction`]. Texts that are too long are left out: half of one
/// would be somebody else's.
pub(crate) fn encode_introduction(introduction: &Introduction) -> Bytes {
    let mut bytes = encode_number(INTRODUCTION, 0);
    for (text, most) in introduction.texts().into_iter().zip(Introduction::MOST) {
        bytes.push_text(text.filter(|text| text.len() <= most));
    }
    bytes
}

/// What is in a packet of kind [`Packet::Introduction`].
pub(crate) fn introduction(bytes: &[u8]) -> Result<Introduction, Misread> {
    let (_, body) = open(bytes)?;
    let mut rest = body.get(4..).ok_or(SHORT)?;
    let mut texts = [const { None }; 3];
    for (text, most) in texts.iter_mut().zip(Introduction::MOST) {
        let (bytes, after) = take_text(rest)?;
        rest = after;
        if bytes.len() > most {
            return Err(Misread::Malformed("an introduction that is too long"));
        }
        let its = std::str::from_utf8(bytes)
            .map_err(|_| Misread::Malformed("an introduction that is no text"))?;
        *text = (!its.is_empty()).then(|| its.to_owned());
    }
    let [application, cgroup, label] = texts;
    Ok(Introduction { application, cgroup, label })
}

/// Bytes behind their length, and what is behind them.
fn take_text(bytes: &[u8]) -> Result<(&[u8], &[u8]), Misread> {
    let (len, rest) = bytes.split_first_chunk().ok_or(SHORT)?;
    rest.split_at_checked(u16::from_le_bytes(*len).into()).ok_or(SHORT)
}

fn encode_number(kind: u16, number: u32) -> Bytes {
    let mut bytes = Bytes::new(kind);
    bytes.push_u32(number);
    bytes
}

fn encode_shape(kind: u16, shape: &Shape, side: &Side, own: usize, own_len: usize) -> Bytes {
    let sections = [
        (CONTROL, shape.control, size_of::<Control>()),
        (WORDS, shape.words, shape.slots * side.word),
        (LINES, shape.lines, shape.slots * side.line),
        (ROOM, shape.room, SLOT_ROOM),
        (ROOMS, shape.rooms, (shape.slots - 1) * SLOT_ROOM),
        (side.own, own, own_len),
    ];
    let mut bytes = Bytes::new(kind);
    bytes.push_u32(sections.len() as u32);
    for (kind, offset, len) in sections {
        bytes.push_u32(kind);
        bytes.push_u32(offset as u32);
        bytes.push_u32(len as u32);
    }
    bytes
}

fn decode_shape(
    claimed_count: u32,
    mut words: impl Iterator<Item = u32>,
    side: &Side,
) -> Result<Shape, Misread> {
    // Sections of unknown kinds are a later version's business. The count cannot run past the
    // packet, which is short.
    let mut found = [None; 6];
    let (mut first_len, mut annex_len) = (0, 0);
    for _ in 0..claimed_count {
        let (Some(kind), Some(offset), Some(len)) = (words.next(), words.next(), words.next())
        else {
            return Err(Misread::Malformed("a section list that is cut off"));
        };
        let place = match kind {
            CONTROL => 0,
            LINES => 1,
            ROOMS => 2,
            WORDS => 3,
            ROOM => 4,
            kind if kind == side.own => 5,
            _ => continue,
        };
        let (offset, len) = (offset as usize, len as usize);
        if offset % 64 != 0 {
            return Err(Misread::Malformed("a section that is not aligned"));
        }
        let Some(section_end) = offset.checked_add(len) else {
            return Err(Misread::Malformed("a section out of range"));
        };
        let end = if is_annexed(kind) { &mut annex_len } else { &mut first_len };
        *end = section_end.max(*end);
        found[place] = Some((offset, len));
    }
    let [Some(control), Some(lines), Some(rooms), Some(words), Some(room), Some(own)] = found
    else {
        return Err(Misread::Malformed("a section is missing"));
    };
    let slots = lines.1 / side.line;
    if control.1 < size_of::<Control>()
        || slots == 0
        || slots > SLOTS_MAX
        || room.1 < SLOT_ROOM
        || rooms.1 < (slots - 1) * SLOT_ROOM
        || words.1 < slots * side.word
    {
        return Err(Misread::Malformed("a section of the wrong size"));
    }
    let (taken, ring, ring_len) = if side.own == RING {
        if !own.1.is_power_of_two() || !(RING_MIN..=RING_MAX).contains(&own.1) {
            return Err(Misread::Malformed("a ring of the wrong size"));
        }
        (0, own.0, own.1)
    } else {
        if own.1 < slots * size_of::<Word>() {
            return Err(Misread::Malformed("a section of the wrong size"));
        }
        (own.0, 0, 0)
    };
    let (control, words, lines) = (control.0, words.0, lines.0);
    let (room, rooms, len) = (room.0, rooms.0, first_len);
    Ok(Shape { slots, control, words, lines, taken, room, len, rooms, ring, ring_len, annex_len })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::layout::SLOTS;

    #[test]
    fn every_packet_is_read_as_it_was_written() {
        for packet in [
            Packet::Hello(Shape::client(SLOTS)),
            Packet::Welcome(Shape::service(8)),
            Packet::Welcome(Shape::service(64)),
            Packet::Hello(Shape::client(1)),
            Packet::Welcome(Shape::service(1)),
            Packet::Refuse(Refusal::Version),
            Packet::Refuse(Refusal::Malformed),
            Packet::Refuse(Refusal::Busy),
            Packet::Bell(8),
            Packet::Region(31, 7),
            Packet::RegionGone(0),
            Packet::Introduction,
            Packet::Unlock(true),
            Packet::Unlock(false),
            Packet::TakeOver,
            Packet::Share,
            Packet::Done(None),
            Packet::Done(Some(Refusal::Denied)),
            Packet::Refuse(Refusal::NotStarted),
            Packet::Annex,
        ] {
            assert_eq!(Packet::decode(packet.encode().as_slice()), Ok(packet));
        }
    }

    #[test]
    fn a_packet_changed_in_any_byte_is_refused_or_within_bounds() {
        let hello = Packet::Hello(Shape::client(SLOTS)).encode();
        for len in 0..hello.as_slice().len() {
            assert!(Packet::decode(&hello.as_slice()[..len]).is_err());
        }
        for at in 0..hello.as_slice().len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = hello.as_slice().to_vec();
                bytes[at] = value;
                if let Ok(Packet::Hello(shape)) = Packet::decode(&bytes) {
                    assert!(shape.slots <= SLOTS_MAX && shape.ring_len <= RING_MAX);
                    assert!(shape.ring + shape.ring_len <= shape.annex_len);
                    assert!(shape.rooms + (shape.slots - 1) * SLOT_ROOM <= shape.annex_len);
                    assert!(shape.room + SLOT_ROOM <= shape.len);
                    assert!(shape.lines + shape.slots * size_of::<Call>() <= shape.len);
                    assert!(shape.words + shape.slots * size_of::<Word>() <= shape.len);
                    assert!(shape.control + size_of::<Control>() <= shape.len);
                }
            }
        }
    }

    #[test]
    fn an_introduction_is_read_as_it_was_written() {
        let long = Introduction {
            application: Some("a".repeat(Introduction::MOST[0])),
            cgroup: Some("c".repeat(Introduction::MOST[1])),
            label: Some("l".repeat(Introduction::MOST[2])),
        };
        let bytes = encode_introduction(&long);
        assert!(introduction(bytes.as_slice()) == Ok(long));
        for len in 0..bytes.as_slice().len() {
            assert!(introduction(&bytes.as_slice()[..len]).is_err());
        }
        let too_long = Introduction {
            application: Some("a".repeat(Introduction::MOST[0] + 1)),
            label: Some("label".into()),
            ..Introduction::default()
        };
        let read = introduction(encode_introduction(&too_long).as_slice()).unwrap();
        assert_eq!((read.application, read.label), (None, Some("label".into())));
        assert!(introduction(encode_introduction(&Introduction::default()).as_slice()).is_ok());
    }

    #[test]
    fn another_version_is_told_apart_from_garbage() {
        let mut bytes = Packet::Hello(Shape::client(SLOTS)).encode().as_slice().to_vec();
        bytes[4] = 9;
        assert_eq!(Packet::decode(&bytes), Err(Misread::Version(9)));
        assert!(matches!(Packet::decode(&[0; 64]), Err(Misread::Malformed(_))));
    }
}
