//! Another process of a row: this program, started anew in a role, that may die or hang.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::place;
use crate::work::Result;

/// How long a process may take to be ready.
const READY: Duration = Duration::from_secs(20);

/// Another process of ours; it ends with us.
pub struct Peer {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts a floor's other side on a core.
    pub fn start(core: Option<usize>, arguments: &[String]) -> Peer {
        // A child may use no more cores than its parent.
        place::pin(None);
        let mut floor = vec!["respond".to_owned()];
        floor.push(core.map_or("-".to_owned(), |core| core.to_string()));
        floor.extend_from_slice(arguments);
        let (mut peer, _) = Peer::spawn(&floor, None).expect("another process");
        assert_eq!(peer.line(), "ready");
        peer
    }

    /// Starts a role whose temporary files and complaints go to a folder, and waits until it is
    /// ready. Returns what else it said with that.
    ///
    /// # Errors
    ///
    /// The role's own words if it does not become ready.
    pub fn in_folder(arguments: &[String], folder: &Path) -> Result<(Peer, String)> {
        let (mut peer, complaints) = Peer::spawn(arguments, Some(folder))?;
        match peer.hear(READY) {
            Ok(line) if line.starts_with("ready") => {
                Ok((peer, line["ready".len()..].trim().to_owned()))
            }
            Ok(line) => Err(line.into()),
            Err(error) => Err(last_words(&complaints).unwrap_or(error.to_string()).into()),
        }
    }

    fn spawn(arguments: &[String], folder: Option<&Path>) -> Result<(Peer, std::path::PathBuf)> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["role", "--"]).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let role = arguments.first().map_or("", String::as_str);
        let complaints = folder.unwrap_or(Path::new("/dev")).join(format!("{role}.stderr"));
        if let Some(folder) = folder {
            command.env("TMPDIR", folder).stderr(File::create(&complaints)?);
        }
        let mut child = command.spawn()?;
        let stdin = child.stdin.take().ok_or("no input")?;
        let stdout = BufReader::new(child.stdout.take().ok_or("no output")?);
        Ok((Peer { child, stdin, stdout }, complaints))
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Tells a floor's other side something.
    pub fn say(&mut self, line: impl std::fmt::Display) {
        self.tell(line).expect("the other process lives");
    }

    /// What a floor's other side says.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("the other process lives");
        line.trim_end().to_owned()
    }

    /// Tells it something.
    ///
    /// # Errors
    ///
    /// If it has ended.
    pub fn tell(&mut self, line: impl std::fmt::Display) -> Result<()> {
        Ok(writeln!(self.stdin, "{line}")?)
    }

    /// What it says within a time.
    ///
    /// # Errors
    ///
    /// If it has ended, or says nothing.
    pub fn hear(&mut self, time: Duration) -> Result<String> {
        let end = Instant::now() + time;
        let mut line = Vec::new();
        loop {
            if self.stdout.buffer().is_empty() {
                let left = end.saturating_duration_since(Instant::now());
                let mut fds =
                    [PollFd::from_borrowed_fd(self.stdout.get_ref().as_fd(), PollFlags::IN)];
                let left =
                    Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
                match poll(&mut fds, Some(&left)) {
                    Ok(0) => return Err(format!("hung for {} s", time.as_secs()).into()),
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
                if fds[0].revents().is_empty() {
                    continue;
                }
            }
            let bytes = self.stdout.fill_buf()?;
            if bytes.is_empty() {
                return Err("died".into());
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(bytes.len(), |at| at + 1);
            line.extend_from_slice(&bytes[..taken]);
            self.stdout.consume(taken);
            if end.is_some() {
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
        }
    }

    /// Stops it, or lets it go on, so that whoever polls does so only while it is measured.
    pub fn pause(&self, paused: bool) {
        signal(self.pid(), if paused { Signal::STOP } else { Signal::CONT });
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Ends a process that another role started and has told us of.
pub fn end(pid: i32) {
    signal(pid, Signal::KILL);
}

/// The last line that a role wrote to its standard error.
pub fn last_words(complaints: &Path) -> Option<String> {
    let text = std::fs::read_to_string(complaints).ok()?;
    let line = text
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty() && !line.starts_with("note: run with"))?;
    Some(line.trim().to_owned())
}

/// In the other process: however the parent ends, so do we.
pub fn end_with_parent() {
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
}

/// In the other process: says a line to the parent.
pub fn tell(line: impl std::fmt::Display) {
    println!("{line}");
    std::io::stdout().flush().expect("the parent listens");
}

/// In the other process: what the parent says, until it ends.
pub fn hear() -> Option<String> {
    let mut line = String::new();
    let len = std::io::stdin().read_line(&mut line).unwrap_or(0);
    (len > 0).then(|| line.trim_end().to_owned())
}
