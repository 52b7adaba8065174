//! A message that a service has taken, and the duty to answer it.

use std::fmt;
use std::sync::Arc;

use crate::data::{Source, check_len};
use crate::lane::server::{self, TakenCall};
use crate::lane::{Broken, Lane};
use crate::payload::Payload;
use crate::{Data, Error, Loan, Message, Peer, Result};

/// Tells the clients of one service apart, for as long as it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub(crate) u64);

/// A message that has arrived.
///
/// A two-way one wants a [reply](Request::reply), now or later, from any thread; dropped
/// unanswered, it tells the caller at once that there is none.
pub struct Request {
    message: Message,
    reply: Reply,
}

/// The duty to answer a request whose payload is no longer needed.
///
/// Dropped unanswered, it tells the caller at once that there is no reply.
pub struct Reply {
    call: Option<TakenCall>,
    lane: Arc<Lane>,
    client: ClientId,
}

impl Request {
    pub(crate) fn new(taken: server::Taken, lane: Arc<Lane>, client: ClientId) -> Request {
        let reply = Reply { call: taken.call, lane, client };
        Request { message: Message::new(taken.id, taken.body), reply }
    }

    /// The message's id, whatever the sender chose.
    pub fn id(&self) -> i32 {
        self.message.id()
    }

    /// The payload's length in bytes.
    pub fn len(&self) -> usize {
        self.message.len()
    }

    /// Whether the payload is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The payload where it is: nothing is copied but what is read.
    pub fn payload(&self) -> Payload<'_> {
        self.message.payload()
    }

    /// The payload's bytes, which stay as they are. A payload of more than
    /// [`INLINE_MAX`](crate::INLINE_MAX) bytes, and one that was sent [on loan](crate::Loan), is copied once, on the first call,
    /// into memory as large. Where it is enough to see the bytes once, in order,
    /// [`chunks`](Payload::chunks) spares that.
    pub fn data(&self) -> &[u8] {
        self.message.data()
    }

    /// The payload's bytes in place, without a copy.
    ///
    /// # Safety
    ///
    /// As [`Message::as_slice`].
    #[allow(unsafe_code)]
    pub unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: passed on to the caller.
        unsafe { self.message.as_slice() }
    }

    /// Whether the sender waits for a reply.
    pub fn is_two_way(&self) -> bool {
        self.reply.call.is_some()
    }

    /// Whether nobody waits any more: the caller gave up or died. A one-way message is cancelled
    /// when its sender is gone.
    pub fn is_cancelled(&self) -> bool {
        self.reply.is_cancelled()
    }

    /// Who sent it.
    pub fn peer(&self) -> &Peer {
        self.reply.peer()
    }

    /// Which client sent it.
    pub fn client(&self) -> ClientId {
        self.reply.client
    }

    /// Answers it. For a one-way message this does nothing.
    ///
    /// Never blocks.
    ///
    /// # Errors
    ///
    /// [`Error::PeerDied`] if the caller is gone; [`Error::TooLarge`]; [`Error::QueueFull`] if too
    /// many large replies have not been let go of by the client; [`Error::Os`] if there is no
    /// memory for a large one. Then the caller is told that there is no reply.
    pub fn reply(self, data: impl Data) -> Result<()> {
        let Request { message, reply } = self;
        if message.is_in_region() {
            // First, so that the client's next message finds it, and not another one.
            drop(message);
            return reply.reply(data);
        }
        reply.reply(data)
    }

    /// Lends memory for the reply, to be filled in place: see [`Reply::alloc`].
    ///
    /// ```
    /// # use lightmessaging::{Request, Result};
    /// fn answer(request: Request) -> Result<()> {
    ///     let mut noise = request.alloc_reply(1 << 20)?;
    ///     noise.fill(0x55);
    ///     request.reply(noise)
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As there.
    pub fn alloc_reply(&self, len: usize) -> Result<Loan> {
        self.reply.alloc(len)
    }

    /// Keeps the duty to answer and lets go of the payload.
    pub fn into_reply(self) -> Reply {
        self.reply
    }

    /// Takes the message and the duty to answer it apart, so that the answer can be made of the
    /// message's own bytes.
    ///
    /// ```
    /// # use lightmessaging::{Request, Result};
    /// fn echo(request: Request) -> Result<()> {
    ///     let (message, reply) = request.split();
    ///     reply.reply(message.data())
    /// }
    /// ```
    pub fn split(self) -> (Message, Reply) {
        (self.message, self.reply)
    }
}

impl Reply {
    /// Answers the request, as [`Request::reply`] does.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn reply(mut self, data: impl Data) -> Result<()> {
        data.with(|data| self.answer(data))
    }

    #[inline(always)]
    fn answer(&mut self, data: Source<'_>) -> Result<()> {
        let Some(call) = self.call else { return Ok(()) };
        check_len(data.len(), self.lane.service())?;
        let answer = match data.region(&self.lane) {
            Some(lent) => {
                // Named, whatever becomes of the client.
                data.hand_over();
                server::Reply::Lent(lent, data.len())
            }
            None => server::Reply::Data(data.bytes()),
        };
        let answered = self.lane.answer(call, answer).map_err(|broken| self.error(broken));
        self.call = None;
        answered
    }

    /// Lends memory for a reply of `len` bytes, 0 to [`PAYLOAD_MAX`](crate::PAYLOAD_MAX), to be filled in
    /// place and sent without a copy; see [`Loan`]. Never blocks.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`]; [`Error::QueueFull`] if the client has not let go of too many large replies,
    /// or too many loans are out; [`Error::PeerDied`] if the client is gone; [`Error::Os`] if there is no
    /// memory or no descriptor left. The request can be answered all the same.
    pub fn alloc(&self, len: usize) -> Result<Loan> {
        let service = || self.lane.service().clone();
        check_len(len, self.lane.service())?;
        if !self.lane.is_ours() || self.lane.is_dead() {
            return Err(Error::PeerDied { service: service() });
        }
        let blank = self.lane.blank(len).map_err(|broken| self.error(broken))?;
        let blank = blank.ok_or_else(|| Error::QueueFull { service: service() })?;
        Ok(Loan::new(&self.lane, blank, len))
    }

    #[cold]
    fn error(&self, broken: Broken) -> Error {
        let service = self.lane.service().clone();
        match broken {
            Broken::Os(source) => Error::Os { service, doing: "send a large reply", source },
            Broken::Busy => Error::QueueFull { service },
            _ => Error::PeerDied { service },
        }
    }

    /// Whether nobody waits any more.
    pub fn is_cancelled(&self) -> bool {
        match self.call {
            Some(call) => self.lane.is_cancelled(call),
            None => self.lane.is_gone(),
        }
    }

    /// Who sent the request.
    pub fn peer(&self) -> &Peer {
        self.lane.peer().expect("a request comes from a client that was met")
    }

    /// Which client sent the request.
    pub fn client(&self) -> ClientId {
        self.client
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            let _ = self.lane.answer(call, server::Reply::Nothing);
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("id", &self.id())
            .field("len", &self.len())
            .field("two_way", &self.is_two_way())
            .field("client", &self.client())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("client", &self.client).finish_non_exhaustive()
    }
}
