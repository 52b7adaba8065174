//! `lm demo`: everything at work in one command.
//!
//! Three processes: this one starts a service and a client, kills the service when the client is
//! ready for that, and starts it again; the client keeps one connection all the while.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use lightmessaging::{Connection, Error, Service};
use sha2::{Digest, Sha256};

use crate::failure::Failure;
use crate::ping::measure;

const NAME: &str = "demo";

// Message ids of the demo's service.
const GREET: i32 = 1;
const SQUARE: i32 = 2;
const NOTE: i32 = 3;
const NOTES: i32 = 4;
const DIGEST: i32 = 5;
const ECHO: i32 = 6;

// What the client asks of the demo, in lines of their own.
const KILL: &str = "@kill";
const START: &str = "@start";

fn failed(sentence: impl std::fmt::Display) -> Failure {
    Failure::Service(NAME.to_owned(), sentence.to_string())
}

/// One of the demo's processes; killed when dropped.
struct Process {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(role: &str, folder: &Path) -> Result<Process, Failure> {
        let cannot = |error| failed(format!("cannot start the {role}: {error}"));
        let program = std::env::current_exe().map_err(cannot)?;
        let mut child = Command::new(program)
            .arg(role)
            .env("LIGHTMESSAGING_DIR", folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(cannot)?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed("a process without its streams"));
        };
        Ok(Process { child, stdin, lines: BufReader::new(stdout).lines() })
    }

    fn service(folder: &Path) -> Result<Process, Failure> {
        let mut service = Process::start("demo-service", folder)?;
        match service.lines.next() {
            Some(Ok(line)) if line == "ready" => Ok(service),
            _ => Err(failed("the service did not start")),
        }
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn say(line: impl std::fmt::Display) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{line}").map_err(|error| Failure::output(NAME, error))
}

/// The demo.
pub fn run() -> Result<(), Failure> {
    let folder =
        tempfile::tempdir().map_err(|error| failed(format!("cannot make a folder: {error}")))?;
    let mut service = Process::service(folder.path())?;
    say(format_args!("service  process {} serves the name \"{NAME}\"", service.child.id()))?;
    let mut client = Process::start("demo-client", folder.path())?;
    for line in client.lines.by_ref() {
        let line = line.map_err(|error| failed(format!("the client cannot be heard: {error}")))?;
        match line.as_str() {
            KILL => {
                service.kill();
                say(format_args!("service  process {} was killed (SIGKILL)", service.child.id()))?;
            }
            START => {
                service = Process::service(folder.path())?;
                say(format_args!("service  process {} serves the name again", service.child.id()))?;
            }
            line => {
                say(format_args!("client   {line}"))?;
                continue;
            }
        }
        writeln!(client.stdin, "done").map_err(|_| failed("the client is gone"))?;
    }
    let status =
        client.child.wait().map_err(|error| failed(format!("the client was lost: {error}")))?;
    if !status.success() {
        return Err(failed("the client failed, see above"));
    }
    say("demo     everything worked")
}

