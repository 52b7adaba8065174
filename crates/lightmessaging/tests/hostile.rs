//! Peers that break the protocol: it costs them their connection, is counted, and nothing else.

mod common;
#[path = "common/executor.rs"]
mod executor;
#[path = "common/lies.rs"]
mod lies;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Sender, channel};

use common::{Folder, HANG, Running, descriptors, play};
use executor::Set;
use lies::*;
use lightmessaging::{Connection, Error};
use rustix::fs::SealFlags;

#[test]
fn role() {
    play(&[]);
}

struct Victim {
    folder: Folder,
    running: Option<Running>,
    before: usize,
}

impl Victim {
    fn new() -> Victim {
        let folder = Folder::new();
        let service = folder.service("x").start(|request| {
            let (message, reply) = request.split();
            let _ = reply.reply(message.data());
        });
        let before = descriptors(std::process::id());
        Victim { folder, running: Some(Running::new(service.unwrap())), before }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("x")
    }

    /// It serves those who behave.
    fn is_well(&self) {
        let connection = self.folder.connect("x");
        for len in [10, 10_000] {
            let sent = common::pattern(len);
            assert!(connection.send_two_way(1, &sent).unwrap().data() == sent);
        }
    }

    /// It counted so many, and has its descriptors back.
    fn has_counted(mut self, malformed: u64) {
        self.is_well();
        common::until(|| self.folder.registry().services().unwrap()[0].connections == 0);
        common::until(|| descriptors(std::process::id()) <= self.before + 1);
        let stats = self.running.take().unwrap().stop();
        assert_eq!((stats.malformed, stats.busy), (malformed, 0));
    }
}

// These count descriptors of the whole process, so they run one after the other.
static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[test]
fn a_true_hello_by_hand_is_welcome() {
    let _alone = alone();
    let victim = Victim::new();
    let mut liar = Liar::new(&victim.path());
    liar.memory.write(CLIENT_ROOM, b"hello");
    liar.call(0, 5, 0, 0);
    victim.is_well();
    liar.record(0, 0, 16);
    victim.is_well();
    drop(liar);
    victim.has_counted(0);
}

#[test]
fn a_malformed_hello_is_refused() {
    let _alone = alone();
    let victim = Victim::new();
    let without = |n: usize| {
        CLIENT.iter().copied().enumerate().filter(|(i, _)| *i != n).map(|(_, s)| s).collect()
    };
    let with = |n: usize, section: (u32, u32, u32)| -> Sections {
        let mut sections = CLIENT.to_vec();
        sections[n] = section;
        sections
    };
    let mut packets: Vec<Vec<u8>> = vec![
        b"G".to_vec(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0; 500],
        vec![0xff; 4000],
        packet(HELLO, &[]),
        packet(HELLO, &[5]),
        packet(HELLO, &[u32::MAX]),
        packet(WELCOME, &[0]),
        packet(BELL, &[0]),
        packet(REGION, &[0]),
        packet(99, &[0]),
    ];
    let wrong: Vec<Sections> = vec![
        without(0),
        without(1),
        without(2),
        without(3),
        without(4),
        without(5),
        with(0, (1, 0, 64)),
        with(0, (1, 4, 512)),
        with(0, (1, u32::MAX - 63, 512)),
        with(1, (6, 512, 8)),
        with(2, (2, 576, 0)),
        with(2, (2, 576, 65 * 64)),
        with(3, (7, 1088, 64)),
        with(3, (7, 8192 - 4032, 4096)),
        with(4, (3, 0, 4096)),
        with(5, (4, 28672, 1000)),
        with(5, (4, 28672, 65536 - 64)),
        with(5, (4, 28672, 1 << 31)),
    ];
    packets.extend(wrong.iter().map(|sections| greeting(HELLO, sections)));
    let count = packets.len() as u64;
    for bytes in packets {
        let socket = connect(&victim.path());
        let (memory, one, two) = (Memory::new(CLIENT_LEN), bell(), bell());
        send(&socket, &bytes, &[memory.fd.as_fd(), one.as_fd(), two.as_fd()]);
        wait_for_the_end(&socket);
        victim.is_well();
    }
    victim.has_counted_or_busy(count);
}

