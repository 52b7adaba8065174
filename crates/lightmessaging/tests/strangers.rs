//! Clients of another user: kept out unless let in, and never mapped.

mod common;

use std::os::unix::fs::PermissionsExt;

use common::{Folder, Running, pattern, play, tell};
use lightmessaging::{Connection, Error, Service};

/// Nobody in particular.
const STRANGER: u32 = 54_321;

#[test]
fn role() {
    play(&[("stranger", stranger), ("lender", lender), ("host", host)]);
}

/// Calls with payloads of several sizes, and tells what became of it.
fn stranger(_: &[String]) {
    let connection = Connection::new("x").unwrap();
    for len in [0, 100, 5000, 300_000] {
        let sent = pattern(len);
        match connection.send_two_way(1, &sent) {
            Ok(response) => {
                assert!(response.data() == sent);
                assert!(response.payload().to_vec() == sent);
            }
            Err(Error::Denied { reason, .. }) => return tell(format!("denied: {reason}")),
            Err(error) => return tell(error),
        }
    }
    tell("served");
}

/// Calls with loans, and is answered on loan.
fn lender(_: &[String]) {
    let connection = Connection::new("x").unwrap();
    for len in [0, 100, 5000, 300_000] {
        let sent = pattern(len);
        let mut loan = connection.alloc(len).unwrap();
        loan.copy_from_slice(&sent);
        let response = connection.send_two_way(1, loan).unwrap();
        assert!(response.payload().to_vec() == sent);
        assert!(response.data() == sent);
    }
    tell("served");
}

/// A service that lets everybody in, in a process of its own, whose regions are counted: it tells of each
/// message whose it is, its length, and how many there are.
fn host(_: &[String]) {
    let service = Service::builder("x").mode(0o666).start(|request| {
        let uid = request.peer().uid();
        let (message, reply) = request.split();
        tell(format!("{uid} {} {}", message.len(), mapped()));
        let _ = reply.reply(message.data());
    });
    tell("ready");
    service.unwrap().run().unwrap();
}

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("skipped: only root can start a process of another user");
    }
    is_root
}

/// How many regions this process has mapped.
fn mapped() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains("memfd:lightmessaging")).count()
}

#[test]
fn another_user_is_kept_out_by_the_folder_and_by_the_socket() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    let service = folder.service("x").start(|request| drop(request.reply([])));
    let _running = Running::new(service.unwrap());
    let stranger = folder.start_as(STRANGER, "stranger", &[]);
    assert!(stranger.line().starts_with("denied: "), "the folder is closed");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let stranger = folder.start_as(STRANGER, "stranger", &[]);
    stranger.expect("denied: its socket is not open to this user");
}

#[test]
fn another_user_who_is_let_in_is_served_and_its_payloads_are_not_mapped() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let host = folder.serve("host", &[]);
    let mut stranger = folder.start_as(STRANGER, "stranger", &[]);
    stranger.expect("served");
    stranger.finish();
    let mut regions = Vec::new();
    for len in [0, 100, 5000, 300_000] {
        let line = host.line();
        let told: Vec<usize> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        assert_eq!(told[..2], [STRANGER as usize, len]);
        regions.push(told[2]);
    }
    // The reply to the third has a region of our own; the stranger's two are not there.
    assert!(regions[3] <= regions[0] + 1, "{regions:?}");
}

#[test]
fn another_user_sends_and_receives_loans() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let service = folder.service("x").mode(0o666).start(|request| {
        let mut loan = request.alloc_reply(request.len()).unwrap();
        assert_eq!(request.payload().read_at(0, &mut loan), request.len());
        request.reply(loan).unwrap();
    });
    let _running = Running::new(service.unwrap());
    let mut stranger = folder.start_as(STRANGER, "lender", &[]);
    stranger.expect("served");
    stranger.finish();
}
