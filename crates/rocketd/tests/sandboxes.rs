//! Programs that cannot see the registry: in real sandboxes, of other users, with a Flatpak's identity.

mod kit;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use kit::common::{Process, hear, play, tell};
use kit::lies::{connect, listen, packet, receive, send};
use kit::{
    FlatpakInfo, Home, IN_SANDBOX, ROLES, STRANGER, as_user, has_sandboxes, inner_pid, is_root,
    until_called,
};
use lightmessaging::ServiceName;
use lightmessaging::rocketd::{No, Rocket};
use rustix::fs::{Mode, OFlags};

#[test]
fn role() {
    let roles: Vec<_> =
        ROLES.into_iter().chain([("intruder", intruder as fn(&[String]))]).collect();
    play(&roles);
}

#[test]
fn a_sandboxed_program_reaches_an_unlocked_name_and_nothing_else() {
    if !has_sandboxes("a sandboxed client") {
        return;
    }
    let home = Home::new();
    let rocketd = home.rocketd();
    let (_open, _shut) = (home.serve("open", "unlocked"), home.serve("shut", "locked"));
    until_called(&home, "open", "ok");
    let mut client = home.sandboxed(&[]);
    assert_eq!(client.ask("call open"), "ok x");
    assert!(client.ask("call shut").starts_with("NotFound "));
    assert_eq!(client.ask("list"), "open");
    assert_eq!(client.ask(&format!("look {}", home.folder.path().display())), "NotFound");
    assert_eq!(client.ask(&format!("look {IN_SANDBOX}")), "has socket");
    // Messages go directly from there on.
    rocketd.signal(rustix::process::Signal::STOP);
    assert_eq!(client.ask("many open 1000"), "ok");
    assert_eq!(client.ask("large open 300000"), "ok");
    assert_eq!(client.ask("large open 301"), "ok");
    rocketd.signal(rustix::process::Signal::CONT);
    assert!(client.ask("call shut").starts_with("NotFound "));
}

#[test]
fn a_service_knows_its_sandboxed_client_by_the_kernels_word() {
    if !has_sandboxes("who a sandboxed client is") {
        return;
    }
    let home = Home::new();
    let _rocketd = home.rocketd();
    let _open = home.serve("open", "unlocked");
    until_called(&home, "open", "ok");
    let mut client = home.sandboxed(&[]);
    let who = client.ask("who open");
    let words: Vec<&str> = who.split(' ').collect();
    let [ok, uid, pid, through, rocketd, application, cgroup] = words[..] else { panic!("{who}") };
    assert_eq!([ok, through, rocketd, application], ["ok", "through", "rocketd", "-"]);
    assert_eq!(uid, rustix::process::geteuid().as_raw().to_string());
    // The number that it has here, and not the one it knows.
    let pid = pid.parse().unwrap();
    assert_eq!(inner_pid(pid).to_string(), client.ask("pid"));
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(arguments.starts_with(b"/program\0"));
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::"));
    assert_eq!(cgroup, own.unwrap_or("-"));
}

#[test]
fn a_denied_name_is_denied_and_a_hidden_one_does_not_exist() {
    if !has_sandboxes("a denied name") {
        return;
    }
    let home = Home::new();
    let deny = "[[deny]]\nnames = 'secret'\n";
    home.policy(deny);
    let rocketd = home.rocketd();
    let _services = (home.serve("secret", "unlocked"), home.serve("open", "unlocked"));
    until_called(&home, "open", "ok");
    let mut client = home.sandboxed(&[]);
    let denied = client.ask("call secret");
    let sentence =
        "access denied: rocketd at /run/rocketd/socket does not let this program look it up";
    assert!(denied.starts_with("Denied ") && denied.ends_with(sentence), "{denied}");
    assert_eq!(client.ask("list"), "open");
    home.policy(&format!("hide_denied = true\n{deny}"));
    rocketd.signal(rustix::process::Signal::HUP);
    // What is hidden cannot be told from what is not there.
    kit::common::until(|| !client.ask("call secret").starts_with("Denied "));
    let hidden = client.ask("call secret");
    assert!(hidden.starts_with("NotFound "), "{hidden}");
    assert_eq!(hidden.replace("secret", "none"), client.ask("call none"));
    assert_eq!(client.ask("list"), "open");
}

#[test]
fn another_user_is_let_in_by_the_policy_only() {
    if !is_root("a client of another user") {
        return;
    }
    let home = Home::new();
    let rocketd = home.rocketd();
    let _services = (home.serve("open", "unlocked"), home.serve("other", "unlocked"));
    until_called(&home, "other", "ok");
    let mut client = home.client_of(STRANGER);
    assert!(client.ask("call open").starts_with("Denied "));
    assert_eq!(client.ask("list"), "");
    home.policy(&format!("[[allow]]\nnames = 'open'\nuid = {STRANGER}"));
    rocketd.signal(rustix::process::Signal::HUP);
    kit::common::until(|| client.ask("call open") == "ok x");
    assert!(client.ask("call other").starts_with("Denied "));
    assert_eq!(client.ask("list"), "open");
    assert_eq!(client.ask("large open 300000"), "ok");
    let who = client.ask("who open");
    let pid = client.ask("pid");
    assert!(who.starts_with(&format!("ok {STRANGER} {pid} through rocketd - ")), "{who}");
    // Nor is there a way around.
    let registry = client.ask(&format!("look {}", home.folder.path().display()));
    assert_eq!(registry, "PermissionDenied");
}

