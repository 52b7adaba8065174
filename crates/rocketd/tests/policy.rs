//! The policy as it is read and changed, and what rocketd says when it cannot go on.

mod kit;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use kit::common::{ECHO, HANG, Process, play, until};
use kit::lies::{connect, receive, send};
use kit::{Home, ROLES, STRANGER, as_user, failed, is_root, until_called};
use lightmessaging::rocketd::{No, Rocket};
use lightmessaging::{Error, ServiceName};
use rustix::process::Signal;

#[test]
fn role() {
    play(&ROLES);
}

const DENY: &str = "[[deny]]\nnames = '*'\n";

/// A service that is unlocked, and reached.
fn open(home: &Home) -> Process {
    let service = home.serve("open", "unlocked");
    until_called(home, "open", "ok");
    service
}

#[test]
fn a_policy_counts_as_soon_as_it_is_written() {
    let home = Home::new();
    let _rocketd = home.rocketd();
    let _open = open(&home);
    // In place, by another file that takes its place, and in a folder that was replaced.
    home.policy(DENY);
    until_called(&home, "open", "Denied ");
    let replace = |text: &str| {
        let new = home.place.path().join("new.toml");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, PermissionsExt::from_mode(0o644)).unwrap();
        fs::rename(new, home.policy_file()).unwrap();
    };
    replace("");
    until_called(&home, "open", "ok");
    replace(DENY);
    until_called(&home, "open", "Denied ");
    replace("hide_denied = true\n[[deny]]\nnames = '*'");
    until_called(&home, "open", "NotFound ");
}

#[test]
fn a_policy_is_read_again_on_sighup() {
    let home = Home::new();
    let rocketd = home.rocketd();
    let _open = open(&home);
    // A link to a folder that is not watched.
    let elsewhere = home.place.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::set_permissions(&elsewhere, PermissionsExt::from_mode(0o755)).unwrap();
    let file = elsewhere.join("policy.toml");
    let write = |text: &str| {
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    };
    write("");
    fs::remove_file(home.policy_file()).unwrap();
    std::os::unix::fs::symlink(&file, home.policy_file()).unwrap();
    until_called(&home, "open", "ok");
    write(DENY);
    rocketd.signal(Signal::HUP);
    until_called(&home, "open", "Denied ");
    write("");
    rocketd.signal(Signal::HUP);
    until_called(&home, "open", "ok");
}

#[test]
fn a_broken_policy_leaves_the_old_one_and_is_said_to_be_broken() {
    let home = Home::new();
    home.policy(DENY);
    let rocketd = home.rocketd();
    let _open = home.serve("open", "unlocked");
    until_called(&home, "open", "Denied ");
    home.policy("# all for everybody\n[[deny]]\nname = '*'");
    let place = format!("{}, line 3, column 1: unknown field `name`", home.policy_file().display());
    rocketd.wait_for(&place);
    rocketd.wait_for("; the policy stays as it was");
    assert!(home.call("open").starts_with("Denied "));
    home.policy("default = ");
    rocketd.wait_for("line 1, column 11: ");
    assert!(home.call("open").starts_with("Denied "));
    fs::remove_file(home.policy_file()).unwrap();
    rocketd.wait_for("policy.toml does not exist; the policy stays as it was");
    assert!(home.call("open").starts_with("Denied "));
    home.policy("");
    until_called(&home, "open", "ok");
    // Others may have written this one.
    let mode =
        |mode| fs::set_permissions(home.policy_file(), PermissionsExt::from_mode(mode)).unwrap();
    mode(0o666);
    fs::write(home.policy_file(), DENY).unwrap();
    rocketd.wait_for("policy.toml may be written by others (mode 0666); use chmod go-w");
    assert_eq!(home.call("open"), "ok x");
    mode(0o644);
    rocketd.signal(Signal::HUP);
    until_called(&home, "open", "Denied ");
}

#[test]
fn who_waits_is_connected_once_the_policy_lets_it() {
    let home = Home::new();
    home.policy(&format!("hide_denied = true\n{DENY}"));
    let _rocketd = home.rocketd();
    let _open = home.serve("open", "unlocked");
    let mut client = home.client();
    client.say("wait open");
    for _ in 0..20 {
        assert!(home.call("open").starts_with("NotFound "));
    }
    assert!(client.is_quiet());
    home.policy("");
    client.expect("ok x");
}