impl Victim {
    /// A packet too long to be read whole counts as one that could not be received.
    fn has_counted_or_busy(mut self, count: u64) {
        self.is_well();
        common::until(|| descriptors(std::process::id()) <= self.before + 1 + 3);
        let stats = self.running.take().unwrap().stop();
        assert_eq!(stats.malformed + stats.busy, count);
        assert!(stats.busy <= 1);
    }
}

#[test]
fn wrong_descriptors_are_refused() {
    let _alone = alone();
    let victim = Victim::new();
    let hello = greeting(HELLO, &CLIENT);
    let good = Memory::new(CLIENT_LEN);
    let (one, two) = (bell(), bell());
    let file: OwnedFd = tempfile::tempfile().unwrap().into();
    let (pipe, _other) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let unsealed = Memory::with(CLIENT_LEN, CLIENT_LEN, SealFlags::empty());
    let growing = Memory::with(CLIENT_LEN, CLIENT_LEN, SEALS - SealFlags::GROW);
    let shrinking = Memory::with(CLIENT_LEN, CLIENT_LEN, SEALS - SealFlags::SHRINK);
    let writable = Memory::with(CLIENT_LEN, CLIENT_LEN, SEALS - SealFlags::FUTURE_WRITE);
    let small = Memory::new(CLIENT_LEN - 4096);
    let empty = Memory::with(CLIENT_LEN, 0, SEALS);
    let holes = Memory::with(CLIENT_LEN, 4096, SEALS);
    let memories = [&unsealed, &growing, &shrinking, &writable, &small, &empty, &holes];
    let mut wrong: Vec<Vec<_>> =
        memories.iter().map(|m| vec![m.fd.as_fd(), one.as_fd(), two.as_fd()]).collect();
    wrong.push(vec![]);
    wrong.push(vec![good.fd.as_fd()]);
    wrong.push(vec![good.fd.as_fd(), one.as_fd()]);
    wrong.push(vec![good.fd.as_fd(), one.as_fd(), two.as_fd(), file.as_fd()]);
    wrong.push(vec![one.as_fd(), good.fd.as_fd(), two.as_fd()]);
    for other in [&file, &pipe, &good.fd] {
        wrong.push(vec![good.fd.as_fd(), other.as_fd(), two.as_fd()]);
        wrong.push(vec![good.fd.as_fd(), one.as_fd(), other.as_fd()]);
    }
    for other in [&file, &pipe] {
        wrong.push(vec![other.as_fd(), one.as_fd(), two.as_fd()]);
    }
    let count = wrong.len() as u64;
    for fds in wrong {
        let socket = connect(&victim.path());
        send(&socket, &hello, &fds);
        wait_for_the_end(&socket);
        victim.is_well();
    }
    // So many that they cannot be received: whether refused or cut off, they are closed again.
    let socket = connect(&victim.path());
    send(&socket, &hello, &[file.as_fd(); 250]);
    wait_for_the_end(&socket);
    drop(socket);
    victim.is_well();
    let own = descriptors(std::process::id());
    let mut victim = victim;
    let stats = victim.running.take().unwrap().stop();
    assert!(descriptors(std::process::id()) <= own);
    assert_eq!(stats.malformed + stats.busy, count + 1);
}

