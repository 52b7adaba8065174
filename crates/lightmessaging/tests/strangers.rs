//! Clients of another user: kept out unless let in, and never mapped.

mod common;

use std::os::unix::fs::PermissionsExt;

use common::{Folder, Running, pattern, play, tell};
use lightmessaging::{Connection, Error};

/// Nobody in particular.
const STRANGER: u32 = 54_321;

#[test]
fn role() {
    play(&[("stranger", stranger), ("lender", lender)]);
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
    let (sender, seen) = std::sync::mpsc::channel();
    let service = folder.service("x").mode(0o666).start(move |request| {
        let peer = request.peer().clone();
        let (message, reply) = request.split();
        sender.send((peer.uid(), message.len(), mapped())).unwrap();
        let _ = reply.reply(message.data());
    });
    let _running = Running::new(service.unwrap());
    let mut stranger = folder.start_as(STRANGER, "stranger", &[]);
    stranger.expect("served");
    stranger.finish();
    let seen: Vec<_> = seen.try_iter().collect();
    assert_eq!(seen.iter().map(|(_, len, _)| *len).collect::<Vec<_>>(), [0, 100, 5000, 300_000]);
    assert!(seen.iter().all(|(uid, _, _)| *uid == STRANGER));
    let before = seen[0].2;
    // The reply to the third has a region of our own; the stranger's two are not there.
    assert!(seen[3].2 <= before + 1, "{seen:?}");
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
