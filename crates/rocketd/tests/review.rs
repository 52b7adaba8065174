//! What a hostile reading has found: who sends strange things, or goes at a strange moment.

#[path = "kit/fuse.rs"]
mod fuse;
mod kit;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use kit::common::{play, tell};
use kit::lies::{connect, listen, send};
use kit::{Home, NOWHERE, ROLES, STRANGER, is_root, leave_out, until_called};
use lightmessaging::rocketd::{Entry, Rocket};
use lightmessaging::{Connection, Registry, Service, ServiceName};
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;

#[test]
fn role() {
    let more: [kit::common::Role; 3] =
        [("one_way", one_way), ("listener", listener), ("silent", silent)];
    play(&ROLES.into_iter().chain(more).collect::<Vec<_>>());
}

/// A connection that is closed when all is sent, which is in an hour, and its other end.
fn lingering() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    while (&stream).write(&[0; 1 << 16]).is_ok() {}
    let hour = Duration::from_secs(3600);
    rustix::net::sockopt::set_socket_linger(&stream, Some(hour)).unwrap();
    (stream.into(), other)
}

#[test]
fn a_socket_that_lingers_keeps_neither_rocketd_nor_a_service_waiting() {
    let home = Home::new();
    let rocketd = home.rocketd();
    let service = home.serve("open", "unlocked");
    until_called(&home, "open", "ok");
    // In the packet that is read, behind it, and among more than anybody has room for.
    for (before, count) in [(0, 1), (1, 1), (0, 200)] {
        for path in [home.socket(), home.folder.path().join("open")] {
            rocketd.signal(Signal::STOP);
            service.freeze();
            let socket = connect(&path);
            (0..before).for_each(|_| send(&socket, b"x", &[]));
            let (lingering, _other) = lingering();
            send(&socket, b"x", &vec![lingering.as_fd(); count]);
            // Whoever closes it now is the last.
            drop(lingering);
            rocketd.signal(Signal::CONT);
            service.thaw();
            assert_eq!(home.call("open"), "ok x", "{count} behind {before}");
        }
    }
}

/// A role: sends a file of a file system of its own, which does not answer when that is closed.
fn silent(arguments: &[String]) {
    static IS_SILENT: AtomicBool = AtomicBool::new(false);
    let (device, root) = fuse::mount();
    let device = Arc::new(device);
    let unanswered: Arc<Mutex<Vec<[u8; 8]>>> = Arc::default();
    // See fuse(4): version 7.31, one file by whatever name, and nothing else.
    let (server, left) = (device.clone(), unanswered.clone());
    thread::spawn(move || {
        let mut request = vec![0; 1 << 17];
        while (&*server).read(&mut request).is_ok() {
            let (mut error, mut body) = (0i32, vec![0u8; 128]);
            match request[4] {
                26 => {
                    (body[0], body[4], body[22]) = (7, 31, 1);
                    body.truncate(64);
                }
                1 => {
                    (body[0], body[16], body[24], body[40]) = (2, 200, 200, 2);
                    body[100..104].copy_from_slice(&0o100644u32.to_le_bytes());
                    body[104] = 1;
                }
                14 => body.truncate(16),
                25 if IS_SILENT.load(Ordering::Acquire) => {
                    left.lock().unwrap().push(request[8..16].try_into().unwrap());
                    continue;
                }
                _ => (error, body) = (-38, Vec::new()),
            }
            let mut answer = (16 + body.len() as u32).to_le_bytes().to_vec();
            answer.extend(error.to_le_bytes());
            answer.extend(&request[8..16]);
            answer.extend(body);
            let _ = (&*server).write_all(&answer);
        }
    });
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&root, "file", flags, Mode::empty()).unwrap();
    IS_SILENT.store(true, Ordering::Release);
    for path in arguments {
        let socket = connect(Path::new(path));
        send(&socket, b"x", &[file.as_fd()]);
        kit::lies::wait_for_the_end(&socket);
    }
    tell("sent");
    // Whoever waits for an answer cannot even be killed.
    kit::common::hear();
    IS_SILENT.store(false, Ordering::Release);
    for number in unanswered.lock().unwrap().drain(..) {
        let answer = [&16u32.to_le_bytes()[..], &(-38i32).to_le_bytes(), &number].concat();
        (&*device).write_all(&answer).unwrap();
    }
    drop(file);
    tell("done");
}

