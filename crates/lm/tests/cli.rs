//! The command line, run as a person would.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
        Folder(folder)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lm"));
        command.args(arguments).env("LIGHTMESSAGING_DIR", self.0.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn run_with(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(input).unwrap());
            child.wait_with_output().unwrap()
        })
    }

    /// Starts `lm serve` and waits until it says that it is ready.
    fn serve(&self, arguments: &[&str]) -> Served {
        let mut command = self.command(&[&["serve"], arguments].concat());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Served(child)
    }
}

struct Served(Child);

impl Served {
    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn good(output: &Output) -> &[u8] {
    assert!(output.status.success(), "{output:?}");
    &output.stdout
}

#[track_caller]
fn bad(output: &Output, code: i32, says: &str) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(says), "{said}");
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

#[test]
fn the_demo_works_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = Folder::new();
    let output = folder.command(&["demo"]).env("TMPDIR", temporary.path()).output().unwrap();
    let said = String::from_utf8_lossy(good(&output)).into_owned();
    for part in [
        "text:",
        "integer:",
        "one-way:",
        "file:",
        "latency:",
        "killed",
        "error, at once",
        "same connection",
    ] {
        assert!(said.contains(part), "{part} is missing from:\n{said}");
    }
    assert!(said.ends_with("everything worked\n"));
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(folder.0.path()).unwrap().count(), 0);
}

#[test]
fn a_call_prints_the_reply_and_nothing_else() {
    let folder = Folder::new();
    let _service = folder.serve(&["clock", "--text", "noon"]);
    assert_eq!(good(&folder.run(&["call", "clock", "1"])), b"noon");
    assert_eq!(good(&folder.run(&["call", "clock", "-7", "what time is it?"])), b"noon");
    assert_eq!(good(&folder.run(&["send", "clock", "2", "thanks"])), b"");
}

#[test]
fn bytes_come_back_as_they_were_given() {
    let folder = Folder::new();
    let _service = folder.serve(&["mirror", "--echo"]);
    assert_eq!(good(&folder.run(&["call", "mirror", "1"])), b"");
    assert_eq!(good(&folder.run(&["call", "mirror", "1", "--text"])), b"--text");
    let bytes = pattern(5_000_000);
    assert!(good(&folder.run_with(&["call", "mirror", "1", "-"], &bytes)) == bytes);
    let file = folder.0.path().join(".file");
    std::fs::write(&file, &bytes).unwrap();
    let file = file.to_str().unwrap();
    assert!(good(&folder.run(&["call", "mirror", "1", "--file", file])) == bytes);
    bad(
        &folder.run(&["call", "mirror", "1", "--file", "/nowhere/at/all"]),
        1,
        "lm: mirror: cannot read",
    );
}

#[test]
fn a_command_makes_the_replies() {
    let folder = Folder::new();
    let _service = folder.serve(&["upper", "--exec", "tr", "a-z", "A-Z"]);
    assert_eq!(good(&folder.run(&["call", "upper", "1", "loud"])), b"LOUD");
    let _service = folder.serve(&["who", "--exec", "sh", "-c", "echo $LM_MESSAGE_ID $LM_PEER_PID"]);
    let said = String::from_utf8(good(&folder.run(&["call", "who", "-12"])).to_vec()).unwrap();
    let mut words = said.split_whitespace();
    assert_eq!(words.next(), Some("-12"));
    assert!(words.next().unwrap().parse::<u32>().unwrap() > 0);
}

#[test]
fn a_command_that_reads_nothing_or_fails_hangs_nobody() {
    let folder = Folder::new();
    let bytes = pattern(1 << 20);
    let _service = folder.serve(&["deaf", "--exec", "echo", "what?"]);
    assert_eq!(good(&folder.run_with(&["call", "deaf", "1", "-"], &bytes)), b"what?\n");
    let _service = folder.serve(&["broken", "--exec", "false"]);
    bad(
        &folder.run(&["call", "broken", "1"]),
        1,
        "lm: broken: service \"broken\" took the message but did not reply",
    );
    let _service = folder.serve(&["missing", "--exec", "/nowhere/at/all"]);
    bad(&folder.run(&["call", "missing", "1"]), 1, "did not reply");
}

