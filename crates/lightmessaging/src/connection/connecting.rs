//! Looking a service up and opening a lane to it without waiting: what a thread does in
//! [`connect`](super::Here::connect), in steps. In between it sleeps in the reactor.
//!
//! Only the registry's files are looked at in place, which takes microseconds.

use std::task::{Poll, Waker};
use std::time::Instant;

use super::reactor::{On, Ticket};
use super::{Here, LOOK_UPS, Missed};
use crate::lane::{Broken, Lane};
use crate::rocket::{LookUp, News, Step};
use crate::sys::Socket;
use crate::wait::{Clock, pause_of};
use crate::{Deadline, Error, Result};

/// A connection on its way.
#[derive(Debug, Default)]
pub(super) struct Connecting {
    /// How often a service went just before the hello reached it.
    goings: u32,
    /// How often something else has to be tried again that nothing tells of.
    retries: u32,
    /// rocketd, which is being asked, and why.
    asking: Option<(LookUp, Missed)>,
    /// Tells when a service may have come that was not there, and how long that is waited for.
    news: Option<(News, Clock)>,
    /// What is waited for was added to the reactor, and looked at after that.
    is_listening: bool,
    /// Nothing is tried before this.
    pause: Option<Instant>,
}

/// What there is to be done before the next step.
enum Next {
    Found(Socket),
    /// Look once more: what tells of news was only just added.
    Again,
    /// Something has to become readable.
    Listen,
    /// It has to be tried again in a while, after so many failures.
    Pause(u32),
}

impl Connecting {
    /// Goes on. The first future in line is the only one that does.
    pub(super) fn poll(
        &mut self,
        here: &Here,
        ticket: &Ticket,
        waker: &Waker,
        clock: &Clock,
    ) -> Poll<Result<()>> {
        let end = |other: Option<Instant>| [clock.end(), other].into_iter().flatten().min();
        let waits_until = |news: &Option<(News, Clock)>| {
            let (news, patience) = news.as_ref()?;
            let again = news.again().map(|again| Instant::now() + again);
            [patience.end(), again].into_iter().flatten().min()
        };
        // Before the looks that follow.
        ticket.sleep(waker, end(waits_until(&self.news)), On::News);
        if let Some(until) = self.pause {
            if Instant::now() < until && !clock.over() {
                ticket.sleep(waker, end(Some(until)), On::Time);
                return Poll::Pending;
            }
            self.pause = None;
        }
        loop {
            if here.lane_in_use().is_some() {
                return Poll::Ready(Ok(()));
            }
            match self.step(here, ticket, clock)? {
                Next::Found(socket) => match self.open(here, socket, clock)? {
                    Some(attempts) => {
                        if attempts == 0 {
                            continue;
                        }
                        return self.sleep(ticket, waker, clock, attempts);
                    }
                    None => return Poll::Ready(Ok(())),
                },
                Next::Again => {
                    ticket.sleep(waker, end(waits_until(&self.news)), On::News);
                }
                Next::Listen => return Poll::Pending,
                Next::Pause(attempts) => return self.sleep(ticket, waker, clock, attempts),
            }
        }
    }

    fn sleep(
        &mut self,
        ticket: &Ticket,
        waker: &Waker,
        clock: &Clock,
        attempts: u32,
    ) -> Poll<Result<()>> {
        let until = Instant::now() + pause_of(attempts);
        self.pause = Some(until);
        let end = clock.end().map_or(until, |end| end.min(until));
        ticket.sleep(waker, Some(end), On::Time);
        Poll::Pending
    }

    /// One look, as far as it goes.
    fn step(&mut self, here: &Here, ticket: &Ticket, clock: &Clock) -> Result<Next> {
        let (mut look_up, missed) = match self.asking.take() {
            Some(asking) => asking,
            None => {
                if let Some((news, _)) = &mut self.news {
                    news.refresh();
                }
                match here.look_up_here(&Clock::over_now()) {
                    Ok(Ok(socket)) => return Ok(Next::Found(socket)),
                    Ok(Err(missed)) => (LookUp::new(here.registry(), &here.name), missed),
                    // Its queue is full.
                    Err(Error::TimedOut { .. }) if !clock.over() => {
                        self.retries += 1;
                        return Ok(Next::Pause(self.retries));
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let step = look_up.step();
        if !matches!(step, Step::Done(_)) && clock.over() {
            return Err(Error::TimedOut { service: here.name.clone(), delivered: false });
        }
        match step {
            Step::Listen => {
                let is_listening = std::mem::replace(&mut self.is_listening, true);
                if let Some(talk) = look_up.talk()
                    && !is_listening
                {
                    let added = ticket.reactor().add_news(talk);
                    added.map_err(|source| here.cannot_watch(source))?;
                }
                self.asking = Some((look_up, missed));
                Ok(if is_listening { Next::Listen } else { Next::Again })
            }
            Step::Pause(attempts) => {
                self.is_listening = false;
                self.asking = Some((look_up, missed));
                Ok(Next::Pause(attempts))
            }
            Step::Done(answered) => {
                self.is_listening = false;
                match answered.and_then(|answered| here.judge(missed, answered)) {
                    Ok(socket) => Ok(Next::Found(socket)),
                    Err(error @ Error::NotFound { .. }) => {
                        self.wait_for_service(here, ticket, clock, error)
                    }
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// There is no such service: waits for it, if that was asked for.
    fn wait_for_service(
        &mut self,
        here: &Here,
        ticket: &Ticket,
        clock: &Clock,
        error: Error,
    ) -> Result<Next> {
        let patience = here.options.wait_for_service;
        if patience.is_zero() {
            return Err(error);
        }
        let Some((_, waiting)) = &self.news else {
            let news = here.watch_for_service()?;
            ticket.reactor().add_news(news.poll()).map_err(|source| here.cannot_watch(source))?;
            self.news = Some((news, Clock::new(Deadline::After(patience))));
            return Ok(Next::Again);
        };
        if waiting.over() || clock.over() { Err(error) } else { Ok(Next::Listen) }
    }

    /// Opens a lane. How often that has failed, if it has to be tried again.
    fn open(&mut self, here: &Here, socket: Socket, clock: &Clock) -> Result<Option<u32>> {
        let slots = here.options.calls_in_flight;
        match Lane::open(&here.name, socket, slots, &Clock::over_now()) {
            Ok((lane, out)) => {
                here.install(lane, out);
                Ok(None)
            }
            // It went between the look-up and the hello; another may have the name now.
            Err(Broken::Gone) if self.goings < LOOK_UPS && !clock.over() => {
                self.goings += 1;
                Ok(Some(self.goings - 1))
            }
            Err(Broken::Gone) => Err(here.goes()),
            Err(broken) if broken.is_momentary() && !clock.over() => {
                self.retries += 1;
                Ok(Some(self.retries))
            }
            Err(broken) => Err(here.error(broken)),
        }
    }
}
