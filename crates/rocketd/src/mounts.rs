//! Which kind of file system something lies on, without asking that file system.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags, Statx};

/// How much of `mountinfo` is read, in bytes: a process can have any number of mounts.
const MOUNTS_MAX: u64 = 1 << 20;

/// The kind of file system that an open file lies on, by its status with the mount, as the mounts of a
/// process tell, by its folder in `/proc`. `None` if they cannot be read, `Some(None)` if it is not among
/// them.
pub(crate) fn kind(process: impl AsFd, status: &Statx) -> Option<Option<String>> {
    let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mounts = rustix::fs::openat(process, "mountinfo", flags, Mode::empty()).ok()?;
    let mounts = BufReader::new(File::from(mounts).take(MOUNTS_MAX));
    let device = format!("{}:{}", status.stx_dev_major, status.stx_dev_minor);
    Some(type_in(mounts, status.stx_mnt_id, &device))
}

/// The type of the file system that is mounted by this number or from this device, from the lines of
/// `proc_pid_mountinfo(5)`. Both are the file system's as long as somebody has a file of it open.
fn type_in(mut lines: impl BufRead, mount: u64, device: &str) -> Option<String> {
    let mount = mount.to_string();
    let mut line = Vec::new();
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line).ok()? == 0 {
            return None;
        }
        // Spaces in paths are escaped, so that nobody can write a field of this line.
        let mut fields = line.split(|byte| *byte == b' ');
        let is_mount = fields.next() == Some(mount.as_bytes());
        let is_device = fields.nth(1) == Some(device.as_bytes());
        if is_mount || is_device {
            let name = fields.skip_while(|field| *field != b"-").nth(1)?;
            return String::from_utf8(name.to_vec()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_is_known_by_its_mount_or_its_device() {
        let lines = "64 42 0:39 /newroot / rw,nosuid - tmpfs tmpfs rw\n\
            65 64 254:0 /usr /usr ro,nosuid shared:1 master:2 - ext4 /dev/vda rw\n\
            66 64 0:40 / /a\\040-\\040tmpfs rw - fuse.sshfs x rw\n\
            67 64\n68";
        let find = |mount, device| type_in(lines.as_bytes(), mount, device);
        assert_eq!(find(64, "9:9").as_deref(), Some("tmpfs"));
        assert_eq!(find(1, "254:0").as_deref(), Some("ext4"));
        assert_eq!(find(66, "9:9").as_deref(), Some("fuse.sshfs"));
        assert_eq!(find(67, "9:9"), None);
        assert_eq!(find(1, "9:9"), None);
    }

    #[test]
    fn no_line_is_too_strange_to_be_read() {
        let line = b"64 42 0:39 /newroot / rw,nosuid - tmpfs tmpfs rw\n";
        for byte in 0..=255 {
            for at in 0..line.len() {
                let mut line = line.to_vec();
                line[at] = byte;
                let _ = type_in(&line[..], 64, "0:39");
                let _ = type_in(&line[..at], 64, "0:39");
            }
        }
    }
}
