//! A file system of the test's own, which is answered as the test likes (`fuse(4)`).

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

/// Opens the device, and the root of a file system behind it. Only root can.
pub fn mount() -> (File, OwnedFd) {
    let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let fs = rustix::mount::fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    let number = device.as_fd().as_raw_fd().to_string();
    for (key, value) in
        [("fd", number.as_str()), ("rootmode", "40000"), ("user_id", "0"), ("group_id", "0")]
    {
        rustix::mount::fsconfig_set_string(&fs, key, value).unwrap();
    }
    rustix::mount::fsconfig_create(&fs).unwrap();
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let root = rustix::mount::fsmount(&fs, flags, MountAttrFlags::empty()).unwrap();
    (device, root)
}