#[test]
fn a_service_that_may_not_unlock_its_name_may_once_the_policy_lets_it() {
    if !is_root("a service of another user") {
        return;
    }
    let home = Home::new();
    let _rocketd = home.rocketd();
    let folder = kit::common::Folder::new();
    rustix::fs::chown(folder.path(), Some(rustix::fs::Uid::from_raw(STRANGER)), None).unwrap();
    let socket = home.socket();
    let arguments = [folder.path().to_str().unwrap(), socket.to_str().unwrap(), "x", "unlocked"];
    let service = folder.start_as(STRANGER, "serve", &arguments);
    service.expect("ready");
    assert!(home.call("x").starts_with("NotFound "));
    home.policy(&format!("[[unlock]]\nnames = 'x'\nuid = {STRANGER}"));
    until_called(&home, "x", "ok");
    home.policy("");
    until_called(&home, "x", "NotFound ");
}

/// What comes of so many look-ups at once.
fn look_ups(home: &Home, name: &str, wait: bool, count: usize) -> Vec<std::os::fd::OwnedFd> {
    let question = Rocket::LookUp { name: ServiceName::new(name).unwrap(), wait }.encode();
    let ask = |_| {
        let socket = connect(&home.socket());
        send(&socket, &question, &[]);
        socket
    };
    (0..count).map(ask).collect()
}

#[test]
fn a_client_has_only_so_many_connections_at_once() {
    let home = Home::new();
    home.policy("[quota]\nlanes = 3");
    let _rocketd = home.rocketd();
    let _open = home.serve("open", "unlocked");
    let connection = || home.connect("open");
    let call = |connection: &lightmessaging::Connection| {
        connection.send_two_way_within(ECHO, "x", Duration::from_millis(200)).map(drop)
    };
    until_called(&home, "open", "ok");
    let mut three: Vec<_> = (0..3).map(|_| connection()).collect();
    for each in &three {
        each.send_two_way(ECHO, "x").unwrap();
    }
    let fourth = connection();
    let error = call(&fourth).unwrap_err();
    assert!(matches!(error, Error::TimedOut { delivered: false, .. }), "{}", failed(&error));
    // Whoever waits gets the place of one that goes, and those who are there do not notice.
    three.pop();
    fourth.send_two_way(ECHO, "x").unwrap();
    assert!(call(&connection()).is_err());
    for each in &three {
        each.send_two_way(ECHO, "x").unwrap();
    }
}

#[test]
fn a_client_looks_up_only_so_often() {
    let home = Home::new();
    home.policy("[quota]\nlookups_per_second = 20");
    let _rocketd = home.rocketd();
    let _open = home.serve("open", "unlocked");
    until_called(&home, "open", "ok");
    let began = Instant::now();
    let mut found = 0;
    for socket in look_ups(&home, "open", false, 500) {
        let (bytes, _) = receive(&socket);
        match Rocket::decode(&bytes) {
            Ok(Rocket::Found) => found += 1,
            other => assert_eq!(other, Ok(Rocket::No(No::TooMuch))),
        }
    }
    // Twice a second's at once, and what has come in since.
    let most = 41 + (20.0 * began.elapsed().as_secs_f64()) as usize;
    assert!((1..=most).contains(&found), "{found}, not up to {most}");
    // Whoever has time gets there.
    assert_eq!(home.call("open"), "ok x");
}

#[test]
fn a_client_waits_for_only_so_many_services_at_once() {
    let home = Home::new();
    home.policy("[quota]\nopen_lookups = 2");
    let _rocketd = home.rocketd();
    let mut waiting = look_ups(&home, "late", true, 3);
    let third = waiting.pop().unwrap();
    assert_eq!(Rocket::decode(&receive(&third).0), Ok(Rocket::No(No::TooMuch)));
    // The others have not been answered, and one that goes makes room.
    waiting.pop();
    until(|| {
        let [socket] = &look_ups(&home, "late", true, 1)[..] else { panic!() };
        let mut fds = [rustix::event::PollFd::new(socket, rustix::event::PollFlags::IN)];
        let while_ = rustix::event::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        rustix::event::poll(&mut fds, Some(&while_)).unwrap() == 0
    });
    let _late = home.serve("late", "unlocked");
    let (bytes, fds) = receive(&waiting[0]);
    assert_eq!((Rocket::decode(&bytes), fds.len()), (Ok(Rocket::Found), 1));
}

