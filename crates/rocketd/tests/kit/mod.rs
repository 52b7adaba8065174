//! A rocketd of the test's own, with its socket, policy and service files, and processes that deal
//! with it.
//!
//! What this machine does not have is left out, and the tests say so on standard error, past the test
//! harness.
#![allow(dead_code)]

#[path = "../../../lightmessaging/tests/common/mod.rs"]
pub mod common;
#[path = "../../../lightmessaging/tests/common/lies.rs"]
pub mod lies;

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{ECHO, Folder, HANG, Process, Role, hear, pattern, tell, until};
use lightmessaging::{Connection, Error, Registry, Response, Service};
use rustix::process::{Pid, Resource, Rlimit, Signal};
use tempfile::TempDir;

/// Answered with who the service takes its client for.
pub const WHO: i32 = 20;
/// Nobody in particular.
pub const STRANGER: u32 = 1234;
/// Where a sandbox has the folder of rocketd's socket.
pub const IN_SANDBOX: &str = "/run/rocketd";
/// No folder at all: a registry for those who see none.
pub const NOWHERE: &str = "/nowhere/at/all";

/// One test's registry, and the place of its rocketd.
pub struct Home {
    pub folder: Folder,
    pub place: TempDir,
    logs: Cell<u32>,
}

impl Home {
    /// With a policy of nothing but defaults.
    pub fn new() -> Home {
        let home =
            Home { folder: Folder::new(), place: TempDir::new().unwrap(), logs: Cell::new(0) };
        for path in [home.place.path().to_owned(), home.run(), home.services()] {
            let _ = fs::create_dir(&path);
            fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        }
        home.policy("");
        home
    }

    /// The folder of the socket, and of nothing else.
    pub fn run(&self) -> PathBuf {
        self.place.path().join("run")
    }

    pub fn socket(&self) -> PathBuf {
        self.run().join("socket")
    }

    pub fn services(&self) -> PathBuf {
        self.place.path().join("services")
    }

    /// The file in which the role [`on_demand`] writes itself down.
    pub fn starts(&self) -> PathBuf {
        self.place.path().join("starts")
    }

    pub fn policy_file(&self) -> PathBuf {
        self.place.path().join("policy.toml")
    }

    /// Writes the policy into the file that is there.
    pub fn policy(&self, text: &str) {
        fs::write(self.policy_file(), text).unwrap();
        // Whatever this process's umask, or it would not be believed.
        fs::set_permissions(self.policy_file(), PermissionsExt::from_mode(0o644)).unwrap();
    }

    /// The registry, for those who see it.
    pub fn registry(&self) -> Registry {
        self.folder.registry().with_rocketd(self.socket())
    }

    /// What those have who do not.
    pub fn blind(&self) -> Registry {
        Registry::at(NOWHERE).with_rocketd(self.socket())
    }

    /// A connection that can only come through rocketd.
    pub fn connect(&self, name: &str) -> Connection {
        Connection::builder(name).registry(self.blind()).build().unwrap()
    }

    /// What one call comes to, see [`said`].
    pub fn call(&self, name: &str) -> String {
        said(self.connect(name).send_two_way(ECHO, "x"))
    }

