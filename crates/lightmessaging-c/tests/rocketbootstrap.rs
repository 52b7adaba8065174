//! RocketBootstrap's names in C, with a rocketd: who is found through it, and what the service is told.

mod kit;

use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use kit::common::{Folder, Process, play, tell, until};
use kit::{Build, C99, ask, start};
use lightmessaging::rocketd::{Listener, Rocket, Socket, introduce, refuse_start};
use lightmessaging::{Connection, Registry};

/// Leaves it to the program which names are unlocked.
const PLAIN: Build = Build {
    name: "plain",
    flags: &["-std=c99", "-D_GNU_SOURCE", "-DLIGHTMESSAGING_USE_ROCKETBOOTSTRAP=0"],
    ..C99
};

const SUCCESS: &str = "0";
const INVALID_ARGUMENT: &str = "0x4";
const INVALID_NAME: &str = "0xf";
const NOT_PRIVILEGED: &str = "0x44c";
const NAME_IN_USE: &str = "0x44d";
const UNKNOWN_SERVICE: &str = "0x44e";
const RCV_TIMED_OUT: &str = "0x10004003";
const WOULD_DEADLOCK: &str = "0x4c4d0002";
const NOT_STARTED: &str = "0x4c4d0004";

#[test]
fn role() {
    play(&[("rocketd", rocketd), ("herald", herald), ("broken", broken)]);
}

/// What rocketd itself is, with these arguments.
fn rocketd(arguments: &[String]) {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        options: rocketd::Options,
    }
    let arguments = std::iter::once("rocketd").chain(arguments.iter().map(String::as_str));
    let cli: Cli = clap::Parser::parse_from(arguments);
    rocketd::run(&cli.options, &[]).unwrap();
}

/// A rocketd of few words: it leads everybody to the service whose socket it is given, and introduces
/// them with the texts that follow.
fn herald(arguments: &[String]) {
    let [place, service, application, cgroup, label] = arguments else { panic!("five arguments") };
    let listener = Listener::bind(Path::new(place)).unwrap();
    let (_end, ticket) = rustix::pipe::pipe().unwrap();
    tell("ready");
    loop {
        let client = come(&listener);
        let socket = Socket::connect(Path::new(service), None).unwrap();
        let text = |text: &'_ String| (text != "none").then(|| text.replace('%', "\0"));
        let [application, cgroup, label] = [application, cgroup, label].map(text);
        introduce(
            &socket,
            application.as_deref(),
            cgroup.as_deref(),
            label.as_deref(),
            ticket.as_fd(),
            None,
        )
        .unwrap();
        client.send(&Rocket::Found.encode(), &[socket.as_fd()]).unwrap();
    }
}

/// Listens for a service that can never be started.
fn broken(arguments: &[String]) {
    let listener = Listener::bind(Path::new(&arguments[0])).unwrap();
    tell("ready");
    loop {
        refuse_start(&come(&listener)).unwrap();
    }
}

/// The next who comes, once it has said something.
fn come(listener: &Listener) -> Socket {
    wait_for(listener);
    let socket = listener.accept().unwrap();
    wait_for(&socket);
    socket.receive(&mut [0; Rocket::MAX]).unwrap();
    socket
}

fn wait_for(fd: impl AsFd) {
    let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, None).unwrap();
}

/// A registry folder with a rocketd, and a folder elsewhere from which only that is to be seen.
struct World {
    /// Ends before the folders do.
    _rocketd: Process,
    here: Folder,
    elsewhere: Folder,
}

impl World {
    fn new() -> World {
        let (here, elsewhere) = (Folder::new(), Folder::new());
        let rocketd = launch(&here, &elsewhere);
        let place = socket(&here);
        until(|| place.exists());
        World { _rocketd: rocketd, here, elsewhere }
    }

    /// A process that serves, and does as it is told.
    fn serve(&self, build: &Build) -> Process {
        serve(&self.here, build)
    }

    fn client(&self) -> Process {
        client(&self.elsewhere, &socket(&self.here))
    }

    fn connect(&self, name: &str) -> Connection {
        let registry = Registry::at(self.elsewhere.path()).with_rocketd(socket(&self.here));
        Connection::builder(name).registry(registry).build().unwrap()
    }
}

/// Where a rocketd of this registry listens if it is not told otherwise.
fn socket(folder: &Folder) -> PathBuf {
    folder.path().join(".rocketd/socket")
}

