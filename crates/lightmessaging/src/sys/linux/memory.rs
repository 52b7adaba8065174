//! Shared memory that its writer cannot take away: sealed memfds (`memfd_create(2)`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::limit;
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};

/// The peer cannot shrink, grow, write anew (and so punch holes), or change any of that.
const SEALS: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE).union(SealFlags::SEAL);

/// Makes memory of `len` bytes, all of it there, not yet sealed: map it for writing, then [`seal`].
pub(crate) fn create(len: usize) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_NOEXEC_SEAL keeps a hardened kernel (vm.memfd_noexec) content; older kernels (before
    // 6.3) do not know it.
    let make = |flags| limit::within(|| rustix::fs::memfd_create("lightmessaging", flags));
    let fd = match make(flags | MemfdFlags::NOEXEC_SEAL) {
        Err(rustix::io::Errno::INVAL) => make(flags)?,
        other => other?,
    };
    rustix::fs::ftruncate(&fd, len as u64)?;
    rustix::io::retry_on_intr(|| {
        rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, len as u64)
    })?;
    Ok(fd)
}

/// Seals memory, once its owner has mapped it.
pub(crate) fn seal(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::fcntl_add_seals(fd, SEALS)?)
}

/// Checks memory that a peer has sent and returns its length in bytes.
///
/// The seals come first: any other call on a descriptor of the peer's choice may block on a file
/// system of the peer's choice; one that has seals is a memfd.
pub(crate) fn check(fd: impl AsFd) -> Result<u64, &'static str> {
    let fd = fd.as_fd();
    let seals = rustix::fs::fcntl_get_seals(fd).map_err(|_| "a descriptor that is no memfd")?;
    if !seals.contains(SEALS) {
        return Err("a memfd without its seals");
    }
    let stat = rustix::fs::fstat(fd).map_err(|_| "a memfd that cannot be inspected")?;
    let len = u64::try_from(stat.st_size).map_err(|_| "a memfd of negative size")?;
    if stat.st_blksize as u64 != rustix::param::page_size() as u64 {
        return Err("a memfd of huge pages");
    }
    // Holes would let our reads allocate memory (st_blocks counts 512 bytes each).
    if (stat.st_blocks as u64).saturating_mul(512) < len {
        return Err("a memfd with holes");
    }
    Ok(len)
}