#[test]
fn errors_name_the_service_and_exit_with_1() {
    let folder = Folder::new();
    bad(
        &folder.run(&["call", "nobody", "1"]),
        1,
        "lm: nobody: no service \"nobody\" is to be found",
    );
    bad(&folder.run(&["send", "nobody", "1"]), 1, "lm: nobody: no service");
    bad(&folder.run(&["ping", "nobody"]), 1, "lm: nobody: no service");
    let _service = folder.serve(&["slow", "--exec", "sleep", "2"]);
    bad(
        &folder.run(&["call", "slow", "1", "--timeout", "50"]),
        1,
        "lm: slow: service \"slow\" did not reply in time",
    );
    bad(&folder.run(&["serve", "slow", "--echo"]), 1, "lm: slow: the name \"slow\" is in use");
}

#[test]
fn wrong_usage_exits_with_2() {
    let folder = Folder::new();
    let long = "x".repeat(128);
    for wrong in [
        &["call"][..],
        &["call", "x"],
        &["call", "x", "one"],
        &["call", "x", "4000000000"],
        &["call", "", "1"],
        &["call", &long, "1"],
        &["call", "x", "1", "text", "--file", "f"],
        &["call", "x", "1", "--timeout", "0"],
        &["serve", "x"],
        &["serve", "x", "--echo", "--text", "t"],
        &["ping", "x", "-c", "0"],
        &["nonsense"],
        &[],
    ] {
        bad(&folder.run(wrong), 2, "");
    }
    good(&folder.run(&["--help"]));
    good(&folder.run(&["--version"]));
}

#[test]
fn ping_measures_an_echo_service_and_no_other() {
    let folder = Folder::new();
    let _mirror = folder.serve(&["mirror", "--echo"]);
    let output = folder.run(&["ping", "mirror", "-c", "300", "--size", "5000", "--json"]);
    let figures: serde_json::Value = serde_json::from_slice(good(&output)).unwrap();
    assert_eq!((&figures["count"], &figures["size"]), (&300.into(), &5000.into()));
    let of = |key: &str| figures[key].as_f64().unwrap();
    assert!(0.0 < of("min_ns") && of("min_ns") <= of("p50_ns") && of("p50_ns") <= of("p99_ns"));
    assert!(of("p99_ns") <= of("p99_9_ns") && of("mean_ns") > 0.0 && of("calls_per_s") > 0.0);
    let text =
        String::from_utf8(good(&folder.run(&["ping", "mirror", "-c", "10"])).to_vec()).unwrap();
    for part in ["min", "p50", "p99", "p99.9", "mean", "calls/s"] {
        assert!(text.contains(part), "{text}");
    }
    let _clock = folder.serve(&["clock", "--text", "noon"]);
    bad(&folder.run(&["ping", "clock"]), 1, "lm: clock: it replied with something else");
}

