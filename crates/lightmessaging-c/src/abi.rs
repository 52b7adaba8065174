//! The layout of what C programs see, and reading and writing it. An unsafe room.
//!
//! The structures are those of 64-bit Darwin, byte for byte (`mach/message.h`), and the headers
//! assert the same offsets. It promises the others: what a caller's pointer leads to is read and
//! written here and nowhere else, within the size that the type in the header has.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_void};
use std::mem::{offset_of, size_of};
use std::sync::atomic::AtomicU32;

use lightmessaging::{INLINE_MAX, Payload, Peer, Response};

/// A number that stands for a right: a connection, a reply to be sent, a service.
pub(crate) type Port = u32;
/// `MACH_PORT_NULL`.
pub(crate) const NULL: Port = 0;
/// `MACH_PORT_DEAD`.
pub(crate) const DEAD: Port = !0;

/// `name_t`: a name and the NUL behind it.
pub(crate) const NAME_ROOM: usize = 128;
/// Where the payload of an inline message begins.
const BYTES: usize = 32;
/// The largest message but its trailer: what `LMBufferSizeForLength` gives for 4096 bytes.
const SIZE_MAX: usize = size_of::<Message>() + INLINE_MAX;
/// `MAX_TRAILER_SIZE`.
const TRAILER_MAX: usize = 68;

/// `mach_msg_trailer_t`: a kind and a size.
const SHORT_TRAILER: [u32; 2] = [0, 8];

/// `MACH_MSGH_BITS_COMPLEX`: there is an out-of-line descriptor.
const COMPLEX: u32 = 0x8000_0000;
/// `MACH_MSG_TYPE_MOVE_SEND_ONCE`, as the kind of the reply port.
const SEND_ONCE: u32 = 18;
/// `MACH_MSG_OOL_DESCRIPTOR` and `MACH_MSG_VIRTUAL_COPY` in their places.
const OUT_OF_LINE: u32 = 1 << 24 | 1 << 8;

/// `LMConnection`.
#[repr(C)]
pub(crate) struct Connection {
    pub(crate) server_port: AtomicU32,
    name: [c_char; NAME_ROOM],
}

/// `mach_msg_header_t`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Head {
    bits: u32,
    size: u32,
    remote_port: Port,
    local_port: Port,
    /// `msgh_voucher_port`: the token of an out-of-line payload.
    token: u32,
    id: i32,
}

/// `mach_msg_ool_descriptor_t`, as on a 64-bit machine.
#[repr(C, packed(4))]
#[derive(Clone, Copy, Default)]
struct Descriptor {
    address: u64,
    kind: u32,
    size: u32,
}

/// `LMMessage`, with the out-of-line member of its union.
#[repr(C, packed(4))]
#[derive(Clone, Copy, Default)]
pub(crate) struct Message {
    head: Head,
    descriptors: u32,
    descriptor: Descriptor,
}

/// `LMResponseBuffer`.
#[repr(C, align(4))]
pub(crate) struct Buffer([u8; SIZE_MAX + TRAILER_MAX]);

/// `mach_msg_audit_trailer_t`; the original's clients ask for the first two fields only.
#[repr(C)]
#[derive(Clone, Copy)]
struct Trailer {
    kind: u32,
    size: u32,
    seqno: u32,
    sender: [u32; 2],
    audit: [u32; 8],
}

/// `LMPeer`.
#[repr(C)]
pub(crate) struct PeerOut {
    pid: i32,
    uid: u32,
    gid: u32,
    pidfd: i32,
}

/// `LMIntroduction`: C strings, or null.
#[repr(C)]
pub(crate) struct IntroductionOut {
    pub(crate) application: *const c_char,
    pub(crate) cgroup: *const c_char,
    pub(crate) label: *const c_char,
}

/// `LMView`.
#[repr(C)]
pub(crate) struct View {
    pub(crate) data: *const c_void,
    pub(crate) length: u32,
    pub(crate) token: u32,
}

/// `CFMachPortCallBack`. A C++ exception that leaves it ends the program.
pub(crate) type Callback =
    unsafe extern "C-unwind" fn(*mut c_void, *mut c_void, isize, *mut c_void);

const _: () = {
    assert!(size_of::<Connection>() == 132);
    assert!(size_of::<Head>() == 24);
    assert!(size_of::<Message>() == 44);
    assert!(offset_of!(Message, descriptors) == 24);
    assert!(offset_of!(Message, descriptor) == 28);
    assert!(offset_of!(Descriptor, size) == 12);
    assert!(size_of::<Buffer>() == 4208);
    assert!(size_of::<Trailer>() == 52 && size_of::<Trailer>() <= TRAILER_MAX);
};

/// An out-of-line payload in private memory.
#[derive(Clone, Copy)]
pub(crate) struct OutOfLine {
    pub(crate) address: usize,
    pub(crate) len: usize,
    pub(crate) token: u32,
}

/// What a received message is made of.
pub(crate) enum Contents<'a> {
    Inline(Payload<'a>),
    OutOfLine(OutOfLine),
}

