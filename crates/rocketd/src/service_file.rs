//! Which services are started on demand: one TOML file for each. Knows nothing of starting them.
//!
//! ```toml
//! name = "com.example.clock"               # 1 to 127 bytes without NUL
//! command = ["/usr/bin/clockd", "--quiet"] # absolute path; no shell
//! environment = { KEY = "value" }          # besides rocketd's own
//! idle_exit = 30                           # seconds (may be fractional) without a message after which
//!                                          # it ends; none: it stays
//! unlocked = true                          # may be looked up through rocketd; default false
//! ```
//!
//! The command is run, so a file counts only if nobody but root and rocketd's own user can have
//! written it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

use crate::toml_file::{self, FileError};

/// The longest name, in bytes.
const NAME_MAX: usize = 127;
/// The longest time to wait for a message, in seconds: a year.
const IDLE_MAX: f64 = 31_536_000.0;
/// What rocketd itself tells the service, see `sd_listen_fds(3)`.
const RESERVED: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// Why a service file is of no use.
pub type ServiceFileError = FileError;

/// A service that is started when somebody connects to it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ServiceFile {
    /// Its name: 1 to 127 bytes without NUL.
    #[serde(deserialize_with = "name")]
    pub name: Vec<u8>,
    /// The program, by its absolute path, and its arguments. Without NUL.
    #[serde(deserialize_with = "command")]
    pub command: Vec<String>,
    /// What its environment has besides rocketd's own.
    #[serde(default, deserialize_with = "environment")]
    pub environment: BTreeMap<String, String>,
    /// How long it waits for a message before it ends, up to a year; none: for ever.
    #[serde(default, deserialize_with = "idle_exit")]
    pub idle_exit: Option<Duration>,
    /// It may be looked up through rocketd.
    #[serde(default)]
    pub unlocked: bool,
}

impl ServiceFile {
    /// Understands a service file.
    ///
    /// # Errors
    ///
    /// [`FileError::Wrong`], with the place of the first mistake.
    pub fn parse(text: &str) -> Result<ServiceFile, ServiceFileError> {
        toml_file::parse(text)
    }

    /// Reads a service file of at most 1 MiB.
    ///
    /// # Errors
    ///
    /// As [`ServiceFile::parse`], and [`FileError::Refused`] if somebody else can have written it,
    /// [`FileError::Missing`] if it is not there.
    pub fn load(path: &Path) -> Result<ServiceFile, ServiceFileError> {
        toml_file::load(path)
    }
}

/// Reads all files of a folder whose names end in `.toml`, in the order of these names, without hidden
/// ones. Of two with the same service the first counts. A folder that is not there is empty.
pub fn load_folder(folder: &Path) -> (Vec<ServiceFile>, Vec<ServiceFileError>) {
    let paths = match paths(folder) {
        Ok(paths) => paths,
        Err(error) => return (Vec::new(), vec![error]),
    };
    let (mut files, mut errors) = (Vec::<ServiceFile>::new(), Vec::new());
    let mut taken = BTreeMap::<Vec<u8>, PathBuf>::new();
    for path in paths {
        match ServiceFile::load(&path) {
            Ok(file) => match taken.entry(file.name.clone()) {
                Entry::Vacant(vacant) => {
                    vacant.insert(path);
                    files.push(file);
                }
                Entry::Occupied(other) => {
                    let other = other.get().display();
                    let reason = format!("has the same name as {other}, which counts");
                    errors.push(FileError::Refused { path, reason });
                }
            },
            Err(error) => errors.push(error),
        }
    }
    (files, errors)
}

fn paths(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    let unreadable =
        |source: std::io::Error| FileError::Unreadable { path: folder.to_owned(), source };
    match rustix::fs::stat(folder) {
        Err(Errno::NOENT) => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error.into())),
        // Whoever can write the folder can link any file of ours into it.
        Ok(stat) => {
            if let Some(reason) = toml_file::distrust(&stat) {
                return Err(FileError::Refused { path: folder.to_owned(), reason });
            }
        }
    }
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let is_hidden =
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !is_hidden && path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let name = String::deserialize(deserializer)?;
    let reason = match name.as_bytes() {
        [] => "the name is empty",
        bytes if bytes.len() > NAME_MAX => "the name is longer than 127 bytes",
        bytes if bytes.contains(&0) => "the name contains a NUL byte",
        _ => return Ok(name.into_bytes()),
    };
    Err(D::Error::custom(reason))
}