#[test]
fn ls_shows_who_runs_and_forgets_who_was_killed() {
    let folder = Folder::new();
    assert_eq!(good(&folder.run(&["ls"])), b"");
    assert_eq!(good(&folder.run(&["ls", "--json"])), b"[]\n");
    let mut first = folder.serve(&["b/\u{1b}[31m", "--echo"]);
    let _second = folder.serve(&["a", "--echo"]);
    let listed: serde_json::Value =
        serde_json::from_slice(good(&folder.run(&["ls", "--json"]))).unwrap();
    assert_eq!(listed[0]["name"], "a");
    assert_eq!(listed[1]["name"], "b/\\u{1b}[31m");
    assert_eq!(listed[1]["pid"], first.0.id());
    assert!(listed[0]["program"].as_str().unwrap().ends_with("/lm"));
    let text = String::from_utf8(good(&folder.run(&["ls"])).to_vec()).unwrap();
    assert!(text.starts_with("NAME") && text.lines().count() == 3 && !text.contains('\u{1b}'));
    first.0.kill().unwrap();
    first.0.wait().unwrap();
    let listed = folder.run(&["ls", "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(good(&listed)).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1);
}

#[test]
fn a_signal_stops_a_service_cleanly() {
    use rustix::process::Signal;
    for signal in [Signal::TERM, Signal::INT] {
        let folder = Folder::new();
        let mut service = folder.serve(&["mirror", "--echo"]);
        assert_eq!(good(&folder.run(&["call", "mirror", "1", "x"])), b"x");
        service.signal(signal);
        assert!(service.0.wait().unwrap().success());
        assert_eq!(std::fs::read_dir(folder.0.path()).unwrap().count(), 0);
        bad(&folder.run(&["call", "mirror", "1"]), 1, "no service");
    }
}

#[test]
fn a_closed_output_is_no_error() {
    let folder = Folder::new();
    let _service = folder.serve(&["mirror", "--echo"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let bytes = pattern(1 << 20);
    let mut child = folder
        .command(&["call", "mirror", "1", "-"])
        .stdin(Stdio::piped())
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

/// `lm rocketd` with files of the test's own, once it listens.
fn rocketd(folder: &Folder) -> Served {
    let file = |name: &str| folder.0.path().join(name).display().to_string();
    std::fs::write(file(".policy.toml"), "").unwrap();
    std::fs::set_permissions(file(".policy.toml"), PermissionsExt::from_mode(0o600)).unwrap();
    let (socket, policy, services) =
        (file(".rocketd/socket"), file(".policy.toml"), file(".services"));
    let options = ["--socket", &socket, "--policy", &policy, "--services", &services];
    let mut command = folder.command(&[&["rocketd"], &options[..]].concat());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("listening at"));
    std::thread::spawn(move || lines.for_each(drop));
    Served(child)
}

#[test]
fn an_unlocked_service_is_reached_through_rocketd_and_a_locked_one_is_not() {
    let (folder, elsewhere) = (Folder::new(), Folder::new());
    let socket = folder.0.path().join(".rocketd/socket");
    let call = |arguments: &[&str]| {
        let mut command = elsewhere.command(arguments);
        command.env("LIGHTMESSAGING_ROCKETD", &socket).output().unwrap()
    };
    let _open = folder.serve(&["open", "--text", "open", "--unlock"]);
    let _shut = folder.serve(&["shut", "--text", "shut"]);
    bad(&call(&["call", "open", "1"]), 1, "nobody serves it in");
    // It wants to be, and nobody hears it.
    let listed = String::from_utf8(good(&folder.run(&["ls"])).to_vec()).unwrap();
    assert!(listed.lines().any(|line| line.starts_with("open ") && line.contains(" asked ")));

    let _rocketd = rocketd(&folder);
    assert_eq!(good(&call(&["call", "--wait", "open", "1"])), b"open");
    bad(&call(&["call", "shut", "1"]), 1, "knows of none; start it, or unlock it");
    assert_eq!(good(&folder.run(&["unlock", "shut"])), b"");
    assert_eq!(good(&call(&["call", "--wait", "shut", "1"])), b"shut");
    let listed = String::from_utf8(good(&call(&["ls"])).to_vec()).unwrap();
    assert_eq!(listed.lines().count(), 3, "{listed}");
    assert!(listed.lines().skip(1).all(|line| line.contains(" yes ")), "{listed}");

    assert_eq!(good(&folder.run(&["unlock", "shut", "--undo"])), b"");
    bad(&call(&["call", "shut", "1"]), 1, "knows of none");
    bad(&folder.run(&["unlock", "nobody"]), 1, "lm: nobody: no service");
}

#[test]
fn a_call_waits_for_its_service_if_it_is_told_to() {
    let folder = Folder::new();
    bad(&folder.run(&["call", "--wait=1", "late", "1"]), 1, "lm: late: no service");
    let mut command = folder.command(&["call", "--wait", "late", "1"]);
    let waiting = command.stdout(Stdio::piped()).spawn().unwrap();
    let _service = folder.serve(&["late", "--text", "here"]);
    assert_eq!(good(&waiting.wait_with_output().unwrap()), b"here");
}

#[test]
fn an_instance_takes_over_from_another_and_leaves_when_it_is_idle() {
    let folder = Folder::new();
    let mut old = folder.serve(&["x", "--text", "old"]);
    bad(&folder.run(&["serve", "x", "--echo"]), 1, "stop that one first");
    assert_eq!(good(&folder.run(&["call", "x", "1"])), b"old");
    let mut new = folder.serve(&["x", "--text", "new", "--take-over", "--idle-exit", "0.3"]);
    assert!(old.0.wait().unwrap().success());
    assert_eq!(good(&folder.run(&["call", "x", "1"])), b"new");
    assert!(new.0.wait().unwrap().success());
    bad(&folder.run(&["call", "x", "1"]), 1, "nobody serves it");
    bad(&folder.run(&["serve", "x", "--echo", "--idle-exit", "0"]), 2, "seconds above 0");
}