/// What stands in the header of a received message.
#[derive(Clone, Copy, Default)]
pub(crate) struct Envelope {
    pub(crate) id: i32,
    /// Where to reply; `NULL` for a one-way message and for a reply.
    pub(crate) reply_port: Port,
    /// The service's own port.
    pub(crate) local_port: Port,
}

/// Who sent a message, and how many came before it.
pub(crate) struct Sender<'a> {
    pub(crate) peer: &'a Peer,
    pub(crate) seqno: u32,
}

/// Writes a received message, its trailer behind it, and returns its size (`msgh_size`).
///
/// # Safety
///
/// `buffer` leads to a whole `LMResponseBuffer` that nobody else uses.
#[inline]
pub(crate) unsafe fn write(
    buffer: *mut Buffer,
    envelope: Envelope,
    contents: &Contents<'_>,
    sender: Option<Sender<'_>>,
) -> usize {
    let base = buffer.cast::<u8>();
    let mut head = Head {
        bits: if envelope.reply_port == NULL { 0 } else { SEND_ONCE },
        size: size_of::<Message>() as u32,
        remote_port: envelope.reply_port,
        local_port: envelope.local_port,
        id: envelope.id,
        ..Head::default()
    };
    let mut message = Message::default();
    let size = match contents {
        Contents::Inline(payload) => {
            let len = payload.len().min(INLINE_MAX);
            let size = (size_of::<Message>() + len).next_multiple_of(4);
            head.size = size as u32;
            message.head = head;
            // SAFETY: the buffer is whole, by the caller's word.
            unsafe { base.cast::<Message>().write_unaligned(message) };
            // SAFETY: as above; the length stands before the bytes.
            let length = unsafe { base.add(BYTES - 4) }.cast::<u32>();
            // SAFETY: as above.
            unsafe { length.write_unaligned(len as u32) };
            // Zero to the end: whoever takes the bytes for a string finds it terminated, and no
            // byte of an earlier message shows. At most 15 bytes.
            // SAFETY: `size` is at most SIZE_MAX, and less than 16 more than `BYTES + len`.
            let tail = unsafe { base.add(BYTES + len) };
            // SAFETY: as above.
            unsafe { tail.write_bytes(0, size - BYTES - len) };
            // SAFETY: `BYTES + len` is within the buffer, and nobody else uses it.
            let bytes = unsafe { base.add(BYTES) };
            // SAFETY: as above.
            let bytes = unsafe { std::slice::from_raw_parts_mut(bytes, len) };
            payload.read_at(0, bytes);
            size
        }
        Contents::OutOfLine(memory) => {
            head.bits |= COMPLEX;
            head.token = memory.token;
            message.head = head;
            message.descriptors = 1;
            message.descriptor = Descriptor {
                address: memory.address as u64,
                kind: OUT_OF_LINE,
                size: memory.len as u32,
            };
            // SAFETY: the buffer is whole, by the caller's word.
            unsafe { base.cast::<Message>().write_unaligned(message) };
            size_of::<Message>()
        }
    };
    // SAFETY: the buffer has room for a trailer behind the largest message.
    let trailer = unsafe { base.add(size) };
    match sender {
        Some(Sender { peer, seqno }) => {
            let (uid, gid) = (peer.uid(), peer.gid());
            let trailer_out = Trailer {
                kind: 0,
                size: size_of::<Trailer>() as u32,
                seqno,
                sender: [uid, gid],
                // audit, effective and real user and group, process, session, version
                audit: [!0, uid, gid, uid, gid, peer.pid(), 0, 0],
            };
            // SAFETY: as above.
            unsafe { trailer.cast::<Trailer>().write_unaligned(trailer_out) };
        }
        None => {
            // SAFETY: as above.
            unsafe { trailer.cast::<[u32; 2]>().write_unaligned(SHORT_TRAILER) };
        }
    }
    size
}

/// [`write`] into a buffer of our own.
pub(crate) fn write_own(
    buffer: &mut Buffer,
    envelope: Envelope,
    contents: &Contents<'_>,
    sender: Sender<'_>,
) -> usize {
    // SAFETY: a whole buffer, and borrowed by us alone.
    unsafe { write(buffer, envelope, contents, Some(sender)) }
}

/// Calls a program's callback with a message of ours.
pub(crate) fn call_back(
    callback: Callback,
    port: Port,
    buffer: &mut Buffer,
    size: usize,
    info: usize,
) {
    let port = std::ptr::without_provenance_mut(port as usize);
    let info = std::ptr::with_exposed_provenance_mut(info);
    // SAFETY: the program gave it to us as a function of this type, and the buffer outlives the
    // call.
    unsafe { callback(port, std::ptr::from_mut(buffer).cast(), size as isize, info) };
}

/// Where a response's bytes are, to be read in place: the program has taken the contract of
/// `as_slice` upon itself.
pub(crate) fn in_place_of_response(response: &Response) -> (usize, usize) {
    // SAFETY: no reference to the bytes is kept, only their address.
    let bytes = unsafe { response.as_slice() };
    (bytes.as_ptr().expose_provenance(), bytes.len())
}

