//! Property lists: any serde type, in the binary format `bplist00` that every language has a reader
//! of.
//!
//! The `plist` crate reads and writes them. It guards against lists that contain themselves, but
//! not against those that are nested without end, nor against small ones that share their parts
//! until they stand for more than any memory holds, and one of its dates panics. So a payload's
//! shape is checked before that crate sees it.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// What the format begins with.
const MAGIC: &[u8; 8] = b"bplist00";
/// What it ends with: sizes and counts.
const TRAILER: usize = 32;
/// How deep arrays and dictionaries may be in each other: reading them takes the stack, some KiB
/// for each in a debug build, and a thread of Rust's has 2 MiB.
const DEPTH_MAX: usize = 128;
/// What any payload may cost when all that it shares is written out, in bytes. Each object costs
/// [`OBJECT`] and its text or data; for every byte of the payload it may cost [`PER_BYTE`] more.
const ALWAYS: u64 = 16 * 1024 * 1024;
const PER_BYTE: u64 = 128;
const OBJECT: u64 = 64;
/// Dates from the year 1 up to the year 10000, in seconds since the beginning of 2001: those that
/// can be written as text.
const DATES: std::ops::Range<f64> = -63_113_904_000.0..252_423_993_600.0;

/// A value as a binary property list, version 00.
///
/// Structures and maps become dictionaries, sequences arrays, `None` fields are left out. Bytes
/// that are to be data and not an array of numbers are `plist::Data`, dates are `plist::Date`.
///
/// ```
/// # use lightmessaging::{Connection, Result};
/// use lightmessaging::helpers::property_list;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize)]
/// struct Question {
///     city: String,
///     days: u32,
/// }
///
/// #[derive(Deserialize)]
/// struct Answer {
///     temperatures: Vec<f64>,
/// }
///
/// fn ask(forecast: &Connection, question: &Question) -> Result<Answer> {
///     let response = forecast.send_two_way(1, property_list::encode(question)?)?;
///     property_list::decode(response.data())
/// }
/// ```
///
/// # Errors
///
/// [`Error::WrongKind`] if the value cannot be a property list (a map's keys must be texts, there
/// is no null), or if [`decode`] would refuse it.
///
/// # Panics
///
/// For a `plist::Date` before the year 0 or after 9999, of which the `plist` crate cannot make a
/// text.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    plist::to_writer_binary(&mut bytes, value).map_err(|error| wrong(error.to_string()))?;
    check(&bytes)?;
    Ok(bytes)
}

/// The value that a binary property list holds. Nothing of it is borrowed from the bytes.
///
/// Arrays and dictionaries may be nested 128 deep. The same text can be in a list a thousand times
/// and in its bytes only once; written out, with 64 bytes for each object beside its text or data,
/// it may have 16 MiB and 128 times the payload's length. Dates lie in the years 1 to 9999.
///
/// ```
/// use lightmessaging::helpers::property_list;
///
/// let bytes = property_list::encode(&vec!["red", "green"])?;
/// assert!(bytes.starts_with(b"bplist00"));
/// let colours: Vec<String> = property_list::decode(&bytes)?;
/// assert_eq!(colours, ["red", "green"]);
/// # Ok::<(), lightmessaging::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::WrongKind`] if the bytes are not a binary property list (an empty payload is none, nor
/// is one in XML), if it is beyond those limits, or if it holds something else than a `T`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    check(bytes)?;
    plist::from_bytes(bytes).map_err(|error| wrong(error.to_string()))
}

fn wrong(reason: impl Into<String>) -> Error {
    Error::WrongKind { expected: "a property list", reason: reason.into() }
}

