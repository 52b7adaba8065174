//! iceoryx2: request-response through shared memory, and publish-subscribe for one-way messages.
//!
//! Polling is what its request-response examples do; event-driven is its `event_based_communication`
//! example: every send is followed by a notification to a listener of the other side. Messages are
//! loaned and written in place, as the documentation of `Client` shows, and the service does not
//! overflow, so that nothing is lost.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use iceoryx2::config::Config;
use iceoryx2::node::Node;
use iceoryx2::port::client::Client;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::prelude::*;

use super::{ALL, Caller, Kind, Patience, SET_UP_ONLY, Setting, ready};
use crate::place::Place;
use crate::work::{Ask, Desk, Result, SMALL, numbered};

pub const KINDS: &[Kind] = &[
    Kind {
        name: "iceoryx2, polling",
        how: "request-response and publish-subscribe, both sides polling",
        polls: true,
        has_one_way: true,
        lengths: ALL,
        serve: |setting| serve(setting, false),
        connect: |setting| connect(setting, false),
    },
    Kind {
        name: "iceoryx2, polling, first in its process",
        how: "the same with a node for each connection, as a process needs for its first",
        polls: true,
        has_one_way: false,
        lengths: SET_UP_ONLY,
        serve: |setting| serve(setting, false),
        connect: |setting| {
            NODE.set(None);
            connect(setting, false)
        },
    },
    Kind {
        name: "iceoryx2, events",
        how: "the same with a notifier and a listener for each direction; one-way messages are \
              notified of 32 at a time",
        polls: false,
        has_one_way: true,
        lengths: ALL,
        serve: |setting| serve(setting, true),
        connect: |setting| connect(setting, true),
    },
];

/// How many one-way messages may be on their way.
const QUEUE: usize = 1024;
/// After how many of them a sleeping subscriber is told.
const BATCH: u64 = 32;

type Ipc = ipc::Service;

fn node(setting: &Setting) -> Result<Node<Ipc>> {
    set_log_level(LogLevel::Error);
    let mut config = Config::default();
    config.global.prefix = FileName::new(format!("{}_", setting.token).as_bytes())?;
    config.global.set_root_path(&Path::new(setting.folder.as_os_str().as_encoded_bytes())?);
    Ok(NodeBuilder::new().config(&config).create::<Ipc>()?)
}

type Calls =
    iceoryx2::service::port_factory::request_response::PortFactory<Ipc, [u8], u64, u64, ()>;

fn calls(node: &Node<Ipc>) -> Result<Calls> {
    let service = node.service_builder(&"calls".try_into()?);
    // The header says who listens for the answer.
    let service = service.request_response::<[u8], u64>().request_user_header::<u64>();
    let service = service.enable_safe_overflow_for_requests(false);
    Ok(service.max_clients(16).max_nodes(32).open_or_create()?)
}

type Stream = iceoryx2::service::port_factory::publish_subscribe::PortFactory<Ipc, [u8; SMALL], ()>;

fn stream(node: &Node<Ipc>) -> Result<Stream> {
    let service = node.service_builder(&"stream".try_into()?);
    let service = service.publish_subscribe::<[u8; SMALL]>().enable_safe_overflow(false);
    Ok(service
        .subscriber_max_buffer_size(QUEUE)
        .max_publishers(16)
        .max_nodes(32)
        .open_or_create()?)
}

fn listener(node: &Node<Ipc>, name: &str) -> Result<Listener<Ipc>> {
    let service = node.service_builder(&name.try_into()?).event();
    Ok(service.max_notifiers(32).max_nodes(32).open_or_create()?.listener_builder().create()?)
}

fn notifier(node: &Node<Ipc>, name: &str) -> Result<Notifier<Ipc>> {
    let service = node.service_builder(&name.try_into()?).event();
    Ok(service.max_notifiers(32).max_nodes(32).open_or_create()?.notifier_builder().create()?)
}

