//! How the threads of a service wait, and what they give back meanwhile.

mod common;
#[path = "common/team.rs"]
mod team;

use common::{Call, Folder, play, until};
use lightmessaging::{Service, Wait};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use team::*;

#[test]
fn role() {
    play(&[("team", team), ("spinner", spinner)]);
}

/// Has this thread, and those it starts, run on one core, the same in every process.
fn stay_on_one_core() {
    let allowed = sched_getaffinity(None).unwrap();
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|core| allowed.is_set(*core)).unwrap());
    sched_setaffinity(None, &one).unwrap();
}

/// Serves on two threads that never both sleep.
fn spinner(_: &[String]) {
    stay_on_one_core();
    let builder = Service::builder("x").wait(Wait::Spin).threads(2);
    run(&mut builder.start(handler(None, &STOPPER)).unwrap());
}

#[test]
fn a_thread_that_never_sleeps_lets_those_in_who_come_back_from_their_handlers() {
    let folder = Folder::new();
    let mut server = folder.serve("spinner", &[]);
    let client = std::thread::spawn(move || {
        stay_on_one_core();
        let (connection, other) = (folder.connect("x"), folder.connect("x"));
        for _ in 0..20 {
            let blocked = Call::start(&connection, BLOCK, &[]);
            server.expect("took");
            other.send_two_way(ECHO, []).unwrap();
            server.say("go");
            blocked.end().unwrap();
            connection.send_two_way(ECHO, []).unwrap();
        }
        stop(&mut server);
    });
    client.join().unwrap();
}

/// How often the threads of a process have gone to sleep.
fn sleeps(pid: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of = |task: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.unwrap().trim().parse::<usize>().unwrap()
    };
    tasks.map(of).sum()
}

#[test]
fn who_connects_and_goes_does_not_wake_all_of_many_threads() {
    let folder = Folder::new();
    let mut server = folder.serve("team", &["64"]);
    let alone = || folder.registry().services().unwrap()[0].connections == 0;
    let before = sleeps(server.pid());
    for _ in 0..200 {
        folder.connect("x").send_two_way(ECHO, []).unwrap();
    }
    until(alone);
    let woken = sleeps(server.pid()) - before;
    assert!(woken < 200 * 8, "{woken} times");
    stop(&mut server);
}

/// What a process has in memory of its own, in KiB.
fn memory(pid: u32) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn each_thread_gives_its_large_buffer_back_when_it_has_slept_for_a_while() {
    const LARGE: usize = 8 << 20;
    let folder = Folder::new();
    let mut server = folder.serve("team", &["4"]);
    let before = memory(server.pid());
    let connections: Vec<_> = (0..4).map(|_| folder.connect("x")).collect();
    let large = vec![1; LARGE];
    let calls: Vec<_> = connections.iter().map(|c| Call::start(c, HOLD, &large)).collect();
    // Each of the four has read one.
    calls.iter().for_each(|_| server.expect("took"));
    assert!(memory(server.pid()) >= before + 4 * LARGE / 1024);
    server.say("go");
    calls.into_iter().for_each(|call| drop(call.end().unwrap()));
    until(|| memory(server.pid()) < before + LARGE / 1024);
    connections[0].send_two_way(ECHO, []).unwrap();
    stop(&mut server);
}
