//! A service over several threads, against one on a single thread.

use std::time::{Duration, Instant};

use lightmessaging::{Connection, Registry, Request, Service};

use crate::Effort;
use crate::floors::{Floor, time};
use crate::ours::{ECHO, NAME};
use crate::peer::{Peer, tell};
use crate::place::{Place, pin};
use crate::stats::Block;

/// Counted; nobody is answered.
const COUNT: i32 = 2;

/// In the other process: serves on so many threads with handlers that work for so many microseconds.
pub fn serve(arguments: &[String]) {
    let number = |at: usize| arguments[at].parse::<usize>().expect("a number");
    let work = Duration::from_micros(number(2) as u64);
    let answer = move |request: Request| {
        if !work.is_zero() {
            let started = Instant::now();
            while started.elapsed() < work {
                std::hint::spin_loop();
            }
        }
        if request.id() == ECHO {
            let (message, reply) = request.split();
            reply.reply(message.data()).expect("a client that lives");
        }
    };
    let builder = Service::builder(NAME).registry(Registry::at(&arguments[0])).threads(number(1));
    let mut service = builder.start(answer).expect("the service starts");
    tell("ready");
    service.run().expect("the service runs");
}

/// A service on so many threads in another process, and connections to it.
pub struct Team {
    connections: Vec<Connection>,
    _peer: Peer,
    _folder: tempfile::TempDir,
}

impl Team {
    pub fn start(place: Place, threads: usize, work: u64, clients: usize) -> Team {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().display().to_string();
        let arguments = ["serve-threads".to_owned(), path, threads.to_string(), work.to_string()];
        let peer = Peer::start(place.far(), &arguments);
        let connect = |_| {
            let builder = Connection::builder(NAME).registry(Registry::at(folder.path()));
            builder.build().expect("a name")
        };
        let connections = (0..clients).map(connect).collect();
        Team { connections, _peer: peer, _folder: folder }
    }

    /// One-way messages a second of one client.
    fn stream(&self, messages: usize) -> f64 {
        let connection = &self.connections[0];
        let started = Instant::now();
        for _ in 0..messages {
            connection.send_one_way(COUNT, [7; 64]).expect("room");
        }
        echo(connection);
        messages as f64 / started.elapsed().as_secs_f64()
    }

    /// How often a call of all clients together is answered, in microseconds; each is a thread of its own.
    fn pace(&self, calls: usize) -> f64 {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for connection in &self.connections {
                scope.spawn(move || (0..calls).for_each(|_| echo(connection)));
            }
        });
        started.elapsed().as_secs_f64() * 1e6 / (calls * self.connections.len()) as f64
    }
}

fn echo(connection: &Connection) {
    let response = connection.send_two_way(ECHO, [7; 64]).expect("an answer");
    assert_eq!(response.data()[63], 7);
}

impl Floor for Team {
    fn block(&mut self, calls: usize) -> Block {
        time(calls, || echo(&self.connections[0]))
    }
}

/// One-way messages a second, on one thread and on two.
pub fn streams(place: Place, effort: Effort, messages: usize) -> (Vec<f64>, Vec<f64>) {
    let teams = [1, 2].map(|threads| Team::start(place, threads, 0, 1));
    pin(place.near());
    teams.iter().for_each(|team| echo(&team.connections[0]));
    let rates = alternate(&teams, effort, |team| team.stream(effort.calls(messages)));
    pin(None);
    rates
}

/// How often a call of several clients is answered, in microseconds, on one thread and on two.
pub fn paces(clients: usize, work: u64, effort: Effort, calls: usize) -> (Vec<f64>, Vec<f64>) {
    let teams = [1, 2].map(|threads| Team::start(Place::Unpinned, threads, work, clients));
    teams.iter().for_each(|team| {
        team.pace(10);
    });
    alternate(&teams, effort, |team| team.pace(effort.calls(calls)))
}

fn alternate(teams: &[Team; 2], effort: Effort, of: impl Fn(&Team) -> f64) -> (Vec<f64>, Vec<f64>) {
    (0..effort.blocks).map(|_| (of(&teams[0]), of(&teams[1]))).unzip()
}
