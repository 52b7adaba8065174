//! Names: which there are, who holds them, and what a folder must be like.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use common::{ECHO, Folder, HANG, Running, hear, play, server, tell};
use lightmessaging::{Connection, Error, Registry, Service, ServiceEvent};

#[test]
fn role() {
    play(&[("server", server), ("racer", racer)]);
}

/// Tries for a name when told to.
fn racer(arguments: &[String]) {
    tell("ready");
    hear();
    let service = Service::start(&arguments[0], drop);
    tell(match &service {
        Ok(_) => "won".to_owned(),
        Err(Error::NameInUse { .. }) => "lost".to_owned(),
        Err(error) => error.to_string(),
    });
    hear();
}

fn files(folder: &Folder) -> usize {
    fs::read_dir(folder.path()).unwrap().count()
}

#[test]
fn every_name_of_1_to_127_bytes_works() {
    let folder = Folder::new();
    let (long, longest) = ("n".repeat(108), "m".repeat(127));
    let umlauts = "\u{fc}".repeat(63);
    let names: [&[u8]; 14] = [
        b"a",
        long.as_bytes(),
        longest.as_bytes(),
        b".",
        b"..",
        b"../x",
        b"/",
        b"a/b",
        b" ",
        b"two words",
        umlauts.as_bytes(),
        b"\xff\xfe",
        b"=a",
        b".lock.a",
    ];
    let services: Vec<_> = names
        .iter()
        .map(|name| {
            let own = name.to_vec();
            let builder = Service::builder(name).registry(folder.registry());
            Running::new(builder.start(move |request| drop(request.reply(&own))).unwrap())
        })
        .collect();
    for name in names {
        let connection = Connection::builder(name).registry(folder.registry()).build().unwrap();
        assert_eq!(connection.send_two_way(1, []).unwrap().data(), name);
    }
    let listed = folder.registry().services().unwrap();
    let mut expected = names.to_vec();
    expected.sort();
    assert_eq!(listed.iter().map(|info| info.name.as_bytes()).collect::<Vec<_>>(), expected);
    drop(services);
    assert_eq!(files(&folder), 0, "what was stopped leaves nothing");
}

#[test]
fn the_registry_lists_who_serves() {
    let folder = Folder::new();
    assert!(folder.registry().services().unwrap().is_empty());
    let server = folder.serve("server", &["x"]);
    let clients = [folder.connect("x"), folder.connect("x")];
    for client in &clients {
        client.send_two_way(ECHO, []).unwrap();
    }
    let [info] = &folder.registry().services().unwrap()[..] else { panic!("one service") };
    assert_eq!(info.pid, Some(server.pid()));
    assert_eq!(info.uid, rustix::process::geteuid().as_raw());
    assert_eq!(info.connections, 2);
    assert_eq!(info.program, std::env::current_exe().ok());
}

#[test]
fn a_killed_services_name_is_free_at_once() {
    let folder = Folder::new();
    for _ in 0..5 {
        let mut server = folder.serve("server", &["x"]);
        server.kill();
    }
    assert!(folder.registry().services().unwrap().is_empty());
    assert_eq!(files(&folder), 0, "the listing removes what was left");
    let mut server = folder.serve("server", &["x"]);
    server.kill();
    let error = folder.connect("x").send_two_way(1, []).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }));
    assert_eq!(files(&folder), 0, "so does a failed look-up");
}

#[test]
fn of_many_who_race_for_a_name_one_wins() {
    let folder = Folder::new();
    for _ in 0..3 {
        // A stale name makes it harder.
        folder.serve("server", &["x"]).kill();
        let mut racers: Vec<_> = (0..6).map(|_| folder.serve("racer", &["x"])).collect();
        for racer in &mut racers {
            racer.say("go");
        }
        let ends: Vec<_> = racers.iter().map(|racer| racer.line()).collect();
        assert_eq!(ends.iter().filter(|end| *end == "won").count(), 1, "{ends:?}");
        assert_eq!(ends.iter().filter(|end| *end == "lost").count(), 5, "{ends:?}");
    }
}

#[track_caller]
fn denied(registry: Registry, says: &str) {
    let start = Service::builder("x").registry(registry.clone()).start(drop).unwrap_err();
    let send =
        Connection::builder("x").registry(registry.clone()).build().unwrap().send_one_way(1, []);
    let list = registry.services();
    for error in [start, send.unwrap_err(), list.unwrap_err()] {
        assert!(matches!(error, Error::Denied { .. }), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn a_folder_that_others_may_write_is_refused() {
    let folder = Folder::new();
    for (mode, advice) in [
        (0o777, "chmod 0700"),
        // As /tmp is, which is to stay everybody's.
        (0o1777, "a folder of your own"),
        (0o770, "chmod 0700"),
        (0o720, "chmod 0700"),
        (0o702, "chmod 0700"),
    ] {
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(mode)).unwrap();
        denied(folder.registry(), advice);
    }
    fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    folder.service("x").start(drop).unwrap();
}

#[test]
fn a_folder_of_somebody_else_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: only root can give a folder away");
    }
    let folder = Folder::new();
    std::os::unix::fs::chown(folder.path(), Some(12345), None).unwrap();
    denied(folder.registry(), "belongs to user 12345");
}

#[test]
fn a_folder_that_is_none_is_refused() {
    let folder = Folder::new();
    let link = folder.path().join("link");
    symlink(folder.path(), &link).unwrap();
    denied(Registry::at(&link), "symbolic links");
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    denied(Registry::at(&file), "is not a folder");
}

