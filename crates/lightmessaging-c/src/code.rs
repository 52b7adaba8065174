//! Errors as the numbers that C programs know, and in words.

use std::cell::RefCell;
use std::ffi::{CStr, CString};

use lightmessaging::Error;

/// `kern_return_t`.
pub(crate) type Code = i32;

pub(crate) const SUCCESS: Code = 0;
pub(crate) const INVALID_ARGUMENT: Code = 4;
pub(crate) const FAILURE: Code = 5;
pub(crate) const SHORTAGE: Code = 6;
pub(crate) const INVALID_NAME: Code = 15;
pub(crate) const NOT_PRIVILEGED: Code = 1100;
pub(crate) const NAME_IN_USE: Code = 1101;
pub(crate) const UNKNOWN_SERVICE: Code = 1102;
pub(crate) const SEND_INVALID_DEST: Code = 0x1000_0003;
pub(crate) const SEND_TIMED_OUT: Code = 0x1000_0004;
pub(crate) const SEND_NO_BUFFER: Code = 0x1000_000d;
pub(crate) const SEND_TOO_LARGE: Code = 0x1000_000e;
pub(crate) const RCV_TIMED_OUT: Code = 0x1000_4003;
pub(crate) const RCV_INVALID_DATA: Code = 0x1000_4008;
pub(crate) const RCV_PORT_DIED: Code = 0x1000_4009;
/// Ours: the original hung, or returned success.
pub(crate) const NO_REPLY: Code = 0x4c4d_0001;
pub(crate) const WOULD_DEADLOCK: Code = 0x4c4d_0002;
pub(crate) const VERSION: Code = 0x4c4d_0003;
pub(crate) const NOT_STARTED: Code = 0x4c4d_0004;

thread_local! {
    static LAST: RefCell<Option<CString>> = const { RefCell::new(None) };
}

/// The code of an error that met somebody who sends or looks up. The sentence is kept for
/// `LMLastError`.
#[cold]
pub(crate) fn of(error: &Error) -> Code {
    remember(error.to_string());
    match error {
        Error::InvalidName { .. } => INVALID_NAME,
        // As the original had it: what went away was looked up again, and was not there.
        Error::NotFound { .. } | Error::NotDelivered { .. } => UNKNOWN_SERVICE,
        Error::NotStarted { .. } => NOT_STARTED,
        Error::NameInUse { .. } => NAME_IN_USE,
        Error::Denied { .. } => NOT_PRIVILEGED,
        Error::PeerDied { .. } => RCV_PORT_DIED,
        Error::NoReply { .. } => NO_REPLY,
        Error::TimedOut { delivered: true, .. } => RCV_TIMED_OUT,
        // What Mach says of a queue that stays full until the timeout.
        Error::TimedOut { .. } | Error::QueueFull { .. } => SEND_TIMED_OUT,
        Error::TooLarge { .. } => SEND_TOO_LARGE,
        Error::Malformed { .. } | Error::WrongKind { .. } => RCV_INVALID_DATA,
        Error::Version { .. } => VERSION,
        Error::WouldDeadlock { .. } => WOULD_DEADLOCK,
        Error::Os { source, .. } => match source.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS | libc::ENOSPC) => {
                SHORTAGE
            }
            _ => FAILURE,
        },
        _ => FAILURE,
    }
}

/// The code of an error that met somebody who replies: there is nobody to be looked up, and no
/// timeout.
#[cold]
pub(crate) fn of_reply(error: &Error) -> Code {
    match error {
        Error::PeerDied { .. } => {
            remember("nobody waits for this reply any more: the client is gone".into());
            SEND_INVALID_DEST
        }
        Error::QueueFull { .. } => {
            of(error);
            SEND_NO_BUFFER
        }
        error => of(error),
    }
}

/// Keeps a sentence for [`last`].
pub(crate) fn remember(sentence: String) {
    // No sentence of ours has a NUL.
    let sentence = CString::new(sentence).ok();
    let _ = LAST.try_with(|last| *last.borrow_mut() = sentence);
}

/// The sentence about the last failure on this thread. The pointer is good until the next one.
pub(crate) fn last() -> *const std::ffi::c_char {
    let kept = LAST.try_with(|last| last.borrow().as_ref().map(|sentence| sentence.as_ptr()));
    kept.ok().flatten().unwrap_or(c"".as_ptr())
}

/// What a code means.
pub(crate) fn words(code: Code) -> &'static CStr {
    match code {
        SUCCESS => c"no error",
        1 => c"an address is not valid",
        2 => c"protection failure",
        3 => c"no space left",
        INVALID_ARGUMENT => c"an argument is not valid",
        FAILURE => c"the system refused something",
        SHORTAGE => c"no descriptors or no memory left",
        8 => c"no access",
        INVALID_NAME => c"not a service name (1 to 127 bytes), or no such port",
        16 => c"not a task",
        17 => c"no such right",
        18 => c"a value is not valid",
        NOT_PRIVILEGED => c"access to the service or to its registry is denied",
        NAME_IN_USE => c"the name is in use by a running service",
        UNKNOWN_SERVICE => c"no service of that name is running; the message was not delivered",
        1103 => c"the service is active already",
        1104 => c"a count is not valid",
        1105 => c"no memory left for a name",
        SEND_INVALID_DEST => {
            c"nobody waits for the reply: it was sent before, or the client is gone"
        }
        SEND_TIMED_OUT => c"timed out before the message was taken; it was not delivered",
        SEND_NO_BUFFER => c"too many large messages have not been let go of",
        SEND_TOO_LARGE => c"the message is larger than 4 GiB - 1",
        RCV_TIMED_OUT => {
            c"timed out waiting for the reply; the message was delivered and may have run"
        }
        RCV_INVALID_DATA => c"the other side broke the protocol, or the data is of another kind",
        // What this library never says, and programs may ask about.
        0x1000_0002 => c"the message to be sent is not valid",
        0x1000_0007 | 0x1000_4005 => c"interrupted",
        0x1000_0008 => c"the message to be sent is too small",
        0x1000_0009 | 0x1000_000a => c"a port of the message to be sent is not valid",
        0x1000_4002 => c"the port to receive on is not valid",
        0x1000_4004 => c"the message is larger than the buffer for it",
        0x1000_4006 => c"the port to receive on has changed",
        RCV_PORT_DIED => c"the service died after it took the message, which may have run",
        NO_REPLY => c"the service took the message but did not reply",
        WOULD_DEADLOCK => c"the calling thread itself runs the service; call from another thread",
        VERSION => c"the service speaks another version of the protocol",
        NOT_STARTED => {
            c"the service is started on demand and could not be; the message was not delivered"
        }
        _ => c"unknown error code",
    }
}