/// Starts a rocketd that reads no files of this machine's own.
fn launch(here: &Folder, elsewhere: &Folder) -> Process {
    let policy = elsewhere.path().join(".policy.toml");
    std::fs::write(&policy, "").unwrap();
    let (socket, none) = (socket(here), elsewhere.path().join(".services"));
    let [socket, policy, none] = [&socket, &policy, &none].map(|path| path.to_str().unwrap());
    here.start("rocketd", &["--socket", socket, "--policy", policy, "--services", none])
}

fn serve(folder: &Folder, build: &Build) -> Process {
    let service = start(folder, &build.program("rocket.c"), &[]);
    service.expect("ready");
    service
}

/// A client that is told of a rocketd and sees no service.
fn client(folder: &Folder, rocketd: &Path) -> Process {
    let mut command = kit::command(&C99.program("client.c"));
    command.env("LIGHTMESSAGING_ROCKETD", rocketd);
    let client = folder.spawn(command, "");
    client.expect("ready");
    client
}

fn is_reached(client: &mut Process, name: &str) -> bool {
    match ask(client, &format!("call {name} 1 5000")).as_str() {
        "0 5000" => true,
        "0x44e 0" => false,
        other => panic!("{name}: {other}"),
    }
}

#[test]
fn every_start_unlocks_its_name() {
    let world = World::new();
    let mut service = world.serve(&C99);
    let mut client = world.client();
    for verb in ["start", "info", "in-place", "check-in", "take-over"] {
        assert_eq!(ask(&mut service, &format!("{verb} {verb}")), SUCCESS);
        until(|| is_reached(&mut client, verb));
        assert_eq!(world.connect(verb).send_two_way(1, "from Rust").unwrap().data(), b"from Rust");
    }
    assert_eq!(ask(&mut service, "stop start"), SUCCESS);
    until(|| !is_reached(&mut client, "start"));
    assert!(is_reached(&mut client, "info"));
}

#[test]
fn a_service_that_is_not_unlocked_is_not_found_until_it_is() {
    let world = World::new();
    let mut service = world.serve(&PLAIN);
    let mut client = world.client();
    for verb in ["start", "info", "in-place", "check-in", "port"] {
        assert_eq!(ask(&mut service, &format!("{verb} {verb}")), SUCCESS);
        assert!(!is_reached(&mut client, verb), "{verb}");
        assert_eq!(ask(&mut service, &format!("unlock {verb}")), SUCCESS);
        until(|| is_reached(&mut client, verb));
    }
    // Who sees the registry needs no rocketd.
    assert_eq!(ask(&mut service, "start locked"), SUCCESS);
    assert_eq!(ask(&mut service, "look-up locked"), SUCCESS);
    assert!(!is_reached(&mut client, "locked"));
}

#[test]
fn a_running_instance_hands_its_name_over() {
    let world = World::new();
    let (mut old, mut new) = (world.serve(&C99), world.serve(&PLAIN));
    let mut client = world.client();
    assert_eq!(ask(&mut old, "start x"), SUCCESS);
    until(|| is_reached(&mut client, "x"));
    assert_eq!(ask(&mut new, "take-over x"), SUCCESS);
    // The same connection now leads to the other one.
    assert!(is_reached(&mut client, "x"));
    until(|| ask(&mut old, "stop x") == UNKNOWN_SERVICE);
    old.kill();
    assert!(is_reached(&mut client, "x"));
    assert_eq!(ask(&mut new, "start x"), NAME_IN_USE);
    assert_eq!(ask(&mut new, "take-over x"), WOULD_DEADLOCK);
}

#[test]
fn a_name_may_be_unlocked_before_its_service_starts() {
    let world = World::new();
    let mut service = world.serve(&PLAIN);
    let mut client = world.client();
    assert_eq!(ask(&mut service, "unlock early"), SUCCESS);
    assert!(!is_reached(&mut client, "early"));
    // And stays so for those who come after it.
    for _ in 0..3 {
        assert_eq!(ask(&mut service, "start early"), SUCCESS);
        until(|| is_reached(&mut client, "early"));
        assert_eq!(ask(&mut service, "stop early"), SUCCESS);
        until(|| !is_reached(&mut client, "early"));
    }
    assert_eq!(ask(&mut service, "start late"), SUCCESS);
    assert_eq!(ask(&mut service, "unlock late"), SUCCESS);
    until(|| is_reached(&mut client, "late"));
    assert_eq!(ask(&mut service, "stop late"), SUCCESS);
    assert_eq!(ask(&mut service, "start late"), SUCCESS);
    until(|| is_reached(&mut client, "late"));
}

