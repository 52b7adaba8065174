//! `lm serve`: a service from the command line.

use std::ffi::OsString;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use clap::Args;
use lightmessaging::{Error, Request, Service, ServiceName};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::Failure;

/// Commands of `--exec` that may run at once.
const AT_ONCE: usize = 64;

/// Arguments of `lm serve`.
#[derive(Args)]
#[command(override_usage = "lm serve [OPTIONS] <NAME> <--echo | --text <T> | --exec <CMD>...>")]
pub struct Serve {
    /// The name to serve under: 1 to 127 bytes.
    #[arg(value_parser = crate::name())]
    name: ServiceName,
    #[command(flatten)]
    how: How,
    /// Let programs that cannot see the registry reach it through rocketd.
    #[arg(long)]
    unlock: bool,
    /// Take over the socket that this program was started with, on demand (LISTEN_FDS).
    #[arg(long, conflicts_with = "take_over")]
    check_in: bool,
    /// Take the name over from a running instance, which answers what was sent to it, and ends. It may
    /// take 30 s for that.
    #[arg(long)]
    take_over: bool,
    /// End after so many seconds without a message.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    idle_exit: Option<Duration>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("not a number of seconds above 0, such as 1.5".to_owned()),
    }
}

/// How long the running instance may take to hand its name over.
const TAKE_OVER: Duration = Duration::from_secs(30);

/// How to answer; one of them.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct How {
    /// Reply with the request's own bytes.
    #[arg(long)]
    echo: bool,
    /// Reply with this text, whatever is asked.
    #[arg(long, value_name = "T")]
    text: Option<String>,
    /// Run this command for each request: its standard input is the request, its standard output
    /// the reply. A command that fails gives no reply. It finds the message's id in
    /// $LM_MESSAGE_ID and the sender in $LM_PEER_PID and $LM_PEER_UID.
    #[arg(long, value_name = "CMD", num_args = 1.., allow_hyphen_values = true)]
    exec: Option<Vec<OsString>>,
}

impl Serve {
    /// Serves until SIGINT or SIGTERM.
    pub fn run(self) -> Result<(), Failure> {
        let name = self.name.clone();
        let cannot = |what: &str, error| Failure::about(&name, format!("cannot {what}: {error}"));
        // Before the name is taken, so that no signal finds us unprepared.
        let mut signals =
            Signals::new([SIGINT, SIGTERM]).map_err(|error| cannot("watch for signals", error))?;
        let mut builder = Service::builder(self.name.as_bytes());
        if self.unlock {
            builder = builder.unlocked();
        }
        if let Some(time) = self.idle_exit {
            builder = builder.exit_when_idle(time);
        }
        let handler = self.how.handler(self.name);
        let mut service = if self.check_in {
            builder.check_in(handler)?
        } else if self.take_over {
            builder.take_over(TAKE_OVER, handler).map_err(|error| match error {
                Error::TimedOut { service, .. } => Failure::about(
                    &service,
                    "the running instance did not hand its name over within 30 s, and serves on; stop it, or \
                     try again",
                ),
                error => error.into(),
            })?
        } else {
            builder.start(handler)?
        };
        let stop = service.stop_handle();
        thread::spawn(move || {
            if signals.forever().next().is_some() {
                stop.stop();
            }
        });
        let mut out = std::io::stdout().lock();
        // Nobody may be there to read it, which is no reason not to serve.
        let _ = writeln!(out, "ready").and_then(|()| out.flush());
        drop(out);
        Ok(service.run()?)
    }
}

impl How {
    fn handler(self, name: ServiceName) -> Box<dyn FnMut(Request) + Send> {
        // A caller that has gone needs no answer.
        match self {
            How { text: Some(text), .. } => Box::new(move |request| drop(request.reply(&text))),
            How { exec: Some(command), .. } => {
                let runner = Runner { command, name, running: Arc::default() };
                Box::new(move |request| runner.start(request))
            }
            _ => Box::new(|request| {
                let (message, reply) = request.split();
                let _ = reply.reply(message.data());
            }),
        }
    }
}

/// Runs the command, each time on a thread of its own.
struct Runner {
    command: Vec<OsString>,
    name: ServiceName,
    running: Arc<(Mutex<usize>, Condvar)>,
}

impl Runner {
    fn start(&self, request: Request) {
        let (count, ended) = &*self.running;
        let mut running = count.lock().unwrap_or_else(PoisonError::into_inner);
        while *running >= AT_ONCE {
            running = ended.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
        *running += 1;
        drop(running);
        let (command, name, slots) =
            (self.command.clone(), self.name.clone(), self.running.clone());
        thread::spawn(move || {
            run(&command, &name, request);
            *slots.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
            slots.1.notify_one();
        });
    }
}

/// Runs the command for one request. A request that is dropped tells its caller so.
fn run(command: &[OsString], name: &ServiceName, request: Request) {
    let complain = |what: String| eprintln!("lm: {name}: {}: {what}", command[0].display());
    let child = Command::new(&command[0])
        .args(&command[1..])
        .env("LM_MESSAGE_ID", request.id().to_string())
        .env("LM_PEER_PID", request.peer().pid().to_string())
        .env("LM_PEER_UID", request.peer().uid().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return complain(format!("cannot run: {error}")),
    };
    let stdin = child.stdin.take();
    // Both ends at once: a command may write before it has read everything, or never read.
    let output = thread::scope(|scope| {
        scope.spawn(|| stdin.map(|mut stdin| stdin.write_all(request.data())));
        child.wait_with_output()
    });
    match output {
        Ok(output) if output.status.success() => {
            let _ = request.reply(output.stdout);
        }
        Ok(output) => complain(format!("no reply, as it failed ({})", output.status)),
        Err(error) => complain(format!("no reply: {error}")),
    }
}