fn serve(setting: &Setting, has_events: bool) -> Result<()> {
    let node = node(setting)?;
    let (calls, stream) = (calls(&node)?, stream(&node)?);
    let server = calls.server_builder().create()?;
    let subscriber =
        setting.is_one_way.then(|| stream.subscriber_builder().create()).transpose()?;
    let asked = has_events.then(|| listener(&node, "asked")).transpose()?;
    let mut answered: HashMap<u64, Notifier<Ipc>> = HashMap::new();
    let (desk, mut patience) = (Desk::default(), Patience::new(setting.place));
    // Calls and messages have queues of their own, so a count may be asked for too early.
    let mut early = None;
    ready();
    loop {
        let mut is_idle = true;
        if let Some(subscriber) = &subscriber {
            while let Some(message) = subscriber.receive()? {
                is_idle = false;
                desk.serve(message.payload());
            }
        }
        if early.is_none() {
            early = server.receive()?;
        }
        if let Some(request) = early.take() {
            is_idle = false;
            if let Some(Ask::Counted(expected)) = Ask::of(request.payload())
                && !desk.has_counted(expected)
            {
                early = Some(request);
            } else if let Some(sum) = desk.serve(request.payload()) {
                let client = *request.user_header();
                request.loan_uninit()?.write_payload(sum).send()?;
                if has_events {
                    if !answered.contains_key(&client) {
                        answered.retain(|_, notifier| notifier.notify().is_ok_and(|told| told > 0));
                        let answer = format!("answered-{client}");
                        answered.insert(client, notifier(&node, &answer)?);
                    }
                    answered[&client].notify()?;
                }
            }
        }
        match &asked {
            Some(asked) if is_idle => {
                asked.blocking_wait(|_| {})?;
            }
            None if is_idle => patience.wait(),
            _ => {}
        }
    }
}

struct Iceoryx2 {
    client: Client<Ipc, [u8], u64, u64, ()>,
    number: u64,
    publisher: Option<Publisher<Ipc, [u8; SMALL], ()>>,
    events: Option<(Notifier<Ipc>, Listener<Ipc>)>,
    place: Place,
}

thread_local! {
    /// A process needs one node, so a new connection does not pay for it.
    static NODE: RefCell<Option<Node<Ipc>>> = const { RefCell::new(None) };
}

fn connect(setting: &Setting, has_events: bool) -> Result<Box<dyn Caller>> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NODE.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(node(setting)?);
        }
        let node = slot.as_ref().ok_or("a node")?;
        let number = u64::from(std::process::id()) << 32 | NEXT.fetch_add(1, Ordering::Relaxed);
        let events = if has_events {
            let answered = listener(node, &format!("answered-{number}"))?;
            Some((notifier(node, "asked")?, answered))
        } else {
            None
        };
        let calls = calls(node)?;
        let client = calls.client_builder().initial_max_slice_len(setting.len.max(SMALL));
        let publisher = if setting.is_one_way {
            let stream = stream(node)?;
            let publisher = stream.publisher_builder();
            let publisher =
                publisher.backpressure_strategy(BackpressureStrategy::RetryUntilDelivered);
            Some(publisher.create()?)
        } else {
            None
        };
        let client = client.create()?;
        Ok(Box::new(Iceoryx2 { client, number, publisher, events, place: setting.place }) as _)
    })
}

impl Caller for Iceoryx2 {
    fn call(&mut self, message: &[u8]) -> Result<u64> {
        let mut request = self.client.loan_slice_uninit(message.len())?;
        *request.user_header_mut() = self.number;
        let pending = request.write_from_slice(message).send()?;
        if let Some((asked, _)) = &self.events {
            asked.notify()?;
        }
        let mut patience = Patience::new(self.place);
        loop {
            if let Some(response) = pending.receive()? {
                return Ok(*response.payload());
            }
            match &self.events {
                Some((_, answered)) => {
                    answered.blocking_wait(|_| {})?;
                }
                None => patience.wait(),
            }
        }
    }

    fn send_all(&mut self, count: u64) -> Result<()> {
        let publisher = self.publisher.as_ref().ok_or("no publisher")?;
        for number in 0..count {
            publisher.loan_uninit()?.write_payload(numbered(number)).send()?;
            if let Some((asked, _)) = &self.events
                && number % BATCH == BATCH - 1
            {
                asked.notify()?;
            }
        }
        if let Some((asked, _)) = &self.events {
            asked.notify()?;
        }
        Ok(())
    }
}
