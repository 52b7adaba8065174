//! The name of a service: a value of 1 to 127 bytes. Knows nothing of files or sockets.

use std::fmt;
use std::sync::Arc;

use crate::{Error, Result};

/// The name of a service: 1 to 127 bytes, none of them NUL.
///
/// ```
/// use lightmessaging::ServiceName;
/// let name = ServiceName::new("com.example.clock")?;
/// assert_eq!(name.as_bytes(), b"com.example.clock");
/// assert!(ServiceName::new("").is_err());
/// # Ok::<(), lightmessaging::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName(Arc<[u8]>);

impl ServiceName {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 127;

    /// Checks a name.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`] if it is empty, longer than [`ServiceName::MAX_LEN`] or contains NUL.
    pub fn new(name: impl AsRef<[u8]>) -> Result<ServiceName> {
        let bytes = name.as_ref();
        let reason = match bytes {
            [] => "it is empty",
            _ if bytes.len() > Self::MAX_LEN => "it is longer than 127 bytes",
            _ if bytes.contains(&0) => "it contains a NUL byte",
            _ => return Ok(ServiceName(bytes.into())),
        };
        Err(Error::InvalidName { name: printable(bytes), reason })
    }

    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Lossy UTF-8 with control characters escaped, so that a name cannot drive a terminal.
fn printable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for c in String::from_utf8_lossy(bytes).chars() {
        if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
    }
    text
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&printable(&self.0))
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_1_to_127_bytes_and_no_nul() {
        for good in ["a", "..", "with/slash", "Zoë", "two words", &"x".repeat(127)] {
            assert_eq!(ServiceName::new(good).unwrap().as_bytes(), good.as_bytes());
        }
        for bad in ["", "a\0b", &"x".repeat(128)] {
            assert!(matches!(ServiceName::new(bad), Err(Error::InvalidName { .. })));
        }
    }

    #[test]
    fn a_printed_name_carries_no_control_characters() {
        let name = ServiceName::new(b"a\x1b[31m\n\xff").unwrap();
        assert!(!name.to_string().chars().any(char::is_control));
    }
}
