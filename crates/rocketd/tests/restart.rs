//! rocketd comes, goes and comes back, and nobody minds.

mod kit;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kit::common::{ECHO, Folder, HANG, Process, hear, play, tell, until};
use kit::{Home, ROLES, failed, until_called};
use lightmessaging::rocketd::Socket;
use lightmessaging::{Connection, Registry, Service, ServiceName};

#[test]
fn role() {
    let roles: Vec<_> = ROLES.into_iter().chain([("callers", callers as fn(&[String]))]).collect();
    play(&roles);
}

/// A role: many clients that call again and again until the test says a line. Half of them look their
/// service up again and again.
fn callers(arguments: &[String]) {
    let [socket, clients, services @ ..] = arguments else { panic!("{arguments:?}") };
    let stop = AtomicBool::new(false);
    let called = AtomicU32::new(0);
    let call = |client: usize| {
        let connect = || {
            Connection::builder(&services[client % services.len()])
                .registry(Registry::at(kit::NOWHERE).with_rocketd(socket))
                .wait_for_service(HANG)
                .deadline(HANG)
                .build()
                .unwrap()
        };
        let mut connection = connect();
        let mut calls = 0;
        while !stop.load(Ordering::Relaxed) {
            if let Err(error) = connection.send_two_way(ECHO, "x") {
                return Err(failed(&error));
            }
            calls += 1;
            if calls == 1 {
                called.fetch_add(1, Ordering::Relaxed);
            }
            if calls % 10 == 0 && client.is_multiple_of(2) {
                connection = connect();
            }
            // Whoever restarts rocketd needs a moment of the processor, too, and there may be one only.
            thread::sleep(Duration::from_millis(10));
        }
        Ok(calls)
    };
    thread::scope(|scope| {
        let clients: usize = clients.parse().unwrap();
        let threads: Vec<_> = (0..clients).map(|at| scope.spawn(move || call(at))).collect();
        while (called.load(Ordering::Relaxed) as usize) < clients
            && !threads.iter().any(|thread| thread.is_finished())
        {
            thread::sleep(Duration::from_millis(1));
        }
        tell("calling");
        hear();
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            match thread.join().unwrap() {
                Ok(calls) => assert!(calls > 0),
                Err(error) => tell(error),
            }
        }
    });
    tell("done");
}

/// How long it takes from rocketd's listening until all of these were found through it.
fn time_to_find(home: &Home, names: &[String]) -> Duration {
    until(|| Socket::connect(&home.socket(), Some(Duration::ZERO)).is_ok());
    let listens = Instant::now();
    for name in names {
        until(|| home.connect(name).look_up(HANG).is_ok());
    }
    listens.elapsed()
}

#[test]
fn calls_go_on_and_no_name_is_lost_while_rocketd_is_killed_and_comes_back() {
    let home = Home::new();
    let mut rocketd = home.rocketd();
    let names: Vec<String> = (0..8).map(|n| format!("service-{n}")).collect();
    let _services: Vec<Process> = names.iter().map(|name| home.serve(name, "unlocked")).collect();
    let socket = home.socket();
    let arguments: Vec<&str> = [socket.to_str().unwrap(), "16"]
        .into_iter()
        .chain(names.iter().map(String::as_str))
        .collect();
    let callers: Vec<Process> = (0..4).map(|_| home.folder.start("callers", &arguments)).collect();
    callers.iter().for_each(|process| process.expect("calling"));
    let mut times = Vec::new();
    for _ in 0..5 {
        rocketd.kill();
        rocketd = home.start(home.command());
        times.push(time_to_find(&home, &names));
        thread::sleep(Duration::from_millis(100));
    }
    for mut process in callers {
        assert_eq!(process.ask("stop"), "done");
        process.finish();
    }
    eprintln!("8 services were found again {times:?} after rocketd listened");
    // The machine may be busy with other things, but not each time.
    assert!(times.iter().min() <= Some(&Duration::from_millis(100)), "{times:?}");
}

