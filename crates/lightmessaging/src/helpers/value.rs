//! Any serde type as compact bytes, from Rust to Rust.
//!
//! The bytes are those of [postcard](https://postcard.jamesmunns.com/wire-format): no names and no
//! types are in them, so both sides must have the same types, with the fields and the variants in
//! the same order. Between programs that are not built together, take a property list or a format
//! of your own.

use postcard::Deserializer;
use serde::{Deserialize, Serialize};

use super::bounded::Bounds;
use crate::{Error, Result};

/// How deep options, enums, sequences and maps may be in each other: reading them takes the stack,
/// some KiB for each in a debug build, and a thread of Rust's has 2 MiB.
const DEPTH_MAX: u32 = 128;
/// How many elements of no bytes at all a payload may have: as many as this, and one for each byte.
const EMPTY_MAX: u64 = 65_536;

/// A value as bytes.
///
/// ```
/// # use lightmessaging::{Connection, Result};
/// use lightmessaging::helpers::value;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// enum Command {
///     Move { x: f32, y: f32 },
///     Say(String),
/// }
///
/// fn obey(robot: &Connection, commands: &[Command]) -> Result<u32> {
///     let response = robot.send_two_way(1, value::encode(commands)?)?;
///     value::decode(response.data())
/// }
/// ```
///
/// # Errors
///
/// [`Error::WrongKind`] if the type cannot be written: a sequence that does not know its length, or
/// what its own `Serialize` refuses.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    postcard::to_stdvec(value).map_err(|error| wrong(error.to_string()))
}

/// The value that the bytes hold; it may borrow texts and bytes from them.
///
/// Options, enums, sequences and maps may be nested 128 deep, and all sequences and maps together
/// have at most one element for each byte of the payload and 65536 more, which only matters for
/// elements that take no bytes. A type must say what it consists of: one that is
/// `#[serde(untagged)]`, `#[serde(flatten)]` or `#[serde(tag = "…")]` can be encoded but not
/// decoded.
///
/// ```
/// use lightmessaging::helpers::value;
///
/// let bytes = value::encode(&("key", Some(7)))?;
/// let (key, number): (&str, Option<i32>) = value::decode(&bytes)?;
/// assert_eq!((key, number), ("key", Some(7)));
/// # Ok::<(), lightmessaging::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::WrongKind`] if the bytes are not those of a `T`, the whole `T` and nothing else, or are
/// beyond those limits. Bytes of another type may well be those of a `T` by chance.
pub fn decode<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T> {
    let bounds = Bounds::new(DEPTH_MAX, bytes.len() as u64 + EMPTY_MAX, bytes.len());
    let mut deserializer = Deserializer::from_bytes(bytes);
    let value = T::deserialize(bounds.around(&mut deserializer)).map_err(|error| {
        wrong(bounds.reached().map_or_else(|| error.to_string(), str::to_owned))
    })?;
    match deserializer.finalize() {
        Ok([]) => Ok(value),
        Ok(rest) => Err(wrong(format!("{} bytes are left over", rest.len()))),
        Err(error) => Err(wrong(error.to_string())),
    }
}

