//! The other process of a row: this program, started anew in a role.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::{c, crowd, floors, memory, ours, place, rivals, rocket, threads};

/// Another process of ours; it sleeps unless it was told to do something, and ends with us.
pub struct Peer {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts a role on a core.
    pub fn start(core: Option<usize>, arguments: &[String]) -> Peer {
        // A child may use no more cores than its parent.
        place::pin(None);
        let core = core.map_or("-".to_owned(), |core| core.to_string());
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["peer", "--", &core])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("another process");
        let stdin = child.stdin.take().expect("its input");
        let stdout = BufReader::new(child.stdout.take().expect("its output"));
        let mut peer = Peer { child, stdin, stdout };
        assert_eq!(peer.line(), "ready");
        peer
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it something.
    pub fn say(&mut self, line: impl std::fmt::Display) {
        writeln!(self.stdin, "{line}").expect("the other process lives");
    }

    /// What it says.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("the other process lives");
        line.trim_end().to_owned()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In the other process: plays the role.
pub fn play(arguments: &[String]) {
    // However the parent ends, so do we.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    place::pin(arguments[0].parse().ok());
    match arguments[1].as_str() {
        "serve" => ours::serve(&arguments[2..]),
        "rocketd" => rocket::serve(&arguments[2..]),
        "serve-threads" => threads::serve(&arguments[2..]),
        "serve-c" => c::serve(&arguments[2..]),
        "hog" => {
            tell("ready");
            loop {
                std::hint::black_box(0);
            }
        }
        "clients" => memory::clients(&arguments[2..]),
        "crowd" => crowd::crowd(&arguments[2..]),
        "referee" => rivals::referee(&arguments[2..]),
        "rivals" => rivals::rivals(&arguments[2..]),
        _ => floors::respond(&arguments[1..]),
    }
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
