//! Services behind `LMStartService`: a C callback for each request.

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_void};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use lightmessaging::{
    ClientEvent, INLINE_MAX, Message, Peer, Registry, Request, Result, Service, ServiceName,
};

use crate::abi::{self, Buffer, Contents, Envelope, NULL, OutOfLine, Port, Sender};
use crate::rights::{self, Started, Waiting};
use crate::run_loop::{self, Number};
use crate::{fork, memory, unlock};

/// What `lm_start` may be told besides.
#[derive(Clone, Copy)]
pub(crate) struct Choices {
    pub(crate) callback: abi::Callback,
    /// The program's own, handed to the callback.
    pub(crate) info: usize,
    /// Large payloads are read where the client wrote them.
    pub(crate) in_place: bool,
    /// The name exists before the process does.
    pub(crate) check_in: bool,
    /// It may be looked up through rocketd.
    pub(crate) unlocked: bool,
    /// A running instance hands its name over.
    pub(crate) take_over: bool,
}

/// How long a running instance may take to hand its name over.
const TAKE_OVER: Duration = Duration::from_secs(30);

/// What a service's handler has besides the request.
struct Receiver {
    choices: Choices,
    port: Port,
    seqno: u32,
}

/// A request's payload, for as long as its callback runs.
enum Held {
    Inline(Message),
    OutOfLine(OutOfLine),
}

impl Held {
    fn new(message: Message, in_place: bool) -> Option<Held> {
        if message.len() <= INLINE_MAX {
            Some(Held::Inline(message))
        } else if in_place {
            Some(Held::OutOfLine(memory::hold(message, abi::in_place_of_message)))
        } else {
            // The client's region goes back at once.
            memory::copy(message.payload()).map(Held::OutOfLine)
        }
    }
}

/// A request whose callback runs on this thread.
struct Running {
    buffer: usize,
    peer: Peer,
    /// What the peer's introduction says, once it was asked for.
    texts: Option<[Option<CString>; 3]>,
}

#[derive(Default)]
struct Here {
    /// One within the other, as a callback may run the loop.
    running: Vec<Running>,
    /// Buffers for requests.
    free: Vec<Box<Buffer>>,
}

thread_local! {
    static HERE: RefCell<Here> = const { RefCell::new(Here { running: Vec::new(), free: Vec::new() }) };
}

/// Starts a service on a loop; on the calling thread's for none.
pub(crate) fn start(name: &[u8], number: Number, choices: Choices) -> Result<Option<Port>> {
    let orphans = rights::table().forget_orphans();
    drop(orphans);
    let port = rights::table().number();
    let mut receiver = Receiver { choices, port, seqno: 0 };
    let registry = Registry::from_env();
    let builder = Service::builder(name).registry(registry.clone()).on_client(move |event| {
        if let ClientEvent::Gone(client) = event {
            // Nobody waits for these any more. Dropped when the table is free again.
            let gone = rights::table().forget_client(port, client.id);
            drop(gone);
        }
    });
    let unlocked = choices.unlocked || unlock::is_unlocked(name);
    let builder = if unlocked { builder.unlocked() } else { builder };
    let handler = move |request| receiver.receive(request);
    let service = match choices {
        Choices { check_in: true, .. } => builder.check_in(handler)?,
        Choices { take_over: true, .. } => builder.take_over(TAKE_OVER, handler)?,
        _ => builder.start(handler)?,
    };
    let started = Started {
        name: name.into(),
        registry: registry.clone(),
        stop: service.stop_handle(),
        epoch: fork::epoch(),
    };
    rights::table().services.insert(port, started);
    let name = service.name().clone();
    let added = run_loop::add(number, service)?;
    // Another thread that has unlocked the name meanwhile may not have found the service yet.
    if added
        && !unlocked
        && unlock::is_unlocked(name.as_bytes())
        && let Err(error) = unlock::tell_own(&registry, &name)
    {
        stop(|its, _| its == port);
        return Err(error);
    }
    Ok(added.then_some(port))
}

/// Where the services of this process are found that have this name.
pub(crate) fn registries(name: &[u8]) -> Vec<Registry> {
    let epoch = fork::epoch();
    let table = rights::table();
    let ours = table.services.values().filter(|s| s.epoch == epoch && *s.name == *name);
    ours.map(|started| started.registry.clone()).collect()
}

