//! Unlocking: every rocketd is told of the service for as long as it runs, by its own loop.

use super::{ROCKETS, Service};
use crate::rocket::{self, Rockets};
use crate::wait::Clock;
use crate::wire::Packet;
use crate::wire::rocket::Rocket;
use crate::{Deadline, Registry, Result, ServiceName, owner};

impl Service {
    /// Lets the service be found through rocketd, or not any more.
    pub(super) fn unlock(&mut self, unlock: bool) {
        self.unlocked = unlock;
        self.count();
        if !unlock {
            if let Some(mut rockets) = self.rockets.take() {
                rockets.hang_up(&self.poll);
            }
        } else if self.rockets.is_none() {
            self.announce();
        }
    }

    fn announce(&mut self) {
        // Where the socket is: rocketd may see another registry, or none. Whoever started the service may
        // have bound it under a path that only makes sense there.
        let inherited = self.inherited.as_ref().and(self.listener.as_ref());
        let file = inherited
            .and_then(|listener| rocket::socket_file(&listener.path()?))
            .or_else(|| self.registry.open(&self.name, false).ok()?.socket_file(&self.name));
        let Some(file) = file else { return };
        let question = Rocket::Announce(self.name.clone());
        let rockets = Rockets::new(&self.registry, question, ROCKETS);
        self.rockets = Some(rockets.with_file(file));
        self.hear_rockets();
    }

    /// A rocketd has come, gone, or said something.
    pub(super) fn hear_rockets(&mut self) {
        if let Some(rockets) = &mut self.rockets {
            rockets.clear();
            rockets.refresh(&self.poll);
            if let Some(again) = rockets.again() {
                self.wake_in(again);
            }
        }
    }

    /// A while has passed.
    pub(super) fn announce_again(&mut self) {
        if self.rockets.as_ref().is_some_and(|rockets| rockets.again().is_some()) {
            self.hear_rockets();
        }
    }
}

impl Registry {
    /// Has a running service of this user unlock its name, as
    /// [`ServiceBuilder::unlocked`](crate::ServiceBuilder::unlocked) does from the start, or lock it
    /// again. Waits until the service has heard it; one that has no time until the deadline hears it
    /// later.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`](crate::Error::NotFound), [`Error::Denied`](crate::Error::Denied) for services
    /// of others, [`Error::TimedOut`](crate::Error::TimedOut),
    /// [`Error::NotDelivered`](crate::Error::NotDelivered) if it has just gone.
    pub fn unlock(
        &self,
        name: &ServiceName,
        unlock: bool,
        deadline: impl Into<Deadline>,
    ) -> Result<()> {
        owner::ask(self, name, Packet::Unlock(unlock), &Clock::new(deadline.into())).map(drop)
    }
}
