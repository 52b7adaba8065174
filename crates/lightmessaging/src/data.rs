//! What can be sent: bytes wherever they are, or a loan.

use std::sync::Arc;

use crate::lane::Lane;
use crate::loan::Parcel;
use crate::shm::region::Lent;
use crate::{Error, Loan, PAYLOAD_MAX, Result, ServiceName};

/// What a message or a reply can be made of: anything that is bytes (`AsRef<[u8]>`), which is copied,
/// or a [`Loan`], which is handed over.
///
/// ```no_run
/// use lightmessaging::{Connection, Data, Result};
/// fn send(connection: &Connection, data: impl Data) -> Result<()> {
///     connection.send_one_way(1, data)
/// }
/// let connection = Connection::new("com.example.log")?;
/// send(&connection, "copied")?;
/// send(&connection, connection.alloc(1 << 20)?)?;
/// # Ok::<(), lightmessaging::Error>(())
/// ```
///
/// It is sealed: there are no others.
pub trait Data: sealed::Data {}

impl<T: AsRef<[u8]>> Data for T {}
impl Data for Loan {}

/// Whether a payload may be so long.
#[inline(always)]
pub(crate) fn check_len(len: usize, service: &ServiceName) -> Result<()> {
    match len as u64 {
        len if len > PAYLOAD_MAX => Err(Error::TooLarge { service: service.clone(), len }),
        _ => Ok(()),
    }
}

pub(crate) mod sealed {
    use super::{Copied, Hold, Loan, Parcel, Source};

    /// Keeps the trait ours.
    pub trait Data {
        /// What a future keeps of it.
        type Held: Hold;

        /// Lends what is to be sent for as long as sending takes.
        fn with<R>(self, send: impl FnOnce(Source<'_>) -> R) -> R;

        /// The same for a future, which sends by and by.
        fn hold(self) -> Self::Held;
    }

    impl<T: AsRef<[u8]>> Data for T {
        type Held = Copied<T>;

        fn hold(self) -> Copied<T> {
            Copied(self)
        }

        #[inline(always)]
        fn with<R>(self, send: impl FnOnce(Source<'_>) -> R) -> R {
            send(Source::Bytes(self.as_ref()))
        }
    }

    impl Data for Loan {
        type Held = Parcel;

        fn hold(self) -> Parcel {
            self.finish()
        }

        #[inline]
        fn with<R>(self, send: impl FnOnce(Source<'_>) -> R) -> R {
            let parcel = self.finish();
            send(Source::Loan(&parcel))
        }
    }
}

/// What a future keeps of a payload for as long as it may have to be sent.
pub trait Hold {
    fn source(&self) -> Source<'_>;
}

/// Bytes that are copied whenever they are sent.
pub struct Copied<T>(T);

impl<T: AsRef<[u8]>> Hold for Copied<T> {
    fn source(&self) -> Source<'_> {
        Source::Bytes(self.0.as_ref())
    }
}

impl Hold for Parcel {
    fn source(&self) -> Source<'_> {
        Source::Loan(self)
    }
}

/// A payload on its way out.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    Bytes(&'a [u8]),
    Loan(&'a Parcel),
}

impl<'a> Source<'a> {
    /// Its length in bytes.
    #[inline(always)]
    pub(crate) fn len(self) -> usize {
        self.bytes().len()
    }

    /// The bytes, wherever they are.
    #[inline(always)]
    pub(crate) fn bytes(self) -> &'a [u8] {
        match self {
            Source::Bytes(bytes) => bytes,
            Source::Loan(parcel) => parcel.bytes(),
        }
    }

    /// The bytes, if they travel inside the lane: a loan never does.
    #[inline(always)]
    pub(crate) fn inline(self) -> Option<&'a [u8]> {
        match self {
            Source::Bytes(bytes) if bytes.len() <= crate::INLINE_MAX => Some(bytes),
            _ => None,
        }
    }

    /// The region of this lane that the bytes are in already, if it has not been named yet.
    pub(crate) fn region(self, lane: &Arc<Lane>) -> Option<Lent> {
        match self {
            Source::Bytes(_) => None,
            Source::Loan(parcel) => parcel.region(lane),
        }
    }

    /// The region was named in a message: it is the peer's to hand back.
    pub(crate) fn hand_over(self) {
        if let Source::Loan(parcel) = self {
            parcel.hand_over();
        }
    }
}
