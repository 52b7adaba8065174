//! The values of a policy's rules: patterns over bytes, numbers of users, and lists of either. Knows
//! nothing of what they are compared with.

use std::fmt;
use std::marker::PhantomData;

use globset::{Candidate, GlobBuilder, GlobMatcher};
use serde::de::value::{I64Deserializer, StrDeserializer};
use serde::de::{Deserialize, Deserializer, Error, IntoDeserializer, SeqAccess, Visitor};

/// The longest pattern, in bytes. Longer ones could fail where they may not.
const PATTERN_MAX: usize = 4096;

/// A glob over a whole value, byte by byte: `*` is any bytes, dots and slashes too, and `?` is one.
#[derive(Clone, Debug)]
pub(crate) struct Pattern(GlobMatcher);

impl Pattern {
    pub(crate) fn matches(&self, bytes: &[u8]) -> bool {
        // A matcher of one glob takes the bytes as they are: only sets take paths apart.
        self.0.is_match_candidate(&Candidate::from_bytes(bytes))
    }
}

// The checks are made while a value is visited, as only errors from there know their place in a list.
impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pattern, D::Error> {
        deserializer.deserialize_str(Text)
    }
}

struct Text;

impl Visitor<'_> for Text {
    type Value = Pattern;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a pattern")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Pattern, E> {
        if text.is_empty() {
            return Err(E::custom("an empty pattern matches nothing"));
        }
        if text.len() > PATTERN_MAX {
            return Err(E::custom(format_args!("a pattern of more than {PATTERN_MAX} bytes")));
        }
        match GlobBuilder::new(text).literal_separator(false).backslash_escape(true).build() {
            Ok(glob) => Ok(Pattern(glob.compile_matcher())),
            Err(error) => Err(E::custom(format_args!("not a pattern: {}", error.kind()))),
        }
    }
}

/// The number of a user or a group. The largest number stands for nobody in system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id(pub(crate) u32);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Id, D::Error> {
        deserializer.deserialize_i64(Number)
    }
}

struct Number;

impl Visitor<'_> for Number {
    type Value = Id;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Id, E> {
        match u32::try_from(number) {
            Ok(number) if number < u32::MAX => Ok(Id(number)),
            _ => Err(E::custom(format_args!("{number} is not between 0 and 4294967294"))),
        }
    }
}

/// One value, or a list of at least one.
#[derive(Clone, Debug)]
pub(crate) struct List<T>(Vec<T>);

impl<T> List<T> {
    pub(crate) fn any(&self, holds: impl Fn(&T) -> bool) -> bool {
        self.0.iter().any(holds)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<List<T>, D::Error> {
        deserializer.deserialize_any(OneOrMore(PhantomData)).map(List)
    }
}

struct OneOrMore<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMore<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one value or a list")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Vec<T>, E> {
        let one: I64Deserializer<E> = number.into_deserializer();
        Ok(vec![T::deserialize(one)?])
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Vec<T>, E> {
        let one: StrDeserializer<'_, E> = text.into_deserializer();
        Ok(vec![T::deserialize(one)?])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        if values.is_empty() {
            return Err(Error::custom("an empty list lets nobody through; leave the key out"));
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        let text: StrDeserializer<'_, serde::de::value::Error> = text.into_deserializer();
        Pattern::deserialize(text).unwrap()
    }

    #[test]
    fn a_name_matches_byte_for_byte() {
        let names: [&[u8]; 14] = [
            b".",
            b"..",
            b"a/..",
            b"../a",
            b"a//b",
            b"a/b",
            b"a/./b",
            b"a/",
            b"/a",
            b"a",
            b"A",
            b"a\n",
            b"a\xff",
            "\u{e9}".as_bytes(),
        ];
        for own in names {
            let Ok(text) = str::from_utf8(own) else { continue };
            for other in names {
                assert_eq!(pattern(text).matches(other), own == other, "{own:?} and {other:?}");
            }
        }
    }

    #[test]
    fn no_pattern_is_too_strange_to_be_refused() {
        let parse = |text: &str| {
            let text: StrDeserializer<'_, serde::de::value::Error> = text.into_deserializer();
            Pattern::deserialize(text)
        };
        for part in [
            "{",
            "{a,",
            "{}",
            "[a-z]",
            "[!\u{e9}]",
            "[\u{e9}-\u{10ffff}]",
            "**/",
            "?*",
            "\u{10ffff}",
        ] {
            for len in [1, 10, 99, 100, 101, PATTERN_MAX / part.len()] {
                if let Ok(pattern) = parse(&part.repeat(len)) {
                    pattern.matches(&[0xff; 127]);
                }
            }
        }
        assert!(parse(&"x".repeat(PATTERN_MAX)).is_ok());
        assert!(parse(&"x".repeat(PATTERN_MAX + 1)).is_err());
    }

    #[test]
    fn a_star_is_any_bytes_and_a_question_mark_is_one() {
        let long = [b'x'; 127];
        for name in [&b""[..], b".", b"a.b/c//..", b"\xff\xfe\n\r", b"/", &long] {
            assert!(pattern("*").matches(name));
            assert!(pattern("**").matches(name));
            assert_eq!(pattern("?").matches(name), name.len() == 1);
        }
        assert!(pattern("com.example.*").matches(b"com.example.a/b.c\xff\n"));
        assert!(!pattern("com.example.*").matches(b"com.example"));
        assert!(!pattern("com.example.*").matches(b"xcom.example.a"));
        assert!(!pattern("com.example").matches(b"com.example.a"));
        assert!(!pattern("com.example").matches(b"com.example\n"));
        assert!(pattern("a?b").matches(b"a/b") && pattern("a?b").matches(b"a\xffb"));
        assert!(pattern("[ab].{x,y}").matches(b"b.y") && !pattern("[!ab]").matches(b"a"));
        assert!(pattern(r"a\*").matches(b"a*") && !pattern(r"a\*").matches(b"ab"));
    }
}