/// What rocketd says when it ends at once.
fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rocketd"));
    command.args(arguments).env_remove("LIGHTMESSAGING_ROCKETD");
    command.output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_policy_can_be_checked() {
    let home = Home::new();
    let path = home.policy_file();
    let path = path.to_str().unwrap();
    home.policy(DENY);
    let output = run(&["--check", path]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{path} is a good policy\n"));
    home.policy("[[deny]]\nnames = 'a['");
    let output = run(&["--check", path]);
    assert_eq!(output.status.code(), Some(1));
    let place = format!("rocketd: {path}, line 2, column 9: not a pattern: ");
    assert!(stderr(&output).starts_with(&place), "{}", stderr(&output));
    let output = run(&["--check", "/nowhere/at/all"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "rocketd: /nowhere/at/all does not exist\n");
}

#[test]
fn wrong_arguments_are_said_to_be_wrong() {
    for (arguments, what) in [
        (&["--mode", "999"][..], "not a mode, such as 0660"),
        (&["--mode"], "a value is required"),
        (&["--no-such"], "unexpected argument '--no-such'"),
        (&["and", "more"], "unexpected argument 'and'"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(what), "{arguments:?}: {}", stderr(&output));
    }
    let help = run(&["--help"]);
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("policy.toml") && !help.contains("become-service"), "{help}");
}

/// Starts rocketd and returns the sentence it ends with.
fn refusal(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    stderr(&output).lines().last().unwrap().to_owned()
}

#[test]
fn what_keeps_rocketd_from_listening_is_said() {
    let home = Home::new();
    let socket = home.socket();
    let socket = socket.display();
    // A policy that was named must be there.
    fs::remove_file(home.policy_file()).unwrap();
    let sentence = format!("rocketd: {} does not exist", home.policy_file().display());
    assert_eq!(refusal(home.command()), sentence);
    home.policy("default = 'all'");
    let said = refusal(home.command());
    assert!(said.contains("policy.toml, line 1, column 11: "), "{said}");
    home.policy("");
    // A folder where anybody could put a socket in its place.
    fs::set_permissions(home.run(), PermissionsExt::from_mode(0o777)).unwrap();
    let sentence =
        format!("rocketd: cannot listen at {socket}: others may write its folder; use chmod go-w");
    assert_eq!(refusal(home.command()), sentence);
    fs::set_permissions(home.run(), PermissionsExt::from_mode(0o755)).unwrap();
    // Another one.
    let mut rocketd = home.rocketd();
    let sentence = format!(
        "rocketd: cannot listen at {socket}: another rocketd does already; stop that one first"
    );
    assert_eq!(refusal(home.command()), sentence);
    let _open = open(&home);
    assert!(rocketd.stop().success());
    // Something else by that name.
    fs::create_dir(home.socket()).unwrap();
    let said = refusal(home.command());
    assert!(said.starts_with(&format!("rocketd: cannot listen at {socket}: ")), "{said}");
    fs::remove_dir(home.socket()).unwrap();
    assert_eq!(fs::read_dir(home.run()).unwrap().count(), 0, "it has left something behind");
    let mut nowhere = Command::new(env!("CARGO_BIN_EXE_rocketd"));
    nowhere.args(["--socket", "/proc/none/socket"]).arg("--policy").arg(home.policy_file());
    let said = refusal(nowhere);
    assert!(said.starts_with("rocketd: cannot make the folder of /proc/none/socket: "), "{said}");
}

#[test]
fn a_user_without_permission_is_told_so() {
    if !is_root("a rocketd of another user") {
        return;
    }
    let home = Home::new();
    let program = home.place.path().join("rocketd");
    kit::copy_program(env!("CARGO_BIN_EXE_rocketd"), &program);
    let mut command = Command::new(program);
    command.arg("--socket").arg(home.socket()).arg("--policy").arg(home.policy_file());
    as_user(&mut command, STRANGER);
    let end = Instant::now() + HANG;
    let said = loop {
        // Somebody else may have the copy open for writing still.
        match command.output() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                assert!(Instant::now() < end);
            }
            output => break stderr(&output.unwrap()),
        }
    };
    let socket = home.socket();
    let begin = format!("rocketd: cannot listen at {}: Permission denied", socket.display());
    assert!(said.starts_with(&begin), "{said}");
}
