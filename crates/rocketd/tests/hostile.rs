//! Those who mean rocketd no good: it is bothered for a moment, and nobody else is.

mod kit;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use kit::common::{ECHO, Process, descriptors, hear, play, tell, until};
use kit::lies::{
    CLIENT, CLIENT_LEN, HELLO, Memory, REFUSE, WELCOME, bell, connect, greeting, listen, receive,
    send,
};
use kit::{Home, ROLES, Rocketd, STRANGER, failed, has_descriptors, is_root, memory, until_called};
use lightmessaging::ServiceName;
use lightmessaging::rocketd::{No, Rocket};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{MemfdFlags, Mode, OFlags};

#[test]
fn role() {
    let more: [kit::common::Role; 3] = [("thief", thief), ("taker", taker), ("giver", giver)];
    play(&ROLES.into_iter().chain(more).collect::<Vec<_>>());
}

/// How much more memory rocketd may have after an attack, in KiB. It had to talk to many at once.
const MEMORY: u64 = 24 << 10;
/// How long another client may have to wait meanwhile.
const SERVED: Duration = Duration::from_secs(5);

/// A rocketd that is attacked, with an honest service and an honest client.
struct Scene {
    home: Home,
    rocketd: Rocketd,
    services: Vec<Process>,
    stop: Arc<AtomicBool>,
    client: Option<thread::JoinHandle<u32>>,
    descriptors: usize,
    memory: u64,
}

impl Scene {
    fn new() -> Scene {
        Scene::with_policy("")
    }

    fn with_policy(policy: &str) -> Scene {
        let home = Home::new();
        home.policy(policy);
        let rocketd = home.rocketd();
        let services = vec![home.serve("open", "unlocked"), home.serve("shut", "locked")];
        until_called(&home, "open", "ok");
        until(|| descriptors(rocketd.pid()) > 0);
        let stop = Arc::new(AtomicBool::new(false));
        let client = {
            let (stop, registry) = (stop.clone(), home.blind());
            thread::spawn(move || {
                let mut calls = 0;
                while !stop.load(Ordering::Relaxed) || calls == 0 {
                    let builder = lightmessaging::Connection::builder("open");
                    let builder = builder.registry(registry.clone()).deadline(SERVED);
                    let called = builder.build().unwrap().send_two_way(ECHO, "x");
                    assert!(called.is_ok(), "after {calls}: {}", failed(&called.unwrap_err()));
                    calls += 1;
                    thread::sleep(Duration::from_millis(2));
                }
                calls
            })
        };
        let (descriptors, memory) = (descriptors(rocketd.pid()), memory(rocketd.pid()));
        let client = Some(client);
        Scene { home, rocketd, services, stop, client, descriptors, memory }
    }

    fn connect(&self) -> OwnedFd {
        connect(&self.home.socket())
    }

    /// The attack is over: all is as it was.
    fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let calls = self.client.take().unwrap().join().unwrap();
        assert!(calls > 0);
        // The honest client's last connection may be closing.
        until(|| descriptors(self.rocketd.pid()) <= self.descriptors);
        let now = memory(self.rocketd.pid());
        assert!(now <= self.memory + MEMORY, "{} KiB before, {now} KiB after", self.memory);
        assert_eq!(self.home.call("open"), "ok x");
        assert!(self.home.call("shut").starts_with("NotFound "));
        for service in &self.services {
            assert!(kit::lives(service.pid()));
        }
    }
}

fn name(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

fn look_up(name: &str, wait: bool) -> Vec<u8> {
    Rocket::LookUp { name: self::name(name), wait }.encode()
}

/// What has been answered, without waiting for long; nothing at the end of the connection.
fn answer(socket: &OwnedFd) -> Option<Rocket> {
    readable(socket);
    let (bytes, _) = receive(socket);
    Rocket::decode(&bytes).ok()
}

fn readable(socket: &OwnedFd) {
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    let timeout = Timespec { tv_sec: 60, tv_nsec: 0 };
    assert!(rustix::event::poll(&mut fds, Some(&timeout)).unwrap() > 0, "no answer");
}

/// Only the place of a file.
fn place(path: &Path) -> OwnedFd {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).unwrap()
}

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() % end
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

