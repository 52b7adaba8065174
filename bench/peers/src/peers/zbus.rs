//! zbus: an interface and a proxy, between two peers and through a private `dbus-daemon`.
//!
//! As in the crate's own examples, with bytes as `serde_bytes`, which its documentation recommends
//! for arrays of bytes, and on tokio, where zbus needs no thread of its own. One-way messages are
//! calls marked `no_reply`.

use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_bytes::{ByteBuf, Bytes};
use tokio::net::UnixListener;
use zbus::connection::Builder;
use zbus::{Connection, Guid, interface, proxy};

use super::tokio::runtime;
use super::{ALL, Caller, Kind, Setting, ready};
use crate::peer::{end_with_parent, tell};
use crate::work::{self, Ask, Result, numbered};

pub const KINDS: &[Kind] = &[
    Kind {
        name: "zbus, peer to peer",
        how: "an interface and a proxy over a Unix socket, on tokio with one thread",
        polls: false,
        has_one_way: true,
        lengths: ALL,
        serve: serve_peers,
        connect: connect_peer,
    },
    Kind {
        name: "zbus, dbus-daemon",
        how: "the same through a dbus-daemon of its own",
        polls: false,
        has_one_way: true,
        lengths: ALL,
        serve: serve_bus,
        connect: connect_bus,
    },
];

const PATH: &str = "/org/lightmessaging/Peers";
const NAME: &str = "org.lightmessaging.Peers";
const DAEMON: &str = "dbus-daemon";

struct Desk(Arc<work::Desk>);

#[interface(name = "org.lightmessaging.Peers1")]
impl Desk {
    async fn ask(&self, message: ByteBuf) -> u64 {
        // Calls may overtake messages, and counting needs this thread.
        if let Some(Ask::Counted(expected)) = Ask::of(&message) {
            let started = Instant::now();
            while !self.0.has_counted(expected) && started.elapsed() < Duration::from_secs(2) {
                tokio::task::yield_now().await;
            }
        }
        self.0.serve(&message).unwrap_or(u64::MAX)
    }

    async fn count(&self, message: ByteBuf) {
        self.0.serve(&message);
    }
}

#[proxy(interface = "org.lightmessaging.Peers1")]
trait Peers {
    async fn ask(&self, message: &Bytes) -> zbus::Result<u64>;
    #[zbus(no_reply)]
    async fn count(&self, message: &Bytes) -> zbus::Result<()>;
}

fn serve_peers(setting: &Setting) -> Result<()> {
    runtime().block_on(async {
        let listener = UnixListener::bind(setting.path("socket"))?;
        let guid = Guid::generate();
        ready();
        loop {
            let (stream, _) = listener.accept().await?;
            let stream = stream.into_std()?;
            let builder = Builder::unix_stream(stream).server(&guid).p2p();
            let builder = builder.serve_at(PATH, Desk(Arc::default()));
            tokio::spawn(async move {
                if let Ok(connection) = builder.build().await {
                    connection.closed().await;
                }
            });
        }
    })
}

struct Client {
    proxy: PeersProxy<'static>,
    // Closed when the last of its clones goes.
    _connection: Connection,
}

async fn client(connection: Connection) -> Result<Box<dyn Caller>> {
    let proxy = PeersProxy::builder(&connection).destination(NAME).path(PATH);
    // Nothing here has properties that a cache could follow.
    let proxy = proxy.cache_properties(zbus::proxy::CacheProperties::No).build().await?;
    Ok(Box::new(Client { proxy, _connection: connection }))
}

fn connect_peer(setting: &Setting) -> Result<Box<dyn Caller>> {
    runtime().block_on(async {
        let stream = UnixStream::connect(setting.path("socket"))?;
        client(Builder::unix_stream(stream).p2p().build().await?).await
    })
}

impl Caller for Client {
    fn call(&mut self, message: &[u8]) -> Result<u64> {
        Ok(runtime().block_on(self.proxy.ask(Bytes::new(message)))?)
    }

    fn send_all(&mut self, count: u64) -> Result<()> {
        runtime().block_on(async {
            for number in 0..count {
                self.proxy.count(Bytes::new(&numbered(number))).await?;
            }
            Ok(())
        })
    }
}

fn address(setting: &Setting) -> String {
    format!("unix:path={}", setting.path("bus").display())
}

fn serve_bus(setting: &Setting) -> Result<()> {
    let daemon = start_daemon(setting)?;
    runtime().block_on(async {
        let builder = Builder::address(address(setting).as_str()).name(NAME);
        let _connection = builder.serve_at(PATH, Desk(Arc::default())).build().await?;
        tell(format!("ready {}", daemon.id()));
        std::future::pending().await
    })
}

fn connect_bus(setting: &Setting) -> Result<Box<dyn Caller>> {
    runtime().block_on(async {
        client(Builder::address(address(setting).as_str()).build().await?).await
    })
}

/// A bus of our own that anybody on it may use, with room for the longest message.
fn start_daemon(setting: &Setting) -> Result<Child> {
    let config = setting.path("bus.conf");
    let text = format!(
        "<busconfig><listen>{}</listen><auth>EXTERNAL</auth>\
         <policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/>\
         <allow eavesdrop=\"true\"/><allow own=\"*\"/></policy>\
         <limit name=\"max_incoming_bytes\">1000000000</limit>\
         <limit name=\"max_outgoing_bytes\">1000000000</limit>\
         <limit name=\"max_message_size\">1000000000</limit>\
         <limit name=\"max_replies_per_connection\">50000</limit></busconfig>",
        address(setting)
    );
    std::fs::write(&config, text)?;
    if Command::new(DAEMON).arg("--version").stdout(Stdio::null()).status().is_err() {
        return Err("skipped, as there is no dbus-daemon (Debian's package dbus-daemon)".into());
    }
    let mut child = Command::new(std::env::current_exe()?);
    child.args(["role", "--", "daemon"]).arg(format!("--config-file={}", config.display()));
    let mut child = child.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let started = Instant::now();
    while UnixStream::connect(setting.path("bus")).is_err() {
        if started.elapsed() > Duration::from_secs(5) || child.try_wait()?.is_some() {
            return Err("the dbus-daemon does not start".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(child)
}

/// In another process: becomes the daemon, which ends with whoever started it.
pub fn become_daemon(arguments: &[String]) -> Result<()> {
    end_with_parent();
    Err(Command::new(DAEMON).args(["--nofork", "--nopidfile"]).args(arguments).exec().into())
}

/// Which daemon there is.
pub fn daemon_version() -> String {
    let output = Command::new(DAEMON).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let version =
        text.ok().and_then(|text| Some(text.lines().next()?.rsplit(' ').next()?.to_owned()));
    format!("dbus-daemon {}", version.as_deref().unwrap_or("is not installed"))
}