#[test]
fn a_name_that_waits_for_its_service_is_unlocked_before_that_checks_in() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};

    let folder = Folder::new();
    // Somebody listens, and nobody answers: the process that unlocks is the one that is to check in.
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    let path = folder.path().join("on-demand");
    rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&socket, 16).unwrap();
    let mut service = serve(&folder, &PLAIN);
    assert_eq!(ask(&mut service, "unlock on-demand"), SUCCESS);
    let mut fds = [rustix::event::PollFd::new(&socket, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut fds, Some(&now)), Ok(0), "it would be started for that");
}

#[test]
fn a_service_of_another_process_is_asked() {
    let world = World::new();
    let mut service = world.serve(&PLAIN);
    let mut other = world.serve(&PLAIN);
    let mut client = world.client();
    for name in ["one", "two"] {
        assert_eq!(ask(&mut service, &format!("start {name}")), SUCCESS);
        assert!(!is_reached(&mut client, name));
    }
    assert_eq!(ask(&mut other, "unlock one"), SUCCESS);
    until(|| is_reached(&mut client, "one"));
    // It stays so when the asker has gone.
    other.finish();
    assert!(is_reached(&mut client, "one"));
    assert!(!is_reached(&mut client, "two"));
    // One that does not answer is not waited for without end, and hears it later.
    let mut other = world.serve(&PLAIN);
    service.freeze();
    assert_eq!(ask(&mut other, "unlock two"), RCV_TIMED_OUT);
    service.thaw();
    until(|| is_reached(&mut client, "two"));
}

#[test]
fn a_service_of_somebody_else_cannot_be_unlocked() {
    const NOBODY: u32 = 65534;
    let folder = Folder::new();
    let mut service = serve(&folder, &PLAIN);
    assert_eq!(ask(&mut service, "start theirs"), SUCCESS);
    // Only root can be two users at once; for others a socket that is not open to them must do.
    let mut stranger = if rustix::process::geteuid().is_root() {
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o711)).unwrap();
        let [program, library] = [".program", "liblightmessaging.so.0"];
        let copies = [
            (PLAIN.program("rocket.c"), folder.path().join(program)),
            (kit::lib().join("liblightmessaging.so"), folder.path().join(library)),
        ];
        for (from, to) in &copies {
            std::fs::copy(from, to).unwrap();
            std::fs::set_permissions(to, PermissionsExt::from_mode(0o755)).unwrap();
        }
        let mut command = std::process::Command::new(&copies[0].1);
        command.env("LD_LIBRARY_PATH", folder.path()).uid(NOBODY).gid(NOBODY).current_dir("/");
        folder.spawn(command, "")
    } else {
        let socket = folder.path().join("theirs");
        std::fs::set_permissions(socket, PermissionsExt::from_mode(0o000)).unwrap();
        start(&folder, &PLAIN.program("rocket.c"), &[])
    };
    stranger.expect("ready");
    assert_eq!(ask(&mut stranger, "unlock theirs"), NOT_PRIVILEGED);
}

#[test]
fn what_cannot_be_unlocked_is_an_error() {
    let world = World::new();
    let mut service = world.serve(&PLAIN);
    assert_eq!(ask(&mut service, "unlock nothing"), INVALID_ARGUMENT);
    assert_eq!(ask(&mut service, "unlock none"), INVALID_NAME);
    assert_eq!(ask(&mut service, &format!("unlock {}", "x".repeat(128))), INVALID_NAME);
    // Names without a service are kept, but not any number of them.
    assert_eq!(ask(&mut service, "start mine"), SUCCESS);
    assert_eq!(ask(&mut service, "flood 2000"), format!("{:#x}", 1024));
    assert_eq!(ask(&mut service, "flood 2000"), format!("{:#x}", 1024), "the same ones");
    assert_eq!(ask(&mut service, "unlock mine"), SUCCESS);
    let mut client = world.client();
    until(|| is_reached(&mut client, "mine"));
    assert_eq!(ask(&mut service, "start flood-7"), SUCCESS);
    until(|| is_reached(&mut client, "flood-7"));
}

