//! Ours against somebody, block by block.

use std::time::{Duration, Instant};

use nix::sys::time::TimeValLike;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::drive::{Answer, Command};
use crate::peer::{Peer, end, last_words};
use crate::peers::{Kind, Setting, clean, new_token};
use crate::place::Place;
use crate::report::Figures;
use crate::work::Result;

/// How long a block may take before it counts as hung.
const HUNG: Duration = Duration::from_secs(15);

/// Somebody who takes part: a server and its clients, or a floor.
pub struct Contender {
    server: Option<Peer>,
    clients: Vec<Peer>,
    /// What the server has started itself.
    others: Vec<i32>,
    token: String,
    polls: bool,
    folder: TempDir,
}

impl Contender {
    /// A peer with so many clients; one that polls is stopped until it is its turn.
    ///
    /// # Errors
    ///
    /// Its own words.
    pub fn peer(
        kind: &Kind,
        place: Place,
        len: usize,
        is_one_way: bool,
        clients: usize,
    ) -> Result<Contender> {
        let folder = tempfile::tempdir()?;
        let token = new_token();
        let path = folder.path().to_owned();
        let setting = Setting { folder: path, token: token.clone(), place, len, is_one_way };
        let polls = kind.polls;
        let mut contender = Contender {
            server: None,
            clients: Vec::new(),
            others: Vec::new(),
            token,
            polls,
            folder,
        };
        let role = |name: &str| {
            let mut role = vec![name.to_owned(), kind.name.to_owned()];
            role.extend(setting.to_arguments());
            role
        };
        let (server, others) = Peer::in_folder(&role("serve"), contender.folder.path())?;
        contender.server = Some(server);
        contender.others = others.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        for _ in 0..clients {
            let (client, _) = Peer::in_folder(&role("client"), contender.folder.path())?;
            contender.clients.push(client);
        }
        contender.pause(true);
        Ok(contender)
    }

    /// A floor, whose client has the other side to itself.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn floor(name: &str, place: Place, len: usize) -> Result<Contender> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().to_owned();
        let setting = Setting { folder: path, token: new_token(), place, len, is_one_way: false };
        let mut role = vec!["floor".to_owned(), name.to_owned()];
        role.extend(setting.to_arguments());
        let (client, _) = Peer::in_folder(&role, folder.path())?;
        let (server, others) = (None, Vec::new());
        let token = setting.token;
        Ok(Contender { server, clients: vec![client], others, token, polls: false, folder })
    }

    fn pause(&self, paused: bool) {
        if self.polls {
            self.server.iter().chain(&self.clients).for_each(|peer| peer.pause(paused));
        }
    }

    /// A block of everybody's; what all clients did is added up.
    ///
    /// # Errors
    ///
    /// If somebody died, hung, or reported something.
    pub fn block(&mut self, command: Command) -> Result<Figures> {
        self.pause(false);
        let figures = self.unpaused_block(command);
        self.pause(true);
        figures.map_err(|error| self.explain(error))
    }

    fn unpaused_block(&mut self, command: Command) -> Result<Figures> {
        let (before, started) = (self.cpu(), Instant::now());
        let command = serde_json::to_string(&command)?;
        for client in &mut self.clients {
            client.tell(&command)?;
        }
        let mut figures = Figures::default();
        let mut made = 0;
        for client in &mut self.clients {
            match serde_json::from_str(&client.hear(HUNG)?)? {
                Answer::Times { p50, p99, timed, calls } => {
                    figures.p50 = Some(p50);
                    // Fewer calls have no hundredth part.
                    figures.p99 = (timed >= 100).then_some(p99);
                    made += calls;
                }
                Answer::Rate { per_second, calls } => {
                    figures.rate = Some(per_second);
                    made += calls;
                }
                Answer::Failed(error) => return Err(error.into()),
            }
        }
        // Several clients do not begin and end at the same moment.
        if self.clients.len() > 1 {
            figures.rate = Some(made as f64 / started.elapsed().as_secs_f64());
        }
        // A floor's other side is another process, and the server's threads all count.
        if self.server.is_some() {
            figures.cpu = Some((self.cpu() - before) / made.max(1) as f64);
        }
        Ok(figures)
    }

    /// The processor time of everybody while nothing happens, in milliseconds a second.
    pub fn idle(&mut self, settle: Duration, time: Duration) -> Figures {
        self.pause(false);
        std::thread::sleep(settle);
        let before = self.cpu();
        std::thread::sleep(time);
        let cpu = (self.cpu() - before) / 1e3 / time.as_secs_f64();
        self.pause(true);
        Figures { cpu: Some(cpu), ..Figures::default() }
    }

    /// What all processes have used, in microseconds (`clock_getcpuclockid(3)`).
    fn cpu(&self) -> f64 {
        let peers = self.server.iter().chain(&self.clients).map(Peer::pid);
        let used = peers.chain(self.others.iter().copied()).map(|pid| {
            let clock = clock_getcpuclockid(Pid::from_raw(pid)).and_then(clock_gettime);
            clock.map_or(0.0, |time| time.num_nanoseconds() as f64 / 1e3)
        });
        used.sum()
    }

    /// Whoever died may have said why.
    fn explain(&self, error: Box<dyn std::error::Error>) -> Box<dyn std::error::Error> {
        let words = ["serve.stderr", "client.stderr"]
            .into_iter()
            .filter_map(|name| last_words(&self.folder.path().join(name)));
        let words: Vec<String> = words.collect();
        if words.is_empty() { error } else { format!("{error}: {}", words.join("; ")).into() }
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        self.clients.clear();
        self.server = None;
        self.others.iter().for_each(|pid| end(*pid));
        clean(&self.token);
    }
}