#[test]
fn lies_in_a_lane_cost_it_and_nothing_else() {
    let _alone = alone();
    let victim = Victim::new();
    let region = Memory::new(65536);
    let region = &region;
    type Lie<'a> = (&'a str, Box<dyn Fn(&mut Liar) + 'a>);
    let lies: Vec<Lie<'_>> = vec![
        ("a tail beyond the ring", Box::new(|l| l.record(0, 0, 1 << 40))),
        ("a tail that is not aligned", Box::new(|l| l.record(0, 0, 8))),
        (
            "a tail that goes back",
            Box::new(|l| {
                l.record(0, 0, 16);
                l.memory.u64(0, 0);
                l.ring();
                l.memory.u64(0, u64::MAX);
                l.ring();
            }),
        ),
        ("a record longer than was published", Box::new(|l| l.record(64, 0, 16))),
        ("a record longer than can be", Box::new(|l| l.record(60_000, 0, 65536))),
        ("a record of all bits", Box::new(|l| l.record(u32::MAX, 0, 65536))),
        (
            "a message that is not the next",
            Box::new(|l| {
                l.next();
                l.record(0, 0, 16);
            }),
        ),
        ("a skip of everything", Box::new(|l| l.record(0, u32::MAX, 65536))),
        ("a record in a region that was never sent", Box::new(|l| l.record(5000, 1, 32))),
        ("a record in a region that cannot be", Box::new(|l| l.record(5000, 1000, 32))),
        ("a call that is too long", Box::new(|l| l.call(0, 4097, 0, 0))),
        ("a call of all bits", Box::new(|l| l.call(7, u32::MAX, 0, 0))),
        ("a call in a region that was never sent", Box::new(|l| l.call(0, 5000, 1, 1))),
        ("a call in a region that cannot be", Box::new(|l| l.call(0, 5000, u32::MAX, 1))),
        (
            "a loan that was made before",
            Box::new(move |l| {
                l.region(0, region);
                l.call(0, 5000, 1, 1);
                let _ = receive(&l.socket);
                l.call(1, 5000, 1, 1);
            }),
        ),
        (
            "a loan of a region that had the number before",
            Box::new(move |l| {
                l.region(0, region);
                l.call(0, 5000, 1, 7 << 32);
            }),
        ),
        (
            "a payload longer than its region",
            Box::new(move |l| {
                l.region(0, region);
                l.call(0, 65537, 1, 1);
            }),
        ),
        ("a region that cannot be", Box::new(move |l| l.region(32, region))),
        (
            "a region without its descriptor",
            Box::new(|l| send(&l.socket, &packet(REGION, &[0, 0]), &[])),
        ),
        (
            "a region that is unsealed",
            Box::new(|l| l.region(0, &Memory::with(8192, 8192, SealFlags::empty()))),
        ),
        (
            "a region that is empty",
            Box::new(|l| {
                send(&l.socket, &packet(REGION, &[0, 0]), &[l.own_bell.as_fd()]);
            }),
        ),
        (
            "a bell for a slot that is not there",
            Box::new(|l| {
                send(&l.socket, &packet(BELL, &[9]), &[bell().as_fd()]);
            }),
        ),
        (
            "a bell that is none",
            Box::new(move |l| {
                send(&l.socket, &packet(BELL, &[1]), &[region.fd.as_fd()]);
            }),
        ),
        ("a second bell", Box::new(|l| send(&l.socket, &packet(BELL, &[0]), &[bell().as_fd()]))),
        ("a second annex", Box::new(|l| l.extend())),
        ("a second hello", Box::new(|l| send(&l.socket, &greeting(HELLO, &CLIENT), &[]))),
        ("a service's packet", Box::new(|l| send(&l.socket, &greeting(WELCOME, &SERVICE), &[]))),
        ("garbage", Box::new(|l| send(&l.socket, &[7; 100], &[]))),
        (
            "descriptors that nobody asked for",
            Box::new(|l| {
                send(&l.socket, &packet(REGION_GONE, &[0]), &[l.own_bell.as_fd()]);
            }),
        ),
    ];
    for (lie, tell) in &lies {
        println!("{lie}");
        let mut liar = Liar::new(&victim.path());
        tell(&mut liar);
        wait_for_the_end(&liar.socket);
        victim.is_well();
    }
    let count = lies.len() as u64;
    drop(lies);
    victim.has_counted_or_busy(count);
}

