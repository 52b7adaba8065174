//! One `i32`: 4 bytes in the machine's own order, as both sides run on one machine.
//!
//! It is what the C header sends for an integer; a C program may also copy its `int32_t` as it is.

use crate::{Error, Result};

/// The 4 bytes of an integer.
///
/// ```
/// # use lightmessaging::{Connection, Result};
/// use lightmessaging::helpers::integer;
///
/// fn set_volume(player: &Connection, percent: i32) -> Result<()> {
///     player.send_one_way(3, integer::encode(percent))
/// }
/// ```
pub fn encode(value: i32) -> [u8; 4] {
    value.to_ne_bytes()
}

/// The integer that a payload of exactly 4 bytes is. Every such payload is one, of any value.
///
/// ```
/// use lightmessaging::helpers::integer;
///
/// assert_eq!(integer::decode(&integer::encode(-7))?, -7);
/// # Ok::<(), lightmessaging::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::WrongKind`] for any other length.
pub fn decode(bytes: &[u8]) -> Result<i32> {
    let bytes = bytes.try_into().map_err(|_| Error::WrongKind {
        expected: "an integer",
        reason: format!("it has {} bytes, not 4", bytes.len()),
    })?;
    Ok(i32::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::super::hostile;
    use super::*;

    #[test]
    fn an_integer_comes_back_as_it_was() {
        for value in [0, 1, -1, 42, i32::MIN, i32::MAX] {
            assert_eq!(decode(&encode(value)).unwrap(), value);
        }
    }

    #[test]
    fn an_integer_is_in_the_byte_order_of_the_machine() {
        let expected = if cfg!(target_endian = "little") { [4, 3, 2, 1] } else { [1, 2, 3, 4] };
        assert_eq!(encode(0x0102_0304), expected);
    }

    #[test]
    fn only_four_bytes_are_an_integer() {
        for len in (0..=300).filter(|len| *len != 4) {
            let error = decode(&vec![0; len]).unwrap_err();
            assert!(
                matches!(&error, Error::WrongKind { expected: "an integer", .. }),
                "{len}: {error}"
            );
            assert_eq!(error.service(), None);
        }
    }

    #[test]
    fn hostile_bytes_do_no_harm() {
        hostile::garbage(&[], |bytes| assert_eq!(decode(bytes).is_ok(), bytes.len() == 4));
        hostile::damaged(&encode(7), |bytes| assert_eq!(decode(bytes).is_ok(), bytes.len() == 4));
    }
}
