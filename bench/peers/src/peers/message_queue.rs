//! POSIX message queues (`mq_overview(7)`): one queue for all requests, one for each client's
//! answers.
//!
//! A request begins with the number of its client, whose queue is named after it. A message is at
//! most `/proc/sys/fs/mqueue/msgsize_max` bytes, 8192 unless the administrator says otherwise.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::CString;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::mqueue::{
    MQ_OFlag, MqAttr, MqdT, mq_attr_member_t, mq_close, mq_open, mq_receive, mq_send, mq_unlink,
};
use nix::sys::stat::Mode;

use super::{Caller, Kind, Patience, Setting, ready};
use crate::place::Place;
use crate::work::{Desk, Result, numbered};

pub const KINDS: &[Kind] = &[
    Kind {
        name: "POSIX message queue",
        how: "mq_send and mq_receive, blocking; ten messages of 8 KiB at most, Linux's defaults",
        polls: false,
        has_one_way: true,
        lengths: (0, LONGEST - NUMBER),
        serve: |setting| serve(setting, false),
        connect: |setting| connect(setting, false),
    },
    Kind {
        name: "POSIX message queue, polling",
        how: "the same with O_NONBLOCK, both sides polling",
        polls: true,
        has_one_way: true,
        lengths: (0, LONGEST - NUMBER),
        serve: |setting| serve(setting, true),
        connect: |setting| connect(setting, true),
    },
];

const LONGEST: usize = 8192;
const QUEUED: mq_attr_member_t = 10;
/// The client's number before each request.
const NUMBER: usize = 8;

struct Queue {
    /// There until it is closed, which nix leaves to whoever opened it.
    queue: Option<MqdT>,
    polls: Option<Place>,
}

impl Queue {
    fn open(name: &CString, flags: MQ_OFlag, polls: Option<Place>, len: usize) -> Result<Queue> {
        let blocking = if polls.is_some() { MQ_OFlag::O_NONBLOCK } else { MQ_OFlag::empty() };
        let attributes = MqAttr::new(0, QUEUED, len as mq_attr_member_t, 0);
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let flags = flags | blocking | MQ_OFlag::O_CLOEXEC;
        let queue = Some(mq_open(name.as_c_str(), flags, mode, Some(&attributes))?);
        Ok(Queue { queue, polls })
    }

    fn patiently<T>(&self, mut work: impl FnMut(&MqdT) -> nix::Result<T>) -> Result<T> {
        let queue = self.queue.as_ref().ok_or("closed")?;
        let mut patience = Patience::new(self.polls.unwrap_or(Place::TwoCores));
        loop {
            match work(queue) {
                Err(Errno::EAGAIN) if self.polls.is_some() => patience.wait(),
                Err(Errno::EINTR) => {}
                done => return Ok(done?),
            }
        }
    }

    fn send(&self, message: &[u8]) -> Result<()> {
        self.patiently(|queue| mq_send(queue, message, 0))
    }

    fn receive(&self, message: &mut [u8]) -> Result<usize> {
        self.patiently(|queue| mq_receive(queue, message, &mut 0))
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            let _ = mq_close(queue);
        }
    }
}

fn requests(setting: &Setting) -> Result<CString> {
    Ok(CString::new(format!("/{}_requests", setting.token))?)
}

fn answers(setting: &Setting, number: u64) -> Result<CString> {
    Ok(CString::new(format!("/{}_answers_{number}", setting.token))?)
}

fn serve(setting: &Setting, polls: bool) -> Result<()> {
    let polls = polls.then_some(setting.place);
    let flags = MQ_OFlag::O_CREAT | MQ_OFlag::O_RDWR;
    let queue = Queue::open(&requests(setting)?, flags, polls, LONGEST)?;
    let mut clients: HashMap<u64, (Queue, Desk)> = HashMap::new();
    let mut message = vec![0; LONGEST];
    ready();
    loop {
        let len = queue.receive(&mut message)?;
        let (number, request) = message[..len].split_first_chunk().ok_or("a number comes first")?;
        let number = u64::from_le_bytes(*number);
        if request.is_empty() {
            clients.remove(&number);
            continue;
        }
        let (answers, desk) = match clients.entry(number) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let name = answers(setting, number)?;
                let queue = Queue::open(&name, MQ_OFlag::O_WRONLY, polls, 8)?;
                new.insert((queue, Desk::default()))
            }
        };
        if let Some(sum) = desk.serve(request) {
            answers.send(&sum.to_le_bytes())?;
        }
    }
}

struct Client {
    requests: Queue,
    answers: Queue,
    answers_name: CString,
    number: u64,
    has_called: bool,
    is_named: bool,
    message: Vec<u8>,
}

fn connect(setting: &Setting, polls: bool) -> Result<Box<dyn Caller>> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let polls = polls.then_some(setting.place);
    let number = u64::from(std::process::id()) << 32 | NEXT.fetch_add(1, Ordering::Relaxed);
    let answers_name = answers(setting, number)?;
    let flags = MQ_OFlag::O_CREAT | MQ_OFlag::O_RDONLY;
    let answers = Queue::open(&answers_name, flags, polls, 8)?;
    let requests = Queue::open(&requests(setting)?, MQ_OFlag::O_WRONLY, polls, LONGEST)?;
    Ok(Box::new(Client {
        requests,
        answers,
        answers_name,
        number,
        has_called: false,
        is_named: true,
        message: Vec::new(),
    }))
}

impl Client {
    fn send(&mut self, message: &[u8]) -> Result<()> {
        self.message.clear();
        self.message.extend_from_slice(&self.number.to_le_bytes());
        self.message.extend_from_slice(message);
        self.requests.send(&self.message)
    }

    /// The server has it open after the first call, and then a killed client leaves nothing behind.
    fn unname(&mut self) {
        if std::mem::take(&mut self.is_named) {
            let _ = mq_unlink(self.answers_name.as_c_str());
        }
    }
}

impl Caller for Client {
    fn call(&mut self, message: &[u8]) -> Result<u64> {
        if self.has_called {
            self.unname();
        }
        self.send(message)?;
        let mut sum = [0; 8];
        self.answers.receive(&mut sum)?;
        self.has_called = true;
        Ok(u64::from_le_bytes(sum))
    }

    fn send_all(&mut self, count: u64) -> Result<()> {
        (0..count).try_for_each(|number| self.send(&numbered(number)))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Nobody is left to be told if this fails.
        let _ = self.send(&[]);
        self.unname();
    }
}

/// Removes the queue of a server that was ended; a client's is nameless by then.
pub fn remove(token: &str) {
    if let Ok(name) = CString::new(format!("/{token}_requests")) {
        let _ = mq_unlink(name.as_c_str());
    }
}