/// The service's process: answers until the demo is over.
pub fn service() -> Result<(), Failure> {
    let notes = Arc::new(Mutex::new(Vec::new()));
    let mut service = Service::start(NAME, move |request| {
        let mut notes = notes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (message, reply) = request.split();
        let _ = match message.id() {
            GREET => {
                let who = String::from_utf8_lossy(message.data()).into_owned();
                let (pid, from) = (std::process::id(), reply.peer().pid());
                reply.reply(format!("hello {who} in process {from}, this is process {pid}"))
            }
            SQUARE => match message.data().try_into().map(i32::from_le_bytes) {
                Ok(number) => reply.reply(number.wrapping_mul(number).to_le_bytes()),
                // Not an integer: dropped unanswered, which its caller learns at once.
                Err(_) => Ok(()),
            },
            NOTE => {
                notes.push(String::from_utf8_lossy(message.data()).into_owned());
                Ok(())
            }
            NOTES => reply.reply(notes.join("\n")),
            DIGEST => reply.reply(digest(message.data())),
            ECHO => reply.reply(message.data()),
            _ => Ok(()),
        };
    })?;
    let stop = service.stop_handle();
    std::thread::spawn(move || {
        // Ends with the demo's own process, however that ends.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        stop.stop();
    });
    say("ready")?;
    Ok(service.run()?)
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn check(is_right: bool, what: &str) -> Result<(), Failure> {
    if is_right { Ok(()) } else { Err(failed(format!("{what} came back wrong"))) }
}

/// The client's process.
pub fn client() -> Result<(), Failure> {
    let connection = Connection::new(NAME)?;

    let response = connection.send_two_way(GREET, "client")?;
    let greeting = String::from_utf8_lossy(response.data()).into_owned();
    check(greeting.contains(&format!("process {}", std::process::id())), "the greeting")?;
    say(format_args!("text: \"{greeting}\""))?;

    let response = connection.send_two_way(SQUARE, 1234i32.to_le_bytes())?;
    check(response.data() == 1_522_756i32.to_le_bytes(), "the integer")?;
    say("integer: 1234 squared is 1522756")?;

    connection.send_one_way(NOTE, "remember the milk")?;
    let notes = connection.send_two_way(NOTES, [])?;
    check(notes.data() == b"remember the milk", "the one-way message")?;
    say("one-way: sent and forgotten here, remembered there")?;

    file(&connection)?;
    latencies(&connection)?;

    ask(KILL)?;
    match connection.send_two_way(GREET, "client") {
        Err(
            error @ (Error::NotFound { .. } | Error::NotDelivered { .. } | Error::PeerDied { .. }),
        ) => {
            say(format_args!("error, at once: {error}"))?;
        }
        Ok(_) => return Err(failed("a dead service answered")),
        Err(error) => return Err(error.into()),
    }
    ask(START)?;
    let response = connection.send_two_way(GREET, "client")?;
    say(format_args!("same connection: \"{}\"", String::from_utf8_lossy(response.data())))
}

/// A real file of several megabytes there and back: this program itself.
fn file(connection: &Connection) -> Result<(), Failure> {
    let path = std::env::current_exe().map_err(|e| failed(format!("cannot find a file: {e}")))?;
    let bytes =
        std::fs::read(&path).map_err(|e| failed(format!("cannot read {}: {e}", path.display())))?;
    let response = connection.send_two_way(DIGEST, &bytes)?;
    check(response.data() == digest(&bytes), "the file's digest")?;
    let started = Instant::now();
    let response = connection.send_two_way(ECHO, &bytes)?;
    let elapsed = started.elapsed();
    check(response.data() == bytes, "the file")?;
    let short: String = digest(&bytes)[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    say(format_args!(
        "file: {:.1} MB there and back in {:.1} ms, SHA-256 {short}… on both sides",
        bytes.len() as f64 / 1e6,
        elapsed.as_secs_f64() * 1e3,
    ))
}

fn latencies(connection: &Connection) -> Result<(), Failure> {
    for (size, count) in [(64, 20_000), (4096, 5_000), (1 << 20, 200)] {
        let figures = measure(connection, ECHO, size, count)?;
        say(format_args!(
            "latency: {count} calls of {size} bytes, there and back: p50 {:.2} µs, p99 {:.2} µs",
            figures.p50_ns as f64 / 1e3,
            figures.p99_ns as f64 / 1e3,
        ))?;
    }
    Ok(())
}

/// Asks the demo for something and waits until it is done.
fn ask(what: &str) -> Result<(), Failure> {
    say(what)?;
    let mut line = String::new();
    match std::io::stdin().read_line(&mut line) {
        Ok(len) if len > 0 => Ok(()),
        _ => Err(failed("the demo is gone")),
    }
}
