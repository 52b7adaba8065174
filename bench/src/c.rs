//! The same calls through the C header, from a file of C. An unsafe room: it calls that file.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char};
use std::path::Path;

// For its exported functions, which the file of C is linked to.
use lightmessaging_c as _;

use crate::floors::{Floor, time};
use crate::ours::{ECHO, Ours};
use crate::peer::{Peer, tell};
use crate::place::Place;
use crate::stats::Block;

unsafe extern "C" {
    safe fn bench_c_echo(id: i32, payload: &[u8; 64]) -> i32;
    safe fn bench_c_start() -> i32;
    safe fn bench_c_run();
    fn bench_c_use(folder: *const c_char);
}

fn use_folder(folder: &Path) {
    let folder = CString::new(folder.as_os_str().as_encoded_bytes()).expect("a path");
    // SAFETY: a C string that outlives the call; no other thread of this program looks at the
    // environment.
    unsafe { bench_c_use(folder.as_ptr()) };
}

/// In the other process: serves from C.
pub fn serve(arguments: &[String]) {
    use_folder(Path::new(&arguments[0]));
    assert_eq!(bench_c_start(), 0, "the service starts");
    tell("ready");
    bench_c_run();
}

/// A caller in C.
pub struct Caller {
    folder: std::path::PathBuf,
    /// The service, in Rust or in C, and its folder.
    _service: Service,
}

enum Service {
    Rust { _it: Box<Ours> },
    C { _folder: tempfile::TempDir, _peer: Peer },
}

impl Caller {
    /// Calls a service in Rust.
    pub fn of_rust(place: Place) -> Caller {
        let ours = Ours::start(place, lightmessaging::Wait::Adaptive);
        Caller { folder: ours.folder().to_owned(), _service: Service::Rust { _it: Box::new(ours) } }
    }

    /// Calls a service in C.
    pub fn of_c(place: Place) -> Caller {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().to_owned();
        let peer = Peer::start(place.far(), &["serve-c".into(), path.display().to_string()]);
        Caller { folder: path, _service: Service::C { _folder: folder, _peer: peer } }
    }
}

impl Floor for Caller {
    fn block(&mut self, calls: usize) -> Block {
        use_folder(&self.folder);
        let payload = [7; 64];
        time(calls, || assert_eq!(bench_c_echo(ECHO, &payload), 7))
    }
}
