//! A lane's shared memory: what lies where, and the only code that touches it.

pub(crate) mod layout;
pub(crate) mod lease;
pub(crate) mod mapping;
pub(crate) mod region;
pub(crate) mod ring;
