//! `lm call` and `lm send`: one message from the command line.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use lightmessaging::{Connection, ServiceName};

use crate::failure::Failure;

/// What to send to whom.
#[derive(Args)]
struct Message {
    /// The service's name.
    #[arg(value_parser = crate::name())]
    name: ServiceName,
    /// The message's id, a signed 32-bit number that the service understands.
    #[arg(allow_negative_numbers = true)]
    id: i32,
    /// The payload; `-` reads it from standard input; nothing sends an empty one.
    #[arg(allow_hyphen_values = true)]
    text: Option<OsString>,
    /// Send this file's contents.
    #[arg(long, value_name = "F", conflicts_with = "text")]
    file: Option<PathBuf>,
    /// Give up after so many milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Wait for the service to come, for as long as the timeout, or, with `=`, as this many
    /// milliseconds.
    #[arg(long, value_name = "MS", num_args = 0..=1, require_equals = true, default_missing_value = "18446744073709551615")]
    wait: Option<u64>,
}

impl Message {
    fn payload(&mut self) -> Result<Vec<u8>, Failure> {
        let cannot = |what: String| Failure::about(&self.name, what);
        if let Some(file) = &self.file {
            return std::fs::read(file)
                .map_err(|error| cannot(format!("cannot read {}: {error}", file.display())));
        }
        match self.text.take() {
            Some(text) if text == "-" => {
                let mut bytes = Vec::new();
                match std::io::stdin().lock().read_to_end(&mut bytes) {
                    Ok(_) => Ok(bytes),
                    Err(error) => Err(cannot(format!("cannot read standard input: {error}"))),
                }
            }
            Some(text) => Ok(text.into_vec()),
            None => Ok(Vec::new()),
        }
    }

    fn connection(&self) -> Result<Connection, Failure> {
        let deadline = Duration::from_millis(self.timeout);
        let wait = Duration::from_millis(self.wait.unwrap_or(0));
        let builder = Connection::builder(self.name.as_bytes()).deadline(deadline);
        Ok(builder.wait_for_service(wait).build()?)
    }
}

/// Arguments of `lm call`.
#[derive(Args)]
pub struct Call {
    #[command(flatten)]
    message: Message,
}

impl Call {
    /// Calls, and writes the reply's bytes to standard output.
    pub fn run(mut self) -> Result<(), Failure> {
        let payload = self.message.payload()?;
        let response = self.message.connection()?.send_two_way(self.message.id, payload)?;
        let mut out = std::io::stdout().lock();
        out.write_all(response.data())
            .and_then(|()| out.flush())
            .map_err(|error| Failure::output(&self.message.name, error))
    }
}

/// Arguments of `lm send`.
#[derive(Args)]
pub struct Send {
    #[command(flatten)]
    message: Message,
}

impl Send {
    /// Sends; the message is in the service's queue when this returns.
    pub fn run(mut self) -> Result<(), Failure> {
        let payload = self.message.payload()?;
        Ok(self.message.connection()?.send_one_way(self.message.id, payload)?)
    }
}
