//! Few threads and many clients, while clients are killed and services are stopped: what each connection
//! sends is handled in order, and once.

mod common;
#[path = "common/team.rs"]
mod team;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Folder, HANG, Process, descriptors, hear, play, tell, until};
use lightmessaging::Connection;
use team::*;

#[test]
fn role() {
    play(&[("team", team), ("gambler", gambler)]);
}

/// Numbers that are as good as random, and the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % most
    }
}

/// A role: sends what and when the dice say, until it is told to stop, and says how many it was.
fn gambler(arguments: &[String]) {
    let name = &arguments[0];
    let mut dice = Dice(name.parse().unwrap());
    let builder = Connection::builder("x").deadline(HANG).wait_for_service(HANG);
    let connection = builder.build().unwrap();
    static STOP: AtomicBool = AtomicBool::new(false);
    std::thread::spawn(|| {
        hear();
        STOP.store(true, Ordering::Relaxed);
    });
    let mut count = 0;
    while !STOP.load(Ordering::Relaxed) {
        // Small ones, some that fill the queue, and a few that need memory of their own.
        let padding = [0, 10, 10, 100, 900, 900, 4_000, 6_000][dice.below(8) as usize];
        let sent = line(name, count, padding);
        if dice.below(3) == 0 {
            assert!(connection.send_two_way(CALL, &sent).unwrap().data() == sent);
        } else {
            connection.send_one_way(NOTE, sent).unwrap();
        }
        if count == 0 {
            tell("going");
        }
        count += 1;
        if dice.below(100) == 0 {
            std::thread::sleep(Duration::from_micros(dice.below(3_000)));
        }
    }
    // One more, so that all before it were handled.
    connection.send_two_way(CALL, line(name, count, 0)).unwrap();
    tell(count + 1);
}

fn gamblers(folder: &Folder, names: std::ops::Range<usize>) -> Vec<Process> {
    let clients: Vec<_> = names.map(|name| folder.start("gambler", &[&name.to_string()])).collect();
    clients.iter().for_each(|client| client.expect("going"));
    clients
}

#[test]
fn clients_that_are_killed_harm_nobody_and_what_they_had_sent_is_handled_in_order() {
    let folder = Folder::new();
    let (path, text) = ledger(&folder);
    let mut server = folder.serve("team", &["3", &text]);
    let connections = || folder.registry().services().unwrap()[0].connections;
    folder.connect("x").send_two_way(ECHO, []).unwrap();
    until(|| connections() == 0);
    let before = descriptors(server.pid());
    // Those who stay have the first names, as `check` has it.
    let mut stay = gamblers(&folder, 0..3);
    let mut dice = Dice(1);
    for round in 0..10 {
        let mut die = gamblers(&folder, 3 + 2 * round..5 + 2 * round);
        for client in &mut die {
            std::thread::sleep(Duration::from_micros(dice.below(10_000)));
            client.kill();
        }
    }
    stay.iter_mut().for_each(|client| client.say("stop"));
    let sent: Vec<u32> = stay.iter().map(|client| client.line().parse().unwrap()).collect();
    drop(stay);
    until(|| connections() == 0);
    until(|| descriptors(server.pid()) == before);
    stop(&mut server);
    let written = written(&path);
    assert_eq!(written.len(), 23);
    for (client, numbers) in &written {
        assert!(numbers.iter().copied().eq(0..numbers.len() as u32), "of client {client}");
    }
    for (client, sent) in sent.into_iter().enumerate() {
        assert_eq!(written[&client.to_string()].len(), sent as usize, "of client {client}");
    }
}

#[test]
fn services_that_are_stopped_under_load_follow_each_other_and_each_message_goes_to_one_of_them() {
    let folder = Folder::new();
    let (path, text) = ledger(&folder);
    let mut server = folder.serve("team", &["3", &text]);
    let mut clients = gamblers(&folder, 0..6);
    for round in 0..10 {
        std::thread::sleep(Duration::from_millis(round * 7 % 20));
        server.say("stop");
        // The name is free before the last handler has returned.
        until(|| folder.registry().services().unwrap().is_empty());
        let next = folder.serve("team", &["3", &text]);
        server.expect("ended");
        server.finish();
        server = next;
    }
    clients.iter_mut().for_each(|client| client.say("stop"));
    check(&path, &mut clients);
    stop(&mut server);
}
