//! Memory to fill in place and to send: what the receiver reads is what was written here.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use crate::lane::Lane;
use crate::shm::lease::{Draft, Written};
use crate::shm::region::{Blank, Lent};

/// Memory that the receiver will read where it is, to be filled and sent: nothing is copied.
///
/// [`Connection::alloc`](crate::Connection::alloc) gives one for a message,
/// [`Request::alloc_reply`](crate::Request::alloc_reply) and [`Reply::alloc`](crate::Reply::alloc) one
/// for a reply. It is sent as anything else is, by any of the functions that send, and always out of
/// line, however short it is. Dropped unsent, it goes back at once.
///
/// ```
/// # use lightmessaging::{Connection, Registry, Service};
/// # let folder = tempfile::tempdir().unwrap();
/// # let registry = Registry::at(folder.path());
/// # let mut service = Service::builder("com.example.canvas").registry(registry.clone()).start(|request| {
/// #     let len = request.len().to_string();
/// #     let _ = request.reply(len);
/// # })?;
/// # let stop = service.stop_handle();
/// # let serving = std::thread::spawn(move || service.run());
/// # let canvas = Connection::builder("com.example.canvas").registry(registry).build()?;
/// let mut frame = canvas.alloc(1920 * 1080 * 4)?;
/// for row in frame.chunks_mut(1920 * 4) {
///     row.fill(0xff);
/// }
/// let response = canvas.send_two_way(1, frame)?;
/// assert_eq!(response.data(), b"8294400");
/// # stop.stop();
/// # serving.join().unwrap()?;
/// # Ok::<(), lightmessaging::Error>(())
/// ```
///
/// The bytes of a fresh loan are whatever an earlier message of the same connection and direction left
/// there, or zeroes. No other peer has ever seen that memory.
///
/// A loan may outlive its connection and its service. Sent on another connection, or to an instance of
/// the service that came later, it arrives all the same: then its bytes are copied, as others are.
/// While it lives it counts among the 32 large payloads that a direction of a connection may have out.
///
/// In a forked child a loan of its parent's is empty, and is sent as such; slices that were taken of it
/// before the fork lead to the parent's memory, and are not to be used.
pub struct Loan {
    /// Of which lane the region is. It does not keep the lane: whoever drops the connection has left.
    lane: Weak<Lane>,
    lent: Lent,
    /// Nothing once it has been finished.
    draft: Option<Draft>,
    len: usize,
}

impl Loan {
    pub(crate) fn new(lane: &Arc<Lane>, blank: Blank, len: usize) -> Loan {
        Loan { lane: Arc::downgrade(lane), lent: blank.lent, draft: Some(blank.memory), len }
    }

    /// Cuts it to `len` bytes, for when fewer are to be sent than were asked for. Does nothing if there
    /// are no more than that.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Ends the writing; what is left to do is to send it.
    pub(crate) fn finish(mut self) -> Parcel {
        Parcel {
            lane: std::mem::take(&mut self.lane),
            lent: self.lent,
            written: self.draft.take().map(Draft::finish),
            len: self.len,
            handed_over: AtomicBool::new(false),
        }
    }
}

impl Deref for Loan {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.draft.as_ref().map_or(&[], |draft| draft.bytes(self.len))
    }
}

impl DerefMut for Loan {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.draft.as_mut().map_or(&mut [], |draft| draft.bytes_mut(self.len))
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if self.draft.take().is_some()
            && let Some(lane) = self.lane.upgrade()
        {
            lane.unlend(self.lent);
        }
    }
}

impl fmt::Debug for Loan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loan").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// A loan that is being sent: it is read only, and its region may have been named in a message.
#[derive(Debug)]
pub struct Parcel {
    lane: Weak<Lane>,
    lent: Lent,
    /// Nothing once it is being dropped.
    written: Option<Written>,
    len: usize,
    handed_over: AtomicBool,
}

impl Parcel {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.written.as_ref().map_or(&[], |written| written.bytes(self.len))
    }

    /// The region, if it is one of this lane's that no message has named yet.
    pub(crate) fn region(&self, lane: &Arc<Lane>) -> Option<Lent> {
        let is_here = std::ptr::eq(self.lane.as_ptr(), Arc::as_ptr(lane)) && lane.is_ours();
        (is_here && !self.is_handed_over()).then_some(self.lent)
    }

    pub(crate) fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Relaxed);
    }

    fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Relaxed)
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        // Before whoever waits for a region looks again.
        self.written = None;
        let Some(lane) = self.lane.upgrade() else { return };
        if self.is_handed_over() {
            // The peer may have handed it back already, to nobody's use while it was read here.
            lane.wake_own();
        } else {
            lane.unlend(self.lent);
        }
    }
}
