//! The sends as futures, for any executor.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::Connection;
use super::reactor::{On, Ticket};
use super::sending::{Outgoing, Sending};
use crate::data::Hold;
use crate::lane::Lane;
use crate::lane::caller::{Outcome, Posted};
use crate::sys::fork;
use crate::wait::Clock;
use crate::{Data, Deadline, Error, Response, Result, Wait, deadlock};

/// How often a future looks for its answer each time it is polled before it sleeps, and how often it is
/// polled for that: while a busy service is about to answer, others of its executor have their turns.
const LOOKS: u32 = 16;
const POLLS: u32 = 16;

/// A two-way message on its way; see [`Connection::send_two_way_async`].
#[must_use = "nothing is sent before it is polled or awaited"]
pub struct Call<D: Data> {
    id: i32,
    data: D::Held,
    flight: Flight,
}

/// A one-way message on its way; see [`Connection::send_one_way_async`].
#[must_use = "nothing is sent before it is polled or awaited"]
pub struct Post<D: Data> {
    id: i32,
    data: D::Held,
    flight: Flight,
}

/// What there is to a message on its way besides the message.
struct Flight {
    connection: Connection,
    clock: Clock,
    sending: Sending,
    /// How often the call was not delivered.
    attempts: u32,
    asleep: Option<Asleep>,
    /// The process in which it was first polled.
    epoch: Option<u64>,
    is_done: bool,
}

/// A call that was published.
struct Asleep {
    lane: Arc<Lane>,
    posted: Posted,
    /// How often it is yet polled before it sleeps.
    polls: u32,
    ticket: Option<Ticket>,
    has_ended: bool,
}

impl Connection {
    /// [`send_two_way`](Connection::send_two_way) as a future, which any executor may poll; many may be
    /// on their way from one thread. Nothing is sent before it is first polled.
    ///
    /// Messages are sent in the order in which their futures were first polled; one that is sent again,
    /// as it was not delivered, comes behind those. There are as many
    /// [calls in flight](super::ConnectionBuilder::calls_in_flight) as the connection has, each from
    /// when it is sent until its future is ready or dropped. Others wait in line, and so does whatever
    /// comes after them: a future that is kept in line and not polled holds up those behind it. To drop
    /// one gives the call up: the service runs it only if it has taken it.
    ///
    /// In a tokio runtime, which must have I/O, it needs the feature `tokio` and nothing else.
    /// Elsewhere the program has to let [`Events`](crate::Events) wake it. What a poll does at most is
    /// to copy the payload and to look into the registry's files; it waits for nobody, rocketd included.
    ///
    /// ```no_run
    /// # async fn ask() -> lightmessaging::Result<()> {
    /// use lightmessaging::Connection;
    /// let clock = Connection::new("com.example.clock")?;
    /// let time = clock.send_two_way_async(1, "what time is it?").await?;
    /// println!("{}", String::from_utf8_lossy(time.data()));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`send_two_way`](Connection::send_two_way). [`Error::WouldDeadlock`] only when it is
    /// polled in a handler of a service which the polling thread runs: elsewhere that thread may yet
    /// give the service its turn. [`Error::Os`] in a forked child, if its parent had sent it.
    ///
    /// # Panics
    ///
    /// When polled after it was ready, or in a tokio runtime without I/O.
    pub fn send_two_way_async<D: Data>(&self, id: i32, data: D) -> Call<D> {
        Call { id, data: data.hold(), flight: Flight::new(self) }
    }

    /// [`send_one_way`](Connection::send_one_way) as a future, as
    /// [`send_two_way_async`](Connection::send_two_way_async) is one: ready once the message is in the
    /// service's queue. Nothing is sent of one that is dropped before.
    ///
    /// # Errors
    ///
    /// Those of [`send_one_way`](Connection::send_one_way).
    ///
    /// # Panics
    ///
    /// As there.
    pub fn send_one_way_async<D: Data>(&self, id: i32, data: D) -> Post<D> {
        Post { id, data: data.hold(), flight: Flight::new(self) }
    }
}

impl<D: Data> Call<D> {
    /// With a deadline of its own, from when it is first polled.
    pub fn within(mut self, deadline: impl Into<Deadline>) -> Call<D> {
        self.flight.clock = Clock::new(deadline.into());
        self
    }
}

impl<D: Data> Post<D> {
    /// With a deadline of its own, from when it is first polled.
    pub fn within(mut self, deadline: impl Into<Deadline>) -> Post<D> {
        self.flight.clock = Clock::new(deadline.into());
        self
    }
}

// Nothing in them is pinned, the payload neither.
impl<D: Data> Unpin for Call<D> {}
impl<D: Data> Unpin for Post<D> {}

impl<D: Data> Future for Call<D> {
    type Output = Result<Response>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Response>> {
        let Call { id, data, flight } = &mut *self;
        flight.call(context, Outgoing { id: *id, data: data.source(), two_way: true })
    }
}

impl<D: Data> Future for Post<D> {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let Post { id, data, flight } = &mut *self;
        flight.post(context, Outgoing { id: *id, data: data.source(), two_way: false })
    }
}

impl Flight {
    fn new(connection: &Connection) -> Flight {
        Flight {
            connection: connection.clone(),
            clock: Clock::new(connection.here.options.deadline),
            sending: Sending::default(),
            attempts: 0,
            asleep: None,
            epoch: None,
            is_done: false,
        }
    }

    fn post(&mut self, context: &mut Context<'_>, message: Outgoing<'_>) -> Poll<Result<()>> {
        self.begin()?;
        let here = self.connection.here();
        let published = self.sending.poll(here, context.waker(), &self.clock, message);
        self.is_done = published.is_ready();
        published.map_ok(drop)
    }

