//! The same work by way of rocketd, which looks the service up and is out of it from then on.

use std::path::Path;
use std::time::Duration;

use clap::Parser;
use lightmessaging::{Connection, Registry, Wait};

use crate::floors::{Floor, time};
use crate::ours::{NAME, Ours};
use crate::peer::{Peer, tell};
use crate::place::Place;
use crate::stats::Block;

/// In the other process: rocketd.
pub fn serve(arguments: &[String]) {
    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: rocketd::Options,
    }
    let cli = Cli::parse_from(["rocketd"].into_iter().chain(arguments.iter().map(String::as_str)));
    // It listens in a moment; whoever wants it waits for its socket.
    tell("ready");
    rocketd::run(&cli.options, &[]).expect("rocketd runs");
}

/// Which of the two ways a connection is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Direct,
    Rocketd,
}

/// What is measured of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Looking the service up, until a message can be sent.
    LookUp,
    /// A new connection, until its first reply.
    SetUp,
    /// Calls of 64 bytes.
    Calls,
}

/// A service that rocketd knows, and a connection to it.
pub struct Through {
    way: Way,
    what: What,
    connection: Connection,
    registry: Registry,
    _service: Ours,
    _rocketd: Peer,
    _folder: tempfile::TempDir,
}

impl Through {
    pub fn start(place: Place, way: Way, what: What) -> Through {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let (socket, policy, nothing) = (at("rocketd/socket"), at("policy.toml"), at("nothing"));
        // A bench is a greedy client.
        let quota = "[quota]\nlookups_per_second = 1000000\nlanes = 100000\n";
        std::fs::write(&policy, quota).expect("a policy");
        let text = |path: &Path| path.display().to_string();
        let arguments = [
            "rocketd".to_owned(),
            format!("--socket={}", text(&socket)),
            format!("--policy={}", text(&policy)),
            format!("--registry={}", text(&nothing)),
            format!("--services={}", text(&nothing)),
        ];
        let rocketd = Peer::start(None, &arguments);
        let service = Ours::start_unlocked(place, &socket);
        // Where the client looks there is nothing, as in a sandbox.
        let registry = match way {
            Way::Direct => Registry::at(service.folder()),
            Way::Rocketd => Registry::at(nothing).with_rocketd(socket),
        };
        let connection = connect(&registry);
        connection.look_up(Duration::from_secs(60)).expect("the service, when it is unlocked");
        Through {
            way,
            what,
            connection,
            registry,
            _service: service,
            _rocketd: rocketd,
            _folder: folder,
        }
    }
}

/// A connection whose first look-up may have to wait for rocketd.
fn connect(registry: &Registry) -> Connection {
    let connection = Connection::builder(NAME).registry(registry.clone()).wait(Wait::Adaptive);
    connection.wait_for_service(Duration::from_secs(60)).build().expect("a name")
}

impl Floor for Through {
    fn block(&mut self, calls: usize) -> Block {
        let block = time(calls, || match self.what {
            What::LookUp => {
                let connection = connect(&self.registry);
                connection.look_up(Duration::from_secs(60)).expect("the service");
            }
            What::SetUp => Ours::echo_on(&connect(&self.registry)),
            What::Calls => Ours::echo_on(&self.connection),
        });
        let peer = self.connection.peer(Duration::from_secs(60)).expect("the service");
        assert!(peer.uid() == rustix::process::geteuid().as_raw());
        assert!(self.way == Way::Direct || !self.registry.path().exists());
        block
    }
}
