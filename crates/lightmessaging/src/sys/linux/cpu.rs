//! Which core this thread runs on. An unsafe room: one call into the C library.
#![allow(unsafe_code)]

/// The core this thread runs on, plus one: 0 is left to mean "asleep".
///
/// The C library's `sched_getcpu(3)` reads the kernel's restartable-sequence area where there is
/// one, which costs a nanosecond; the vDSO's costs ten.
#[inline]
pub(crate) fn core() -> u32 {
    // SAFETY: the function takes nothing and touches only this thread's own state.
    let core = unsafe { libc::sched_getcpu() };
    // Unknown (-1, on kernels without the call) becomes a core that is never the peer's.
    if core < 0 { u32::MAX } else { core as u32 + 1 }
}
