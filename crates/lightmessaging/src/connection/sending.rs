//! Publishing a message without waiting: what a thread does in [`post`](super::Here::post), in steps.
//! In between it sleeps in the reactor.
//!
//! Messages that cannot be published at once stand in line, and only the first connects, or waits for
//! room or for a slot. So they are published in the order in which their futures were first polled.

use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::connecting::Connecting;
use super::reactor::{On, Reactor, Ticket};
use super::{Attempt, Here};
use crate::data::{Source, check_len};
use crate::lane::caller::Posted;
use crate::lane::{Broken, Lane, Place, Wish};
use crate::wait::{Clock, pause_of};
use crate::{Error, Result};

/// After so long something is tried again that nothing tells of.
pub(super) const SOON: Duration = Duration::from_millis(1);

/// A message that is to be published.
#[derive(Clone, Copy)]
pub(super) struct Outgoing<'a> {
    pub(super) id: i32,
    pub(super) data: Source<'a>,
    pub(super) two_way: bool,
}

impl Outgoing<'_> {
    fn try_to_post(self, here: &Here) -> Result<Attempt> {
        here.try_to_post(self.id, self.data, self.two_way)
    }
}

/// How far a message has come.
#[derive(Debug, Default)]
pub(super) struct Sending {
    /// How often there was no lane, and how often no room.
    attempts: u32,
    full: u32,
    connecting: Option<Box<Connecting>>,
    /// Nothing is tried before this.
    pause: Option<Instant>,
    /// Published as the service was about to close the lane, up to this position in the ring.
    doubt: Option<(Arc<Lane>, u64)>,
    wish: Option<Wish>,
    place: Option<Place>,
    /// Last, as the next in line is woken when it is dropped.
    ticket: Option<Ticket>,
}

/// A message that was published.
pub(super) type Published = (Arc<Lane>, Option<Posted>);

impl Sending {
    /// Goes on, and sleeps where that takes something else to happen.
    pub(super) fn poll(
        &mut self,
        here: &Here,
        waker: &Waker,
        clock: &Clock,
        message: Outgoing<'_>,
    ) -> Poll<Result<Published>> {
        let polled = self.advance(here, waker, clock, message);
        if polled.is_ready() {
            *self = Sending::default();
        }
        polled
    }

    fn advance(
        &mut self,
        here: &Here,
        waker: &Waker,
        clock: &Clock,
        message: Outgoing<'_>,
    ) -> Poll<Result<Published>> {
        if self.ticket.is_none() && self.pause.is_none() {
            check_len(message.data.len(), &here.name)?;
            // As it nearly always is, all that it takes is at hand.
            if here.is_line_empty() {
                match message.try_to_post(here)? {
                    Attempt::Posted(lane, posted) => return Poll::Ready(Ok((lane, posted))),
                    Attempt::InDoubt(lane, end) => self.doubt = Some((lane, end)),
                    _ => {}
                }
            }
        }
        let reactor = here.reactor()?;
        let ticket = self.ticket.get_or_insert_with(|| Ticket::new(reactor));
        let is_first = ticket.stand_in_line(waker, clock.end());
        if !is_first && self.doubt.is_none() {
            return if clock.over() { Poll::Ready(Err(here.late())) } else { Poll::Pending };
        }
        // The lane that is listened to and looked at after that.
        let mut listening: Option<Arc<Lane>> = None;
        loop {
            if let Some(until) = self.pause {
                if Instant::now() < until && !clock.over() {
                    self.sleep(waker, clock, Some(until), On::Time);
                    return Poll::Pending;
                }
                self.pause = None;
            }
            if let Some((lane, end)) = self.doubt.clone() {
                let is_known = lane.is_settled() || lane.is_dead();
                if !is_known && !clock.over() {
                    if listening.is_some() {
                        return Poll::Pending;
                    }
                    self.listen(reactor, waker, clock, &lane, false);
                    listening = Some(lane);
                    continue;
                }
                self.doubt = None;
                if here.clear_doubt(&lane, end) {
                    return Poll::Ready(Ok((lane, None)));
                }
                listening = None;
                if !is_first {
                    return Poll::Pending;
                }
            }
            if let (Some(connecting), Some(ticket)) = (&mut self.connecting, &self.ticket) {
                match connecting.poll(here, ticket, waker, clock)? {
                    Poll::Ready(()) => self.connecting = None,
                    Poll::Pending => return Poll::Pending,
                }
            }
            match message.try_to_post(here)? {
                Attempt::Posted(lane, posted) => {
                    if let Some(place) = self.place.take() {
                        place.served();
                    }
                    return Poll::Ready(Ok((lane, posted)));
                }
                Attempt::InDoubt(lane, end) => {
                    listening = None;
                    self.doubt = Some((lane, end));
                }
                Attempt::NoLane => {
                    if self.attempts > 0 {
                        if clock.over() {
                            return Poll::Ready(Err(here.late()));
                        }
                        self.pause = Some(Instant::now() + pause_of(self.attempts));
                    }
                    self.attempts += 1;
                    (self.wish, self.place, listening) = (None, None, None);
                    self.connecting = Some(Box::default());
                }
                attempt => {
                    if clock.over() {
                        return Poll::Ready(Err(Error::QueueFull { service: here.name.clone() }));
                    }
                    let Some(lane) = here.lane_in_use() else { continue };
                    if listening.as_ref().is_some_and(|known| Arc::ptr_eq(known, &lane)) {
                        return Poll::Pending;
                    }
                    if matches!(attempt, Attempt::NoSlot) {
                        self.listen_for_slot(here, reactor, waker, clock, &lane);
                    } else {
                        let passes = message.data.inline().is_none() || !lane.is_whole();
                        self.listen(reactor, waker, clock, &lane, passes);
                    }
                    listening = Some(lane);
                }
            }
        }
    }

