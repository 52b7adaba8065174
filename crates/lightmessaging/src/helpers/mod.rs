//! Typed payloads: bytes that any send or reply takes, and back.
//!
//! `encode` gives bytes; `decode` reads what [`Response::data`](crate::Response::data) or
//! [`Request::data`](crate::Request::data) gives. Nothing else is in a message: the two sides agree
//! on the kind of payload by the message's id.
//!
//! | | feature | for |
//! |---|---|---|
//! | [`integer`] | | one `i32`; C, Rust |
//! | `property_list` | `plist` | any serde type as a binary property list; every language that reads those |
//! | `image` | `image` | pixels and what they mean; C, cairo, Rust |
//! | `value` | `serde` | any serde type as compact bytes; Rust to Rust |
//!
//! The peer may have written anything. `decode` gives [`Error::WrongKind`](crate::Error::WrongKind)
//! for what it cannot read; no bytes make it panic, exhaust the stack, or take more memory or time
//! than their length accounts for, and a bound that each module names. The functions know nothing of
//! connections.
//!
//! ```
//! use lightmessaging::helpers::integer;
//! use lightmessaging::{Connection, Registry, Service};
//!
//! # let folder = tempfile::tempdir().unwrap();
//! # let registry = Registry::at(folder.path());
//! let mut service = Service::builder("com.example.doubler")
//! #   .registry(registry.clone())
//!     .start(|request| {
//!         // What is no integer is dropped, and its caller told so.
//!         let Ok(number) = integer::decode(request.data()) else { return };
//!         let _ = request.reply(integer::encode(number.wrapping_mul(2)));
//!     })?;
//! # let stop = service.stop_handle();
//! # let serving = std::thread::spawn(move || service.run());
//! // Usually in another process:
//! let doubler = Connection::builder("com.example.doubler")
//! #   .registry(registry)
//!     .build()?;
//! let response = doubler.send_two_way(1, integer::encode(21))?;
//! assert_eq!(integer::decode(response.data())?, 42);
//! # stop.stop();
//! # serving.join().unwrap()?;
//! # Ok::<(), lightmessaging::Error>(())
//! ```

#[cfg(feature = "serde")]
mod bounded;
#[cfg(feature = "image")]
pub mod image;
pub mod integer;
#[cfg(feature = "plist")]
pub mod property_list;
#[cfg(feature = "serde")]
pub mod value;

/// What the tests of every helper put to its `decode`: none of it may panic or hang.
#[cfg(test)]
mod hostile {
    /// A stream of bytes that is the same in every run (xorshift64).
    pub(super) fn noise(seed: u64) -> impl FnMut() -> u8 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        }
    }

    /// Garbage of every length from 0 to 300, each behind the given beginning and without it.
    pub(super) fn garbage(beginning: &[u8], mut read: impl FnMut(&[u8])) {
        for len in 0..=300 {
            let mut next = noise(len as u64 + 1);
            let mut bytes: Vec<u8> = (0..len).map(|_| next()).collect();
            read(&bytes);
            bytes.splice(..0, beginning.iter().copied());
            read(&bytes);
            for same in [0, 1, 0xff] {
                read(&vec![same; len]);
            }
        }
    }

    /// Every prefix of a payload, and the payload with every single byte changed: in a short one to
    /// every other value, in a long one in each of its bits and all of them.
    pub(super) fn damaged(payload: &[u8], mut read: impl FnMut(&[u8])) {
        for len in 0..payload.len() {
            read(&payload[..len]);
        }
        let short = payload.len() <= 128;
        let changes = (1..=0xff_u8).filter(|c| short || c.is_power_of_two() || *c == 0xff);
        let mut bytes = payload.to_vec();
        for at in 0..bytes.len() {
            for change in changes.clone() {
                bytes[at] = payload[at] ^ change;
                read(&bytes);
            }
            bytes[at] = payload[at];
        }
    }
}
