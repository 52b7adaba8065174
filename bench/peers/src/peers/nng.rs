//! nng over `ipc://`: REQ and REP, PUSH and PULL, through its own C functions. An unsafe room.
//!
//! `nng_sendmsg` and `nng_recvmsg` are what its manual calls the preferred interface: a message is
//! allocated, filled and handed over without another copy. What is promised outside: a `Socket` is
//! closed once, and a `Message` is freed once or belongs to nng.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_int};
use std::ptr::{null, null_mut};
use std::sync::{Arc, Once};

use nng_sys as sys;

use super::{ALL, Caller, Kind, Setting, ready};
use crate::work::{Desk, Result, numbered};

pub const KINDS: &[Kind] = &[Kind {
    name: "nng",
    how: "REQ/REP and PUSH/PULL over ipc, nng_sendmsg and nng_recvmsg",
    polls: false,
    has_one_way: true,
    lengths: ALL,
    serve,
    connect,
}];

/// nng's version, which tells itself.
pub fn version() -> String {
    // SAFETY: it returns a constant string.
    let version = unsafe { CStr::from_ptr(sys::nng_version()) };
    format!("nng {}", version.to_string_lossy())
}

fn check(code: c_int, what: &str) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(format!("{what}: nng's error {code}").into()) }
}

/// A message that we own.
struct Message(*mut sys::nng_msg);

impl Message {
    fn of(bytes: &[u8]) -> Result<Message> {
        let mut message = null_mut();
        // SAFETY: it writes the new message where it is told to.
        check(unsafe { sys::nng_msg_alloc(&mut message, bytes.len()) }, "a message")?;
        // SAFETY: the body is as long as was asked for, and nobody else has it.
        unsafe {
            let body = sys::nng_msg_body(message).cast::<u8>();
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), body, bytes.len());
        }
        Ok(Message(message))
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the message lives as long as `self`.
        let len = unsafe { sys::nng_msg_len(self.0) };
        if len == 0 {
            return &[];
        }
        // SAFETY: the body has that many bytes, which nobody changes while we own the message.
        unsafe { std::slice::from_raw_parts(sys::nng_msg_body(self.0).cast(), len) }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: it is ours, see `Socket::send` for when it is not.
        unsafe { sys::nng_msg_free(self.0) };
    }
}

struct Socket(sys::nng_socket);

impl Socket {
    fn open(open: unsafe extern "C" fn(*mut sys::nng_socket) -> c_int) -> Result<Socket> {
        static INIT: Once = Once::new();
        INIT.call_once(|| {
            // SAFETY: null asks for the defaults.
            unsafe { sys::nng_init(null()) };
        });
        let mut socket = sys::nng_socket::default();
        // SAFETY: it writes the new socket where it is told to.
        check(unsafe { open(&mut socket) }, "a socket")?;
        let socket = Socket(socket);
        // SAFETY: the option's name ends with a zero; 0 is no limit.
        let code = unsafe {
            sys::nng_socket_set_size(socket.0, sys::NNG_OPT_RECVMAXSZ.as_ptr().cast(), 0)
        };
        check(code, "no limit")?;
        Ok(socket)
    }

    fn listen(&self, address: &CStr) -> Result<()> {
        // SAFETY: the address ends with a zero; no listener is asked for.
        check(unsafe { sys::nng_listen(self.0, address.as_ptr(), null_mut(), 0) }, "listening")
    }

    fn dial(&self, address: &CStr) -> Result<()> {
        // SAFETY: as in `listen`.
        check(unsafe { sys::nng_dial(self.0, address.as_ptr(), null_mut(), 0) }, "dialling")
    }

    fn send(&self, message: Message) -> Result<()> {
        // SAFETY: the message is ours; it is nng's if this succeeds.
        check(unsafe { sys::nng_sendmsg(self.0, message.0, 0) }, "sending")?;
        std::mem::forget(message);
        Ok(())
    }

    fn receive(&self) -> Result<Message> {
        let mut message = null_mut();
        // SAFETY: it writes a message where it is told to, which is ours then.
        check(unsafe { sys::nng_recvmsg(self.0, &mut message, 0) }, "receiving")?;
        Ok(Message(message))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // SAFETY: it was opened, and is closed nowhere else.
        unsafe { sys::nng_socket_close(self.0) };
    }
}

fn address(setting: &Setting, name: &str) -> Result<CString> {
    Ok(CString::new(format!("ipc://{}", setting.path(name).display()))?)
}

fn serve(setting: &Setting) -> Result<()> {
    let desk = Arc::new(Desk::default());
    let calls = Socket::open(sys::nng_rep0_open)?;
    calls.listen(&address(setting, "calls")?)?;
    if setting.is_one_way {
        let stream = Socket::open(sys::nng_pull0_open)?;
        stream.listen(&address(setting, "stream")?)?;
        let desk = Arc::clone(&desk);
        std::thread::spawn(move || {
            while let Ok(message) = stream.receive() {
                desk.serve(message.bytes());
            }
        });
    }
    ready();
    loop {
        let message = calls.receive()?;
        let sum = desk.serve(message.bytes()).ok_or("no call")?;
        calls.send(Message::of(&sum.to_le_bytes())?)?;
    }
}

struct Client {
    calls: Socket,
    stream: Option<Socket>,
}

fn connect(setting: &Setting) -> Result<Box<dyn Caller>> {
    let calls = Socket::open(sys::nng_req0_open)?;
    calls.dial(&address(setting, "calls")?)?;
    let stream = if setting.is_one_way {
        let stream = Socket::open(sys::nng_push0_open)?;
        stream.dial(&address(setting, "stream")?)?;
        Some(stream)
    } else {
        None
    };
    Ok(Box::new(Client { calls, stream }))
}

impl Caller for Client {
    fn call(&mut self, message: &[u8]) -> Result<u64> {
        self.calls.send(Message::of(message)?)?;
        let sum = self.calls.receive()?;
        Ok(u64::from_le_bytes(sum.bytes().try_into()?))
    }

    fn send_all(&mut self, count: u64) -> Result<()> {
        let stream = self.stream.as_ref().ok_or("no stream")?;
        for number in 0..count {
            stream.send(Message::of(&numbered(number))?)?;
        }
        Ok(())
    }
}