#[test]
fn memory_that_was_never_sent_is_not_looked_into() {
    let _alone = alone();
    let victim = Victim::new();
    type Lie = fn(&mut Liar);
    let lies: [(&str, Lie); 4] = [
        ("a record without a ring", |l| l.record(0, 0, 16)),
        ("a call without its room", |l| l.call(7, 5, 0, 0)),
        ("an annex that is too small", |l| {
            let small = Memory::new(CLIENT_ANNEX - 4096);
            send(&l.socket, &packet(ANNEX, &[0]), &[small.fd.as_fd()]);
        }),
        ("an annex with holes", |l| {
            let holes = Memory::with(CLIENT_ANNEX, CLIENT_RING, SEALS);
            send(&l.socket, &packet(ANNEX, &[0]), &[holes.fd.as_fd()]);
        }),
    ];
    for (lie, tell) in &lies {
        println!("{lie}");
        let mut liar = Liar::without_annex(&victim.path());
        tell(&mut liar);
        wait_for_the_end(&liar.socket);
        victim.is_well();
    }
    victim.has_counted(lies.len() as u64);
}

#[test]
fn another_version_is_told_ours_and_both_go_on() {
    let _alone = alone();
    let mut victim = Victim::new();
    let socket = connect(&victim.path());
    let (memory, one, two) = (Memory::new(CLIENT_LEN), bell(), bell());
    let fds = [memory.fd.as_fd(), one.as_fd(), two.as_fd()];
    send(&socket, &versioned(2, HELLO, &[1, 77, 0, 0]), &fds);
    let (answer, _) = receive(&socket);
    assert_eq!(answer[..8], versioned(1, REFUSE, &[])[..]);
    wait_for_the_end(&socket);
    victim.is_well();
    assert_eq!(victim.running.take().unwrap().stop().version, 1);
}

#[test]
fn scribbling_over_the_whole_memory_harms_nobody() {
    let _alone = alone();
    let victim = Victim::new();
    let mut random = 1u64;
    let mut next = move || {
        // xorshift, so that a failure can be had again.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for _ in 0..30 {
        let mut liar = Liar::new(&victim.path());
        liar.region(0, &Memory::new(65536));
        for _ in 0..300 {
            let at = (next() as usize % (CLIENT_LEN / 8)) * 8;
            let at = if next() % 2 == 0 { at % 1100 / 8 * 8 } else { at };
            let value = if next() % 2 == 0 { next() % 64 } else { next() };
            liar.memory.u64(at, value);
            liar.annex.u64((next() as usize % (CLIENT_ANNEX / 8)) * 8, next());
            if next() % 4 == 0 {
                liar.call(next() as usize % 8, next() as u32 % 8192, next() as u32 % 3, next() % 9);
            }
            liar.ring();
        }
        victim.is_well();
    }
    victim.is_well();
}

/// A service that answers each connection's hello as it is told to, once.
fn fake(
    folder: &Folder,
    answer: impl FnOnce(&OwnedFd, Vec<OwnedFd>) + Send + 'static,
) -> Sender<()> {
    let path = folder.path().join("x");
    let _ = std::fs::remove_file(&path);
    let listener = listen(&path);
    let (sender, end) = channel::<()>();
    std::thread::spawn(move || {
        let socket = rustix::net::accept(&listener).unwrap();
        let (hello, fds) = receive(&socket);
        assert_eq!(hello[6..8], HELLO.to_le_bytes());
        answer(&socket, fds);
        drop(listener);
        // Until the test is over.
        let _ = end.recv();
    });
    sender
}

fn welcome(socket: &OwnedFd) -> Memory {
    let memory = Memory::new(SERVICE_LEN);
    send(socket, &greeting(WELCOME, &SERVICE), &[memory.fd.as_fd()]);
    memory
}

