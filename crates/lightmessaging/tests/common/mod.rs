//! Other processes for the tests: the test binary itself, started anew to play a role.
//!
//! A test file has one `#[test] fn role()` that calls [`play`] with its roles; in an ordinary run
//! it does nothing. Parent and child talk in lines over the child's standard streams.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
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
        self.run(Command::new(std::env::current_exe().unwrap()), role, arguments)
    }

    /// The same as another user, which only root can do: with a copy of the program that this user
    /// can reach.
    pub fn start_as(&self, uid: u32, role: &str, arguments: &[&str]) -> Process {
        let program = self.path().join(".program");
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let file = std::fs::File::open(&program).unwrap();
        std::fs::remove_file(&program).unwrap();
        let number = file.as_raw_fd();
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
        let mut command = Command::new(format!("/proc/self/fd/{number}"));
        command.uid(uid).gid(uid).current_dir("/");
        self.run(command, role, arguments)
    }

    /// The same by a command that leads to this program, such as one that makes a sandbox for it.
    pub fn run(&self, mut command: Command, role: &str, arguments: &[&str]) -> Process {
        command
            .args(["role", "--exact", "--nocapture", "--test-threads=1"])
            .env("LM_ROLE", role)
            .env("LM_ARGUMENTS", arguments.join("\x1f"));
        self.spawn(command, MARK)
    }

    /// Starts any program; what counts of its lines is what follows the mark.
    pub fn spawn(&self, mut command: Command, mark: &'static str) -> Process {
        command.env("LIGHTMESSAGING_DIR", self.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let end = std::time::Instant::now() + HANG;
        let mut child = loop {
            match command.spawn() {
                // A program that was written just now may be open for writing in a child of another
                // thread, until that has begun its own program.
                Err(error)
                    if error.kind() == std::io::ErrorKind::ExecutableFileBusy
                        && std::time::Instant::now() < end =>
                {
                    std::thread::sleep(Duration::from_millis(1));
                }
                spawned => break spawned.unwrap(),
            }
        };
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some((_, said)) = line.split_once(mark)
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

    /// Says a line to it, and returns what it answers.
    pub fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.line()
    }

    /// The next line it says.
    pub fn line(&self) -> String {
        self.lines.recv_timeout(HANG).expect("the other process said nothing")
    }

    /// Whether it has nothing more to say, for now.
    pub fn is_quiet(&self) -> bool {
        self.lines.try_recv().is_err()
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

    /// Waits until it has ended by itself, and says how.
    pub fn end(&mut self) -> std::process::ExitStatus {
        drop(self.stdin.take());
        self.child.wait().unwrap()
    }

    /// Waits until it has ended by itself, well.
    pub fn finish(&mut self) {
        let status = self.end();
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

/// What the role [`server`] understands.
pub const ECHO: i32 = 1;
/// Dropped unanswered.
pub const DROP: i32 = 2;
/// Says `took` and never answers; the service is busy for good.
pub const HANG_UP: i32 = 3;
/// Answered from another thread, after as many milliseconds as the payload says.
pub const LATER: i32 = 4;
/// Written down.
pub const LOG: i32 = 5;
/// Answered with every payload that was written down, a space between them.
pub const LOGGED: i32 = 6;
/// Says `took` and answers once the test says a line.
pub const ON_CUE: i32 = 7;

/// A role: a service of the given name with a bit of everything.
pub fn server(arguments: &[String]) {
    let mut logged: Vec<String> = Vec::new();
    let mut service = Service::start(&arguments[0], move |request| {
        let text = || String::from_utf8_lossy(request.data()).into_owned();
        match request.id() {
            ECHO => {
                let (message, reply) = request.split();
                let _ = reply.reply(message.data());
            }
            HANG_UP => {
                tell("took");
                std::thread::sleep(HANG);
            }
            LATER => {
                let pause = Duration::from_millis(text().parse().unwrap());
                std::thread::spawn(move || {
                    std::thread::sleep(pause);
                    let _ = request.reply("late");
                });
            }
            LOG => logged.push(text()),
            LOGGED => drop(request.reply(logged.join(" "))),
            ON_CUE => {
                tell("took");
                hear();
                let cancelled = request.is_cancelled();
                let _ = request.reply("on cue");
                tell(if cancelled { "cancelled" } else { "wanted" });
            }
            _ => {}
        }
    })
    .unwrap();
    tell("ready");
    service.run().unwrap();
}

/// A service that runs on a thread of this process, stopped when dropped.
pub struct Running {
    stop: lightmessaging::StopHandle,
    thread: Option<std::thread::JoinHandle<lightmessaging::Stats>>,
}

impl Running {
    pub fn new(mut service: Service) -> Running {
        let stop = service.stop_handle();
        let thread = std::thread::spawn(move || {
            service.run().unwrap();
            service.stats()
        });
        Running { stop, thread: Some(thread) }
    }

    /// Stops it and says what it has counted.
    pub fn stop(mut self) -> lightmessaging::Stats {
        self.stop.stop();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
    }
}

/// A thread of this process that makes one call.
pub struct Call {
    tid: i32,
    thread: std::thread::JoinHandle<lightmessaging::Result<lightmessaging::Response>>,
}

impl Call {
    pub fn start(connection: &Connection, id: i32, data: &[u8]) -> Call {
        let (connection, data) = (connection.clone(), data.to_vec());
        let (sender, tid) = channel();
        let thread = std::thread::spawn(move || {
            sender.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            connection.send_two_way(id, data)
        });
        Call { tid: tid.recv().unwrap(), thread }
    }

    /// Waits until the call was sent and its caller sleeps.
    pub fn wait_until_it_sleeps(&self) {
        let file = format!("/proc/self/task/{}/syscall", self.tid);
        // The numbers of epoll_wait, epoll_pwait and epoll_pwait2, on x86-64 and elsewhere.
        let sleeps =
            |text: &str| ["232 ", "281 ", "441 ", "22 "].iter().any(|n| text.starts_with(n));
        until(|| match std::fs::read_to_string(&file) {
            Ok(text) => sleeps(&text),
            // The kernel keeps this to itself: a while must do.
            Err(_) => {
                std::thread::sleep(Duration::from_millis(200));
                true
            }
        });
    }

    pub fn end(self) -> lightmessaging::Result<lightmessaging::Response> {
        self.thread.join().unwrap()
    }
}