#[test]
fn a_rocketd_that_comes_later_is_told_of_what_is_unlocked() {
    let home = Home::new();
    let folder = Folder::new();
    let socket = folder.path().join(".rocketd/socket");
    // In the place where services look by themselves, whose folder does not exist yet.
    let service = folder.service("early").unlocked().start(kit::answer).unwrap();
    let _running = kit::common::Running::new(service);
    let start = || {
        let mut command = home.command();
        command.arg("--socket").arg(&socket);
        // The last one counts.
        let mut plain = std::process::Command::new(command.get_program());
        let arguments: Vec<_> = command.get_args().skip(2).collect();
        plain.args(arguments);
        let rocketd = home.start(plain);
        rocketd.wait_for("listening at");
        rocketd
    };
    let blind = |name: &str| {
        let registry = Registry::at(kit::NOWHERE).with_rocketd(&socket);
        Connection::builder(name).registry(registry).build().unwrap()
    };
    // A service needs no rocketd.
    assert_eq!(folder.connect("early").send_two_way(ECHO, "x").unwrap().data(), b"x");
    for kill in [true, false, true] {
        let mut rocketd = start();
        until(|| blind("early").send_two_way(ECHO, "x").is_ok());
        if kill {
            rocketd.kill();
        } else {
            assert!(rocketd.stop().success());
            assert!(!socket.exists());
        }
        assert!(blind("early").send_two_way(ECHO, "x").is_err());
    }
    // Even if the whole folder goes and comes.
    std::fs::remove_dir_all(socket.parent().unwrap()).unwrap();
    let _rocketd = start();
    until(|| blind("early").send_two_way(ECHO, "x").is_ok());
}

#[test]
fn a_client_waits_for_a_service_through_rocketd_alone() {
    let home = Home::new();
    let mut waiting = home.client();
    waiting.say("wait late");
    // Neither rocketd is there nor the service.
    let rocketd = home.rocketd();
    let mut second = home.client();
    second.say("wait late");
    // Both wait in rocketd, which has them and nobody else.
    let idle = kit::common::descriptors(rocketd.pid());
    until(|| kit::common::descriptors(rocketd.pid()) >= idle);
    assert!(waiting.is_quiet() && second.is_quiet());
    let late = home.serve("late", "unlocked");
    waiting.expect("ok x");
    second.expect("ok x");
    drop(late);
    // Somebody who waits through a restart is not forgotten either.
    until_called(&home, "late", "NotFound ");
    waiting.say("wait late");
    drop(rocketd);
    let _rocketd = home.rocketd();
    let _late = home.serve("late", "unlocked");
    waiting.expect("ok x");
}

#[test]
fn a_name_is_unlocked_and_locked_again_while_its_service_runs() {
    let home = Home::new();
    let mut rocketd = home.rocketd();
    let name = ServiceName::new("x").unwrap();
    let service = home.serve("x", "locked");
    assert!(home.call("x").starts_with("NotFound "));
    home.registry().unlock(&name, true, HANG).unwrap();
    until_called(&home, "x", "ok");
    let kept = home.connect("x");
    kept.send_two_way(ECHO, "x").unwrap();
    home.registry().unlock(&name, false, HANG).unwrap();
    until_called(&home, "x", "NotFound ");
    // A connection that was made stays.
    kept.send_two_way(ECHO, "x").unwrap();
    home.registry().unlock(&name, true, HANG).unwrap();
    until_called(&home, "x", "ok");
    // It lasts as long as the service, and a rocketd that comes back hears of it.
    rocketd.kill();
    let _rocketd = home.rocketd();
    until_called(&home, "x", "ok");
    drop(service);
    until_called(&home, "x", "NotFound ");
    let _service = home.serve("x", "locked");
    assert!(home.call("x").starts_with("NotFound "));
}

#[test]
fn of_two_services_of_one_name_the_other_counts_again_when_one_has_gone() {
    let home = Home::new();
    let _rocketd = home.rocketd();
    let first = home.serve("x", "unlocked");
    until_called(&home, "x", "ok");
    // In a registry of its own.
    let folder = Folder::new();
    let registry = folder.registry().with_rocketd(home.socket());
    let pid = |connection: Connection| connection.peer(HANG).unwrap().pid();
    assert_eq!(pid(home.connect("x")), first.pid());
    let service = Service::builder("x").registry(registry).unlocked().start(kit::answer).unwrap();
    let running = kit::common::Running::new(service);
    until(|| pid(home.connect("x")) == std::process::id());
    running.stop();
    until(|| home.connect("x").peer(HANG).is_ok_and(|peer| peer.pid() == first.pid()));
}

#[test]
fn a_rocketd_finds_the_place_of_one_that_was_killed_free() {
    let home = Home::new();
    let mut rocketd = home.rocketd();
    rocketd.kill();
    assert!(Path::new(&home.socket()).exists());
    let mut rocketd = home.rocketd();
    assert!(rocketd.stop().success());
    assert!(!Path::new(&home.socket()).exists());
}
