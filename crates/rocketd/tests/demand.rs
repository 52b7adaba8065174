//! Services that are started when somebody comes.

#[path = "../../lightmessaging/tests/common/executor.rs"]
mod executor;
mod kit;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use executor::{Set, poll_once};
use kit::common::{ECHO, Folder, HANG, descriptors, play, until};
use kit::{Home, ROLES, STRANGER, WHO, failed, has_descriptors, kill, leave_out, lives, starts};
use lightmessaging::rocketd::Listener;
use lightmessaging::{Connection, Error, Registry};
use rustix::process::Signal;

#[test]
fn role() {
    let roles: Vec<_> = ROLES.into_iter().chain([("few", few as fn(&[String]))]).collect();
    play(&roles);
}

/// A service file for the role [`on_demand`].
fn serve(home: &Home, name: &str, more: &str) -> PathBuf {
    home.demand(name, "on_demand", &[home.starts().to_str().unwrap()], more);
    home.starts()
}

/// What so many clients at once come to, by outcome: each has a connection and a thread of its own.
fn crowd(registry: &Registry, name: &str, clients: usize, deadline: Duration) -> Vec<Outcome> {
    let together = Barrier::new(clients);
    thread::scope(|scope| {
        let call = || {
            let builder = Connection::builder(name).registry(registry.clone());
            let connection = builder.deadline(deadline).build().unwrap();
            together.wait();
            let began = Instant::now();
            let error = connection.send_two_way(ECHO, "x").err();
            Outcome { error, time: began.elapsed() }
        };
        let start = || thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, call);
        let threads: Vec<_> = (0..clients).map(|_| start().unwrap()).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

struct Outcome {
    error: Option<Error>,
    time: Duration,
}

/// Asserts that all were answered.
fn answered(outcomes: &[Outcome]) {
    let failures: Vec<String> =
        outcomes.iter().filter_map(|outcome| outcome.error.as_ref().map(failed)).collect();
    assert!(failures.is_empty(), "{} of {}, {}", failures.len(), outcomes.len(), failures[0]);
}

#[test]
fn a_thousand_clients_at_once_start_a_service_once_and_all_are_answered() {
    if !has_descriptors(16_000, "a thousand clients") {
        return;
    }
    let home = Home::new();
    let starts_file = serve(&home, "x", "");
    let _rocketd = home.rocketd();
    assert_eq!(starts(&starts_file), []);
    answered(&crowd(&home.registry(), "x", 1000, HANG));
    assert_eq!(starts(&starts_file).len(), 1);
    // Locked, as nothing else was said.
    assert!(home.call("x").starts_with("NotFound "));
}

#[test]
fn a_thousand_clients_that_see_rocketd_alone_start_it_once_too() {
    if !has_descriptors(16_000, "a thousand clients") {
        return;
    }
    let home = Home::new();
    home.policy("[quota]\nlanes = 2000\nlookups_per_second = 2000");
    let starts_file = serve(&home, "x", "unlocked = true");
    let rocketd = home.rocketd();
    let before = descriptors(rocketd.pid());
    answered(&crowd(&home.blind(), "x", 1000, HANG));
    assert_eq!(starts(&starts_file).len(), 1);
    // rocketd hears that they are gone.
    until(|| descriptors(rocketd.pid()) <= before + 1);
}

#[test]
fn futures_look_up_through_rocketd_and_never_wait_for_it() {
    let home = Home::new();
    let starts_file = serve(&home, "x", "unlocked = true");
    let connection = home.connect("x");
    let events = connection.events().unwrap();
    let error = Set::new(&events, [connection.send_two_way_async(ECHO, "x")]).join();
    assert!(matches!(error[0], Err(Error::NotFound { .. })), "{error:?}");
    let rocketd = home.rocketd();
    // It is there, and does not get round to it.
    rocketd.signal(Signal::STOP);
    let mut call = connection.send_two_way_async(ECHO, "first");
    assert!(poll_once(&events, &mut call).is_pending());
    let late = connection.send_two_way_async(ECHO, "x").within(Duration::from_millis(30));
    let late = Set::new(&events, [late]).join().pop().unwrap().unwrap_err();
    assert!(matches!(late, Error::TimedOut { delivered: false, .. }), "{late}");
    rocketd.signal(Signal::CONT);
    assert_eq!(Set::new(&events, [call]).join().pop().unwrap().unwrap().data(), b"first");
    let calls = (0..100).map(|_| connection.send_two_way_async(ECHO, "x"));
    assert!(Set::new(&events, calls).join().iter().all(Result::is_ok));
    assert_eq!(starts(&starts_file).len(), 1);
}

#[test]
fn futures_wait_for_a_service_that_rocketd_does_not_know_yet() {
    let home = Home::new();
    let connection = Connection::builder("x").registry(home.blind()).wait_for_service(HANG);
    let connection = connection.build().unwrap();
    let events = connection.events().unwrap();
    let calls = (0..10).map(|_| connection.send_two_way_async(ECHO, "x"));
    let mut calls = Set::new(&events, calls);
    calls.run_until_it_sleeps();
    let _rocketd = home.rocketd();
    calls.run_until_it_sleeps();
    assert_eq!(calls.ready(), 0);
    let _service = home.serve("x", "unlocked for all");
    assert!(calls.join().iter().all(Result::is_ok));
}

/// A role: a hundred clients in a process with few descriptors.
fn few(arguments: &[String]) {
    let limit = rustix::process::Rlimit { current: Some(900), maximum: Some(900) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let registry = Registry::at(kit::NOWHERE).with_rocketd(&arguments[0]);
    let outcomes = crowd(&registry, "x", 100, HANG);
    let failure = outcomes.iter().find_map(|outcome| outcome.error.as_ref().map(failed));
    kit::common::tell(failure.unwrap_or_else(|| "answered".to_owned()));
}

#[test]
fn clients_with_more_descriptors_on_their_way_than_their_user_may_have_wait_for_their_turn() {
    if !has_descriptors(16_000, "clients of a user with few descriptors") {
        return;
    }
    let home = Home::new();
    home.policy(&format!("[[allow]]\nnames = '*'\nuid = {STRANGER}"));
    let starts_file = home.starts();
    let arguments = [starts_file.to_str().unwrap(), "700"];
    home.demand("x", "on_demand", &arguments, "unlocked = true");
    let _rocketd = home.rocketd();
    let (socket, folder) = (home.socket(), Folder::new());
    let arguments = [socket.to_str().unwrap()];
    // Root may have as many as it likes.
    let is_root = rustix::process::geteuid().is_root();
    let processes: Vec<_> = (0..8)
        .map(|_| match is_root {
            true => folder.start_as(STRANGER, "few", &arguments),
            false => folder.start("few", &arguments),
        })
        .collect();
    processes.iter().for_each(|process| process.expect("answered"));
    assert_eq!(starts(&starts_file).len(), 1);
}

#[test]
fn clients_of_a_service_that_is_killed_while_it_starts_do_not_hang() {
    let home = Home::new();
    let starts_file = home.starts();
    let script = format!("echo $$ >> {}; sleep 0.2; kill -9 $$", starts_file.display());
    home.service_file("x", &["/bin/sh", "-c", &script], "unlocked = true");
    let _rocketd = home.rocketd();
    for registry in [home.registry(), home.blind()] {
        for outcome in crowd(&registry, "x", 64, Duration::from_secs(10)) {
            // An error, and not the deadline's.
            let error = outcome.error.expect("an answer from nobody");
            assert!(matches!(error, Error::NotStarted { .. }), "{}", failed(&error));
            assert!(outcome.time < Duration::from_secs(10));
        }
    }
    assert!(starts(&starts_file).len() <= 3);
}

#[test]
fn who_calls_what_cannot_be_started_is_told_so_and_it_is_tried_ever_less() {
    let home = Home::new();
    let script = |how: &str| format!("echo $$ >> {}.{how}; exit {how}", home.starts().display());
    let missing = home.place.path().join("missing");
    home.service_file("missing", &[missing.to_str().unwrap()], "");
    home.service_file("bad", &["/bin/sh", "-c", &script("1")], "");
    home.service_file("idle", &["/bin/sh", "-c", &script("0")], "unlocked = true");
    let rocketd = home.rocketd();
    let end = Instant::now() + Duration::from_secs(3);
    let mut calls = 0;
    while Instant::now() < end {
        for name in ["missing", "bad", "idle"] {
            let connection = Connection::builder(name).registry(home.registry()).build().unwrap();
            let error = connection.send_two_way(ECHO, "x").unwrap_err();
            assert!(matches!(error, Error::NotStarted { .. }), "{name}: {}", failed(&error));
        }
        let answer = home.call("idle");
        assert!(answer.starts_with("NotStarted "), "{answer}");
        calls += 1;
        thread::sleep(Duration::from_millis(5));
    }
    assert!(calls > 10, "{calls}");
    // At once, after 0.5 s, after 1 s more, and not for 2 s after that.
    for how in ["0", "1"] {
        let times = starts(&home.starts().with_file_name(format!("starts.{how}"))).len();
        assert!((1..=4).contains(&times), "started {times} times");
    }
    let log = rocketd.log();
    assert!(log.matches("missing has failed").count() <= 4, "{log}");
    assert!(
        log.contains("bad has failed (exit status: 1); it is not started again for 0.5 s"),
        "{log}"
    );
    assert!(log.contains("idle has failed (exit status: 0)"), "{log}");
}

#[test]
fn a_service_file_that_was_mended_is_tried_at_once() {
    let home = Home::new();
    home.service_file("x", &["/bin/false"], "unlocked = true");
    let rocketd = home.rocketd();
    // The fourth failure would count for four seconds.
    rocketd.wait_for("listening at");
    let end = Instant::now() + HANG;
    while rocketd.log().matches("x has failed").count() < 3 {
        assert!(home.call("x").starts_with("NotStarted ") && Instant::now() < end);
        thread::sleep(Duration::from_millis(10));
    }
    let began = Instant::now();
    serve(&home, "x", "unlocked = true");
    kit::until_called(&home, "x", "ok");
    println!("started {:?} after it was mended", began.elapsed());
}

#[test]
fn a_service_that_runs_is_adopted_by_the_next_rocketd() {
    let home = Home::new();
    let starts_file = serve(&home, "x", "unlocked = true");
    let mut rocketd = home.rocketd();
    assert_eq!(home.call("x"), "ok x");
    let kept = home.connect("x");
    kept.send_two_way(ECHO, "x").unwrap();
    rocketd.kill();
    kept.send_two_way(ECHO, "x").unwrap();
    // Those who see the registry still reach it.
    let direct = || home.folder.connect("x").send_two_way(ECHO, "x");
    direct().unwrap();
    let rocketd = home.rocketd();
    rocketd.wait_for("x runs already");
    assert_eq!(home.call("x"), "ok x");
    direct().unwrap();
    kept.send_two_way(ECHO, "x").unwrap();
    let [first] = starts(&starts_file)[..] else { panic!("started twice") };
    // It ends, and the next call starts it again.
    kill(first, Signal::TERM);
    rocketd.wait_for("x has ");
    kit::until_called(&home, "x", "ok");
    assert_eq!(starts(&starts_file).len(), 2);
}

#[test]
fn a_rocketd_that_ends_takes_the_names_of_what_does_not_run_along() {
    let home = Home::new();
    serve(&home, "x", "");
    let starts_file = serve(&home, "y", "");
    let mut rocketd = home.rocketd();
    let direct = |name: &str| home.folder.connect(name).send_two_way(ECHO, "x");
    direct("y").unwrap();
    assert!(rocketd.stop().success());
    assert!(matches!(direct("x"), Err(Error::NotFound { .. })));
    direct("y").unwrap();
    let [y] = starts(&starts_file)[..] else { panic!() };
    let rocketd = home.rocketd();
    rocketd.wait_for("y runs already");
    direct("x").unwrap();
    kill(y, Signal::KILL);
    rocketd.wait_for("y has ");
    let calls = Connection::builder("y").registry(home.registry()).build().unwrap();
    until(|| calls.send_two_way(ECHO, "x").is_ok());
}

#[test]
fn names_that_a_killed_rocketd_left_behind_are_not_listed() {
    let home = Home::new();
    serve(&home, "x", "");
    let starts_file = serve(&home, "y", "");
    let mut rocketd = home.rocketd();
    home.folder.connect("y").send_two_way(ECHO, "x").unwrap();
    let listed = || -> Vec<String> {
        let services = home.folder.registry().services().unwrap();
        services.iter().map(|info| info.name.to_string()).collect()
    };
    assert_eq!(listed(), ["x", "y"]);
    rocketd.kill();
    assert_eq!(listed(), ["y"], "it runs");
    kill(starts(&starts_file)[0], Signal::TERM);
    until(|| listed().is_empty());
    let names = std::fs::read_dir(home.folder.path()).unwrap().count();
    assert_eq!(names, 0, "nothing is left to be cleaned up");
}

#[test]
fn a_service_that_was_started_unlocks_itself() {
    let home = Home::new();
    serve(&home, "x", "");
    let rocketd = home.rocketd();
    assert!(home.call("x").starts_with("NotFound "));
    home.folder.connect("x").send_two_way(ECHO, "x").unwrap();
    let name = lightmessaging::ServiceName::new("x").unwrap();
    home.registry().unlock(&name, true, HANG).unwrap();
    kit::until_called(&home, "x", "ok");
    drop(rocketd);
}

#[test]
fn service_files_count_as_soon_as_they_are_there_and_no_longer() {
    let home = Home::new();
    let rocketd = home.rocketd();
    assert!(home.call("x").starts_with("NotFound "));
    let starts_file = serve(&home, "x", "unlocked = true");
    kit::until_called(&home, "x", "ok");
    // Changed: locked now. What runs goes on running.
    serve(&home, "x", "unlocked = false");
    kit::until_called(&home, "x", "NotFound ");
    home.folder.connect("x").send_two_way(ECHO, "x").unwrap();
    serve(&home, "x", "unlocked = true");
    kit::until_called(&home, "x", "ok");
    assert_eq!(starts(&starts_file).len(), 1);
    // Broken: as if it were gone, and said.
    let path = home.services().join("x.toml");
    fs::write(&path, "name = 'x'\ncommand = 7").unwrap();
    rocketd.wait_for("x.toml, line 2, column 11: ");
    kit::until_called(&home, "x", "NotFound ");
    // Removed, while it runs: it goes on, and is not started again.
    fs::remove_file(&path).unwrap();
    home.folder.connect("x").send_two_way(ECHO, "x").unwrap();
    let [pid] = starts(&starts_file)[..] else { panic!() };
    assert!(lives(pid));
    kill(pid, Signal::KILL);
    until(|| {
        let call = home.folder.connect("x").send_two_way(ECHO, "x");
        matches!(call, Err(Error::NotFound { .. }))
    });
    // And back, in a folder that was taken away and came back.
    fs::rename(home.services(), home.place.path().join("old")).unwrap();
    fs::create_dir(home.services()).unwrap();
    kit::common::until(|| {
        serve(&home, "x", "unlocked = true");
        home.call("x").starts_with("ok")
    });
}

#[test]
fn a_name_that_somebody_holds_is_taken_when_it_is_free() {
    let home = Home::new();
    let by_hand = home.serve("x", "locked");
    let starts_file = serve(&home, "x", "unlocked = true");
    let rocketd = home.rocketd();
    rocketd.wait_for("x is not started on demand while somebody else has the name");
    let who = home.folder.connect("x").peer(HANG).unwrap().pid();
    assert_eq!(who, by_hand.pid());
    assert_eq!(starts(&starts_file), []);
    // rocketd knows, and does not ask again and again.
    let work = || fs::read_to_string(format!("/proc/{}/io", rocketd.pid())).unwrap();
    let calls = |io: &str| io.lines().find_map(|l| l.strip_prefix("syscr: ")?.parse::<u64>().ok());
    let before = calls(&work());
    thread::sleep(Duration::from_millis(300));
    let after = calls(&work());
    assert!(after <= before.map(|before| before + 50), "{before:?} reads before, {after:?} after");
    drop(by_hand);
    kit::until_called(&home, "x", "ok");
    assert_eq!(starts(&starts_file).len(), 1);
    // A service that is started by hand does not get the name then.
    let second = home.folder.service("x").start(|_| ());
    assert!(matches!(second, Err(Error::NameInUse { .. })));
}

#[test]
fn a_busy_service_that_holds_a_name_keeps_nobody_else_waiting() {
    let home = Home::new();
    let by_hand = home.serve("x", "locked");
    let starts_file = serve(&home, "y", "unlocked = true");
    serve(&home, "x", "");
    by_hand.freeze();
    let _rocketd = home.rocketd();
    for _ in 0..20 {
        // Each of these changes the registry.
        drop(home.folder.service("z").start(|_| ()).unwrap());
        assert_eq!(home.call("y"), "ok x");
    }
    by_hand.thaw();
    assert_eq!(starts(&starts_file).len(), 1);
}

#[test]
fn a_service_that_is_idle_ends_and_is_started_again_and_no_call_is_lost() {
    let home = Home::new();
    let starts_file = serve(&home, "x", "unlocked = true\nidle_exit = 0.2");
    let rocketd = home.rocketd();
    assert_eq!(home.call("x"), "ok x");
    let [first] = starts(&starts_file)[..] else { panic!() };
    until(|| !lives(first));
    rocketd.wait_for("x has ended (exit status: 0)");
    assert_eq!(home.call("x"), "ok x");
    assert_eq!(starts(&starts_file).len(), 2);
    // Pauses of about its patience, by clients that keep their connection and by such that do not.
    let direct = home.folder.connection("x").deadline(HANG).build().unwrap();
    let through = home.connect("x");
    for pause in (180..230).step_by(2) {
        thread::sleep(Duration::from_millis(pause));
        match pause % 3 {
            0 => drop(direct.send_two_way(ECHO, "x").unwrap()),
            1 => drop(through.send_two_way(ECHO, "x").unwrap()),
            _ => assert_eq!(home.call("x"), "ok x"),
        }
    }
    assert!(starts(&starts_file).len() > 2);
    assert!(!rocketd.log().contains("has failed"), "{}", rocketd.log());
}

#[test]
fn a_service_that_starts_while_rocketd_is_killed_is_adopted_once_it_serves() {
    let home = Home::new();
    let starts_file = home.starts();
    let arguments = [starts_file.to_str().unwrap(), "300"];
    home.demand("x", "on_demand", &arguments, "unlocked = true");
    let mut rocketd = home.rocketd();
    let first = home.folder.connection("x").deadline(HANG).build().unwrap();
    let call = kit::common::Call::start(&first, ECHO, b"x");
    until(|| !starts(&starts_file).is_empty());
    rocketd.kill();
    let rocketd = home.rocketd();
    rocketd.wait_for("x runs already");
    call.end().unwrap();
    assert_eq!(home.call("x"), "ok x");
    assert_eq!(starts(&starts_file).len(), 1);
}

#[test]
fn a_stranger_who_listens_by_the_name_does_not_keep_rocketd_busy() {
    let home = Home::new();
    let socket = kit::lies::listen(&home.folder.path().join("x"));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let starts_file = serve(&home, "x", "");
    serve(&home, "y", "unlocked = true");
    thread::scope(|scope| {
        let (socket, stop) = (&socket, &stop);
        let hang_up = scope.spawn(move || {
            let mut count = 0;
            while let Ok(connection) = rustix::net::accept(socket) {
                drop(connection);
                count += 1;
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
            }
            count
        });
        let _rocketd = home.rocketd();
        assert_eq!(home.call("y"), "ok x");
        thread::sleep(Duration::from_millis(500));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        drop(kit::lies::connect(&home.folder.path().join("x")));
        let count = hang_up.join().unwrap();
        assert!(count < 50, "it was asked {count} times");
        assert_eq!(starts(&starts_file).len(), 1);
    });
}

#[test]
fn a_service_that_is_started_has_a_clean_environment_and_its_socket() {
    let home = Home::new();
    let out = home.place.path().join("out");
    let script =
        format!("(env; echo pid=$$; ls -l /proc/self/fd) > {0}.new; mv {0}.new {0}", out.display());
    home.service_file("x", &["/bin/sh", "-c", &script], "environment = { COLOUR = 'red' }");
    let mut command = home.command();
    command.env("NOTIFY_SOCKET", "/none").env("LISTEN_PIDFDID", "1").env("KEPT", "1");
    let rocketd = home.start(command);
    rocketd.wait_for("listening at");
    let error = home.folder.connect("x").send_two_way(ECHO, "x").unwrap_err();
    assert!(matches!(error, Error::NotStarted { .. }));
    until(|| out.exists());
    let text = fs::read_to_string(out).unwrap();
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
    assert_eq!(value("COLOUR="), Some("red"));
    assert_eq!(value("KEPT="), Some("1"));
    assert_eq!(value("LISTEN_FDS="), Some("1"));
    assert_eq!(value("LISTEN_FDNAMES="), Some("x"));
    assert_eq!(value("LISTEN_PID="), value("pid="));
    assert_eq!(value("LIGHTMESSAGING_DIR="), home.folder.path().to_str());
    assert_eq!(value("LIGHTMESSAGING_ROCKETD="), home.socket().to_str());
    for key in ["NOTIFY_SOCKET=", "LISTEN_PIDFDID="] {
        assert_eq!(value(key), None);
    }
    // Of what rocketd has open only the socket.
    let links = |what: &str| text.lines().filter(|line| line.contains(what)).count();
    assert_eq!(
        (links(" 3 -> socket:"), links(" -> socket:"), links("anon_inode:")),
        (1, 1, 0),
        "{text}"
    );
}

/// Runs this program in a role with a socket that somebody else listens on.
fn activated(folder: &Folder, name: &str, socket: &Listener, set: impl Fn(&mut Command)) -> Handed {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let starts = folder.path().join(".starts");
    command.args(["role", "--exact", "--nocapture", "--test-threads=1"]);
    command.env("LM_ROLE", "on_demand").env("LIGHTMESSAGING_DIR", folder.path());
    command.env("LM_ARGUMENTS", format!("{name}\x1f{}", starts.display())).env("LISTEN_FDS", "1");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    for key in ["LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID"] {
        command.env_remove(key);
    }
    set(&mut command);
    let parent_fd = socket.as_fd().try_clone_to_owned().unwrap();
    command.fd_mappings(vec![FdMapping { parent_fd, child_fd: 3 }]).unwrap();
    Handed(command.spawn().unwrap())
}

/// A process with a socket that was handed to it; killed when dropped.
struct Handed(std::process::Child);

impl Drop for Handed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The shell knows its own number, which it keeps.
fn by_shell(command: &mut Command, more: &str) {
    let program = command.get_program().to_owned();
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let environment: Vec<_> = command
        .get_envs()
        .map(|(key, value)| (key.to_owned(), value.map(ToOwned::to_owned)))
        .collect();
    *command = Command::new("/bin/sh");
    command.arg0("sh").arg("-c").arg(format!("{more} exec \"$0\" \"$@\""));
    command.arg(program).args(arguments);
    for (key, value) in environment {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
}

const OWN_PID: &str = "export LISTEN_PID=$$;";

fn listen(path: &Path) -> Listener {
    Listener::bind(path).unwrap()
}

#[test]
fn a_socket_is_taken_over_from_whoever_listened_before() {
    for names in ["", "export LISTEN_FDNAMES=x;", "export LISTEN_FDNAMES=unknown;"] {
        let folder = Folder::new();
        let socket = listen(&folder.path().join("x"));
        // Sent before there is anybody to take it.
        let early = folder.connection("x").deadline(HANG).build().unwrap();
        early.send_one_way(ECHO, "x").unwrap();
        let waiting = {
            let early = early.clone();
            thread::spawn(move || early.send_two_way(ECHO, "x").map(drop))
        };
        let service = activated(&folder, "x", &socket, |command| {
            by_shell(command, &format!("{OWN_PID}{names}"))
        });
        waiting.join().unwrap().unwrap();
        // The name stays when the service ends.
        drop(service);
        assert!(folder.path().join("x").exists());
        let _service = activated(&folder, "x", &socket, |command| by_shell(command, OWN_PID));
        folder.connection("x").deadline(HANG).build().unwrap().send_two_way(ECHO, "x").unwrap();
    }
}

#[test]
fn a_socket_by_another_file_is_taken_over_by_its_name() {
    let folder = Folder::new();
    let elsewhere = Folder::new();
    let path = elsewhere.path().join("s");
    let socket = listen(&path);
    std::os::unix::fs::symlink(&path, folder.path().join("link")).unwrap();
    let set =
        |command: &mut Command| by_shell(command, &format!("{OWN_PID}export LISTEN_FDNAMES=x;"));
    let _service = activated(&folder, "x", &socket, set);
    // Under its own file's name it is known to nobody else, so by a registry that has that.
    fs::rename(&path, folder.path().join("x")).unwrap();
    let connection = folder.connection("x").deadline(HANG).build().unwrap();
    connection.send_two_way(WHO, "").unwrap();
}

#[test]
fn a_socket_that_was_meant_for_another_process_is_left_alone() {
    // Then the name is the service's own, and is in use here.
    let attempts: [(&str, bool); 3] = [
        ("export LISTEN_PID=1;", false),
        ("", false),
        ("export LISTEN_PID=$$ LISTEN_PIDFDID=1;", !has_pidfd_ids()),
    ];
    for (more, is_taken) in attempts {
        let folder = Folder::new();
        let socket = listen(&folder.path().join("x"));
        let set = |command: &mut Command| by_shell(command, more);
        let mut service = activated(&folder, "x", &socket, set);
        if is_taken {
            leave_out("a wrong LISTEN_PIDFDID", "this kernel has no numbers of pidfds (Linux 6.9)");
            continue;
        }
        let status = service.0.wait().unwrap();
        assert!(!status.success(), "{more}: {status}");
    }
}

/// Whether a pidfd has a number of its own, as it has since Linux 6.9.
fn has_pidfd_ids() -> bool {
    const PIDFS: u64 = 0x5049_4446;
    let me = rustix::process::getpid();
    let pidfd = rustix::process::pidfd_open(me, rustix::process::PidfdFlags::empty());
    pidfd.is_ok_and(|pidfd| {
        rustix::fs::fstatfs(pidfd).is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(PIDFS))
    })
}

/// Whether somebody listens at a socket file (`proc_net_unix(5)`: the flag `__SO_ACCEPTCON`).
fn is_listened_at(path: &Path) -> bool {
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    let path = path.to_str().unwrap();
    sockets.lines().any(|line| line.ends_with(path) && line.contains(" 00010000 "))
}

#[test]
fn systemd_starts_a_service_on_demand() {
    let program = "systemd-socket-activate";
    let works = Command::new(program).arg("--version").output();
    if !works.is_ok_and(|output| output.status.success()) {
        return leave_out(program, "this machine lacks it (Debian: systemd)");
    }
    for names in [&[][..], &["--fdname=x"][..]] {
        let folder = Folder::new();
        let starts_file = folder.path().join(".starts");
        let mut command = Command::new(program);
        command.arg("--seqpacket").arg("-l").arg(folder.path().join("x")).args(names);
        for (key, value) in [
            ("LM_ROLE", "on_demand".to_owned()),
            ("LM_ARGUMENTS", format!("x\x1f{}", starts_file.display())),
            ("LIGHTMESSAGING_DIR", folder.path().display().to_string()),
        ] {
            command.arg("-E").arg(format!("{key}={value}"));
        }
        command.arg(std::env::current_exe().unwrap());
        command.args(["role", "--exact", "--nocapture", "--test-threads=1"]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let log = File::create(folder.path().join(".log")).unwrap();
        let _systemd = Handed(command.stderr(log).spawn().unwrap());
        // A file that nobody listens at yet would be taken for one that was left behind.
        until(|| is_listened_at(&folder.path().join("x")));
        assert_eq!(starts(&starts_file), []);
        let connection = folder.connection("x").deadline(HANG).build().unwrap();
        let called = connection.send_two_way(ECHO, "x");
        let log = fs::read_to_string(folder.path().join(".log")).unwrap();
        assert!(called.is_ok(), "{called:?}: {log}");
        assert_eq!(starts(&starts_file).len(), 1);
    }
}