/// Where a message's bytes are, as [`in_place_of_response`].
pub(crate) fn in_place_of_message(message: &lightmessaging::Message) -> (usize, usize) {
    // SAFETY: as above.
    let bytes = unsafe { message.as_slice() };
    (bytes.as_ptr().expose_provenance(), bytes.len())
}

/// Makes a response buffer an empty message, as it is after an error.
///
/// # Safety
///
/// As [`write`], or null.
pub(crate) unsafe fn clear(buffer: *mut Buffer) {
    if buffer.is_null() {
        return;
    }
    let head = Head { size: size_of::<Message>() as u32, ..Head::default() };
    // SAFETY: the buffer is whole, by the caller's word.
    unsafe { buffer.cast::<Message>().write_unaligned(Message { head, ..Message::default() }) };
    // SAFETY: as above; the trailer follows.
    let trailer = unsafe { buffer.cast::<u8>().add(size_of::<Message>()) };
    // SAFETY: as above.
    unsafe { trailer.cast::<[u32; 2]>().write_unaligned(SHORT_TRAILER) };
}

/// The out-of-line payload that a message claims to have.
///
/// # Safety
///
/// `message` leads to 44 bytes.
pub(crate) unsafe fn claimed(message: *const Message) -> Option<OutOfLine> {
    // SAFETY: by the caller's word.
    let message = unsafe { message.read_unaligned() };
    let Descriptor { address, kind, size } = message.descriptor;
    let is_out_of_line = message.descriptors != 0 && kind >> 24 == OUT_OF_LINE >> 24;
    is_out_of_line.then_some(OutOfLine {
        address: address as usize,
        len: size as usize,
        token: message.head.token,
    })
}

/// Marks a message as one whose out-of-line payload is gone: it is empty now.
///
/// # Safety
///
/// As [`claimed`], and nobody else uses it.
pub(crate) unsafe fn disclaim(message: *mut Message) {
    // SAFETY: by the caller's word.
    let mut copy = unsafe { message.read_unaligned() };
    copy.head.bits &= !COMPLEX;
    copy.head.token = 0;
    copy.descriptors = 0;
    copy.descriptor = Descriptor::default();
    // SAFETY: as above.
    unsafe { message.write_unaligned(copy) };
}

/// The connection behind a pointer; `None` for null.
///
/// # Safety
///
/// Null, or it leads to 132 bytes that stay until the call returns. Others may use the port.
#[inline]
pub(crate) unsafe fn connection<'a>(connection: *mut Connection) -> Option<&'a Connection> {
    // SAFETY: by the caller's word; the port is only used as an atomic, and the name is not
    // written by anybody who keeps to the header's contract.
    unsafe { connection.as_ref() }
}

impl Connection {
    /// The bytes of its name: up to the NUL, or all of them, which is too long for a name.
    #[inline]
    pub(crate) fn name(&self) -> &[u8] {
        let bytes: &[c_char; NAME_ROOM] = &self.name;
        // SAFETY: `c_char` and `u8` have the same layout.
        let bytes = unsafe { &*std::ptr::from_ref(bytes).cast::<[u8; NAME_ROOM]>() };
        // SAFETY: it reads at most NAME_ROOM bytes of the array.
        let len = unsafe { libc::strnlen(bytes.as_ptr().cast(), NAME_ROOM) };
        &bytes[..len]
    }
}

/// The bytes of a `name_t`: up to the NUL, or 128 of them, which is too long for a name.
///
/// # Safety
///
/// Null, or a C string.
pub(crate) unsafe fn name<'a>(name: *const c_char) -> &'a [u8] {
    if name.is_null() {
        return &[];
    }
    // SAFETY: a C string, of which no more than NAME_ROOM bytes are looked at.
    let len = unsafe { libc::strnlen(name, NAME_ROOM) };
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts(name.cast(), len) }
}

/// A payload to send; null is an empty one.
///
/// # Safety
///
/// Null, or `length` bytes that nobody writes until the call returns.
#[inline]
pub(crate) unsafe fn payload<'a>(data: *const c_void, length: usize) -> &'a [u8] {
    if data.is_null() || length == 0 {
        return &[];
    }
    // SAFETY: by the caller's word.
    unsafe { std::slice::from_raw_parts(data.cast(), length) }
}

/// Writes what a pointer leads to, if it leads anywhere.
///
/// # Safety
///
/// Null, or room for a `T` of the caller's.
pub(crate) unsafe fn put<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: by the caller's word.
        unsafe { to.write_unaligned(value) };
    }
}

impl PeerOut {
    pub(crate) fn new(peer: &Peer, pidfd: i32) -> PeerOut {
        PeerOut { pid: peer.pid() as i32, uid: peer.uid(), gid: peer.gid(), pidfd }
    }
}

impl Buffer {
    pub(crate) fn new() -> Box<Buffer> {
        Box::new(Buffer([0; SIZE_MAX + TRAILER_MAX]))
    }
}