#[test]
fn another_users_client_in_a_sandbox_is_known_as_that_user() {
    let what = "another user's client in a sandbox";
    if !is_root(what) || !has_sandboxes(what) {
        return;
    }
    let home = Home::new();
    home.policy(&format!("[[allow]]\nnames = 'open'\nuid = {STRANGER}"));
    let _rocketd = home.rocketd();
    let _open = home.serve("open", "unlocked");
    until_called(&home, "open", "ok");
    // A user in a namespace of its own is still the same user.
    let inside = ["--uid", "0", "--gid", "0"];
    let program = home.place.path().join("program");
    kit::copy_program(std::env::current_exe().unwrap(), &program);
    let mut command = std::process::Command::new("bwrap");
    command.args(["--unshare-all", "--die-with-parent", "--dev-bind", "/", "/"]).args(inside);
    command.arg(&program);
    as_user(&mut command, STRANGER);
    let socket = home.socket();
    let arguments = [kit::NOWHERE, socket.to_str().unwrap()];
    let mut client = home.folder.run(command, "client", &arguments);
    let who = client.ask("who open");
    assert!(who.starts_with(&format!("ok {STRANGER} ")), "{who}");
    assert!(who.contains(" through rocketd "), "{who}");
}

#[test]
fn a_flatpak_application_is_introduced_by_its_id() {
    if !has_sandboxes("a Flatpak application") {
        return;
    }
    let home = Home::new();
    let rocketd = home.rocketd();
    let _open = home.serve("open", "unlocked");
    until_called(&home, "open", "ok");
    let info = FlatpakInfo::of("org.example.Good");
    let mut good = home.sandboxed(&info.arguments());
    let who = good.ask("who open");
    assert!(who.contains(" through rocketd org.example.Good "), "{who}");
    let info = FlatpakInfo::of("org.example.Bad");
    let mut bad = home.sandboxed(&info.arguments());
    let mut none = home.sandboxed(&[]);
    // By deny, and by allow.
    home.policy("[[deny]]\nnames = '*'\napplication = '*.Bad'");
    rocketd.signal(rustix::process::Signal::HUP);
    kit::common::until(|| bad.ask("call other").starts_with("NotFound "));
    assert_eq!(none.ask("call open"), "ok x");
    assert!(bad.ask("call open").starts_with("Denied "));
    let fresh =
        |home: &Home, info: &FlatpakInfo| home.sandboxed(&info.arguments()).ask("call open");
    home.policy("default = 'nobody'\n[[allow]]\nnames = 'open'\napplication = 'org.example.Good'");
    rocketd.signal(rustix::process::Signal::HUP);
    kit::common::until(|| home.call("open").starts_with("Denied "));
    assert_eq!(fresh(&home, &FlatpakInfo::of("org.example.Good")), "ok x");
    assert!(fresh(&home, &FlatpakInfo::of("org.example.Bad")).starts_with("Denied "));
    assert!(home.sandboxed(&[]).ask("call open").starts_with("Denied "));
}

