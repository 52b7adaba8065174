//! The wire format spoken by hand, as PROTOCOL.md has it, so that it can be spoken wrongly.
#![allow(unsafe_code, dead_code)]

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{EventfdFlags, PollFd, PollFlags, poll};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

pub const HELLO: u16 = 1;
pub const WELCOME: u16 = 2;
pub const REFUSE: u16 = 3;
pub const BELL: u16 = 4;
pub const REGION: u16 = 5;
pub const REGION_GONE: u16 = 6;
pub const ANNEX: u16 = 12;

/// A section list: kind, offset, length.
pub type Sections = Vec<(u32, u32, u32)>;

pub const SEALS: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE).union(SealFlags::SEAL);

/// What a true client's memory looks like: control, words, lines, the first room; in the annex the other
/// rooms and the ring.
pub const CLIENT: [(u32, u32, u32); 6] =
    [(1, 0, 512), (6, 512, 64), (2, 576, 512), (7, 1088, 4096), (3, 0, 28672), (4, 28672, 65536)];
pub const CLIENT_LEN: usize = 8192;
pub const CLIENT_ROOM: usize = 1088;
pub const CLIENT_ANNEX: usize = 94_208;
pub const CLIENT_RING: usize = 28_672;

/// What a true service's memory looks like: control, words, lines, taken, the first room; in the annex
/// the other rooms.
pub const SERVICE: [(u32, u32, u32); 6] =
    [(1, 0, 512), (6, 512, 512), (2, 1024, 512), (5, 1536, 64), (7, 1600, 4096), (3, 0, 28672)];
pub const SERVICE_LEN: usize = 8192;

pub fn packet(kind: u16, numbers: &[u32]) -> Vec<u8> {
    versioned(1, kind, numbers)
}

pub fn versioned(version: u16, kind: u16, numbers: &[u32]) -> Vec<u8> {
    let mut bytes = b"LtMs".to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
    bytes
}

pub fn greeting(kind: u16, sections: &[(u32, u32, u32)]) -> Vec<u8> {
    let mut numbers = vec![sections.len() as u32];
    sections.iter().for_each(|(kind, offset, len)| numbers.extend([*kind, *offset, *len]));
    packet(kind, &numbers)
}

/// Shared memory that this side writes.
pub struct Memory {
    pub fd: OwnedFd,
    base: *mut u8,
    len: usize,
}

// SAFETY: the mapping belongs to it alone.
unsafe impl Send for Memory {}

impl Memory {
    pub fn new(len: usize) -> Memory {
        Memory::with(len, len, SEALS)
    }

    /// With so much of it really there, and these seals.
    pub fn with(len: usize, filled: usize, seals: SealFlags) -> Memory {
        let fd = rustix::fs::memfd_create("lies", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .unwrap();
        rustix::fs::ftruncate(&fd, len as u64).unwrap();
        if filled > 0 {
            rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, filled as u64).unwrap();
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping touches nobody's memory.
        let base = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), len.max(1), protection, MapFlags::SHARED, &fd, 0)
        };
        rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
        Memory { fd, base: base.unwrap().cast(), len }
    }

    pub fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.len);
        for (n, byte) in bytes.iter().enumerate() {
            // SAFETY: in bounds by the check above.
            let to = unsafe { self.base.add(at + n) };
            // SAFETY: mapped and writable.
            unsafe { to.write_volatile(*byte) };
        }
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    }

    pub fn u32(&self, at: usize, value: u32) {
        self.write(at, &value.to_ne_bytes());
    }

    pub fn u64(&self, at: usize, value: u64) {
        self.write(at, &value.to_ne_bytes());
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped.
        unsafe { rustix::mm::munmap(self.base.cast(), self.len.max(1)) }.unwrap();
    }
}

pub fn bell() -> OwnedFd {
    rustix::event::eventfd(1, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

pub fn ring(bell: impl AsFd) {
    rustix::io::write(bell, &0u64.to_ne_bytes()).unwrap();
}

fn socket() -> OwnedFd {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .unwrap()
}

pub fn connect(path: &Path) -> OwnedFd {
    let socket = socket();
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

pub fn listen(path: &Path) -> OwnedFd {
    let socket = socket();
    rustix::net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    rustix::net::listen(&socket, 16).unwrap();
    socket
}

pub fn send(socket: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(250))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    // The victim may have hung up already.
    let _ = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
}

/// One packet and what came with it; no bytes at the end.
pub fn receive(socket: &OwnedFd) -> (Vec<u8>, Vec<OwnedFd>) {
    let mut bytes = vec![0; 1024];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut fds = Vec::new();
    let len = match rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    ) {
        Ok(received) => received.bytes,
        Err(rustix::io::Errno::CONNRESET) => 0,
        Err(error) => panic!("{error}"),
    };
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    bytes.truncate(len);
    (bytes, fds)
}

/// Waits until the other side has closed the connection.
pub fn wait_for_the_end(socket: &OwnedFd) {
    let mut fds = [PollFd::new(socket, PollFlags::RDHUP)];
    let timeout = rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 };
    assert!(poll(&mut fds, Some(&timeout)).unwrap() > 0, "the connection was not closed");
}

/// A client that has said a true hello and was welcomed.
pub struct Liar {
    pub socket: OwnedFd,
    pub memory: Memory,
    pub annex: Memory,
    pub service_bell: OwnedFd,
    pub own_bell: OwnedFd,
    seq: u64,
}

impl Liar {
    pub fn new(path: &Path) -> Liar {
        let liar = Liar::without_annex(path);
        liar.extend();
        liar
    }

    /// One that has yet to show its annex.
    pub fn without_annex(path: &Path) -> Liar {
        let socket = connect(path);
        let (memory, annex) = (Memory::new(CLIENT_LEN), Memory::new(CLIENT_ANNEX));
        let (service_bell, own_bell) = (bell(), bell());
        let fds = [memory.fd.as_fd(), service_bell.as_fd(), own_bell.as_fd()];
        send(&socket, &greeting(HELLO, &CLIENT), &fds);
        let (welcome, fds) = receive(&socket);
        assert_eq!(welcome[6..8], WELCOME.to_le_bytes());
        assert_eq!(fds.len(), 1);
        Liar { socket, memory, annex, service_bell, own_bell, seq: 0 }
    }

    /// Shows its annex.
    pub fn extend(&self) {
        send(&self.socket, &packet(ANNEX, &[0]), &[self.annex.fd.as_fd()]);
    }

    pub fn next(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    pub fn ring(&self) {
        ring(&self.service_bell);
    }

    /// Publishes a call in a slot.
    pub fn call(&mut self, slot: usize, len: u32, region: u32, loan: u64) {
        let line = 576 + 64 * slot;
        self.memory.u32(line + 12, 1);
        self.memory.u32(line + 16, len);
        self.memory.u32(line + 20, region);
        self.memory.u64(line + 24, loan);
        let seq = self.next();
        self.memory.u64(512 + 8 * slot, seq);
        self.ring();
    }

    /// Writes a record at the beginning of the ring and publishes a tail.
    pub fn record(&mut self, len: u32, region: u32, tail: u64) {
        let seq = self.next();
        self.annex.u32(CLIENT_RING, seq as u32);
        self.annex.u32(CLIENT_RING + 4, 1);
        self.annex.u32(CLIENT_RING + 8, len);
        self.annex.u32(CLIENT_RING + 12, region);
        self.memory.u64(0, tail);
        self.ring();
    }

    /// Makes a region known.
    pub fn region(&self, number: u32, memory: &Memory) {
        send(&self.socket, &packet(REGION, &[number, 0]), &[memory.fd.as_fd()]);
    }
}