/// Walks a list as its reader will, without keeping anything of it, and refuses what would take
/// that reader more stack, memory or time than the payload's length can account for.
fn check(bytes: &[u8]) -> Result<()> {
    if !bytes.starts_with(MAGIC) {
        return Err(wrong("it does not begin with \"bplist00\""));
    }
    let Some((objects, trailer)) = bytes.split_last_chunk::<TRAILER>() else {
        return Err(wrong("it is cut short"));
    };
    let number = |at: usize| big_endian(&trailer[at..at + 8]);
    let (offset_size, reference_size) = (usize::from(trailer[6]), usize::from(trailer[7]));
    // Sizes of other integers than these are not read by the crate.
    if ![offset_size, reference_size].iter().all(|size| matches!(size, 1 | 2 | 3 | 4 | 8)) {
        return Err(wrong("its trailer has a size that no integer has"));
    }
    let (claimed_count, root, claimed_table) = (number(8), number(16), number(24));
    let table = claimed_count
        .checked_mul(offset_size as u64)
        .and_then(|len| part(objects, claimed_table, len))
        .ok_or_else(|| wrong("its table of objects is not inside it"))?;
    let budget = PER_BYTE * bytes.len() as u64 + ALWAYS;
    Walk { objects, table, offset_size, reference_size, budget }.visit(root, 0)
}

/// A walk through every object as often as it is referred to.
struct Walk<'a> {
    /// All but the trailer.
    objects: &'a [u8],
    /// Where each object is in them.
    table: &'a [u8],
    offset_size: usize,
    reference_size: usize,
    /// What may still be spent.
    budget: u64,
}

impl Walk<'_> {
    fn visit(&mut self, object: u64, depth: usize) -> Result<()> {
        let outside = || wrong("an object is not inside it");
        let size = self.offset_size;
        let at = object
            .checked_mul(size as u64)
            .and_then(|at| part(self.table, at, size as u64))
            .map(big_endian)
            .ok_or_else(outside)?;
        let marker = part(self.objects, at, 1).ok_or_else(outside)?[0];
        match marker >> 4 {
            0x3 => {
                let seconds = part(self.objects, at + 1, 8).map(big_endian).ok_or_else(outside)?;
                if !DATES.contains(&f64::from_bits(seconds)) {
                    return Err(wrong("a date is out of range"));
                }
                Ok(())
            }
            kind @ (0x4..=0x6 | 0xa | 0xd) => {
                let (claimed, start) = self.count(at).ok_or_else(outside)?;
                let size = match kind {
                    0x4 | 0x5 => 1,
                    0x6 => 2,
                    0xa => self.reference_size,
                    _ => 2 * self.reference_size,
                };
                let content = claimed
                    .checked_mul(size as u64)
                    .and_then(|len| part(self.objects, start, len))
                    .ok_or_else(outside)?;
                match kind {
                    0x4 | 0x5 => self.spend(content.len() as u64),
                    // Two bytes of UTF-16 may become three of UTF-8.
                    0x6 => self.spend(2 * content.len() as u64),
                    _ => self.visit_all(start, content.len() / self.reference_size, depth),
                }
            }
            // Numbers, booleans, and what the crate refuses.
            _ => Ok(()),
        }
    }

    /// Visits the objects of an array or dictionary, whose references begin at `start`.
    fn visit_all(&mut self, start: u64, count: usize, depth: usize) -> Result<()> {
        if depth == DEPTH_MAX {
            return Err(wrong("it is nested more than 128 deep, or contains itself"));
        }
        // All at once and now: the reader copies all references of each array that it is in.
        self.spend(OBJECT * count as u64)?;
        let objects = self.objects;
        let size = self.reference_size;
        // `visit` has found them to be inside.
        let references = &objects[start as usize..][..count * size];
        references
            .chunks_exact(size)
            .try_for_each(|reference| self.visit(big_endian(reference), depth + 1))
    }

    /// How many elements, bytes or characters the object at `at` claims to have, and where they
    /// begin.
    fn count(&self, at: u64) -> Option<(u64, u64)> {
        let small = part(self.objects, at, 1)?[0] & 0x0f;
        if small != 0x0f {
            return Some((small.into(), at + 1));
        }
        // An integer object of 1, 2, 4 or 8 bytes follows.
        let marker = part(self.objects, at + 1, 1)?[0];
        if !(0x10..=0x13).contains(&marker) {
            return None;
        }
        let size = 1 << (marker & 0x0f);
        Some((big_endian(part(self.objects, at + 2, size)?), at + 2 + size))
    }

    fn spend(&mut self, cost: u64) -> Result<()> {
        self.budget = self
            .budget
            .checked_sub(cost)
            .ok_or_else(|| wrong("it stands for far more than its length"))?;
        Ok(())
    }
}