#[test]
fn a_users_rocketd_is_believed_by_that_users_services_only() {
    if !is_root("a rocketd of another user") {
        return;
    }
    let home = Home::new();
    std::fs::set_permissions(home.run(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    rustix::fs::chown(home.run(), Some(rustix::fs::Uid::from_raw(STRANGER)), None).unwrap();
    let folder = kit::common::Folder::new();
    rustix::fs::chown(folder.path(), Some(rustix::fs::Uid::from_raw(STRANGER)), None).unwrap();
    home.policy(
        "default = 'nobody'\n[[allow]]\nnames = '*'\nuid = 0
        [[unlock]]\nnames = '*'\nuid = 0",
    );
    let program = home.place.path().join("rocketd");
    kit::copy_program(env!("CARGO_BIN_EXE_rocketd"), &program);
    let mut command = std::process::Command::new(&program);
    command.arg("--socket").arg(home.socket()).arg("--registry").arg(folder.path());
    command.arg("--policy").arg(home.policy_file()).arg("--services").arg(home.services());
    command.arg("--mode=666").stdout(std::process::Stdio::null());
    as_user(&mut command, STRANGER);
    let rocketd = home.start(command);
    rocketd.wait_for("listening at");
    // Root's service could not be reached by it but for its socket's mode, and does not believe it.
    let _of_root = home.serve("of-root", "unlocked, for all");
    let socket = home.socket();
    let path = folder.path().to_str().unwrap();
    let arguments = [path, socket.to_str().unwrap(), "of-user", "unlocked"];
    let of_user = folder.start_as(STRANGER, "serve", &arguments);
    of_user.expect("ready");
    until_called(&home, "of-user", "ok");
    until_called(&home, "of-root", "Denied");
    for _ in 0..100 {
        let denied = home.call("of-root");
        assert!(denied.contains("does not let in clients of the rocketd"), "{denied}");
    }
}

/// What an intruder has heard to one of its packets.
fn answer_to(socket: &OwnedFd, bytes: &[u8]) -> String {
    send(socket, bytes, &[]);
    let (bytes, fds) = receive(socket);
    let kind = bytes.get(6..8).map(|kind| u16::from_le_bytes([kind[0], kind[1]]));
    let number = bytes.get(8..12).map(|n| u32::from_le_bytes([n[0], n[1], n[2], n[3]]));
    match (kind, number) {
        (None, _) => "the end".to_owned(),
        (Some(kind), number) => format!("{kind} {} {}", number.unwrap_or_default(), fds.len()),
    }
}

/// A role: has rocketd connect it to services, and asks both for what it should not get.
fn intruder(arguments: &[String]) {
    let rocketd = Path::new(&arguments[0]);
    let name = |name: &str| ServiceName::new(name).unwrap();
    let handed_out = |service: &str| {
        let socket = connect(rocketd);
        send(&socket, &Rocket::LookUp { name: name(service), wait: false }.encode(), &[]);
        let (bytes, mut fds) = receive(&socket);
        assert_eq!(Rocket::decode(&bytes), Ok(Rocket::Found));
        let socket = fds.remove(0);
        rustix::io::ioctl_fionbio(&socket, false).unwrap();
        socket
    };
    const OWNERS: [(u16, u32); 4] = [(8, 1), (8, 0), (9, 0), (10, 0)];
    for (kind, number) in OWNERS {
        tell(answer_to(&handed_out("open"), &packet(kind, &[number])));
        tell(answer_to(&connect(rocketd), &packet(kind, &[number])));
    }
    // An introduction of one's own: after rocketd's, and to rocketd.
    let introduction = packet(7, &[0, 0, 0]);
    tell(answer_to(&handed_out("open"), &introduction));
    tell(answer_to(&connect(rocketd), &introduction));
    // What rocketd says itself.
    tell(answer_to(&connect(rocketd), &Rocket::Found.encode()));
    tell(answer_to(&connect(rocketd), &Rocket::No(No::Denied).encode()));
    // Nor is a sandbox the place for services that others expect elsewhere: rocketd's own socket is
    // none, and one that is the sandbox's own takes nobody's name.
    let own = listen(Path::new("/tmp/own"));
    let announce = |service: &str, file: &Path| {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let file = rustix::fs::open(file, flags, Mode::empty()).unwrap();
        let talk = connect(rocketd);
        send(&talk, &Rocket::Announce(name(service)).encode(), &[file.as_fd()]);
        let (bytes, _) = receive(&talk);
        tell(format!("{:?}", Rocket::decode(&bytes)));
        talk
    };
    let _talks = [announce("loop", rocketd), announce("open", Path::new("/tmp/own"))];
    hear();
    drop(own);
    tell("done");
}

#[test]
fn neither_rocketd_nor_its_connections_let_anybody_do_more() {
    if !has_sandboxes("an intruder in a sandbox") {
        return;
    }
    let home = Home::new();
    let _rocketd = home.rocketd();
    let mut services = (home.serve("open", "unlocked"), home.serve("shut", "locked"));
    until_called(&home, "open", "ok");
    let socket = format!("{IN_SANDBOX}/socket");
    let mut intruder: Process = home.in_sandbox(&[], "intruder", &[&socket]);
    const MALFORMED: &str = "3 2 0";
    const NOT_UNDERSTOOD: &str = "34 5 0";
    for _ in 0..4 {
        intruder.expect(MALFORMED);
        intruder.expect(NOT_UNDERSTOOD);
    }
    intruder.expect(MALFORMED);
    for _ in 0..3 {
        intruder.expect(NOT_UNDERSTOOD);
    }
    for _ in 0..2 {
        intruder.expect("Ok(No(Denied))");
    }
    let answer = home.call("loop");
    assert!(answer.starts_with("NotFound "), "{answer}");
    assert_eq!(home.connect("open").peer(kit::common::HANG).unwrap().pid(), services.0.pid());
    // The services are as they were.
    until_called(&home, "open", "ok");
    assert!(home.call("shut").starts_with("NotFound "));
    assert_eq!(intruder.ask("end"), "done");
    for service in [&mut services.0, &mut services.1] {
        assert!(kit::lives(service.pid()));
    }
}