#[test]
fn no_packet_is_too_strange_for_rocketd() {
    const SEED: u64 = 20_240_817;
    println!("seed {SEED}");
    let scene = Scene::new();
    let mut random = Random(SEED);
    let memfd = rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
    let mut open = std::collections::VecDeque::new();
    for _ in 0..6000 {
        let socket = scene.connect();
        for _ in 0..1 + random.below(3) {
            let true_one = [
                look_up("none", true),
                look_up("open", false),
                Rocket::List(None).encode(),
                Rocket::List(Some(name("m"))).encode(),
                Rocket::Announce(name("mine")).encode(),
                Rocket::Found.encode(),
                Rocket::End { more: true }.encode(),
            ];
            let mut bytes = true_one[random.below(true_one.len())].clone();
            match random.below(5) {
                0 => {
                    let len = 1 + random.below(1500);
                    bytes = random.bytes(len);
                }
                1 => {
                    // A true head, and the rest is anything.
                    bytes.truncate(6);
                    let (kind, len) = (32 + random.below(8), random.below(300));
                    bytes.extend((kind as u16).to_le_bytes());
                    bytes.extend(random.bytes(len));
                }
                2 => {
                    let at = random.below(bytes.len());
                    bytes[at] = random.next() as u8;
                }
                3 => bytes.truncate(1 + random.below(bytes.len())),
                _ => {}
            }
            let fds = vec![memfd.as_fd(); [0, 0, 0, 1, 1, 2, 9][random.below(7)]];
            send(&socket, &bytes, &fds);
        }
        open.push_back(socket);
        if open.len() > 50 {
            open.pop_front();
        }
    }
    drop(open);
    scene.end();
}

#[test]
fn half_a_message_and_then_silence_costs_nobody_but_its_sender() {
    let scene = Scene::new();
    let whole = look_up("open", false);
    for len in 1..12 {
        let socket = scene.connect();
        send(&socket, &whole[..len], &[]);
        assert_eq!(answer(&socket), Some(Rocket::No(No::Malformed)), "{len}");
        assert_eq!(answer(&socket), None);
    }
    // What comes after the first packet, too.
    let socket = scene.connect();
    send(&socket, &look_up("none", true), &[]);
    send(&socket, &look_up("open", false), &[]);
    assert_eq!(answer(&socket), Some(Rocket::No(No::Malformed)));
    // Those who say nothing at all are sent away after a while, and sooner if they are many.
    let silent: Vec<OwnedFd> = (0..500).map(|_| scene.connect()).collect();
    until(|| descriptors(scene.rocketd.pid()) <= scene.descriptors + 140);
    until(|| descriptors(scene.rocketd.pid()) <= scene.descriptors + 1);
    drop(silent);
    scene.end();
}

/// Who opens this many connections needs all descriptors of this process.
static MANY: Mutex<()> = Mutex::new(());
const TEN_THOUSAND: usize = 10_000;

#[test]
fn ten_thousand_connections_of_one_user_keep_nobody_out() {
    let _alone = MANY.lock().unwrap_or_else(PoisonError::into_inner);
    if !has_descriptors(16_000, "ten thousand connections") {
        return;
    }
    let scene = Scene::new();
    let mut all = Vec::new();
    for at in 0..TEN_THOUSAND {
        all.push(scene.connect());
        if at % 1000 == 0 {
            assert!(descriptors(scene.rocketd.pid()) < scene.descriptors + 400);
        }
    }
    assert!(descriptors(scene.rocketd.pid()) < scene.descriptors + 400);
    let now = memory(scene.rocketd.pid());
    assert!(now <= scene.memory + MEMORY, "{} KiB before, {now} KiB during", scene.memory);
    drop(all);
    scene.end();
}