    /// The command of this home's rocketd.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rocketd"));
        command.arg("--socket").arg(self.socket()).arg("--registry").arg(self.folder.path());
        command.arg("--policy").arg(self.policy_file()).arg("--services").arg(self.services());
        command.stdin(Stdio::null()).stdout(Stdio::null()).env_remove("LIGHTMESSAGING_ROCKETD");
        command
    }

    /// Starts rocketd and waits until it listens.
    pub fn rocketd(&self) -> Rocketd {
        let rocketd = self.start(self.command());
        rocketd.wait_for("listening at");
        rocketd
    }

    pub fn start(&self, mut command: Command) -> Rocketd {
        self.logs.set(self.logs.get() + 1);
        let log = self.place.path().join(format!("log.{}", self.logs.get()));
        let child = command.stderr(File::create(&log).unwrap()).spawn().unwrap();
        Rocketd { child, log }
    }

    /// Starts a service in a process of its own and waits until it serves.
    pub fn serve(&self, name: &str, how: &str) -> Process {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let arguments = [path(self.folder.path()), path(&self.socket()), name.into(), how.into()];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.folder.serve("serve", &arguments)
    }

    /// A process that sees nothing but rocketd.
    pub fn client(&self) -> Process {
        self.folder.start("client", &[NOWHERE, self.socket().to_str().unwrap()])
    }

    /// The same, of another user.
    pub fn client_of(&self, uid: u32) -> Process {
        let folder = Folder::new();
        folder.start_as(uid, "client", &[NOWHERE, self.socket().to_str().unwrap()])
    }

    /// The same, in a sandbox.
    pub fn sandboxed(&self, more: &[&str]) -> Process {
        self.in_sandbox(more, "client", &[NOWHERE, &format!("{IN_SANDBOX}/socket")])
    }

    /// Plays a role in a sandbox that has this program, what it needs to run, and rocketd's socket.
    pub fn in_sandbox(&self, more: &[&str], role: &str, arguments: &[&str]) -> Process {
        let mut command = Command::new("bwrap");
        command.args(["--unshare-all", "--die-with-parent", "--ro-bind", "/usr", "/usr"]);
        for folder in ["bin", "lib", "lib64"] {
            command.args(["--symlink", &format!("usr/{folder}"), &format!("/{folder}")]);
        }
        command.args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]);
        command.arg("--ro-bind").arg(std::env::current_exe().unwrap()).arg("/program");
        command.arg("--ro-bind").arg(self.run()).arg(IN_SANDBOX);
        command.args(more).arg("/program");
        self.folder.run(command, role, arguments)
    }

    /// Writes a service file for a role of this test file that is told the name of its service.
    pub fn demand(&self, name: &str, role: &str, arguments: &[&str], more: &str) {
        let program = std::env::current_exe().unwrap();
        let command = [program.to_str().unwrap(), "role", "--exact", "--nocapture"];
        let arguments: Vec<&str> = [name].iter().chain(arguments).copied().collect();
        let arguments = arguments.join("\\u001f");
        let more = format!(
            "environment = {{ LM_ROLE = '{role}', LM_ARGUMENTS = \"{arguments}\" }}\n{more}"
        );
        self.service_file(name, &command, &more);
    }

    pub fn service_file(&self, name: &str, command: &[&str], more: &str) {
        let text = format!("name = '{name}'\ncommand = {command:?}\n{more}\n");
        // Whole or not at all.
        let new = self.place.path().join("new");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, PermissionsExt::from_mode(0o644)).unwrap();
        fs::rename(new, self.services().join(format!("{name}.toml"))).unwrap();
    }
}

impl Drop for Home {
    /// What was started on demand lives on without rocketd.
    fn drop(&mut self) {
        for pid in starts(&self.starts()) {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let ours = std::env::current_exe().unwrap();
            if command.starts_with(ours.as_os_str().as_encoded_bytes()) {
                kill(pid, Signal::KILL);
            }
        }
    }
}

/// A rocketd; killed and reaped when dropped.
pub struct Rocketd {
    child: Child,
    log: PathBuf,
}

impl Rocketd {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub fn wait_for(&self, text: &str) {
        self.wait_for_more(text, 1);
    }

