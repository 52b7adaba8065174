//! What rocketd finds out about other processes: sandboxed ones, and such that do not want to be known.

#[path = "kit/fuse.rs"]
mod fuse;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rocketd::asker::Asker;
use rustix::process::DumpableBehavior;

const ROLE: &str = "ROCKETD_TEST_ROLE";
/// After this long something hangs. No test waits for it to pass.
const HANG: Duration = Duration::from_secs(60);

/// A process that says its number when it is ready, and is killed with the test.
struct Process {
    child: Child,
    pid: u32,
}

impl Process {
    fn start(mut command: Command, input: &str) -> Option<Process> {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().ok()?;
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        // A sandbox reads its file to the end; a role lives until then.
        if input.is_empty() {
            child.stdin = Some(stdin)
        } else {
            drop(stdin)
        }
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok);
        let pid = lines.find_map(|line| line.strip_prefix("@@ ")?.parse().ok());
        let pid = pid.unwrap_or_else(|| {
            let _ = child.kill();
            panic!("it has not started: {:?}", child.wait())
        });
        Some(Process { child, pid })
    }

    fn role(role: &str) -> Process {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["role", "--exact", "--nocapture", "--test-threads=1"]).env(ROLE, role);
        Process::start(command, "").unwrap()
    }

    fn inspect(&self) -> Asker {
        Asker::inspect(self.pid, 1, 2, None)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A sandbox made as Flatpak makes it; none where there is no bubblewrap, or it may not.
fn sandbox(info: &str, arguments: &[&str]) -> Option<Process> {
    let mut command = Command::new("bwrap");
    command.args(["--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev"]);
    for folder in ["bin", "lib", "lib64"] {
        command.args(["--symlink", &format!("usr/{folder}"), &format!("/{folder}")]);
    }
    let works = Command::new("bwrap").args(["--ro-bind", "/", "/", "true"]).status();
    if !works.is_ok_and(|status| status.success()) {
        eprintln!("skipped: a sandbox, bwrap does not work here");
        return None;
    }
    command.args(["--die-with-parent", "--ro-bind-data", "0", "/.flatpak-info"]).args(arguments);
    Process::start(command, info)
}

const STAY: [&str; 3] = ["/bin/sh", "-c", "echo @@ $$; exec sleep 60"];

#[test]
fn an_application_in_a_sandbox_is_known_by_its_id() {
    let info = "[Application]\nname=org.example.App\n\n[Instance]\ninstance-id=1\n";
    let Some(process) = sandbox(info, &STAY) else { return };
    let asker = process.inspect();
    assert_eq!(asker.application.as_deref(), Some("org.example.App"));
    assert!(!asker.is_opaque);
}

#[test]
fn a_sandbox_that_does_not_say_whose_it_is_is_opaque() {
    for info in ["[Application]\nname=\n", "[Application]\nname=../x\n", "\n"] {
        let Some(process) = sandbox(info, &STAY) else { return };
        let asker = process.inspect();
        assert_eq!((asker.application, asker.is_opaque), (None, true), "{info:?}");
    }
}

#[test]
fn a_program_of_a_sandbox_does_not_pass_for_the_one_outside() {
    let stay = ["--ro-bind", "/usr/bin/env", "/usr/bin/true", "/usr/bin/true"];
    let arguments: Vec<&str> = stay.into_iter().chain(STAY).collect();
    let Some(process) = sandbox("\n", &arguments) else { return };
    // The program of the sandbox that is the one outside is known.
    while std::fs::read_to_string(format!("/proc/{}/comm", process.pid)).unwrap() != "sleep\n" {
        thread::yield_now();
    }
    let sleep = std::fs::canonicalize("/usr/bin/sleep").unwrap();
    assert_eq!(process.inspect().executable, Some(sleep));
    let stay = ["--ro-bind", "/usr/bin/sh", "/usr/bin/true", "/usr/bin/true", "-c"];
    let arguments: Vec<&str> = stay.into_iter().chain(["echo @@ $$; kill -STOP $$"]).collect();
    let Some(process) = sandbox("\n", &arguments) else { return };
    let exe = std::fs::read_link(format!("/proc/{}/exe", process.pid)).unwrap();
    assert_eq!(exe.to_str(), Some("/usr/bin/true"));
    assert_eq!(process.inspect().executable, None);
}

#[test]
fn who_may_not_be_looked_into_is_opaque() {
    let process = Process::role("undumpable");
    let asker = process.inspect();
    // Root may look into anybody.
    assert_eq!(asker.is_opaque, !rustix::process::geteuid().is_root());
    assert_eq!(asker.application, None);
}

#[test]
fn a_file_system_that_never_answers_holds_nobody_up() {
    if !rustix::process::geteuid().is_root() || File::open("/dev/fuse").is_err() {
        eprintln!("skipped: a root that never answers, only root can have one and with /dev/fuse");
        return;
    }
    let process = Process::role("silent");
    let asker = process.inspect();
    assert_eq!((asker.application, asker.is_opaque), (None, true));
    assert!(asker.executable.is_some());
}

#[test]
fn role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    thread::spawn(|| {
        thread::sleep(HANG);
        std::process::exit(1);
    });
    match role.as_str() {
        "undumpable" => {
            rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).unwrap();
        }
        "silent" => live_on_silent_file_system(),
        _ => panic!("no role {role}"),
    }
    println!("\n@@ {}", std::process::id());
    let _ = std::io::stdin().read(&mut [0]);
}

/// Makes a file system of its own the root of this process, and answers no more.
fn live_on_silent_file_system() {
    static IS_SILENT: AtomicBool = AtomicBool::new(false);
    let (device, root) = fuse::mount();
    // See fuse(4): the first request is answered with version 7.31 and 64 KiB for a write, all
    // others with ENOSYS.
    thread::spawn(move || {
        let mut request = vec![0; 1 << 17];
        while !IS_SILENT.load(Ordering::Acquire) && (&device).read(&mut request).is_ok() {
            let mut body = [0; 64];
            body[0] = 7;
            body[4] = 31;
            body[22] = 1;
            let (error, body) = if request[4] == 26 { (0, &body[..]) } else { (-38i32, &[][..]) };
            let mut answer = (16 + body.len() as u32).to_le_bytes().to_vec();
            answer.extend(error.to_le_bytes());
            answer.extend(&request[8..16]);
            answer.extend(body);
            (&device).write_all(&answer).unwrap();
        }
        thread::sleep(2 * HANG);
    });
    rustix::process::fchdir(&root).unwrap();
    rustix::process::chroot(".").unwrap();
    IS_SILENT.store(true, Ordering::Release);
}
