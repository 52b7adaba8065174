//! A service that has nothing to do leaves, and nothing is lost by that.

mod common;
#[path = "common/lies.rs"]
mod lies;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Call, ECHO, Folder, HANG, Process, play, tell};
use lightmessaging::{Connection, Ended, Error, Request, RunLoop, Service, ServiceBuilder};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Kinds of messages in these tests.
const NOTE: i32 = 2;
/// Answered from another thread, after as many milliseconds as the payload says.
const KEEP: i32 = 3;

#[test]
fn role() {
    play(&[("idler", idler), ("on_demand", on_demand), ("sender", sender)]);
}

fn handle(request: Request) {
    match request.id() {
        ECHO => {
            let (message, reply) = request.split();
            let _ = reply.reply(message.data());
        }
        NOTE => tell(String::from_utf8_lossy(request.data())),
        KEEP => drop(std::thread::spawn(move || {
            let text = String::from_utf8_lossy(request.data()).into_owned();
            std::thread::sleep(Duration::from_millis(text.parse().unwrap()));
            let _ = request.reply("kept");
        })),
        _ => {}
    }
}

fn serve(builder: ServiceBuilder, start: fn(ServiceBuilder) -> Service) {
    let mut service = start(builder);
    tell("ready");
    service.run().unwrap();
    assert!(!service.was_handed_over());
    tell("idle");
}

/// A service with a name of its own, that leaves after so many milliseconds.
fn idler(arguments: &[String]) {
    let time = Duration::from_millis(arguments[0].parse().unwrap());
    serve(Service::builder("x").exit_when_idle(time), |b| b.start(handle).unwrap());
}

/// One that somebody else listens for.
fn on_demand(_: &[String]) {
    // The shell that began this process has exported its own id.
    serve(Service::builder("x"), |builder| builder.check_in(handle).unwrap());
}

fn idles(process: &mut Process) {
    process.expect("idle");
    process.finish();
}

#[test]
fn a_service_leaves_when_it_has_been_idle_and_a_client_that_is_silent_does_not_keep_it() {
    let folder = Folder::new();
    let started = Instant::now();
    let mut server = folder.serve("idler", &["100"]);
    let silent = folder.connect("x");
    silent.send_two_way(ECHO, []).unwrap();
    idles(&mut server);
    assert!(started.elapsed() >= Duration::from_millis(100));
    assert!(matches!(silent.send_two_way(ECHO, []), Err(Error::NotFound { .. })));
    assert!(matches!(silent.send_one_way(NOTE, []), Err(Error::NotFound { .. })));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "it leaves nothing behind");
    let mut server = folder.serve("idler", &["100"]);
    assert_eq!(silent.send_two_way(ECHO, b"back").unwrap().data(), b"back");
    idles(&mut server);
}

#[test]
fn messages_and_a_request_that_is_kept_keep_a_service() {
    let folder = Folder::new();
    let mut server = folder.serve("idler", &["150"]);
    let connection = folder.connect("x");
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(600) {
        // Now and then, and from somebody new as well.
        connection.send_two_way(ECHO, []).unwrap();
        folder.connect("x").send_two_way(ECHO, []).unwrap();
        std::thread::sleep(Duration::from_millis(30));
    }
    assert_eq!(connection.send_two_way(KEEP, b"700").unwrap().data(), b"kept");
    let answered = Instant::now();
    idles(&mut server);
    assert!(answered.elapsed() < HANG / 2);
}

#[test]
fn a_guest_who_has_yet_to_say_what_he_wants_keeps_a_service() {
    let folder = Folder::new();
    let mut server = folder.serve("idler", &["50"]);
    let guest = lies::connect(&folder.path().join("x"));
    std::thread::sleep(Duration::from_millis(200));
    folder.connect("x").send_two_way(ECHO, []).unwrap();
    assert!(server.is_quiet());
    drop(guest);
    idles(&mut server);
}

#[test]
fn a_service_in_a_run_loop_leaves_it_when_it_is_idle() {
    let folder = Folder::new();
    let services = RunLoop::new().unwrap();
    for (name, time) in [("x", 50), ("y", 150)] {
        let builder = folder.service(name).exit_when_idle(Duration::from_millis(time));
        services.add(builder.start(handle).unwrap()).unwrap();
    }
    assert_eq!(services.run_within(HANG, false).unwrap(), Ended::Finished);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_service_in_a_foreign_loop_leaves_when_it_is_idle() {
    let folder = Folder::new();
    let builder = folder.service("x").exit_when_idle(Duration::from_millis(50));
    let mut service = builder.start(handle).unwrap();
    while !service.is_stopped() {
        let mut fds = [PollFd::from_borrowed_fd(service.as_fd(), PollFlags::IN)];
        let hang = Timespec { tv_sec: HANG.as_secs() as i64, tv_nsec: 0 };
        assert!(poll(&mut fds, Some(&hang)).unwrap() > 0);
        service.dispatch().unwrap();
    }
    assert!(matches!(folder.connect("x").look_up(HANG), Err(Error::NotFound { .. })));
}

/// Starts a service on demand, as whoever listens for it does, for a time in seconds.
fn start_on_demand(folder: &Folder, listener: &OwnedFd, time: &str) -> Process {
    // The shell becomes the test: so it knows the number of the process that it becomes.
    let mut command = Command::new("sh");
    let number = listener.as_raw_fd();
    let program = std::env::current_exe().unwrap();
    command
        .arg("-c")
        .arg(format!(
            "exec 3<&{number} && LISTEN_PID=$$ exec \"$0\" role --exact --nocapture --test-threads=1"
        ))
        .arg(program)
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", "x")
        .env("LIGHTMESSAGING_IDLE_EXIT", time)
        .env("LM_ROLE", "on_demand")
        .env("LM_ARGUMENTS", "");
    folder.spawn(command, "@@ ")
}

/// A socket that listens under a name, for processes that are started from this one.
fn listen(folder: &Folder) -> OwnedFd {
    let listener = lies::listen(&folder.path().join("x"));
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
    listener
}

/// Whether somebody has connected and was not accepted.
fn is_wanted(listener: &OwnedFd, wait: i64) -> bool {
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: wait, tv_nsec: 0 })).unwrap() > 0
}