    /// Waits until it has said something so many times.
    pub fn wait_for_more(&self, text: &str, times: usize) {
        let end = std::time::Instant::now() + HANG;
        while self.log().matches(text).count() < times {
            assert!(std::time::Instant::now() < end, "no \"{text}\" in: {}", self.log());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it has ended by itself.
    pub fn end(&mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(&mut self) -> std::process::ExitStatus {
        self.signal(Signal::TERM);
        self.end()
    }
}

impl Drop for Rocketd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `ok` and the reply, or which error and its sentence.
pub fn said(result: lightmessaging::Result<Response>) -> String {
    match result {
        Ok(response) => format!("ok {}", String::from_utf8_lossy(response.data())),
        Err(error) => failed(&error),
    }
}

pub fn failed(error: &Error) -> String {
    let kind = format!("{error:?}");
    format!("{} {error}", kind.split(' ').next().unwrap())
}

/// A role: does what the test says, one line for each connection made and message sent.
pub fn client(arguments: &[String]) {
    let registry = Registry::at(&arguments[0]).with_rocketd(&arguments[1]);
    let mut connections: HashMap<String, Connection> = HashMap::new();
    let mut connection = |name: &str| {
        let new = || Connection::builder(name).registry(registry.clone()).build().unwrap();
        connections.entry(name.to_owned()).or_insert_with(new).clone()
    };
    while let Some(line) = hear() {
        let words: Vec<&str> = line.split(' ').collect();
        tell(match words[..] {
            ["call", name] => said(connection(name).send_two_way(ECHO, "x")),
            ["who", name] => said(connection(name).send_two_way(WHO, "")),
            ["many", name, count] => {
                let connection = connection(name);
                let call = |_| connection.send_two_way(ECHO, "x").map(drop);
                let called = (0..count.parse::<u32>().unwrap()).try_for_each(call);
                called.map_or_else(|error| failed(&error), |()| "ok".to_owned())
            }
            ["large", name, len] => {
                let sent = pattern(len.parse().unwrap());
                match connection(name).send_two_way(ECHO, &sent) {
                    Ok(response) if response.data() == sent => "ok".to_owned(),
                    Ok(_) => "something else came back".to_owned(),
                    Err(error) => failed(&error),
                }
            }
            ["wait", name] => {
                let builder = Connection::builder(name).registry(registry.clone());
                let builder = builder.wait_for_service(HANG).deadline(HANG);
                said(builder.build().unwrap().send_two_way(ECHO, "x"))
            }
            ["list"] => {
                let names =
                    registry.reachable(HANG).into_iter().map(|known| known.name.to_string());
                names.collect::<Vec<_>>().join(" ")
            }
            ["look", folder] => match fs::read_dir(folder) {
                Ok(entries) => {
                    let names = entries.map(|entry| entry.unwrap().file_name().into_string());
                    let mut names: Vec<String> = names.map(Result::unwrap).collect();
                    names.sort();
                    format!("has {}", names.join(" "))
                }
                Err(error) => format!("{:?}", error.kind()),
            },
            ["pid"] => std::process::id().to_string(),
            _ => panic!("what is {line}?"),
        });
    }
}

/// A role: a service in a registry, with a rocketd, by a name.
pub fn serve(arguments: &[String]) {
    let [folder, socket, name, how] = arguments else { panic!("{arguments:?}") };
    let mut builder = Service::builder(name);
    builder = builder.registry(Registry::at(folder).with_rocketd(socket));
    if how.contains("unlocked") {
        builder = builder.unlocked();
    }
    if how.contains("for all") {
        builder = builder.mode(0o666);
    }
    let mut service = builder.start(answer).unwrap();
    tell("ready");
    service.run().unwrap();
}

/// Answers [`ECHO`] and [`WHO`].
pub fn answer(request: lightmessaging::Request) {
    if request.id() == WHO {
        let peer = request.peer();
        let (uid, pid) = (peer.uid(), peer.pid());
        let who = match peer.introduction() {
            Some(introduction) => {
                let application = introduction.application().unwrap_or("-");
                let cgroup = introduction.cgroup().unwrap_or("-");
                format!("{uid} {pid} through rocketd {application} {cgroup}")
            }
            None => format!("{uid} {pid} directly"),
        };
        let _ = request.reply(who);
    } else {
        let (message, reply) = request.split();
        let _ = reply.reply(message.data());
    }
}

/// A role: a service that is started on demand, in the environment's registry. Writes its process into
/// a file, and may take its time.
pub fn on_demand(arguments: &[String]) {
    let [name, starts, rest @ ..] = arguments else { panic!("{arguments:?}") };
    let mut file = File::options().append(true).create(true).open(starts).unwrap();
    writeln!(file, "{}", std::process::id()).unwrap();
    if let [pause] = rest {
        std::thread::sleep(Duration::from_millis(pause.parse().unwrap()));
    }
    let service = Service::builder(name).check_in(answer);
    // Tests that want this to fail see how it ends.
    service.unwrap_or_else(|_| std::process::exit(1)).run().unwrap();
}

/// The processes that have been started on demand, as they have written themselves down.
pub fn starts(file: &Path) -> Vec<u32> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

/// What every test file has.
pub const ROLES: [Role; 3] = [("client", client), ("serve", serve), ("on_demand", on_demand)];

/// Copies a program to be run. By another process: what this one has open for writing may be so in a child
/// of another thread's too, and does not start then.
pub fn copy_program(from: impl AsRef<Path>, to: &Path) {
    assert!(Command::new("cp").arg(from.as_ref()).arg(to).status().unwrap().success());
}

/// Says what is left out, where the harness does not swallow it.
pub fn leave_out(what: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {what}, because {why}");
}

pub fn is_root(what: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        leave_out(what, "only root can start a process of another user");
    }
    is_root
}

pub fn has_sandboxes(what: &str) -> bool {
    let tried = Command::new("bwrap")
        .args(["--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "true"])
        .stderr(Stdio::null())
        .status();
    let works = tried.is_ok_and(|status| status.success());
    if !works {
        leave_out(what, "bwrap does not work here (Debian: bubblewrap)");
    }
    works
}

/// A file of a Flatpak application, for a sandbox. Keeps the arguments good while it lives.
pub struct FlatpakInfo {
    _file: File,
    number: String,
}

impl FlatpakInfo {
    pub fn of(application: &str) -> FlatpakInfo {
        let mut file = tempfile::tempfile().unwrap();
        write!(file, "[Application]\nname={application}\nruntime=x\n").unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
        let number = file.as_raw_fd().to_string();
        FlatpakInfo { _file: file, number }
    }

    pub fn arguments(&self) -> [&str; 3] {
        ["--ro-bind-data", &self.number, "/.flatpak-info"]
    }
}

/// Whether this process, and those that it starts, may have so many descriptors; they can from then on.
pub fn has_descriptors(count: u64, what: &str) -> bool {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _ = rustix::process::setrlimit(Resource::Nofile, raised);
    let most = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if most < count {
        leave_out(
            what,
            &format!("it takes {count} descriptors and no more than {most} may be open"),
        );
    }
    most >= count
}

/// The memory that a process has, in KiB.
pub fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A process's number where it lives, which is not where we do.
pub fn inner_pid(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
    line.split_whitespace().last().unwrap().parse().unwrap()
}

/// Waits until calls of a name through rocketd come to something.
pub fn until_called(home: &Home, name: &str, begins: &str) {
    let mut last = String::new();
    let end = std::time::Instant::now() + HANG;
    while !last.starts_with(begins) {
        assert!(std::time::Instant::now() < end, "{name}: never {begins}, but {last}");
        last = home.call(name);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a process lives.
pub fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.starts_with(" Z"))
}

/// Ends a process that was started by another, and waits until it has.
pub fn kill(pid: u32, signal: Signal) {
    let process = Pid::from_raw(pid as i32).unwrap();
    let _ = rustix::process::kill_process(process, signal);
    until(|| !lives(pid));
}

/// A command of another user.
pub fn as_user(command: &mut Command, uid: u32) {
    command.uid(uid).gid(uid).current_dir("/");
}