#[test]
fn a_folder_is_made_when_the_first_service_starts() {
    let folder = Folder::new();
    let inner = folder.path().join("inner");
    let registry = Registry::at(&inner);
    assert!(registry.services().unwrap().is_empty());
    assert!(!inner.exists());
    let _service = Service::builder("x").registry(registry).start(drop).unwrap();
    assert_eq!(fs::metadata(&inner).unwrap().permissions().mode() & 0o7777, 0o700);
    let far = Registry::at(folder.path().join("no/such/folder"));
    let error = Service::builder("x").registry(far).start(drop).unwrap_err();
    assert!(error.to_string().contains("does not exist"), "{error}");
}

#[test]
fn a_folder_may_have_a_long_path() {
    let folder = Folder::new();
    let mut path = folder.path().to_owned();
    for _ in 0..4 {
        path.push("d".repeat(100));
        fs::create_dir(&path).unwrap();
    }
    let registry = Registry::at(&path);
    let service = Service::builder("x").registry(registry.clone());
    let _running = Running::new(service.start(|request| drop(request.reply("far"))).unwrap());
    let connection = Connection::builder("x").registry(registry).build().unwrap();
    assert_eq!(connection.send_two_way(1, []).unwrap().data(), b"far");
}

#[test]
fn a_start_that_fails_leaves_nothing_behind() {
    let folder = Folder::new();
    // Something that cannot be replaced by a socket.
    fs::create_dir_all(folder.path().join("x/y")).unwrap();
    let before = files(&folder);
    folder.service("x").start(drop).unwrap_err();
    assert_eq!(files(&folder), before);
    let error = folder.connect("x").send_one_way(1, []).unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
}

#[test]
fn a_lock_file_that_is_none_is_refused() {
    let folder = Folder::new();
    let target = folder.path().join("target");
    fs::write(&target, "precious").unwrap();
    symlink(&target, folder.path().join(".lock.x")).unwrap();
    fs::hard_link(&target, folder.path().join(".lock.y")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        folder.path().join(".lock.z"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    for name in ["x", "y", "z"] {
        assert!(matches!(folder.service(name).start(drop), Err(Error::Os { .. })));
    }
    assert_eq!(fs::read_to_string(target).unwrap(), "precious");
}

#[test]
fn a_connection_can_wait_for_its_service() {
    let folder = Folder::new();
    let connection = folder.connection("x").wait_for_service(HANG).deadline(HANG).build().unwrap();
    let call = common::Call::start(&connection, ECHO, b"early");
    call.wait_until_it_sleeps();
    let _server = folder.serve("server", &["x"]);
    assert_eq!(call.end().unwrap().data(), b"early");
    let short = Duration::from_millis(30);
    let connection = folder.connection("y").wait_for_service(short).build().unwrap();
    assert!(matches!(connection.send_two_way(1, []), Err(Error::NotFound { .. })));
}

#[test]
fn a_connection_can_wait_for_a_folder_that_is_not_there_yet() {
    let folder = Folder::new();
    let registry = Registry::at(folder.path().join("later"));
    let connection =
        Connection::builder("x").registry(registry.clone()).wait_for_service(HANG).build();
    let call = common::Call::start(&connection.unwrap(), ECHO, b"early");
    call.wait_until_it_sleeps();
    let service =
        Service::builder("x").registry(registry).start(|request| drop(request.reply("yes")));
    let _running = Running::new(service.unwrap());
    assert_eq!(call.end().unwrap().data(), b"yes");
}

#[test]
fn a_watch_tells_when_a_service_comes_and_goes() {
    let folder = Folder::new();
    let connection = folder.connect("x");
    let mut watch = connection.watch().unwrap();
    assert_eq!(watch.next(HANG).unwrap(), Some(ServiceEvent::Went));
    assert_eq!(watch.next(Duration::from_millis(10)).unwrap(), None);
    for round in 0..3 {
        let mut server = folder.serve("server", &["x"]);
        assert_eq!(watch.next(HANG).unwrap(), Some(ServiceEvent::Came));
        if round == 1 {
            connection.send_two_way(ECHO, []).unwrap();
        }
        assert_eq!(watch.next(Duration::ZERO).unwrap(), None);
        server.kill();
        assert_eq!(watch.next(HANG).unwrap(), Some(ServiceEvent::Went));
    }
    let service = folder.service("x").start(drop).unwrap();
    let running = Running::new(service);
    assert_eq!(watch.next(HANG).unwrap(), Some(ServiceEvent::Came));
    running.stop();
    assert_eq!(watch.next(HANG).unwrap(), Some(ServiceEvent::Went));
}

#[test]
fn a_name_that_somebody_listens_for_on_a_services_behalf_is_in_use() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};

    let folder = Folder::new();
    let path = folder.path().join("on-demand");
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&socket, 1).unwrap();
    for _ in 0..4 {
        // Also when its queue is full.
        let error = folder.service("on-demand").start(drop).unwrap_err();
        assert!(matches!(error, Error::NameInUse { .. }), "{error}");
    }
    let listed = folder.registry().services().unwrap();
    let [info] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!(info.name.as_bytes(), b"on-demand");
    assert!(info.on_demand && info.pid.is_none());
    assert_eq!(files(&folder), 1, "only its socket is there");
    drop(socket);
    folder.service("on-demand").start(drop).unwrap();
}