#[test]
fn ten_thousand_look_ups_that_wait_are_as_many_as_the_policy_lets_wait() {
    let _alone = MANY.lock().unwrap_or_else(PoisonError::into_inner);
    if !has_descriptors(16_000, "ten thousand look-ups") {
        return;
    }
    let scene = Scene::with_policy("[quota]\nlookups_per_second = 1000000\nopen_lookups = 100");
    let mut refused = 0;
    let mut all = Vec::new();
    for _ in 0..TEN_THOUSAND {
        let socket = scene.connect();
        send(&socket, &look_up("none", true), &[]);
        all.push(socket);
    }
    // They are heard in the order in which they came.
    let last = scene.connect();
    send(&last, &Rocket::Found.encode(), &[]);
    assert_eq!(answer(&last), Some(Rocket::No(No::Malformed)));
    for socket in &all {
        let mut fds = [PollFd::new(socket, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if rustix::event::poll(&mut fds, Some(&now)).unwrap() > 0 {
            assert_eq!(answer(socket), Some(Rocket::No(No::TooMuch)));
            refused += 1;
        }
    }
    assert!(refused >= TEN_THOUSAND - 200, "{refused} refused");
    assert!(descriptors(scene.rocketd.pid()) < scene.descriptors + 500);
    drop(all);
    scene.end();
}

#[test]
fn descriptors_that_nobody_asked_for_are_let_go() {
    let scene = Scene::new();
    let folder = scene.home.place.path();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        folder.join("fifo"),
        rustix::fs::FileType::Fifo,
        Mode::RUSR | Mode::WUSR,
        0,
    )
    .unwrap();
    let memfd = rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
    let stream = UnixListener::bind(folder.join("stream")).unwrap();
    let listener = listen(&folder.join("listener"));
    let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let device = std::fs::File::open("/dev/null").unwrap();
    let strange: Vec<(&str, OwnedFd)> = vec![
        ("a pipe", place(&folder.join("fifo"))),
        ("a folder", place(folder)),
        ("an open folder", std::fs::File::open(folder).unwrap().into()),
        ("a memfd", memfd),
        ("a file", place(&scene.home.policy_file())),
        ("a device", device.into()),
        ("a connection", one.into()),
        ("a socket that listens", listener),
        ("rocketd's own connection", scene.connect()),
        ("a stream", stream.into()),
    ];
    for (what, fd) in &strange {
        let socket = scene.connect();
        send(&socket, &Rocket::Announce(name("mine")).encode(), &[fd.as_fd()]);
        assert_eq!(answer(&socket), Some(Rocket::No(No::Denied)), "{what}");
        assert!(scene.home.call("mine").starts_with("NotFound "), "{what}");
        // None is wanted here.
        for question in [look_up("open", false), Rocket::List(None).encode()] {
            let socket = scene.connect();
            send(&socket, &question, &[fd.as_fd()]);
            assert_eq!(answer(&socket), Some(Rocket::No(No::Malformed)), "{what}");
        }
        // Nor so many anywhere.
        for many in [2, 5, 250] {
            let fds: Vec<BorrowedFd<'_>> = vec![fd.as_fd(); many];
            for question in [look_up("open", false), Rocket::Announce(name("mine")).encode()] {
                let socket = scene.connect();
                send(&socket, &question, &fds);
                assert_eq!(answer(&socket), Some(Rocket::No(No::Malformed)), "{many} of {what}");
            }
        }
    }
    // No descriptor where one is wanted; and a socket's file that leads to no service.
    let socket = scene.connect();
    send(&socket, &Rocket::Announce(name("mine")).encode(), &[]);
    assert_eq!(answer(&socket), Some(Rocket::No(No::Malformed)));
    let socket = scene.connect();
    let file = place(&folder.join("stream"));
    send(&socket, &Rocket::Announce(name("mine")).encode(), &[file.as_fd()]);
    assert_eq!(answer(&socket), Some(Rocket::End { more: false }));
    assert!(scene.home.call("mine").starts_with("NotFound "));
    drop(socket);
    drop(strange);
    scene.end();
}

#[test]
fn names_that_are_none_are_refused_and_strange_ones_lead_nowhere() {
    let scene = Scene::new();
    let head = |kind: u16| kit::lies::packet(kind, &[0]);
    for kind in [32u16, 35] {
        for bad in
            [&b""[..], b"a\0b", b"\0", b"\0\0\0\0", &[b'x'; 128], &[b'.'; 2000], &[0xff; 200_000]]
        {
            let socket = scene.connect();
            let file = place(&scene.home.socket());
            let fds = [file.as_fd()];
            send(
                &socket,
                &[head(kind), bad.to_vec()].concat(),
                if kind == 35 { &fds } else { &[] },
            );
            let len = bad.len();
            assert_eq!(answer(&socket), Some(Rocket::No(No::Malformed)), "{kind}: {len}");
        }
    }
    for strange in
        ["..", "/", "../open", "./open", "open/", "a/../open", ".rocketd", "=b3Blbg", "*"]
    {
        let socket = scene.connect();
        send(&socket, &look_up(strange, false), &[]);
        assert_eq!(answer(&socket), Some(Rocket::No(No::NotFound)), "{strange}");
    }
    scene.end();
}

/// A role: announces the socket of another user, as a place in a folder that it may enter.
fn thief(arguments: &[String]) {
    let [rocketd, socket] = arguments else { panic!("{arguments:?}") };
    let talk = connect(Path::new(rocketd));
    let file = place(Path::new(socket));
    send(&talk, &Rocket::Announce(name("stolen")).encode(), &[file.as_fd()]);
    tell(format!("{:?}", answer(&talk)));
    hear();
}

#[test]
fn somebody_elses_socket_cannot_be_announced() {
    if !is_root("an announcement of somebody else's socket") {
        return;
    }
    let policy = format!("[[unlock]]\nnames = '*'\nuid = {STRANGER}");
    let scene = Scene::with_policy(&policy);
    // Anybody may enter the folder, and nobody may connect to the socket.
    let folder = scene.home.folder.path();
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    let (rocketd, shut) = (scene.home.socket(), folder.join("shut"));
    let arguments = [rocketd.to_str().unwrap(), shut.to_str().unwrap()];
    let mut thief = scene.home.folder.start_as(STRANGER, "thief", &arguments);
    thief.expect(&format!("{:?}", Some(Rocket::No(No::Denied))));
    assert!(scene.home.call("stolen").starts_with("NotFound "));
    thief.end();
    // Its own it may, as the policy says.
    let own = kit::common::Folder::new();
    rustix::fs::chown(own.path(), Some(rustix::fs::Uid::from_raw(STRANGER)), None).unwrap();
    let arguments = [own.path().to_str().unwrap(), arguments[0], "its-own", "unlocked"];
    let service = own.start_as(STRANGER, "serve", &arguments);
    service.expect("ready");
    until_called(&scene.home, "its-own", "ok");
    drop(service);
    scene.end();
}

#[test]
fn thousands_of_names_are_as_many_as_a_user_may_have() {
    if !has_descriptors(16_000, "thousands of names") {
        return;
    }
    let scene = Scene::new();
    let path = scene.home.place.path().join("many");
    let _listener = listen(&path);
    let file = place(&path);
    let (mut unlocked, mut all) = (0, Vec::new());
    for at in 0..3000 {
        let socket = scene.connect();
        let question = Rocket::Announce(name(&format!("many-{at}"))).encode();
        send(&socket, &question, &[file.as_fd()]);
        match answer(&socket) {
            Some(Rocket::End { .. }) => unlocked += 1,
            Some(Rocket::No(No::Denied)) => {}
            other => panic!("{other:?}"),
        }
        all.push(socket);
    }
    // All but the honest service's own.
    assert_eq!(unlocked, 1023);
    assert!(descriptors(scene.rocketd.pid()) < scene.descriptors + 2 * 1024 + 200);
    // Whoever lists them gets them all, in parts.
    let listed = scene.home.blind().reachable(SERVED);
    assert_eq!(listed.len(), 1024);
    drop(all);
    until(|| scene.home.blind().reachable(SERVED).len() == 1);
    scene.end();
}

/// Says a true hello and returns what kind of packet comes back.
fn hello(socket: &OwnedFd) -> u16 {
    rustix::io::ioctl_fionbio(socket, false).unwrap();
    let memory = Memory::new(CLIENT_LEN);
    let (service_bell, own_bell) = (bell(), bell());
    let fds = [memory.fd.as_fd(), service_bell.as_fd(), own_bell.as_fd()];
    send(socket, &greeting(HELLO, &CLIENT), &fds);
    let (bytes, _) = receive(socket);
    u16::from_le_bytes([bytes[6], bytes[7]])
}

/// A connection to a service, as rocketd hands it out.
fn handed_out(rocketd: &Path, service: &str) -> OwnedFd {
    let socket = connect(rocketd);
    send(&socket, &look_up(service, false), &[]);
    readable(&socket);
    let (bytes, mut fds) = receive(&socket);
    assert_eq!(Rocket::decode(&bytes), Ok(Rocket::Found));
    fds.remove(0)
}

/// A descriptor that this process was started with.
fn inherited(number: &str) -> OwnedFd {
    let path = format!("/proc/self/fd/{number}");
    assert!(Path::new(&path).exists());
    let me = rustix::process::getpid();
    let pidfd = rustix::process::pidfd_open(me, rustix::process::PidfdFlags::empty()).unwrap();
    let number = number.parse().unwrap();
    rustix::process::pidfd_getfd(pidfd, number, rustix::process::PidfdGetfdFlags::empty()).unwrap()
}

fn pass_on(fd: &OwnedFd) -> String {
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).unwrap();
    fd.as_raw_fd().to_string()
}