fn wrong(reason: String) -> Error {
    Error::WrongKind { expected: "a value of the type", reason }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use super::super::hostile;
    use super::*;

    #[derive(Serialize, Deserialize, Debug, PartialEq, Default)]
    struct Everything {
        numbers: (i8, u8, i16, u16, i32, u32, i64, u64, i128, u128),
        reals: [f64; 2],
        real: f32,
        character: char,
        text: String,
        bytes: Vec<u8>,
        unit: (),
        some: Option<Box<Everything>>,
        list: Vec<Kind>,
        map: BTreeMap<String, Wrapped>,
    }

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    enum Kind {
        Plain,
        One(u32),
        Two(String, bool),
        Named { x: f32 },
    }

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    struct Wrapped(i32);

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    enum Tree {
        Leaf,
        Branch(Box<Tree>),
        Both(Box<Tree>, Box<Tree>),
        Named { inner: Option<Box<Tree>> },
    }

    #[derive(Serialize, Deserialize, Debug)]
    struct Nest(Vec<Nest>);

    #[derive(Serialize, Deserialize, Debug, Default)]
    struct Skipped {
        #[serde(skip)]
        _large: [u64; 32],
    }

    fn everything() -> Everything {
        let inner = Everything { character: 'ß', ..Everything::default() };
        Everything {
            numbers: (-1, 1, -300, 300, i32::MIN, u32::MAX, i64::MIN, u64::MAX, -5, u128::MAX),
            reals: [1.5, -0.0],
            real: f32::MAX,
            character: '★',
            text: "größer".into(),
            bytes: vec![0, 127, 128, 255],
            unit: (),
            some: Some(Box::new(inner)),
            list: vec![
                Kind::Plain,
                Kind::One(1),
                Kind::Two("a".into(), true),
                Kind::Named { x: 2.5 },
            ],
            map: [("a".to_owned(), Wrapped(1)), ("b".to_owned(), Wrapped(-2))].into(),
        }
    }

    /// Reads it as several types.
    fn read(bytes: &[u8]) {
        let results = [
            decode::<Everything>(bytes).map(drop),
            decode::<Tree>(bytes).map(drop),
            decode::<Nest>(bytes).map(drop),
            decode::<HashMap<&str, Vec<u8>>>(bytes).map(drop),
            decode::<Vec<Vec<Option<(char, u64)>>>>(bytes).map(drop),
        ];
        for error in results.iter().filter_map(|result| result.as_ref().err()) {
            assert!(matches!(error, Error::WrongKind { .. }), "{error}");
        }
    }

    #[test]
    fn a_value_comes_back_as_it_was() {
        let bytes = encode(&everything()).unwrap();
        assert_eq!(decode::<Everything>(&bytes).unwrap(), everything());
        let many: Vec<u32> = (0..100_000).collect();
        assert_eq!(decode::<Vec<u32>>(&encode(&many).unwrap()).unwrap(), many);
    }

    #[test]
    fn the_bytes_are_those_of_postcard() {
        let bytes = postcard::to_stdvec(&everything()).unwrap();
        assert_eq!(encode(&everything()).unwrap(), bytes);
        assert_eq!(encode(&(300_u16, "a", Some(true))).unwrap(), [0xac, 2, 1, b'a', 1, 1]);
    }

    #[test]
    fn nothing_may_be_left_over_or_missing() {
        assert_eq!(decode::<()>(&[]).unwrap(), ());
        let error = decode::<()>(b"abc").unwrap_err().to_string();
        assert_eq!(error, "the payload is not a value of the type: 3 bytes are left over");
        assert!(decode::<u8>(&[]).is_err());
    }

    #[test]
    fn values_may_be_nested_128_deep_and_no_deeper() {
        let nested = |depth: usize| {
            let mut bytes = vec![1; depth];
            bytes.push(0);
            bytes
        };
        let depth = DEPTH_MAX as usize;
        assert!(decode::<Tree>(&nested(depth - 1)).is_ok());
        assert!(decode::<Nest>(&nested(depth - 1)).is_ok());
        for depth in [depth, 1000, 10_000_000] {
            let error = decode::<Tree>(&nested(depth)).unwrap_err().to_string();
            assert!(error.contains("nested"), "{error}");
            assert!(decode::<Nest>(&nested(depth)).is_err());
        }
        // Side by side is not in each other.
        let wide: Vec<Option<Tree>> = (0..10_000).map(|_| Some(Tree::Leaf)).collect();
        assert_eq!(decode::<Vec<Option<Tree>>>(&encode(&wide).unwrap()).unwrap(), wide);
    }

    #[test]
    fn elements_that_take_no_bytes_are_counted() {
        let claim = |len: u64| encode(&len).unwrap();
        assert_eq!(decode::<Vec<()>>(&claim(1000)).unwrap().len(), 1000);
        for len in [70_000, 1 << 40, u64::MAX] {
            let error = decode::<Vec<()>>(&claim(len)).unwrap_err().to_string();
            assert!(error.contains("more elements"), "{error}");
            assert!(decode::<Vec<Skipped>>(&claim(len)).is_err());
            assert!(decode::<HashMap<(), ()>>(&claim(len)).is_err());
        }
    }

    #[test]
    fn a_claimed_length_reserves_no_more_than_the_payload_has() {
        /// Reserves all that is announced, as careless types do.
        struct Careless;

        impl<'de> Deserialize<'de> for Careless {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Careless, D::Error> {
                struct Visitor;

                impl<'de> serde::de::Visitor<'de> for Visitor {
                    type Value = Careless;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("a sequence")
                    }

                    fn visit_seq<A: serde::de::SeqAccess<'de>>(
                        self,
                        mut seq: A,
                    ) -> Result<Careless, A::Error> {
                        assert!(seq.size_hint().unwrap_or(0) <= 10);
                        while seq.next_element::<u8>()?.is_some() {}
                        Ok(Careless)
                    }
                }

                from.deserialize_seq(Visitor)
            }
        }

        assert!(decode::<Careless>(&encode(&u64::MAX).unwrap()).is_err());
        assert!(decode::<Careless>(&[3, 1, 2, 3]).is_ok());
    }

    #[test]
    fn types_that_do_not_say_what_comes_are_refused() {
        #[derive(Deserialize, Debug)]
        #[serde(untagged)]
        #[allow(dead_code)]
        enum Any {
            Number(u8),
            List(Vec<Any>),
        }
        let error = decode::<Any>(&[1, 1, 1]).unwrap_err().to_string();
        assert!(error.contains("its type must say"), "{error}");
        assert!(decode::<serde::de::IgnoredAny>(&[1]).is_err());
    }

    #[test]
    fn hostile_bytes_do_no_harm() {
        hostile::garbage(&[], |bytes| {
            read(bytes);
            let _ = (decode::<Vec<()>>(bytes), decode::<Vec<Skipped>>(bytes));
        });
        hostile::damaged(&encode(&everything()).unwrap(), read);
        let tree = Tree::Both(
            Box::new(Tree::Branch(Box::new(Tree::Leaf))),
            Box::new(Tree::Named { inner: Some(Box::new(Tree::Leaf)) }),
        );
        assert_eq!(decode::<Tree>(&encode(&tree).unwrap()).unwrap(), tree);
        hostile::damaged(&encode(&tree).unwrap(), read);
    }
}