fn command<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let command = Vec::<String>::deserialize(deserializer)?;
    let reason = match command.first() {
        None => "the command is empty",
        Some(program) if !Path::new(program).is_absolute() => {
            "the command does not begin with an absolute path"
        }
        Some(_) if command.iter().any(|word| word.contains('\0')) => {
            "the command contains a NUL byte"
        }
        Some(_) => return Ok(command),
    };
    Err(D::Error::custom(reason))
}

fn environment<'de, D>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error>
where
    D: Deserializer<'de>,
{
    let environment = BTreeMap::<String, String>::deserialize(deserializer)?;
    for (key, value) in &environment {
        if key.is_empty() || key.contains(['=', '\0']) {
            let key = key.escape_debug();
            return Err(D::Error::custom(format_args!("'{key}' is no name of a variable")));
        }
        if value.contains('\0') {
            return Err(D::Error::custom(format_args!("the value of {key} contains a NUL byte")));
        }
        if RESERVED.contains(&key.as_str()) {
            return Err(D::Error::custom(format_args!("{key} is set by rocketd")));
        }
    }
    Ok(environment)
}

fn idle_exit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    deserializer.deserialize_any(Seconds).map(Some)
}

/// A number with or without a fraction.
struct Seconds;

impl Visitor<'_> for Seconds {
    type Value = Duration;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a number of seconds")
    }

    fn visit_f64<E: Error>(self, seconds: f64) -> Result<Duration, E> {
        let is_valid = seconds > 0.0 && seconds <= IDLE_MAX;
        // Less than a nanosecond is no time either.
        let duration = is_valid.then(|| Duration::from_secs_f64(seconds));
        duration.filter(|duration| !duration.is_zero()).ok_or_else(|| {
            E::custom(format_args!("{seconds} is not a number of seconds above 0, up to a year"))
        })
    }

    fn visit_i64<E: Error>(self, seconds: i64) -> Result<Duration, E> {
        self.visit_f64(seconds as f64)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const EXAMPLE: &str = r#"
        name = "com.example.clock"
        command = ["/usr/bin/clockd", "--quiet"]
        environment = { KEY = "value" }
        idle_exit = 30
        unlocked = true
    "#;

    fn least(name: &str) -> String {
        format!("name = '{name}'\ncommand = ['/bin/true']")
    }

    fn write(folder: &Path, file: &str, text: &str) {
        let path = folder.join(file);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    }

    #[test]
    fn the_example_is_a_service_file() {
        let file = ServiceFile::parse(EXAMPLE).unwrap();
        assert_eq!(file.name, b"com.example.clock");
        assert_eq!(file.command, ["/usr/bin/clockd", "--quiet"]);
        assert_eq!(file.environment["KEY"], "value");
        assert_eq!(file.idle_exit, Some(Duration::from_secs(30)));
        assert!(file.unlocked);
    }

    #[test]
    fn a_name_and_a_command_are_enough() {
        let file = ServiceFile::parse(&least("x")).unwrap();
        assert!(file.environment.is_empty());
        assert_eq!(file.idle_exit, None);
        assert!(!file.unlocked);
    }

    #[test]
    fn a_fraction_of_a_second_is_a_time() {
        let file = ServiceFile::parse(&(least("x") + "\nidle_exit = 0.25")).unwrap();
        assert_eq!(file.idle_exit, Some(Duration::from_millis(250)));
    }

    #[test]
    fn a_mistake_is_named_with_its_place() {
        let long = "x".repeat(NAME_MAX + 1);
        for (text, place, what) in [
            ("command = ['/x']".to_owned(), "line 1, column 1: ", "missing field `name`"),
            ("name = 'x'".to_owned(), "line 1, column 1: ", "missing field `command`"),
            (least(""), "line 1, column 8: ", "the name is empty"),
            (least(&long), "line 1, column 8: ", "the name is longer than 127 bytes"),
            ("name = \"a\\u0000\"".to_owned(), "line 1, column 8: ", "a NUL byte"),
            ("command = []".to_owned(), "line 1, column 11: ", "the command is empty"),
            ("command = '/bin/x'".to_owned(), "line 1, column 11: ", "invalid type: string"),
            ("command = ['clockd']".to_owned(), "line 1, column 11: ", "an absolute path"),
            ("command = ['']".to_owned(), "line 1, column 11: ", "an absolute path"),
            ("command = ['/x', \"\\u0000\"]".to_owned(), "line 1, column 11: ", "a NUL byte"),
            ("environment = { '' = 'x' }".to_owned(), "line 1, column 15: ", "'' is no name"),
            ("environment = { 'a=b' = 'x' }".to_owned(), "line 1, column 15: ", "'a=b' is no name"),
            ("environment = { A = 1 }".to_owned(), "line 1, column 21: ", "invalid type"),
            (
                "environment = { A = \"\\u0000\" }".to_owned(),
                "line 1, column 15: ",
                "of A contains",
            ),
            ("environment = { LISTEN_FDS = '1' }".to_owned(), "line 1, column 15: ", "by rocketd"),
            ("idle_exit = 0".to_owned(), "line 1, column 13: ", "0 is not a number of seconds"),
            ("idle_exit = -0.5".to_owned(), "line 1, column 13: ", "-0.5 is not a number"),
            ("idle_exit = nan".to_owned(), "line 1, column 13: ", "NaN is not a number"),
            ("idle_exit = inf".to_owned(), "line 1, column 13: ", "inf is not a number"),
            ("idle_exit = 1e-12".to_owned(), "line 1, column 13: ", "is not a number of seconds"),
            ("idle_exit = 31536001".to_owned(), "line 1, column 13: ", "31536001 is not a number"),
            ("idle_exit = '1'".to_owned(), "line 1, column 13: ", "a number of seconds"),
            ("unlocked = 1".to_owned(), "line 1, column 12: ", "invalid type"),
            (least("x") + "\nuser = 1", "line 3, column 1: ", "unknown field `user`"),
        ] {
            let sentence = ServiceFile::parse(&text).unwrap_err().to_string();
            assert!(sentence.starts_with(place), "{text:?}: {sentence}");
            assert!(sentence.contains(what), "{text:?}: {sentence}");
        }
        assert!(ServiceFile::parse(&least(&long[1..])).is_ok());
    }

    #[test]
    fn no_prefix_or_changed_byte_makes_parsing_panic() {
        for end in 0..=EXAMPLE.len() {
            let _ = ServiceFile::parse(&EXAMPLE[..end]);
        }
        for at in 0..EXAMPLE.len() {
            for byte in *b"[]{}'\"=\\.,#\n-0e\xff\0" {
                let mut bytes = EXAMPLE.as_bytes().to_vec();
                bytes[at] = byte;
                let _ = ServiceFile::parse(&String::from_utf8_lossy(&bytes));
            }
        }
    }

    #[test]
    fn a_folder_is_read_in_the_order_of_its_file_names() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "20.toml", &least("b"));
        write(folder.path(), "10.toml", &least("c"));
        write(folder.path(), "30.toml", &least("a"));
        write(folder.path(), ".40.toml", &least("hidden"));
        write(folder.path(), "50.toml~", &least("backup"));
        let (files, errors) = load_folder(folder.path());
        assert!(errors.is_empty(), "{errors:?}");
        let names: Vec<_> = files.iter().map(|file| file.name.as_slice()).collect();
        assert_eq!(names, [b"c", b"b", b"a"]);
    }

    #[test]
    fn of_two_files_with_one_name_the_first_counts() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "1.toml", &(least("x") + "\nunlocked = true"));
        write(folder.path(), "2.toml", &least("x"));
        let (files, errors) = load_folder(folder.path());
        assert!(matches!(&files[..], [file] if file.unlocked));
        let (first, second) = (folder.path().join("1.toml"), folder.path().join("2.toml"));
        let sentence =
            format!("{} has the same name as {}, which counts", second.display(), first.display());
        assert_eq!(errors[0].to_string(), sentence);
    }

    #[test]
    fn a_bad_file_costs_only_itself() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "1.toml", "name = ");
        write(folder.path(), "2.toml", &least("open"));
        fs::create_dir(folder.path().join("3.toml")).unwrap();
        write(folder.path(), "4.toml", &least("good"));
        let open = folder.path().join("2.toml");
        fs::set_permissions(&open, fs::Permissions::from_mode(0o664)).unwrap();
        let (files, errors) = load_folder(folder.path());
        assert!(matches!(&files[..], [file] if file.name == b"good"));
        let sentences: Vec<_> = errors.iter().map(FileError::to_string).collect();
        assert!(sentences[0].contains("1.toml, line 1, column 8: "), "{sentences:?}");
        assert!(sentences[1].ends_with("may be written by others (mode 0664); use chmod go-w"));
        assert!(sentences[2].ends_with("3.toml is not a file"), "{sentences:?}");
        assert_eq!(errors.len(), 3);
    }

    #[test]
    fn a_missing_folder_is_empty_and_one_that_others_may_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (files, errors) = load_folder(&folder.path().join("none"));
        assert!(files.is_empty() && errors.is_empty());
        write(folder.path(), "1.toml", &least("x"));
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let (files, errors) = load_folder(folder.path());
        assert!(files.is_empty());
        assert!(errors[0].to_string().contains("may be written by others (mode 0777)"));
    }
}