    /// Sleeps until there may be room in a lane, or a region if it takes one, or until the lane ends; to
    /// be looked at once more. `passes` says that a descriptor may have to be passed on first.
    fn listen(
        &mut self,
        reactor: &Reactor,
        waker: &Waker,
        clock: &Clock,
        lane: &Arc<Lane>,
        passes: bool,
    ) {
        // Nothing tells when the socket has room for the descriptor.
        let again = passes.then(|| {
            self.full += 1;
            Instant::now() + pause_of(self.full / 4)
        });
        let is_heard = reactor.listen(lane, lane.room_bell());
        self.wish_on(lane);
        self.sleep_on(waker, clock, lane, is_heard, again, On::Room);
    }

    /// The same until there may be a slot.
    fn listen_for_slot(
        &mut self,
        here: &Here,
        reactor: &Reactor,
        waker: &Waker,
        clock: &Clock,
        lane: &Arc<Lane>,
    ) {
        // The room bell tells of a cut too, which may come while no slot has a bell to ring.
        let is_heard = reactor
            .listen(lane, lane.room_bell())
            .and_then(|heard| Ok(here.listen_to_resting(lane, reactor)? && heard));
        self.wish_on(lane);
        self.sleep_on(waker, clock, lane, is_heard, None, On::Slot(lane.clone()));
        if self.place.as_ref().is_none_or(|place| !Arc::ptr_eq(place.lane(), lane)) {
            self.place = Some(Place::new(lane));
        }
        if let Some(place) = &self.place {
            place.wait(waker);
        }
    }

    fn wish_on(&mut self, lane: &Arc<Lane>) {
        if self.wish.as_ref().is_none_or(|wish| !Arc::ptr_eq(wish.lane(), lane)) {
            self.wish = Some(Wish::on(lane));
        }
    }

    fn sleep_on(
        &self,
        waker: &Waker,
        clock: &Clock,
        lane: &Arc<Lane>,
        is_heard: Result<bool, Broken>,
        again: Option<Instant>,
        on: On,
    ) {
        let soon = match is_heard {
            Ok(true) => None,
            Ok(false) => Some(Instant::now() + SOON),
            Err(broken) => {
                // The look that follows finds it.
                lane.fail(broken);
                None
            }
        };
        self.sleep(waker, clock, [soon, again].into_iter().flatten().min(), on);
        // Nothing that the service says is seen without its welcome, which another thread may have
        // taken: it must be there before the look that follows.
        if let Err(broken) = lane.take_welcome() {
            lane.fail(broken);
        }
    }

    fn sleep(&self, waker: &Waker, clock: &Clock, until: Option<Instant>, on: On) {
        if let Some(ticket) = &self.ticket {
            ticket.sleep(waker, [clock.end(), until].into_iter().flatten().min(), on);
        }
    }

    /// The message was not delivered so often, and is sent again.
    pub(super) fn pause_before(&mut self, attempts: u32) {
        self.pause = (attempts > 0).then(|| Instant::now() + pause_of(attempts));
    }

    /// The message is not to be sent any more. What was published in doubt is left to whoever sends
    /// next, as all others.
    pub(super) fn abandon(&mut self, here: &Here) {
        if let Some((lane, end)) = self.doubt.take()
            && lane.is_ours()
        {
            here.clear_doubt(&lane, end);
        }
    }
}

impl Here {
    /// What futures sleep in, made if need be.
    pub(super) fn reactor(&self) -> Result<&Arc<Reactor>> {
        if let Some(reactor) = self.reactor.get() {
            return Ok(reactor);
        }
        let os = |source| Error::Os {
            service: self.name.clone(),
            doing: "make what futures sleep in",
            source,
        };
        let reactor = Reactor::new(self.name.clone()).map_err(os)?;
        Ok(self.reactor.get_or_init(|| reactor))
    }

    fn is_line_empty(&self) -> bool {
        self.reactor.get().is_none_or(|reactor| reactor.is_line_empty())
    }

    fn listen_to_resting(&self, lane: &Arc<Lane>, reactor: &Reactor) -> Result<bool, Broken> {
        let state = super::lock(&self.state);
        match &state.active {
            Some(active) if Arc::ptr_eq(&active.lane, lane) => {
                reactor.listen_to_resting(lane, &active.out)
            }
            _ => Ok(true),
        }
    }

    /// The deadline has passed before the message was published.
    fn late(&self) -> Error {
        let service = self.name.clone();
        match self.lane_in_use() {
            Some(_) => Error::QueueFull { service },
            None => Error::TimedOut { service, delivered: false },
        }
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        if let Some(reactor) = self.reactor.get() {
            reactor.close();
        }
    }
}
