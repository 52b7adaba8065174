//! A small TOML file that people write: read within bounds, and said exactly where it is wrong.
//! Knows nothing of what it means.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use serde::de::DeserializeOwned;

/// The longest file, in bytes.
pub const MAX_LEN: usize = 1 << 20;

/// A place in a text, and what is wrong there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The line, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
    /// What is wrong, in words.
    pub what: String,
}

impl Mistake {
    fn at(text: &str, offset: usize, what: &str) -> Mistake {
        let before = text.get(..offset).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Mistake { line, column, what: printable(what) }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.what)
    }
}

/// One line, whatever the file said: what it says is quoted in some of the sentences.
fn printable(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// There is none. Callers that can do without it ask for this one.
    #[error("{} does not exist", .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The system does not let it be read.
    #[error("{} cannot be read: {source}", .path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is not to be believed, or not to be read at all.
    #[error("{} {reason}", .path.display())]
    Refused {
        /// The file or folder.
        path: PathBuf,
        /// Why, as the rest of a sentence that begins with the path.
        reason: String,
    },
    /// It says something that it may not say.
    #[error("{}{mistake}", Prefix(.path.as_deref()))]
    Wrong {
        /// The file, where it is known.
        path: Option<PathBuf>,
        /// Where in it, and what.
        mistake: Mistake,
    },
}

impl FileError {
    /// Whether the file is just not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, FileError::Missing { .. })
    }
}

struct Prefix<'a>(Option<&'a Path>);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |path| write!(f, "{}, ", path.display()))
    }
}

/// Understands a text.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, FileError> {
    toml::from_str(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        FileError::Wrong { path: None, mistake: Mistake::at(text, offset, error.message()) }
    })
}

/// Reads and understands a file that nobody but root and rocketd's own user can have written.
pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> Result<T, FileError> {
    let text = read(path)?;
    let found = match String::from_utf8(text) {
        Ok(text) => parse(&text),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(&error.as_bytes()[..valid]);
            let mistake = Mistake::at(&text, valid, "this is not UTF-8");
            Err(FileError::Wrong { path: None, mistake })
        }
    };
    found.map_err(|error| match error {
        FileError::Wrong { mistake, .. } => {
            FileError::Wrong { path: Some(path.to_owned()), mistake }
        }
        other => other,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let refused = |reason: String| FileError::Refused { path: path.to_owned(), reason };
    let unreadable =
        |error: io::Error| FileError::Unreadable { path: path.to_owned(), source: error };
    // Without `NONBLOCK` a pipe by that name would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Err(FileError::Missing { path: path.to_owned() }),
        Err(error) => return Err(unreadable(error.into())),
    };
    let stat = rustix::fs::fstat(&file).map_err(|error| unreadable(error.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(refused("is not a file".to_owned()));
    }
    distrust(&stat).map_or(Ok(()), |reason| Err(refused(reason)))?;
    let mut text = Vec::new();
    File::from(file).take(MAX_LEN as u64 + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() > MAX_LEN {
        return Err(refused("is longer than 1 MiB".to_owned()));
    }
    Ok(text)
}

/// Why somebody else than root and this user may have had a say in a file or folder.
pub(crate) fn distrust(stat: &Stat) -> Option<String> {
    let me = rustix::process::geteuid().as_raw();
    if stat.st_uid != me && stat.st_uid != 0 {
        let owner = stat.st_uid;
        return Some(format!("belongs to user {owner}, not to user {me} or root"));
    }
    let mode = stat.st_mode & 0o7777;
    (mode & 0o022 != 0)
        .then(|| format!("may be written by others (mode {mode:04o}); use chmod go-w"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Number {
        number: u8,
    }

    #[test]
    fn a_mistake_is_found_by_line_and_column() {
        let error = parse::<Number>("# \u{e9}\nnumber = 'x'").unwrap_err();
        assert!(error.to_string().starts_with("line 2, column 10: "), "{error}");
        let error = parse::<Number>("number = 1\n\u{e9} = 2").unwrap_err();
        assert!(error.to_string().starts_with("line 2, column 1: "), "{error}");
        let error = parse::<Number>("number = 1\n'\u{e9}' = \"\\u001b\" x").unwrap_err();
        assert!(error.to_string().starts_with("line 2, column 16: "), "{error}");
        assert_eq!(parse::<Number>("number = 7").unwrap().number, 7);
    }

    #[test]
    fn a_sentence_is_one_line_without_control_characters() {
        let error = parse::<Number>("number = 1\n\"\\u001b[31m\\nx\" = 2").unwrap_err();
        assert!(!error.to_string().contains(char::is_control), "{error}");
    }

    #[test]
    fn a_file_that_is_not_there_is_a_kind_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none.toml");
        let error = load::<Number>(&path).unwrap_err();
        assert!(error.is_missing());
        assert_eq!(error.to_string(), format!("{} does not exist", path.display()));
    }

    #[test]
    fn a_mistake_in_a_file_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.toml");
        fs::write(&path, "number = 256").unwrap();
        let error = load::<Number>(&path).unwrap_err();
        let start = format!("{}, line 1, column 10: ", path.display());
        assert!(error.to_string().starts_with(&start), "{error}");
        fs::write(&path, b"number = 1\n# \xff").unwrap();
        let error = load::<Number>(&path).unwrap_err();
        let sentence = format!("{}, line 2, column 3: this is not UTF-8", path.display());
        assert_eq!(error.to_string(), sentence);
    }

    #[test]
    fn what_is_not_a_short_file_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let error = load::<Number>(folder.path()).unwrap_err();
        assert!(error.to_string().ends_with(" is not a file"), "{error}");
        let pipe = folder.path().join("pipe");
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, mode, 0).unwrap();
        let error = load::<Number>(&pipe).unwrap_err();
        assert!(error.to_string().ends_with(" is not a file"), "{error}");
        let long = folder.path().join("long");
        let mut text = b"number = 1\n#".to_vec();
        text.resize(MAX_LEN, b'x');
        fs::write(&long, &text).unwrap();
        assert!(load::<Number>(&long).is_ok());
        text.push(b'x');
        fs::write(&long, &text).unwrap();
        let error = load::<Number>(&long).unwrap_err();
        assert!(error.to_string().ends_with(" is longer than 1 MiB"), "{error}");
    }

    #[test]
    fn a_file_that_others_may_write_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.toml");
        fs::write(&path, "number = 1").unwrap();
        for (mode, is_believed) in
            [(0o600, true), (0o644, true), (0o664, false), (0o646, false), (0o777, false)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            match load::<Number>(&path) {
                Ok(_) => assert!(is_believed),
                Err(error) => {
                    assert!(!is_believed);
                    assert!(error.to_string().contains(&format!("(mode {mode:04o})")), "{error}");
                }
            }
        }
    }

    #[test]
    fn another_users_file_is_not_believed() {
        let mut stat = rustix::fs::stat("/").unwrap();
        let me = rustix::process::geteuid().as_raw();
        stat.st_mode = 0o100644;
        for uid in [me, 0] {
            stat.st_uid = uid;
            assert_eq!(distrust(&stat), None);
        }
        stat.st_uid = me + 1;
        assert!(distrust(&stat).unwrap().starts_with("belongs to user "));
    }
}