#[test]
fn a_service_that_was_started_on_demand_is_told_when_to_leave_and_its_name_stays() {
    let folder = Folder::new();
    let listener = listen(&folder);
    let connection = folder.connection("x").deadline(HANG).build().unwrap();
    for round in 0..3 {
        connection.send_one_way(NOTE, format!("{round}")).unwrap();
        assert!(is_wanted(&listener, 10));
        let mut server = start_on_demand(&folder, &listener, "0.1");
        server.expect("ready");
        server.expect(&format!("{round}"));
        idles(&mut server);
    }
    // Its name is not for others to take.
    let server = start_on_demand(&folder, &listener, "30");
    server.expect("ready");
    let error = folder.service("x").take_over(HANG, drop).unwrap_err();
    assert!(
        matches!(&error, Error::Denied { reason, .. } if reason.contains("on demand")),
        "{error}"
    );
    connection.send_two_way(ECHO, []).unwrap();
}

#[test]
fn the_environment_says_nothing_to_a_service_with_a_name_of_its_own() {
    let folder = Folder::new();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["role", "--exact", "--nocapture", "--test-threads=1"])
        .env("LIGHTMESSAGING_IDLE_EXIT", "0.01")
        .env("LM_ROLE", "on_demand")
        .env("LM_ARGUMENTS", "");
    let server = folder.spawn(command, "@@ ");
    server.expect("ready");
    std::thread::sleep(Duration::from_millis(200));
    folder.connect("x").send_two_way(ECHO, []).unwrap();
    assert!(server.is_quiet());
}

/// Sends a number of notes at its own pace, the last of them just before it exits.
fn sender(arguments: &[String]) {
    let number = |at: usize| arguments[at].parse::<u64>().unwrap();
    let connection = Connection::builder("x").deadline(HANG).build().unwrap();
    for count in 0..number(1) {
        let note = format!("{} {count}", arguments[0]);
        if count % 2 == 0 {
            connection.send_one_way(NOTE, note).unwrap();
        } else {
            assert_eq!(connection.send_two_way(ECHO, &note).unwrap().data(), note.as_bytes());
        }
        // Around the time that the service waits for.
        std::thread::sleep(Duration::from_micros(number(2) + 61 * ((count * 7) % 13)));
    }
    connection.send_one_way(NOTE, format!("{} last", arguments[0])).unwrap();
    std::process::exit(0);
}

#[test]
fn what_is_sent_at_the_very_moment_is_handled_by_this_instance_or_the_next() {
    let folder = Folder::new();
    let listener = listen(&folder);
    let mut senders: Vec<_> = [("a", "3600"), ("b", "4300")]
        .iter()
        .map(|(name, pause)| folder.start("sender", &[name, "100", pause]))
        .collect();
    let (mut heard, mut starts) = (Vec::new(), 0);
    let is_done =
        |heard: &[String]| heard.iter().filter(|line| line.ends_with("last")).count() == 2;
    while !is_done(&heard) {
        assert!(is_wanted(&listener, 60), "{} of 102 after {starts} starts", heard.len());
        starts += 1;
        let mut server = start_on_demand(&folder, &listener, "0.003");
        server.expect("ready");
        loop {
            let line = server.line();
            if line == "idle" {
                break;
            }
            heard.push(line);
        }
        server.finish();
    }
    senders.iter_mut().for_each(Process::finish);
    assert!(starts > 1);
    for name in ["a", "b"] {
        let own: Vec<_> = heard.iter().filter(|line| line.starts_with(name)).cloned().collect();
        let mut expected: Vec<_> = (0..100).step_by(2).map(|n| format!("{name} {n}")).collect();
        expected.push(format!("{name} last"));
        assert_eq!(own, expected);
    }
    assert!(!is_wanted(&listener, 0));
}

#[test]
fn a_call_that_is_kept_at_the_very_moment_is_answered() {
    let folder = Folder::new();
    let listener = listen(&folder);
    let connection = folder.connection("x").deadline(HANG).build().unwrap();
    for round in 0..20u64 {
        let call = Call::start(&connection, KEEP, b"20");
        assert!(is_wanted(&listener, 10));
        let mut server = start_on_demand(&folder, &listener, "0.001");
        server.expect("ready");
        assert_eq!(call.end().unwrap().data(), b"kept");
        std::thread::sleep(Duration::from_micros(100 * round));
        idles(&mut server);
    }
}

#[test]
fn who_sends_and_exits_as_a_service_with_a_name_of_its_own_leaves_is_heard_or_told() {
    let folder = Folder::new();
    let mut sent = 0;
    let mut heard = 0;
    for round in 0..60u64 {
        let mut server = folder.serve("idler", &["1"]);
        let mut count = 0;
        loop {
            // Each one connects anew, and is gone at once.
            match folder.connect("x").send_one_way(NOTE, format!("{round}")) {
                Ok(()) => count += 1,
                Err(Error::NotFound { .. }) => break,
                Err(error) => panic!("{error}"),
            }
            std::thread::sleep(Duration::from_micros(round * 40 % 1500));
            if count > 200 {
                break;
            }
        }
        sent += count;
        loop {
            let line = server.line();
            if line == "idle" {
                break;
            }
            heard += 1;
        }
        server.finish();
    }
    assert_eq!(heard, sent);
}
