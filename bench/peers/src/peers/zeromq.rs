//! ZeroMQ's own library (libzmq) over `ipc://`: REQ and REP, PUSH and PULL.
//!
//! As its guide pairs the sockets. libzmq batches small messages by itself in its I/O thread, and
//! `ZMQ_DONTWAIT` is how its `zmq_recv(3)` lets a program poll.

use std::sync::{Arc, OnceLock};

use zmq::{Context, DONTWAIT, Message, Socket, SocketType};

use super::{ALL, Caller, Kind, Patience, Setting, ready};
use crate::place::Place;
use crate::work::{Desk, Result, numbered};

pub const KINDS: &[Kind] = &[
    Kind {
        name: "ZeroMQ",
        how: "REQ/REP and PUSH/PULL over ipc, blocking",
        polls: false,
        has_one_way: true,
        lengths: ALL,
        serve: |setting| serve(setting, false),
        connect: |setting| connect(setting, false),
    },
    Kind {
        name: "ZeroMQ, polling",
        how: "REQ/REP over ipc, both sides receiving with ZMQ_DONTWAIT",
        polls: true,
        has_one_way: false,
        lengths: ALL,
        serve: |setting| serve(setting, true),
        connect: |setting| connect(setting, true),
    },
];

/// libzmq's version, which tells itself.
pub fn version() -> String {
    let (major, minor, patch) = zmq::version();
    format!("libzmq {major}.{minor}.{patch}")
}

fn address(setting: &Setting, name: &str) -> String {
    format!("ipc://{}", setting.path(name).display())
}

/// How one polls: where the core is known, it is libzmq's own thread's too.
fn polling(setting: &Setting, polls: bool) -> Option<Place> {
    let is_known = setting.place != Place::Unpinned;
    polls.then_some(if is_known { Place::OneCore } else { Place::Unpinned })
}

/// Receives; a process that was stopped and goes on is interrupted.
fn receive(socket: &Socket, message: &mut Message, polls: Option<Place>) -> Result<()> {
    let flags = if polls.is_some() { DONTWAIT } else { 0 };
    let mut patience = Patience::new(polls.unwrap_or(Place::OneCore));
    loop {
        match socket.recv(message, flags) {
            Ok(()) => return Ok(()),
            Err(zmq::Error::EAGAIN) => patience.wait(),
            Err(zmq::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn serve(setting: &Setting, polls: bool) -> Result<()> {
    let context = Context::new();
    let desk = Arc::new(Desk::default());
    let calls = context.socket(SocketType::REP)?;
    calls.bind(&address(setting, "calls"))?;
    if setting.is_one_way {
        let stream = context.socket(SocketType::PULL)?;
        stream.bind(&address(setting, "stream"))?;
        let desk = Arc::clone(&desk);
        std::thread::spawn(move || {
            let mut message = Message::new();
            while receive(&stream, &mut message, None).is_ok() {
                desk.serve(&message);
            }
        });
    }
    ready();
    let mut message = Message::new();
    loop {
        receive(&calls, &mut message, polling(setting, polls))?;
        let sum = desk.serve(&message).ok_or("no call")?;
        calls.send(&sum.to_le_bytes()[..], 0)?;
    }
}

struct Client {
    calls: Socket,
    stream: Option<Socket>,
    polls: Option<Place>,
}

fn connect(setting: &Setting, polls: bool) -> Result<Box<dyn Caller>> {
    // One context for a process, as zmq_ctx_new(3) has it.
    static CONTEXT: OnceLock<Context> = OnceLock::new();
    let context = CONTEXT.get_or_init(Context::new);
    let socket = |kind, name| -> Result<Socket> {
        let socket = context.socket(kind)?;
        socket.connect(&address(setting, name))?;
        Ok(socket)
    };
    let calls = socket(SocketType::REQ, "calls")?;
    let stream = setting.is_one_way.then(|| socket(SocketType::PUSH, "stream")).transpose()?;
    Ok(Box::new(Client { calls, stream, polls: polling(setting, polls) }))
}

impl Caller for Client {
    fn call(&mut self, message: &[u8]) -> Result<u64> {
        self.calls.send(message, 0)?;
        let mut sum = Message::new();
        receive(&self.calls, &mut sum, self.polls)?;
        Ok(u64::from_le_bytes(sum[..].try_into()?))
    }

    fn send_all(&mut self, count: u64) -> Result<()> {
        let stream = self.stream.as_ref().ok_or("no stream")?;
        for number in 0..count {
            stream.send(&numbered(number)[..], 0)?;
        }
        Ok(())
    }
}
