//! Ten thousand clients of one service: they come, do nothing at no cost, and go.

mod common;

use std::time::Duration;

use common::{ECHO, Folder, Process, descriptors, hear, play, server, tell, until};
use lightmessaging::Connection;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many clients there are, if a process may have as many descriptors as that takes.
const CLIENTS: usize = 10_000;
/// How many there are at most, if not.
const FEWER: usize = 6000;
/// Connections of one process.
const EACH: usize = 500;
/// What a service keeps open for a client, at most: its socket, two bells, and on Linux before 6.9 what
/// tells its process from others.
const DESCRIPTORS: usize = 4;
/// What a program may have open if nobody has said otherwise, and nothing has raised it.
const USUAL: u64 = 1024;

#[test]
fn role() {
    play(&[("server", usual_server), ("crowd", crowd)]);
}

/// Begins with the limit that programs are started with.
fn take_the_usual_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(USUAL), maximum }).unwrap();
}

fn usual_server(arguments: &[String]) {
    take_the_usual_limit();
    server(arguments);
}

/// Connections, each of which is used once now, and once more whenever the test says so.
fn crowd(arguments: &[String]) {
    take_the_usual_limit();
    let connections: Vec<_> = (0..arguments[0].parse().unwrap())
        .map(|number: u32| {
            let connection = Connection::new("x").unwrap();
            let sent = number.to_ne_bytes();
            assert_eq!(connection.send_two_way(ECHO, sent).unwrap().data(), sent);
            connection
        })
        .collect();
    tell("here");
    while hear().is_some() {
        for connection in &connections {
            connection.send_one_way(0, []).unwrap();
            assert_eq!(connection.send_two_way(ECHO, "again").unwrap().data(), b"again");
        }
        tell("used");
    }
}

/// How many clients there can be that cost so many descriptors each.
fn room(descriptors: usize) -> usize {
    let most = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let room = usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(500) / descriptors;
    if room >= CLIENTS {
        return CLIENTS;
    }
    let fewer = room.min(FEWER) / EACH * EACH;
    eprintln!("the hard limit of {most} descriptors leaves {fewer} clients instead of {CLIENTS}");
    fewer
}

/// Lets processes that are started from now on have as many descriptors as the kernel gives anybody, if
/// we may do that.
fn raise_the_hard_limit() {
    let text = std::fs::read_to_string("/proc/sys/fs/nr_open").unwrap();
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let most: u64 = text.trim().parse().unwrap();
    if maximum.is_some_and(|maximum| maximum < most) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current, maximum: Some(most) });
    }
}

/// `VmRSS` and `VmPTE` together, in KiB (`proc_pid_status(5)`).
fn memory(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let of = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
    };
    of("VmRSS:") + of("VmPTE:")
}

/// The processor time that a process has used (`/proc/PID/task/TID/schedstat`), in nanoseconds.
fn cpu(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let used = tasks.map(|task| {
        let text = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
        text.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    });
    used.sum()
}

/// Waits until some processes use no processor time any more.
fn wait_for_rest(processes: &[u32]) {
    let used = || processes.iter().map(|pid| cpu(*pid)).collect::<Vec<_>>();
    let mut before = used();
    until(|| {
        std::thread::sleep(Duration::from_millis(1500));
        let now = used();
        std::mem::replace(&mut before, now.clone()) == now
    });
}

#[test]
fn ten_thousand_clients_cost_nothing_while_they_are_idle_and_are_forgotten_when_they_go() {
    raise_the_hard_limit();
    let folder = Folder::new();
    let server = folder.serve("server", &["x"]);
    let connection = folder.connect("x");
    connection.send_two_way(ECHO, "first").unwrap();
    let (descriptors_alone, memory_alone) = (descriptors(server.pid()), memory(server.pid()));

    let each = EACH.to_string();
    let start = || folder.start("crowd", &[&each]);
    let mut crowd = vec![start()];
    crowd[0].expect("here");
    let more = descriptors(server.pid()) - descriptors_alone;
    assert!(more.is_multiple_of(EACH) && more / EACH <= DESCRIPTORS, "{more} descriptors");
    let clients = room(more / EACH);
    crowd.extend((1..clients / EACH).map(|_| start()));
    crowd[1..].iter().for_each(|process| process.expect("here"));
    // All of them at once, so that all have been busy.
    crowd.iter_mut().for_each(|process| process.say("again"));
    crowd.iter().for_each(|process| process.expect("used"));
    let count = || folder.registry().services().unwrap()[0].connections as usize;
    assert_eq!(count(), clients + 1);

    let mut processes: Vec<_> = crowd.iter().map(Process::pid).collect();
    processes.push(server.pid());
    wait_for_rest(&processes);
    let more = memory(server.pid()) - memory_alone;
    assert!(more <= clients * 20, "{more} KiB");

    // Among them one is served as ever, and so is another that comes.
    for _ in 0..1000 {
        assert_eq!(connection.send_two_way(ECHO, "busy").unwrap().data(), b"busy");
    }
    folder.connect("x").send_two_way(ECHO, "last").unwrap();

    // Half of them end by themselves, and half are killed.
    let (some, others) = crowd.split_at_mut(clients / EACH / 2);
    some.iter_mut().for_each(Process::finish);
    others.iter_mut().for_each(Process::kill);
    until(|| count() == 1);
    until(|| descriptors(server.pid()) == descriptors_alone);
    assert_eq!(connection.send_two_way(ECHO, "still").unwrap().data(), b"still");
}