/// Answers the first call in slot 0. The client rings for nothing and has nothing to be rung: it looks
/// once it was welcomed.
fn reply(socket: &OwnedFd, status: u32, len: u32, region: u32, loan: u64) {
    let memory = Memory::new(SERVICE_LEN);
    memory.u32(1024, status);
    memory.u32(1028, len);
    memory.u32(1032, region);
    memory.u64(1040, loan);
    memory.u64(512, 1);
    send(socket, &greeting(WELCOME, &SERVICE), &[memory.fd.as_fd()]);
}

type Lie = Box<dyn FnOnce(&OwnedFd, Vec<OwnedFd>) + Send>;

/// What a service may say that is not true.
fn lies_of_a_service() -> Vec<(&'static str, Lie)> {
    vec![
        ("garbage", Box::new(|s, _| send(s, b"no", &[]))),
        ("no descriptor", Box::new(|s, _| send(s, &greeting(WELCOME, &SERVICE), &[]))),
        (
            "an unsealed memfd",
            Box::new(|s, _| {
                let memory = Memory::with(SERVICE_LEN, SERVICE_LEN, SealFlags::empty());
                send(s, &greeting(WELCOME, &SERVICE), &[memory.fd.as_fd()]);
            }),
        ),
        (
            "a memfd that is too small",
            Box::new(|s, _| {
                let memory = Memory::new(4096);
                send(s, &greeting(WELCOME, &SERVICE), &[memory.fd.as_fd()]);
            }),
        ),
        (
            "other slots",
            Box::new(|s, _| {
                let sections = [
                    (1, 0, 512),
                    (6, 512, 64),
                    (2, 1024, 64),
                    (5, 1536, 64),
                    (7, 1600, 4096),
                    (3, 0, 0),
                ];
                send(s, &greeting(WELCOME, &sections), &[Memory::new(SERVICE_LEN).fd.as_fd()]);
            }),
        ),
        ("an answer that is too long", Box::new(|s, _| reply(s, 0, 4097, 0, 0))),
        ("an answer of unknown kind", Box::new(|s, _| reply(s, 9, 0, 0, 0))),
        ("an answer in no region", Box::new(|s, _| reply(s, 0, 5000, 1, 1))),
        ("an answer in a region that cannot be", Box::new(|s, _| reply(s, 0, 5000, 99, 1))),
        (
            "an annex before the welcome",
            Box::new(|s, _| send(s, &packet(ANNEX, &[0]), &[Memory::new(28672).fd.as_fd()])),
        ),
        (
            "an annex that is too small",
            Box::new(|s, _| {
                welcome(s);
                send(s, &packet(ANNEX, &[0]), &[Memory::new(4096).fd.as_fd()]);
            }),
        ),
        ("a refusal", Box::new(|s, _| send(s, &packet(REFUSE, &[2]), &[]))),
        (
            "two welcomes",
            Box::new(|s, _| {
                welcome(s);
                welcome(s);
            }),
        ),
    ]
}

/// A connection to a service for each lie that it may tell; nothing is left of it afterwards.
fn hear_lies(each: impl Fn(&str, &Connection)) {
    let _alone = alone();
    let folder = Folder::new();
    let before = descriptors(std::process::id());
    for (lie, tell) in lies_of_a_service() {
        println!("{lie}");
        let end = fake(&folder, tell);
        let connection = folder.connection("x").deadline(HANG).build().unwrap();
        each(lie, &connection);
        drop((end, connection));
        common::until(|| descriptors(std::process::id()) <= before);
    }
}

#[test]
fn a_client_survives_a_service_that_lies() {
    hear_lies(|lie, connection| {
        let error = connection.send_two_way(1, b"hello").unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{lie}: {error}");
    });
}