#[test]
fn a_file_whose_file_system_never_answers_keeps_nobody_waiting() {
    let what = "a file system that never answers";
    if !is_root(what) {
        return;
    }
    if File::open("/dev/fuse").is_err() {
        return leave_out(what, "there is no /dev/fuse");
    }
    let home = Home::new();
    let _rocketd = home.rocketd();
    let _service = home.serve("open", "unlocked");
    until_called(&home, "open", "ok");
    let (rocketd, service) = (home.socket(), home.folder.path().join("open"));
    let paths = [rocketd.to_str().unwrap(), service.to_str().unwrap()];
    let mut silent = home.folder.start("silent", &paths);
    silent.expect("sent");
    let said = home.call("open");
    assert_eq!(silent.ask("answer"), "done");
    assert_eq!(said, "ok x");
}

/// A role: sends one message through rocketd, and ends.
fn one_way(arguments: &[String]) {
    let registry = Registry::at(NOWHERE).with_rocketd(&arguments[0]);
    Connection::builder("open").registry(registry).build().unwrap().send_one_way(7, "x").unwrap();
}

/// A role: a service that says when it has been sent something.
fn listener(arguments: &[String]) {
    let registry = Registry::at(&arguments[0]).with_rocketd(&arguments[1]);
    let heard = |request: lightmessaging::Request| {
        if request.id() == 7 { tell("heard") } else { kit::answer(request) }
    };
    let mut service = Service::builder("open").registry(registry).unlocked().start(heard).unwrap();
    tell("ready");
    service.run().unwrap();
}

#[test]
fn who_sends_through_rocketd_and_ends_is_heard() {
    // Before that, nothing tells one process that has ended from another.
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map_while(|number| number.parse::<u32>().ok());
    if (numbers.next(), numbers.next()) < (Some(6), Some(17)) {
        return leave_out("a client that has ended", "the kernel is older than 6.17");
    }
    let home = Home::new();
    let _rocketd = home.rocketd();
    let socket = home.socket();
    let arguments = [home.folder.path().to_str().unwrap(), socket.to_str().unwrap()];
    let service = home.folder.serve("listener", &arguments);
    until_called(&home, "open", "ok");
    service.freeze();
    home.folder.start("one_way", &arguments[1..]).finish();
    service.thaw();
    service.expect("heard");
}

#[test]
fn an_answer_that_never_ends_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = listen(&path);
    let entry = Entry {
        name: ServiceName::new("a").unwrap(),
        pid: 0,
        uid: 0,
        is_unlocked: true,
        command: None,
    };
    let bytes = Rocket::Entry(entry).encode();
    let registry = Registry::at(NOWHERE).with_rocketd(&path);
    let asker = thread::spawn(move || registry.reachable(Duration::from_millis(50)).len());
    let liar = rustix::net::accept(&listener).unwrap();
    rustix::io::ioctl_fionbio(&liar, true).unwrap();
    let lie = || {
        while !asker.is_finished() {
            send(&liar, &bytes, &[]);
        }
    };
    thread::scope(|scope| {
        scope.spawn(lie);
        scope.spawn(lie);
    });
    assert_eq!(asker.join().unwrap(), 1);
}

#[test]
fn a_folder_of_another_user_is_no_place_to_listen_in() {
    if !is_root("a folder of another user") {
        return;
    }
    let home = Home::new();
    let user = rustix::fs::Uid::from_raw(STRANGER);
    rustix::fs::chown(home.run(), Some(user), None).unwrap();
    let mut rocketd = home.start(home.command());
    assert!(!rocketd.end().success());
    let sentence = format!("its folder belongs to user {STRANGER}");
    assert!(rocketd.log().contains(&sentence), "{}", rocketd.log());
    // Its mode alone would not have told.
    assert_eq!(std::fs::metadata(home.run()).unwrap().permissions().mode() & 0o777, 0o755);
}