#[test]
fn a_port_is_registered_under_the_name_of_its_service() {
    let world = World::new();
    let mut service = world.serve(&PLAIN);
    let mut client = world.client();
    assert_eq!(ask(&mut service, "register mine"), INVALID_ARGUMENT, "there is no port yet");
    assert_eq!(ask(&mut service, "port mine"), SUCCESS);
    assert_eq!(ask(&mut service, "start other"), SUCCESS);
    assert_eq!(ask(&mut service, "register other"), INVALID_NAME);
    assert!(!is_reached(&mut client, "mine") && !is_reached(&mut client, "other"));
    assert_eq!(ask(&mut service, "register mine"), SUCCESS);
    until(|| is_reached(&mut client, "mine"));
    assert!(!is_reached(&mut client, "other"));
}

#[test]
fn names_are_looked_up_through_rocketd() {
    let world = World::new();
    let mut service = world.serve(&C99);
    let mut command = kit::command(&C99.program("rocket.c"));
    command.env("LIGHTMESSAGING_ROCKETD", socket(&world.here));
    let mut other = world.elsewhere.spawn(command, "");
    other.expect("ready");
    assert_eq!(ask(&mut other, "look-up name"), UNKNOWN_SERVICE);
    assert_eq!(ask(&mut service, "start name"), SUCCESS);
    until(|| ask(&mut other, "look-up name") == SUCCESS);
}

#[test]
fn a_callback_is_told_who_came_through_rocketd() {
    let world = World::new();
    let mut service = world.serve(&C99);
    assert_eq!(ask(&mut service, "start server"), SUCCESS);
    let mut client = world.client();
    until(|| is_reached(&mut client, "server"));
    let said = ask(&mut client, "text server 24");
    let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", client.pid())).unwrap();
    let cgroup = cgroups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("none");
    assert!(said.starts_with(&format!("introduced none {cgroup} ")), "{said}");
    let said = world.connect("server").send_two_way(24, []).unwrap();
    assert!(said.data().starts_with(b"introduced none "));
    let mut direct = start(&world.here, &C99.program("client.c"), &[]);
    direct.expect("ready");
    assert_eq!(ask(&mut direct, "text server 24"), "direct none none none");
}

#[test]
fn the_texts_of_an_introduction_arrive() {
    let (here, elsewhere) = (Folder::new(), Folder::new());
    let mut service = serve(&here, &C99);
    assert_eq!(ask(&mut service, "start server"), SUCCESS);
    let (place, path) = (elsewhere.path().join(".socket"), here.path().join("server"));
    let arguments = [place.to_str().unwrap(), path.to_str().unwrap()];
    let long = ["a".repeat(255), format!("/{}", "c".repeat(511)), "l".repeat(255)];
    for (texts, said) in [
        (["org.example.App", "/user.slice/app", "label"], "org.example.App /user.slice/app label"),
        (["none", "/", "none"], "none / none"),
        // What C would take for another text is none.
        (["org.example%App", "/%", "%"], "none none none"),
        ([&long[0], &long[1], &long[2]], &long.join(" ")),
    ] {
        let _herald = elsewhere.serve("herald", &[&arguments[..], &texts].concat());
        let mut client = client(&elsewhere, &place);
        assert_eq!(ask(&mut client, "text server 24"), format!("introduced {said}"));
        std::fs::remove_file(&place).unwrap();
    }
}

#[test]
fn a_service_that_cannot_be_started_is_an_error_of_its_own() {
    let folder = Folder::new();
    let path = folder.path().join("broken");
    let _broken = folder.serve("broken", &[path.to_str().unwrap()]);
    let mut client = start(&folder, &C99.program("client.c"), &[]);
    client.expect("ready");
    assert_eq!(ask(&mut client, "call broken 1 10"), format!("{NOT_STARTED} 0"));
    // It is not taken for one that was found.
    assert_eq!(ask(&mut client, "call broken 1 5000 60000"), format!("{NOT_STARTED} 0"));
    assert!(ask(&mut client, "text broken 1").contains("could not be"));
}

#[test]
fn a_service_needs_no_rocketd_and_is_found_once_there_is_one() {
    let folder = Folder::new();
    let mut service = serve(&folder, &C99);
    assert_eq!(ask(&mut service, "start server"), SUCCESS);
    let mut client = start(&folder, &C99.program("client.c"), &[]);
    client.expect("ready");
    assert!(is_reached(&mut client, "server"));
    let elsewhere = Folder::new();
    let mut far = self::client(&elsewhere, &socket(&folder));
    assert!(!is_reached(&mut far, "server"));
    for _ in 0..2 {
        let mut rocketd = launch(&folder, &elsewhere);
        until(|| is_reached(&mut far, "server"));
        rocketd.kill();
    }
}