/// A role: says hello on a connection that another process was given.
fn taker(arguments: &[String]) {
    tell(hello(&inherited(&arguments[0])));
}

/// A role: passes on the connection that it was given, and ends.
fn giver(arguments: &[String]) {
    let to = inherited(&arguments[1]);
    let given = handed_out(Path::new(&arguments[0]), "open");
    send(&to, b"x", &[given.as_fd()]);
    tell("given");
}

#[test]
fn a_connection_is_good_for_the_process_that_asked_for_it_only() {
    let scene = Scene::new();
    let rocketd = scene.home.socket();
    assert_eq!(hello(&handed_out(&rocketd, "open")), WELCOME);
    let given = handed_out(&rocketd, "open");
    let taker = scene.home.folder.start("taker", &[&pass_on(&given)]);
    taker.expect(&REFUSE.to_string());
    drop(given);
    // Nor when that process has ended.
    let (one, other) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let (one, other) = (OwnedFd::from(one), OwnedFd::from(other));
    let arguments = [rocketd.to_str().unwrap(), &pass_on(&other)];
    let mut giver = scene.home.folder.start("giver", &arguments);
    giver.expect("given");
    giver.finish();
    let (_, mut fds) = receive(&one);
    assert_eq!(hello(&fds.remove(0)), REFUSE);
    scene.end();
}
