//! ipc-channel: a channel of bytes in each direction, or shared memory sent through a channel.
//!
//! A client finds the server as the documentation of `IpcOneShotServer` describes: it sends the far
//! ends of its channels to a server that takes one connection; the next one's name is then in a
//! file. Payloads of the shared-memory setting are made by `IpcSharedMemory::from_bytes` for every
//! message, as its documentation has it, since the receiver owns what it received.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use ipc_channel::TryRecvError;
use ipc_channel::ipc::{
    IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcReceiver, IpcSender, IpcSharedMemory,
    bytes_channel, channel,
};
use serde::{Deserialize, Serialize};

use super::{ALL, Caller, Kind, Patience, Setting, poll_all, ready};
use crate::place::Place;
use crate::work::{Desk, Result, numbered};

pub const KINDS: &[Kind] = &[
    Kind {
        name: "ipc-channel",
        how: "bytes channels, blocking",
        polls: false,
        has_one_way: true,
        lengths: ALL,
        serve: |setting| serve(setting, false),
        connect: |setting| connect(setting, false, false),
    },
    Kind {
        name: "ipc-channel, polling",
        how: "bytes channels, both sides calling try_recv",
        polls: true,
        has_one_way: true,
        lengths: ALL,
        serve: |setting| serve(setting, true),
        connect: |setting| connect(setting, true, false),
    },
    Kind {
        name: "ipc-channel, shared memory",
        how: "IpcSharedMemory through a channel, both sides calling try_recv",
        polls: true,
        has_one_way: false,
        lengths: (4096, usize::MAX),
        serve: |setting| serve(setting, true),
        connect: |setting| connect(setting, true, true),
    },
];

/// What a client hands to the server: where its requests arrive and where its answers go.
#[derive(Serialize, Deserialize)]
struct Ends {
    requests: Requests,
    answers: IpcBytesSender,
}

#[derive(Serialize, Deserialize)]
enum Requests {
    Bytes(IpcBytesReceiver),
    Memory(IpcReceiver<IpcSharedMemory>),
}

/// Nothing, or a message in one of the two forms.
enum Message {
    Bytes(Vec<u8>),
    Memory(IpcSharedMemory),
}

impl Requests {
    fn receive(&self) -> Result<Message> {
        Ok(match self {
            Requests::Bytes(bytes) => Message::Bytes(bytes.recv()?),
            Requests::Memory(memory) => Message::Memory(memory.recv()?),
        })
    }

    fn try_receive(&self) -> Result<Option<Message>> {
        let received = match self {
            Requests::Bytes(bytes) => bytes.try_recv().map(Message::Bytes),
            Requests::Memory(memory) => memory.try_recv().map(Message::Memory),
        };
        match received {
            Ok(message) => Ok(Some(message)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn answer(ends: &Ends, desk: &Desk, message: &Message) -> Result<()> {
    let sum = match message {
        Message::Bytes(bytes) => desk.serve(bytes),
        Message::Memory(memory) => desk.serve(memory),
    };
    if let Some(sum) = sum {
        ends.answers.send(&sum.to_le_bytes())?;
    }
    Ok(())
}

fn serve(setting: &Setting, polls: bool) -> Result<()> {
    let place = setting.place;
    let (arrive, arrivals) = std::sync::mpsc::channel::<(Ends, Desk)>();
    if polls {
        std::thread::spawn(move || {
            poll_all(place, &arrivals, |(ends, desk)| {
                let Some(message) = ends.requests.try_receive()? else { return Ok(false) };
                answer(ends, desk, &message)?;
                Ok(true)
            });
        });
    }
    let (next, named) = (setting.path("next.new"), setting.path("next"));
    let mut is_first = true;
    let (mut server, mut name) = IpcOneShotServer::<Ends>::new()?;
    loop {
        std::fs::write(&next, &name)?;
        std::fs::rename(&next, &named)?;
        if std::mem::take(&mut is_first) {
            ready();
        }
        let (_, ends) = server.accept()?;
        // The next client finds the next name before this one has its first answer.
        (server, name) = IpcOneShotServer::<Ends>::new()?;
        std::fs::write(&next, &name)?;
        std::fs::rename(&next, &named)?;
        if polls {
            arrive.send((ends, Desk::default()))?;
        } else {
            std::thread::spawn(move || {
                let desk = Desk::default();
                while let Ok(message) = ends.requests.receive() {
                    if answer(&ends, &desk, &message).is_err() {
                        return;
                    }
                }
            });
        }
    }
}

enum Requester {
    Bytes(IpcBytesSender),
    Memory(IpcSender<IpcSharedMemory>),
}

struct Channel {
    requests: Requester,
    answers: IpcBytesReceiver,
    polls: Option<Place>,
}

fn connect(setting: &Setting, polls: bool, is_memory: bool) -> Result<Box<dyn Caller>> {
    let (answers_there, answers) = bytes_channel()?;
    let (requests, there) = if is_memory {
        let (near, far) = channel()?;
        (Requester::Memory(near), Requests::Memory(far))
    } else {
        let (near, far) = bytes_channel()?;
        (Requester::Bytes(near), Requests::Bytes(far))
    };
    let server = one_shot(setting)?;
    server.send(Ends { requests: there, answers: answers_there })?;
    let polls = polls.then_some(setting.place);
    Ok(Box::new(Channel { requests, answers, polls }))
}

/// The server that takes the next connection.
fn one_shot(setting: &Setting) -> Result<IpcSender<Ends>> {
    let started = Instant::now();
    loop {
        let name = std::fs::read_to_string(setting.path("next"))?;
        match IpcSender::connect(name) {
            Ok(sender) => return Ok(sender),
            // Somebody else was faster; the next name will be there in a moment.
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
                    && started.elapsed() < Duration::from_secs(2) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl Caller for Channel {
    fn call(&mut self, message: &[u8]) -> Result<u64> {
        match &self.requests {
            Requester::Bytes(requests) => requests.send(message)?,
            Requester::Memory(requests) => requests.send(IpcSharedMemory::from_bytes(message))?,
        }
        let answer = match self.polls {
            None => self.answers.recv()?,
            Some(place) => {
                let mut patience = Patience::new(place);
                loop {
                    match self.answers.try_recv() {
                        Ok(answer) => break answer,
                        Err(TryRecvError::Empty) => patience.wait(),
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        };
        Ok(u64::from_le_bytes(answer.as_slice().try_into()?))
    }

    fn send_all(&mut self, count: u64) -> Result<()> {
        let Requester::Bytes(requests) = &self.requests else {
            return Err("no one-way messages".into());
        };
        for number in 0..count {
            requests.send(&numbered(number))?;
        }
        Ok(())
    }
}