/// The name of the service that this process runs under a port.
pub(crate) fn name(port: Port) -> Option<ServiceName> {
    let table = rights::table();
    let ours = table.services.get(&port).filter(|started| started.epoch == fork::epoch())?;
    ServiceName::new(&ours.name).ok()
}

/// Stops the services of this process that a condition names. Returns whether there was one.
pub(crate) fn stop(which: impl Fn(Port, &Started) -> bool) -> bool {
    let epoch = fork::epoch();
    let stopped: Vec<(Port, Started)> = {
        let mut table = rights::table();
        let ours =
            |port: &Port, started: &mut Started| started.epoch == epoch && which(*port, started);
        table.services.extract_if(ours).collect()
    };
    for (_, started) in &stopped {
        started.stop.stop();
    }
    run_loop::close_stopped();
    !stopped.is_empty()
}

/// The peer of the request whose callback runs on this thread, and its pidfd, which stays open
/// until the callback returns.
pub(crate) fn peer(message: *const c_void) -> Option<(Peer, i32)> {
    let peer = HERE.try_with(|here| {
        let here = here.borrow();
        let running = here.running.iter().rev().find(|r| r.buffer == message.addr());
        running.map(|running| running.peer.clone())
    });
    let peer = peer.ok().flatten()?;
    let pidfd = peer.pidfd().map_or(-1, |fd: BorrowedFd<'_>| fd.as_raw_fd());
    Some((peer, pidfd))
}

/// What rocketd said of the peer of that request, if it came through rocketd: the application, the
/// control group and the label, null where they are unknown. The texts stay until the callback
/// returns.
pub(crate) fn introduction(message: *const c_void) -> Option<[*const c_char; 3]> {
    let texts = HERE.try_with(|here| {
        let mut here = here.borrow_mut();
        let mut running = here.running.iter_mut().rev();
        let Running { peer, texts, .. } = running.find(|r| r.buffer == message.addr())?;
        let known = peer.introduction()?;
        let texts = texts.get_or_insert_with(|| {
            // A text with a NUL in it would be another one in C.
            [known.application(), known.cgroup(), known.label()]
                .map(|text| CString::new(text?).ok())
        });
        Some(texts.each_ref().map(|text| text.as_ref().map_or(std::ptr::null(), |t| t.as_ptr())))
    });
    texts.ok().flatten()
}

impl Drop for Receiver {
    /// However a service ends, its number ends with it.
    fn drop(&mut self) {
        let ended = rights::table().services.remove(&self.port);
        drop(ended);
    }
}

impl Receiver {
    fn receive(&mut self, request: Request) {
        let id = request.id();
        let is_two_way = request.is_two_way();
        let peer = request.peer().clone();
        self.seqno = self.seqno.wrapping_add(1);
        let (message, reply) = request.split();
        // No memory for it: the request is dropped, which the caller is told.
        let Some(held) = Held::new(message, self.choices.in_place) else { return };
        let reply_port = if is_two_way {
            rights::table().owe(Waiting { reply, service: self.port })
        } else {
            NULL
        };
        let mut buffer = HERE
            .try_with(|here| here.borrow_mut().free.pop())
            .ok()
            .flatten()
            .unwrap_or_else(Buffer::new);
        let envelope = Envelope { id, reply_port, local_port: self.port };
        let contents = match &held {
            Held::Inline(message) => Contents::Inline(message.payload()),
            Held::OutOfLine(large) => Contents::OutOfLine(*large),
        };
        let sender = Sender { peer: &peer, seqno: self.seqno };
        let address = &raw mut *buffer;
        let size = abi::write_own(&mut buffer, envelope, &contents, sender);
        let _ = HERE.try_with(|here| {
            here.borrow_mut().running.push(Running { buffer: address.addr(), peer, texts: None });
        });
        abi::call_back(self.choices.callback, self.port, &mut buffer, size, self.choices.info);
        // A request's memory ends with its callback, unless it was freed or taken over before.
        if let Held::OutOfLine(large) = held {
            memory::free(large);
        }
        let _ = HERE.try_with(|here| {
            let mut here = here.borrow_mut();
            here.running.pop();
            if here.free.len() < 4 {
                here.free.push(buffer);
            }
        });
    }
}
