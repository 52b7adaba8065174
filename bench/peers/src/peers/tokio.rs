//! tokio over a Unix socket, with `LengthDelimitedCodec` frames as the documentation of tokio-util's
//! `codec` module builds them.
//!
//! One-way messages are fed to the sink and flushed once, as `SinkExt::feed` recommends for many
//! items. The runtime has one thread: tokio's own documentation calls it the light one, and here it
//! is the faster one, as nothing is woken on another thread.

use std::sync::OnceLock;

use futures_util::SinkExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio_stream::StreamExt;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::{ALL, Caller, Kind, Setting, ready};
use crate::work::{Desk, Result, numbered};

pub const KINDS: &[Kind] = &[Kind {
    name: "tokio",
    how: "LengthDelimitedCodec over a Unix socket, one thread; one-way messages fed and flushed",
    polls: false,
    has_one_way: true,
    lengths: ALL,
    serve,
    connect,
}];

/// The process's runtime, which a new connection does not pay for.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        Builder::new_current_thread().enable_all().build().expect("a runtime can be built")
    })
}

fn frames(stream: UnixStream, len: usize) -> Framed<UnixStream, LengthDelimitedCodec> {
    LengthDelimitedCodec::builder().max_frame_length(len.max(8 << 20)).new_framed(stream)
}

fn serve(setting: &Setting) -> Result<()> {
    runtime().block_on(async {
        let listener = UnixListener::bind(setting.path("socket"))?;
        ready();
        loop {
            let (stream, _) = listener.accept().await?;
            let mut frames = frames(stream, setting.len);
            tokio::spawn(async move {
                let desk = Desk::default();
                while let Some(Ok(message)) = frames.next().await {
                    if let Some(sum) = desk.serve(&message) {
                        let sum = sum.to_le_bytes();
                        if frames.send(&sum[..]).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    })
}

struct Client(Framed<UnixStream, LengthDelimitedCodec>);

fn connect(setting: &Setting) -> Result<Box<dyn Caller>> {
    let stream = runtime().block_on(UnixStream::connect(setting.path("socket")))?;
    Ok(Box::new(Client(frames(stream, setting.len))))
}

impl Caller for Client {
    fn call(&mut self, message: &[u8]) -> Result<u64> {
        runtime().block_on(async {
            self.0.send(message).await?;
            let sum = self.0.next().await.ok_or("the server has gone")??;
            Ok(u64::from_le_bytes(sum.as_ref().try_into()?))
        })
    }

    fn send_all(&mut self, count: u64) -> Result<()> {
        runtime().block_on(async {
            for number in 0..count {
                self.0.feed(&numbered(number)[..]).await?;
            }
            Ok(SinkExt::<&[u8]>::flush(&mut self.0).await?)
        })
    }
}
