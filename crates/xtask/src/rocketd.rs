//! Installs rocketd: the program, its systemd units, its guide and the examples.

use std::io;
use std::path::{Path, PathBuf};

use crate::{about, copy, refused, root, walk, write};

/// What stands for the prefix in the files of the folder `package`.
const PREFIX: &str = "@PREFIX@";

/// Where rocketd is to be put.
#[derive(Clone, Debug)]
pub struct InstallRocketd {
    /// The folder that systemd will find it under, e.g. `/usr/local`.
    pub prefix: PathBuf,
    /// A folder to put in front of the prefix while files are written, as packagers do.
    pub destdir: Option<PathBuf>,
    /// The program that cargo has built.
    pub built: PathBuf,
}

/// Puts the program, the units, the guide and the examples in place, and returns the files that were
/// written.
///
/// # Errors
///
/// Those of the file system, each with the path it is about.
pub fn install_rocketd(install: &InstallRocketd) -> io::Result<Vec<PathBuf>> {
    let InstallRocketd { prefix, destdir, built } = install;
    let shown = prefix.display().to_string();
    // These mean something in a unit, or end a text in a service file.
    if shown.contains(['%', '$', '"', '\'', '\\', ';']) {
        let text = format!("the prefix {shown} must have none of % $ \" ' \\ ; in it");
        return Err(refused(text));
    }
    let root = root(prefix, destdir.as_deref())?;
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut written = Vec::new();

    let program = root.join("bin/rocketd");
    copy(built, &program, 0o755)?;
    written.push(program);
    for (from, to) in [
        ("package/systemd/user", "lib/systemd/user"),
        ("package/systemd/system", "lib/systemd/system"),
        ("package/systemd/examples", "share/doc/rocketd/examples/systemd"),
        ("package/rocketd", "share/doc/rocketd/examples"),
    ] {
        let from = project.join(from);
        let mut files = Vec::new();
        walk(&from, Path::new(""), &mut files)?;
        for file in files {
            let (from, to) = (from.join(&file), root.join(to).join(&file));
            let text = std::fs::read_to_string(&from).map_err(|error| about(error, &from))?;
            write(&to, &text.replace(PREFIX, &shown))?;
            written.push(to);
        }
    }
    let guide = root.join("share/doc/rocketd/rocketd.md");
    copy(&project.join("docs/rocketd.md"), &guide, 0o644)?;
    written.push(guide);
    Ok(written)
}
