//! The numbers that stand for connections, replies and services, as ports did in Mach.
//!
//! A number is given out once in 2^32 times, whatever it stood for, and looked up on every use: a
//! stale, a doubled or an invented one leads nowhere.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use lightmessaging::{ClientId, Loan, Registry, Reply, Result, StopHandle};

use crate::abi::{DEAD, NULL, Port};
use crate::connection::Entry;
use crate::{fork, lock};

/// A two-way request that waits for its reply.
pub(crate) struct Waiting {
    pub(crate) reply: Reply,
    pub(crate) service: Port,
}

/// A service that was started.
pub(crate) struct Started {
    pub(crate) name: Arc<[u8]>,
    /// Where it is found under that name.
    pub(crate) registry: Registry,
    pub(crate) stop: StopHandle,
    /// A forked child has none of its parent's services.
    pub(crate) epoch: u64,
}

/// Everything that has a number.
#[derive(Default)]
pub(crate) struct Rights {
    numbers: u32,
    pub(crate) connections: ByPort<Arc<Entry>>,
    /// The connections by what is looked up: a name, and the timeout that was set for it.
    pub(crate) known: HashMap<(Arc<[u8]>, Option<u32>), Port>,
    waiting: ByPort<Waiting>,
    pub(crate) services: ByPort<Started>,
}

type ByPort<T> = HashMap<Port, T, BuildHasherDefault<AsIs>>;

/// The numbers are scattered already.
#[derive(Default)]
pub(crate) struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0 << 8 | u64::from(*byte);
        }
    }
    fn write_u32(&mut self, number: u32) {
        // The table looks at the highest bits and at the lowest.
        self.0 = u64::from(number) << 32 | u64::from(number);
    }
}

static RIGHTS: LazyLock<Mutex<Rights>> = LazyLock::new(fork::guarded);

/// The table, locked. No callback is called and nothing is sent while it is.
#[inline]
pub(crate) fn table() -> MutexGuard<'static, Rights> {
    lock(&RIGHTS)
}

impl Rights {
    /// A number that nothing has.
    pub(crate) fn number(&mut self) -> Port {
        loop {
            self.numbers = self.numbers.wrapping_add(1);
            // A bijection, so that numbers which were made up are not met by chance.
            let number = self.numbers.wrapping_mul(0x9e37_79b1).rotate_left(15) ^ 0x4c4d_0000;
            let taken = self.connections.contains_key(&number)
                || self.waiting.contains_key(&number)
                || self.services.contains_key(&number);
            if ![NULL, DEAD].contains(&number) && !taken {
                return number;
            }
        }
    }

    /// A number for a reply that is owed.
    pub(crate) fn owe(&mut self, waiting: Waiting) -> Port {
        let number = self.number();
        self.waiting.insert(number, waiting);
        number
    }

    /// The reply that is owed under a number, once.
    pub(crate) fn redeem(&mut self, number: Port) -> Option<Waiting> {
        self.waiting.remove(&number)
    }

    /// Lends memory for the reply that is owed under a number. Under the lock, so that nobody who asks
    /// for the number meanwhile takes it for a stale one; it takes long only when there is new memory
    /// to be made.
    pub(crate) fn alloc(&self, number: Port, len: usize) -> Option<Result<Loan>> {
        self.waiting.get(&number).map(|waiting| waiting.reply.alloc(len))
    }

    /// Whether somebody still waits for the reply.
    pub(crate) fn is_wanted(&self, number: Port) -> Option<bool> {
        self.waiting.get(&number).map(|waiting| !waiting.reply.is_cancelled())
    }

    /// Takes out what services that have ended owe to clients that have gone since: nobody tells of
    /// those any more. Asks the system about each of them.
    pub(crate) fn forget_orphans(&mut self) -> Vec<Waiting> {
        let services = &self.services;
        let orphaned = |_: &Port, waiting: &mut Waiting| {
            !services.contains_key(&waiting.service) && waiting.reply.is_cancelled()
        };
        self.waiting.extract_if(orphaned).map(|(_, waiting)| waiting).collect()
    }

    /// Takes out what is owed to a client that has gone.
    pub(crate) fn forget_client(&mut self, service: Port, client: ClientId) -> Vec<Waiting> {
        let gone = |_: &Port, w: &mut Waiting| w.service == service && w.reply.client() == client;
        self.waiting.extract_if(gone).map(|(_, waiting)| waiting).collect()
    }
}
