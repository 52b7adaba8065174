//! Other processes for the tests: the test binary itself, started anew to play a role.
//!
//! A test file has one `#[test] fn role()` that calls [`play`] with its roles; in an ordinary run
//! it does nothing. Parent and child talk in lines over the child's standard streams.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use lightmessaging::{Connection, ConnectionBuilder, Registry, Service, ServiceBuilder};

/// What a line of a role begins with, to tell it from the test harness's own.
const MARK: &str = "@@ ";
/// After this long something hangs. No test waits for it to pass.
pub const HANG: Duration = Duration::from_secs(60);

/// A registry folder of one test.
pub struct Folder(pub tempfile::TempDir);

impl Folder {
    pub fn new() -> Folder {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
        Folder(folder)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn registry(&self) -> Registry {
        Registry::at(self.path())
    }

    pub fn connect(&self, name: &str) -> Connection {
        self.connection(name).build().unwrap()
    }

    pub fn connection(&self, name: &str) -> ConnectionBuilder {
        Connection::builder(name).registry(self.registry())
    }

    pub fn service(&self, name: &str) -> ServiceBuilder {
        Service::builder(name).registry(self.registry())
    }

    /// Starts a process that plays a role of the calling test file.
    pub fn start(&self, role: &str, arguments: &[&str]) -> Process {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["role", "--exact", "--nocapture", "--test-threads=1"])
            .env("LM_ROLE", role)
            .env("LM_ARGUMENTS", arguments.join("\x1f"))
            .env("LIGHTMESSAGING_DIR", self.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some((_, said)) = line.split_once(MARK)
                    && sender.send(said.to_owned()).is_err()
                {
                    return;
                }
            }
        });
        Process { child, stdin, lines }
    }

    /// Starts a role that serves, and waits until it does.
    pub fn serve(&self, role: &str, arguments: &[&str]) -> Process {
        let process = self.start(role, arguments);
        process.expect("ready");
        process
    }
}

/// A process that plays a role; killed and reaped when dropped.
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line it says.
    pub fn line(&self) -> String {
        self.lines.recv_timeout(HANG).expect("the other process said nothing")
    }

    pub fn expect(&self, line: &str) {
        assert_eq!(self.line(), line);
    }

    /// Says a line to it.
    pub fn say(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Stops it where it is, and waits until it has.
    pub fn freeze(&self) {
        self.signal(rustix::process::Signal::STOP);
        let stat = format!("/proc/{}/stat", self.pid());
        loop {
            let text = std::fs::read_to_string(&stat).unwrap();
            if text.rsplit(')').next().unwrap().trim_start().starts_with('T') {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn thaw(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    /// Kills it as `kill -9` does and waits for its end.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it has ended by itself, well.
    pub fn finish(&mut self) {
        drop(self.stdin.take());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A role's name and what plays it, given the arguments.
pub type Role<'a> = (&'a str, fn(&[String]));

/// Plays the role that this process was started for, if any.
pub fn play(roles: &[Role]) {
    let Ok(role) = std::env::var("LM_ROLE") else { return };
    let arguments = std::env::var("LM_ARGUMENTS").unwrap();
    let arguments: Vec<String> =
        arguments.split('\x1f').filter(|a| !a.is_empty()).map(str::to_owned).collect();
    let (_, play) = roles.iter().find(|(name, _)| *name == role).expect("a role of this file");
    play(&arguments);
}

/// In a role: says a line to the test.
pub fn tell(line: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{MARK}{line}").unwrap();
    out.flush().unwrap();
}

/// In a role: the next line from the test; `None` when it has ended.
pub fn hear() -> Option<String> {
    let mut line = String::new();
    let len = std::io::stdin().read_line(&mut line).unwrap();
    (len > 0).then(|| line.trim_end().to_owned())
}

/// Waits until something is true; for what no event tells.
pub fn until(mut what: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + HANG;
    while !what() {
        assert!(std::time::Instant::now() < end, "it never came true");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// How many descriptors a process has open.
pub fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// A payload that tells its place from any other.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i ^ (i >> 8).wrapping_mul(31) ^ (i >> 16)) as u8).collect()
}