    fn call(&mut self, context: &mut Context<'_>, message: Outgoing<'_>) -> Poll<Result<Response>> {
        self.begin()?;
        let polled = self.advance(context, message);
        self.is_done = polled.is_ready();
        polled
    }

    fn advance(
        &mut self,
        context: &mut Context<'_>,
        message: Outgoing<'_>,
    ) -> Poll<Result<Response>> {
        let here = self.connection.here();
        if deadlock::is_handled_here(here.registry(), &here.name) {
            return Poll::Ready(Err(Error::WouldDeadlock { service: here.name.clone() }));
        }
        loop {
            if self.asleep.is_none() {
                let published = self.sending.poll(here, context.waker(), &self.clock, message);
                let (lane, posted) = match std::task::ready!(published) {
                    Ok((lane, Some(posted))) => (lane, posted),
                    // It was there a moment ago, and the message surely did not run.
                    Err(Error::NotFound { .. }) if self.attempts > 0 => {
                        return Poll::Ready(Err(not_delivered(&self.connection)));
                    }
                    Ok((_, None)) => return Poll::Ready(Err(not_delivered(&self.connection))),
                    Err(error) => return Poll::Ready(Err(error)),
                };
                let looks = posted.awake && here.options.wait != Wait::Block;
                let polls = if looks && here.luck.is_tried() { POLLS } else { 0 };
                self.asleep = Some(Asleep { lane, posted, polls, ticket: None, has_ended: false });
            }
            let Some(asleep) = &mut self.asleep else { continue };
            let outcome = std::task::ready!(asleep.poll(&self.connection, context, &self.clock));
            asleep.has_ended = true;
            let lane = asleep.lane.clone();
            self.asleep = None;
            if let Some(result) = here.conclude(&lane, outcome, &self.clock) {
                return Poll::Ready(result);
            }
            self.sending.pause_before(self.attempts);
            self.attempts += 1;
        }
    }

    /// Before each poll: a forked child has nothing of what its parent's future has.
    fn begin(&mut self) -> Result<()> {
        assert!(!self.is_done, "a message was polled after it was ready");
        let epoch = fork::epoch();
        if self.epoch.replace(epoch).is_some_and(|known| known != epoch) {
            self.sending = Sending::default();
            if let Some(asleep) = self.asleep.take() {
                drop(asleep);
                self.is_done = true;
                return Err(Error::Os {
                    service: self.connection.name().clone(),
                    doing: "wait for the reply",
                    source: std::io::Error::other("the process that forked this one waits for it"),
                });
            }
        }
        Ok(())
    }
}

fn not_delivered(connection: &Connection) -> Error {
    Error::NotDelivered { service: connection.name().clone() }
}

impl Asleep {
    /// What has become of the call.
    fn poll(
        &mut self,
        connection: &Connection,
        context: &mut Context<'_>,
        clock: &Clock,
    ) -> Poll<Outcome> {
        let here = connection.here();
        if self.polls > 0 {
            // Whoever is not in the first slot is not alone: the others have their turns at once.
            let looks = if self.posted.place().0 == 0 { LOOKS } else { 1 };
            for _ in 0..looks {
                if let Some(outcome) = self.lane.answered(&self.posted) {
                    here.luck.hit();
                    return Poll::Ready(outcome);
                }
                std::hint::spin_loop();
            }
            self.polls -= 1;
            if self.polls > 0 {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            here.luck.missed();
        }
        if self.ticket.is_some()
            && let Some(outcome) = self.lane.settle(&self.posted)
        {
            return Poll::Ready(outcome);
        }
        if let Err(outcome) = self.fall_asleep(connection, context, clock) {
            return Poll::Ready(outcome);
        }
        match self.lane.settle(&self.posted) {
            Some(outcome) => Poll::Ready(outcome),
            None if clock.over() => Poll::Ready(self.lane.give_up(&self.posted)),
            None => Poll::Pending,
        }
    }

    /// Has this future woken, and the service know that it sleeps.
    fn fall_asleep(
        &mut self,
        connection: &Connection,
        context: &Context<'_>,
        clock: &Clock,
    ) -> Result<(), Outcome> {
        let (lane, posted) = (&self.lane, &self.posted);
        let (slot, seq) = posted.place();
        let reactor = match connection.here().reactor() {
            Ok(reactor) => reactor,
            Err(Error::Os { source, .. }) => return Err(lane.lost(posted, source.into())),
            Err(_) => return Ok(()),
        };
        let is_heard = reactor.listen(lane, slot).map_err(|broken| {
            // It may have been answered before whatever that was.
            lane.settle(posted).unwrap_or_else(|| lane.lost(posted, broken))
        })?;
        let ticket = self.ticket.get_or_insert_with(|| Ticket::new(reactor));
        // Until the service has the bell it is looked for every millisecond.
        let soon = (!is_heard).then(|| std::time::Instant::now() + super::sending::SOON);
        let end = [clock.end(), soon].into_iter().flatten().min();
        ticket.sleep(context.waker(), end, On::Answer(lane.clone(), slot, seq));
        if is_heard {
            lane.fall_asleep(posted);
        }
        Ok(())
    }
}

impl Drop for Asleep {
    fn drop(&mut self) {
        // In a forked child the call is the parent's, which waits for it.
        if !self.has_ended && self.lane.is_ours() {
            self.lane.give_up(&self.posted);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if self.epoch == Some(fork::epoch()) {
            self.sending.abandon(self.connection.here());
        }
    }
}

impl<D: Data> fmt::Debug for Call<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("id", &self.id).finish_non_exhaustive()
    }
}

impl<D: Data> fmt::Debug for Post<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Post").field("id", &self.id).finish_non_exhaustive()
    }
}
