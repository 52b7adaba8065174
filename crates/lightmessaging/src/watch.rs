//! Notices that a connection's service went or came back.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::lane::Lane;
use crate::rocket::News;
use crate::wait::Clock;
use crate::{Connection, Deadline, Error, Result};

/// What happened to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceEvent {
    /// It is there, for the first time or again.
    Came,
    /// It has stopped or died.
    Went,
}

/// Watches a connection's service come and go. The first event says whether it is there.
///
/// There is no thread behind this: somebody calls [`next`](Watch::next), or polls the descriptor,
/// which is readable when there may be news, and then calls it with a deadline of zero.
#[derive(Debug)]
pub struct Watch {
    connection: Connection,
    news: News,
    lane: Option<Arc<Lane>>,
    said: Option<ServiceEvent>,
}

const LANE: u64 = 0;

impl Watch {
    pub(crate) fn new(connection: Connection) -> Result<Watch> {
        let os = |source| Error::Os {
            service: connection.name().clone(),
            doing: "watch the service",
            source,
        };
        let news = News::of(connection.registry(), connection.name()).map_err(os)?;
        Ok(Watch { connection, news, lane: None, said: None })
    }

    /// The next event; `None` once the deadline has passed.
    ///
    /// # Errors
    ///
    /// Whatever looking the service up may meet but [`Error::NotFound`].
    pub fn next(&mut self, deadline: impl Into<Deadline>) -> Result<Option<ServiceEvent>> {
        let clock = Clock::new(deadline.into());
        loop {
            let now = self.look()?;
            if self.said != Some(now) {
                self.said = Some(now);
                return Ok(Some(now));
            }
            if clock.over() {
                return Ok(None);
            }
            let os = |source| Error::Os {
                service: self.connection.name().clone(),
                doing: "watch the service",
                source,
            };
            self.news.wait(clock.left()).map_err(os)?;
        }
    }

    fn look(&mut self) -> Result<ServiceEvent> {
        let os = |source| Error::Os {
            service: self.connection.name().clone(),
            doing: "watch the service",
            source,
        };
        if let Some(lane) = &self.lane {
            // What else happens must not keep the descriptor readable.
            self.news.rest();
            if lane.drain().is_ok() && !lane.is_dead() && !lane.is_cut() {
                return Ok(ServiceEvent::Came);
            }
            let _ = self.news.poll().remove(lane.socket());
            self.lane = None;
            if self.said == Some(ServiceEvent::Came) {
                return Ok(ServiceEvent::Went);
            }
        }
        self.news.refresh();
        match self.connection.lane(&Clock::new(Deadline::After(Duration::from_secs(1)))) {
            Ok(lane) => {
                self.news.poll().add(lane.socket(), LANE).map_err(os)?;
                self.lane = Some(lane);
                Ok(ServiceEvent::Came)
            }
            Err(Error::NotFound { .. }) => Ok(ServiceEvent::Went),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.news.poll().as_fd()
    }
}