/// The part of `bytes` that a peer claims, if there is one.
fn part(bytes: &[u8], claimed_at: u64, claimed_len: u64) -> Option<&[u8]> {
    let at = usize::try_from(claimed_at).ok()?;
    bytes.get(at..)?.get(..usize::try_from(claimed_len).ok()?)
}

/// An integer of at most 8 bytes.
fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use plist::Value;
    use serde::Deserialize;

    use super::super::hostile;
    use super::*;

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    struct Everything {
        text: String,
        wide: String,
        number: i64,
        large: u64,
        real: f64,
        yes: bool,
        nothing: Option<u8>,
        something: Option<u8>,
        list: Vec<Kind>,
        map: BTreeMap<String, (i8, u8)>,
        data: plist::Data,
        date: plist::Date,
    }

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    enum Kind {
        Plain,
        One(u32),
        Two(String, bool),
        Named { x: f32 },
    }

    /// A type that takes anything, the way that needs most of the stack.
    #[derive(Deserialize, Debug)]
    #[serde(untagged)]
    #[allow(dead_code)]
    enum Tree {
        Leaf(u64),
        Text(String),
        List(Vec<Tree>),
        Map(BTreeMap<String, Tree>),
    }

    fn everything() -> Everything {
        Everything {
            text: "text".into(),
            wide: "★ größer ★".into(),
            number: i64::MIN,
            large: u64::MAX,
            real: -1.5,
            yes: true,
            nothing: None,
            something: Some(3),
            list: vec![
                Kind::Plain,
                Kind::One(1),
                Kind::Two("a".into(), false),
                Kind::Named { x: 2.5 },
            ],
            map: [("a".to_owned(), (-1, 1)), ("b".to_owned(), (-128, 255))].into(),
            data: plist::Data::new(vec![0, 1, 2, 255]),
            date: plist::Date::from_xml_format("2024-02-29T12:00:00Z").unwrap(),
        }
    }

    /// A list of hand-made objects, the first of which is the root; sizes are 8 and 2.
    fn list(objects: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let mut table = Vec::new();
        for object in objects {
            table.extend((bytes.len() as u64).to_be_bytes());
            bytes.extend(object);
        }
        let at = bytes.len() as u64;
        bytes.extend(table);
        bytes.extend(trailer(8, 2, objects.len() as u64, 0, at));
        bytes
    }

    fn trailer(offset: u8, reference: u8, count: u64, root: u64, table: u64) -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 0, 0, 0, offset, reference];
        bytes.extend([count, root, table].iter().flat_map(|number| number.to_be_bytes()));
        bytes
    }

    /// An array of references.
    fn array(references: &[u16]) -> Vec<u8> {
        let mut bytes = vec![0xaf, 0x11];
        bytes.extend((references.len() as u16).to_be_bytes());
        bytes.extend(references.iter().flat_map(|reference| reference.to_be_bytes()));
        bytes
    }

    /// Reads it as several types and says whether any took it.
    fn read(bytes: &[u8]) -> bool {
        let results = [
            decode::<Value>(bytes).map(drop),
            decode::<Everything>(bytes).map(drop),
            decode::<Tree>(bytes).map(drop),
            decode::<Vec<String>>(bytes).map(drop),
            decode::<Option<serde::de::IgnoredAny>>(bytes).map(drop),
        ];
        for error in results.iter().filter_map(|result| result.as_ref().err()) {
            assert!(matches!(error, Error::WrongKind { .. }), "{error}");
        }
        results.iter().any(Result::is_ok)
    }

    fn reason(bytes: &[u8]) -> String {
        assert!(!read(bytes));
        decode::<Value>(bytes).unwrap_err().to_string()
    }

    #[test]
    fn a_value_comes_back_as_it_was() {
        let bytes = encode(&everything()).unwrap();
        assert!(bytes.starts_with(MAGIC));
        assert_eq!(decode::<Everything>(&bytes).unwrap(), everything());
        assert!(matches!(decode::<Value>(&bytes).unwrap(), Value::Dictionary(_)));
    }

    #[test]
    fn a_root_need_not_be_a_collection() {
        assert_eq!(decode::<i32>(&encode(&-5).unwrap()).unwrap(), -5);
        assert_eq!(decode::<String>(&encode(&"hello").unwrap()).unwrap(), "hello");
        assert_eq!(decode::<Vec<u8>>(&encode(&[0_u8; 0]).unwrap()).unwrap(), [0; 0]);
    }

    #[test]
    fn large_lists_with_much_in_common_come_back() {
        let same = vec!["the same text every time, of more than a few characters"; 100_000];
        assert_eq!(decode::<Vec<String>>(&encode(&same).unwrap()).unwrap(), same);
        let flags: Vec<bool> = (0..1_000_000).map(|i| i % 3 == 0).collect();
        assert_eq!(decode::<Vec<bool>>(&encode(&flags).unwrap()).unwrap(), flags);
        let numbers: Vec<u32> = (0..100_000).collect();
        assert_eq!(decode::<Vec<u32>>(&encode(&numbers).unwrap()).unwrap(), numbers);
    }

    #[test]
    fn what_is_no_property_list_cannot_be_encoded() {
        let map: BTreeMap<u8, u8> = [(1, 2)].into();
        assert!(matches!(encode(&map), Err(Error::WrongKind { .. })));
    }

    #[test]
    fn another_value_is_the_wrong_kind() {
        let bytes = encode(&vec!["a"]).unwrap();
        let error = decode::<Everything>(&bytes).unwrap_err();
        assert!(error.to_string().starts_with("the payload is not a property list: "), "{error}");
    }

    #[test]
    fn only_the_binary_format_is_read() {
        let mut xml = Vec::new();
        plist::to_writer_xml(&mut xml, &everything()).unwrap();
        let begin = "the payload is not a property list: it does not begin with \"bplist00\"";
        for bytes in [&xml[..], b"", b"( a, b )", b"bplist01", b"{ a = b; }", b" bplist00"] {
            assert_eq!(reason(bytes), begin);
        }
    }

    #[test]
    fn lists_may_be_nested_128_deep_and_no_deeper() {
        let nested = |depth: u16| {
            let arrays = (1..=depth).map(|next| array(&[next]));
            list(&arrays.chain([vec![0x10, 7]]).collect::<Vec<_>>())
        };
        assert!(read(&nested(1)));
        // The type for which it takes most of the stack too, on the smallest stack that Rust gives.
        assert!(decode::<Tree>(&nested(DEPTH_MAX as u16)).is_ok());
        assert!(read(&nested(DEPTH_MAX as u16)));
        for depth in [DEPTH_MAX as u16 + 1, 1000, 60_000] {
            assert!(reason(&nested(depth)).contains("nested"));
        }
    }

    #[test]
    fn a_value_that_could_not_be_read_again_is_not_encoded() {
        let mut value = Value::Array(Vec::new());
        for _ in 0..DEPTH_MAX {
            value = Value::Array(vec![value]);
        }
        assert!(encode(&value).unwrap_err().to_string().contains("nested"));
        let Value::Array(mut inner) = value else { unreachable!() };
        let value = inner.pop().unwrap();
        assert_eq!(decode::<Value>(&encode(&value).unwrap()).unwrap(), value);
    }

    #[test]
    fn lists_that_contain_themselves_are_refused() {
        assert!(reason(&list(&[array(&[0])])).contains("contains itself"));
        assert!(reason(&list(&[array(&[0, 0, 0, 0])])).contains("contains itself"));
        assert!(reason(&list(&[array(&[1, 1]), array(&[0, 0])])).contains("contains itself"));
        // A dictionary that is its own key and value.
        assert!(reason(&list(&[vec![0xd1, 0, 0, 0, 0]])).contains("contains itself"));
    }

    #[test]
    fn a_list_that_doubles_at_every_level_is_refused() {
        let arrays = (1..=100).map(|next| array(&[next; 2]));
        let bytes = list(&arrays.chain([vec![0x09]]).collect::<Vec<_>>());
        assert!(bytes.len() < 2000);
        assert!(reason(&bytes).contains("far more"));
    }

    #[test]
    fn one_long_text_that_stands_for_thousands_is_refused() {
        let mut text = vec![0x5f, 0x12];
        text.extend(1_000_000_u32.to_be_bytes());
        text.resize(text.len() + 1_000_000, b'x');
        assert!(read(&list(&[array(&[1; 100]), text.clone()])));
        assert!(reason(&list(&[array(&[1; 60_000]), text])).contains("far more"));
    }

    #[test]
    fn arrays_that_lie_over_each_other_are_refused() {
        // 5000 objects that are all the same array of 5000 references, to each of them.
        let array = array(&(0..5000).collect::<Vec<u16>>());
        let mut bytes = MAGIC.to_vec();
        bytes.extend(&array);
        let table = bytes.len() as u64;
        bytes.resize(bytes.len() + 5000, 8);
        bytes.extend(trailer(1, 2, 5000, 0, table));
        assert!(!read(&bytes));
    }

    #[test]
    fn a_table_that_claims_more_than_there_is_is_refused() {
        for count in [2, 1000, 1 << 32, 1 << 61, u64::MAX / 8, u64::MAX] {
            for size in [1, 2, 3, 4, 8] {
                for table in [0, 8, 9, 1 << 40, u64::MAX - 7, u64::MAX] {
                    let mut bytes = b"bplist00\x09\x08".to_vec();
                    bytes.extend(trailer(size, 1, count, 0, table));
                    // Two offsets of some sizes are within the ten bytes, whatever they say.
                    assert!(!read(&bytes) || count == 2, "{count} {size} {table}");
                }
            }
        }
        for (size, reference) in [(0, 1), (1, 0), (5, 1), (1, 16), (255, 255)] {
            let mut bytes = b"bplist00\x09\x08".to_vec();
            bytes.extend(trailer(size, reference, 1, 0, 9));
            assert!(reason(&bytes).contains("trailer"));
        }
        // A root that is no object.
        for root in [1, 2, u64::MAX] {
            let mut bytes = b"bplist00\x09\x08".to_vec();
            bytes.extend(trailer(1, 1, 1, root, 9));
            assert!(reason(&bytes).contains("not inside"));
        }
    }

    #[test]
    fn objects_that_claim_more_than_there_is_are_refused() {
        for kind in [0x4f, 0x5f, 0x6f, 0xaf, 0xdf] {
            for claimed in [100, u32::MAX.into(), 1 << 62, u64::MAX] {
                let mut object = vec![kind, 0x13];
                object.extend(u64::to_be_bytes(claimed));
                assert!(!read(&list(&[object])), "{kind:x} {claimed}");
            }
        }
    }

    #[test]
    fn dates_that_the_crate_cannot_print_are_refused() {
        let date = |seconds: f64| {
            let mut object = vec![0x33];
            object.extend(seconds.to_be_bytes());
            list(&[object])
        };
        for seconds in [0.0, -1.5, DATES.start, DATES.end - 0.001] {
            assert!(decode::<plist::Date>(&date(seconds)).is_ok(), "{seconds}");
        }
        for seconds in [-1e11, 1e12, f64::MAX, f64::MIN, f64::NAN, f64::INFINITY, DATES.end] {
            assert!(reason(&date(seconds)).contains("date"), "{seconds}");
        }
    }

    #[test]
    fn hostile_bytes_do_no_harm() {
        hostile::garbage(MAGIC, |bytes| {
            read(bytes);
        });
        // With a trailer that is in order.
        for len in 0..=300_u64 {
            let mut next = hostile::noise(len);
            let mut bytes = MAGIC.to_vec();
            bytes.extend((0..len).map(|_| next()));
            bytes.extend(trailer(1, 1, len, 0, 8));
            read(&bytes);
        }
        let small = (true, "text", vec![1, 1000], BTreeMap::from([("k", "größer")]));
        for payload in [encode(&everything()).unwrap(), encode(&small).unwrap()] {
            hostile::damaged(&payload, |bytes| {
                read(bytes);
            });
        }
    }
}
