//! interprocess: local sockets, with a length before each message.
//!
//! As the crate's `local_socket` examples do it: a `BufReader` around the stream, and writes on the
//! stream itself; a thread for each client, as its documentation says that both sides of a stream
//! otherwise wait for each other. The examples write each message by itself; a `BufWriter`, which
//! the standard library recommends for many small writes, is a setting of its own.

use std::io::{BufReader, BufWriter, ErrorKind, IoSlice, Read, Write};

use interprocess::local_socket::{GenericFilePath, ListenerOptions, Stream, prelude::*};

use super::{ALL, Caller, Kind, NONE, Patience, Setting, poll_all, ready};
use crate::place::Place;
use crate::work::{Desk, Result, numbered};

pub const KINDS: &[Kind] = &[
    Kind {
        name: "interprocess",
        how: "local socket streams, blocking",
        polls: false,
        has_one_way: true,
        lengths: ALL,
        serve: |setting| serve(setting, false),
        connect: |setting| connect(setting, false, false),
    },
    Kind {
        name: "interprocess, BufWriter",
        how: "the same with one-way messages held back in a BufWriter of 64 KiB",
        polls: false,
        has_one_way: true,
        lengths: NONE,
        serve: |setting| serve(setting, false),
        connect: |setting| connect(setting, false, true),
    },
    Kind {
        name: "interprocess, polling",
        how: "local socket streams, both sides polling with set_nonblocking",
        polls: true,
        has_one_way: true,
        lengths: ALL,
        serve: |setting| serve(setting, true),
        connect: |setting| connect(setting, true, false),
    },
];

/// A stream that is read again and again if it polls.
struct Wire {
    stream: Stream,
    polls: Option<Place>,
}

impl Wire {
    fn patiently<T>(
        &self,
        mut work: impl FnMut(&Stream) -> std::io::Result<T>,
    ) -> std::io::Result<T> {
        let Some(place) = self.polls else { return work(&self.stream) };
        let mut patience = Patience::new(place);
        loop {
            match work(&self.stream) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => patience.wait(),
                done => return done,
            }
        }
    }
}

impl Read for Wire {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        self.patiently(|mut stream| stream.read(bytes))
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.patiently(|mut stream| stream.write(bytes))
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> std::io::Result<usize> {
        self.patiently(|mut stream| stream.write_vectored(parts))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The length and the message, in one system call if the socket takes it at once.
fn write_frame(wire: &mut impl Write, message: &[u8]) -> std::io::Result<()> {
    let header = (message.len() as u32).to_le_bytes();
    let written = wire.write_vectored(&[IoSlice::new(&header), IoSlice::new(message)])?;
    match written.checked_sub(header.len()) {
        Some(at) => wire.write_all(&message[at..]),
        None => {
            wire.write_all(&header[written..])?;
            wire.write_all(message)
        }
    }
}

fn read_frame(wire: &mut BufReader<Wire>, message: &mut Vec<u8>, most: usize) -> Result<()> {
    let mut header = [0; 4];
    wire.read_exact(&mut header)?;
    let len = u32::from_le_bytes(header) as usize;
    if len > most {
        return Err("too long a message".into());
    }
    message.resize(len, 0);
    Ok(wire.read_exact(message)?)
}

fn serve(setting: &Setting, polls: bool) -> Result<()> {
    let name = setting.path("socket");
    let name = name.as_path().to_fs_name::<GenericFilePath>()?;
    let listener = ListenerOptions::new().name(name).create_sync()?;
    let most = setting.len.max(64);
    let place = setting.place;
    let (arrive, arrivals) = std::sync::mpsc::channel();
    if polls {
        std::thread::spawn(move || poll_clients(place, &arrivals, most));
    }
    ready();
    for stream in listener.incoming() {
        let stream = stream?;
        if polls {
            stream.set_nonblocking(true)?;
            let wire = BufReader::new(Wire { stream, polls: Some(place) });
            arrive.send((wire, Desk::default()))?;
        } else {
            let wire = BufReader::new(Wire { stream, polls: None });
            std::thread::spawn(move || serve_client(wire, most));
        }
    }
    Ok(())
}

fn serve_client(mut wire: BufReader<Wire>, most: usize) {
    let (desk, mut message) = (Desk::default(), Vec::new());
    while read_frame(&mut wire, &mut message, most).is_ok() {
        if let Some(sum) = desk.serve(&message)
            && wire.get_mut().write_all(&sum.to_le_bytes()).is_err()
        {
            return;
        }
    }
}

type Arrivals = std::sync::mpsc::Receiver<(BufReader<Wire>, Desk)>;

fn poll_clients(place: Place, arrivals: &Arrivals, most: usize) {
    let mut message = Vec::new();
    poll_all(place, arrivals, |(wire, desk)| {
        if wire.buffer().is_empty() {
            // Nothing is read past the buffer, so that one client's silence holds up nobody.
            wire.get_mut().polls = None;
            let filled = std::io::BufRead::fill_buf(wire).map(<[u8]>::len);
            wire.get_mut().polls = Some(place);
            match filled {
                Ok(0) => return Err("gone".into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        read_frame(wire, &mut message, most)?;
        if let Some(sum) = desk.serve(&message) {
            wire.get_mut().write_all(&sum.to_le_bytes())?;
        }
        Ok(true)
    });
}

struct Client {
    wire: BufReader<Wire>,
    is_buffered: bool,
}

fn connect(setting: &Setting, polls: bool, is_buffered: bool) -> Result<Box<dyn Caller>> {
    let name = setting.path("socket");
    let stream = Stream::connect(name.as_path().to_fs_name::<GenericFilePath>()?)?;
    stream.set_nonblocking(polls)?;
    let polls = polls.then_some(setting.place);
    Ok(Box::new(Client { wire: BufReader::new(Wire { stream, polls }), is_buffered }))
}

impl Caller for Client {
    fn call(&mut self, message: &[u8]) -> Result<u64> {
        write_frame(self.wire.get_mut(), message)?;
        let mut sum = [0; 8];
        self.wire.read_exact(&mut sum)?;
        Ok(u64::from_le_bytes(sum))
    }

    fn send_all(&mut self, count: u64) -> Result<()> {
        if !self.is_buffered {
            for number in 0..count {
                write_frame(self.wire.get_mut(), &numbered(number))?;
            }
            return Ok(());
        }
        let mut writer = BufWriter::with_capacity(64 << 10, self.wire.get_mut());
        for number in 0..count {
            write_frame(&mut writer, &numbered(number))?;
        }
        Ok(writer.flush()?)
    }
}