#[test]
fn futures_survive_a_service_that_lies() {
    hear_lies(|lie, connection| {
        let events = connection.events().unwrap();
        let calls = (0..20).map(|_| connection.send_two_way_async(1, b"hello"));
        let errors: Vec<_> =
            Set::new(&events, calls).join().into_iter().map(Result::unwrap_err).collect();
        // The one that heard it says so; for the others there is nobody any more.
        let is_told = |error: &Error| matches!(error, Error::Malformed { .. });
        assert!(errors.iter().any(is_told), "{lie}: {errors:?}");
    });
}

#[test]
fn a_service_that_breaks_the_protocol_loses_futures_that_wait_for_room() {
    let _alone = alone();
    let folder = Folder::new();
    let (sender, ended) = channel();
    let _end = fake(&folder, move |s, _| {
        let _memory = welcome(s);
        std::thread::sleep(std::time::Duration::from_millis(20));
        send(s, b"no", &[]);
        wait_for_the_end(s);
        sender.send(()).unwrap();
    });
    let connection = folder.connection("x").deadline(HANG).build().unwrap();
    let events = connection.events().unwrap();
    let posts = (0..200).map(|_| connection.send_one_way_async(1, [0; 1000]));
    let sent = Set::new(&events, posts).join();
    assert!(sent.iter().any(|sent| matches!(sent, Err(Error::Malformed { .. }))), "{sent:?}");
    ended.recv_timeout(HANG).expect("the lane was not closed");
    drop(connection);
}

#[test]
fn a_client_learns_of_another_version_and_of_a_service_that_hangs_up() {
    let _alone = alone();
    let folder = Folder::new();
    let _end = fake(&folder, |s, _| send(s, &versioned(7, REFUSE, &[1]), &[]));
    let error = folder.connect("x").send_two_way(1, []).unwrap_err();
    assert!(matches!(error, Error::Version { theirs: 7, .. }), "{error}");
    let path = folder.path().join("x");
    let _ = std::fs::remove_file(&path);
    let listener = listen(&path);
    std::thread::spawn(move || drop(rustix::net::accept(&listener).unwrap()));
    let error = folder.connect("x").send_two_way(1, []).unwrap_err();
    assert!(matches!(error, Error::NotDelivered { .. } | Error::NotFound { .. }), "{error}");
}

#[test]
fn a_ring_position_that_cannot_be_true_ends_the_lane() {
    let _alone = alone();
    let folder = Folder::new();
    let (sender, done) = channel();
    let _end = fake(&folder, move |s, _| {
        let memory = welcome(s);
        memory.u64(0, 1 << 50);
        sender.send(memory).unwrap();
        wait_for_the_end(s);
    });
    let connection = folder.connection("x").deadline(HANG).build().unwrap();
    let error = (0..1000).find_map(|_| connection.send_one_way(1, [0; 1000]).err());
    assert!(matches!(error, Some(Error::Malformed { .. })), "{error:?}");
    drop(done);
}

#[test]
fn a_service_that_breaks_the_protocol_loses_a_client_that_waits_for_room() {
    let _alone = alone();
    let folder = Folder::new();
    let (sender, ended) = channel();
    let _end = fake(&folder, move |s, fds| {
        let _memory = welcome(s);
        // Until the client says in its memory that it waits for room.
        common::until(|| {
            let mut awake = [0; 4];
            rustix::io::pread(&fds[0], &mut awake, 64).unwrap();
            u32::from_ne_bytes(awake) == 1
        });
        send(s, b"no", &[]);
        wait_for_the_end(s);
        sender.send(()).unwrap();
    });
    let connection = folder.connection("x").deadline(HANG).build().unwrap();
    let error = (0..1000).find_map(|_| connection.send_one_way(1, [0; 1000]).err());
    assert!(matches!(error, Some(Error::Malformed { .. })), "{error:?}");
    ended.recv_timeout(HANG).expect("the lane was not closed");
    drop(connection);
}
