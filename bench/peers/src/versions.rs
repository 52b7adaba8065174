//! The versions of everything that is compared.

use crate::peers;

/// The peers' crates, as the lock file has them.
const CRATES: [&str; 10] = [
    "iceoryx2",
    "interprocess",
    "ipc-channel",
    "lightmessaging",
    "nng-sys",
    "tokio",
    "tokio-util",
    "tonic",
    "zbus",
    "zmq",
];

/// One line for each.
pub fn all() -> Vec<String> {
    let lock = include_str!("../Cargo.lock");
    let mut versions: Vec<String> = CRATES
        .iter()
        .filter_map(|name| {
            let package = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?.1;
            Some(format!("{name} {}", package.split_once('"')?.0))
        })
        .collect();
    versions.extend(peers::system_versions());
    versions
}
