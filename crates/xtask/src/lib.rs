//! Chores of the project that cargo has no command for: installing the C library, and rocketd.

mod rocketd;

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

pub use rocketd::{InstallRocketd, install_rocketd};

/// What comes behind `liblightmessaging.so`: the first number changes when programs have to be
/// compiled anew.
const VERSION: &str = env!("CARGO_PKG_VERSION");
const SONAME: &str = "liblightmessaging.so.0";

/// What a program needs besides when the library is part of it (`rustc --print native-static-libs`,
/// less the unwinder, which compilers pass themselves).
const STATIC_LIBS: &str = "-lutil -lrt -lpthread -lm -ldl";

/// Where the C library is to be put.
#[derive(Clone, Debug)]
pub struct Install {
    /// The folder that programs will find it under, e.g. `/usr/local`.
    pub prefix: PathBuf,
    /// The folder for libraries in it, e.g. `lib`.
    pub libdir: String,
    /// A folder to put in front of the prefix while files are written, as packagers do.
    pub destdir: Option<PathBuf>,
    /// The folder in which cargo has put the libraries that it built.
    pub built: PathBuf,
}

/// Puts the headers, the shared and the static library, and what pkg-config reads in place, and
/// returns the files that were written.
///
/// # Errors
///
/// Those of the file system, each with the path it is about.
pub fn install(install: &Install) -> io::Result<Vec<PathBuf>> {
    let Install { prefix, libdir, destdir, built } = install;
    let root = root(prefix, destdir.as_deref())?;
    let is_below = |component| matches!(component, std::path::Component::Normal(_));
    if !Path::new(libdir).components().all(is_below) {
        let text = format!("the folder for libraries, {libdir}, must be below the prefix");
        return Err(refused(text));
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lightmessaging-c");
    let mut written = Vec::new();

    let mut headers = Vec::new();
    walk(&source.join("include"), Path::new(""), &mut headers)?;
    for header in headers {
        let to = root.join("include").join(&header);
        copy(&source.join("include").join(&header), &to, 0o644)?;
        written.push(to);
    }

    let lib = root.join(libdir);
    let shared = lib.join(format!("liblightmessaging.so.{VERSION}"));
    copy(&built.join("liblightmessaging_c.so"), &shared, 0o755)?;
    let archive = lib.join("liblightmessaging.a");
    copy(&built.join("liblightmessaging_c.a"), &archive, 0o644)?;
    let links = [(SONAME, format!("liblightmessaging.so.{VERSION}"))];
    let links = links.into_iter().chain([("liblightmessaging.so", SONAME.to_owned())]);
    for (name, target) in links {
        let link = lib.join(name);
        match std::fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(about(error, &link));
            }
            _ => symlink(target, &link).map_err(|error| about(error, &link))?,
        }
        written.push(link);
    }
    written.extend([shared, archive]);

    let folders = format!(
        "prefix={}\n\
         libdir=${{prefix}}/{libdir}\n\
         includedir=${{prefix}}/include\n\
         # Add -I${{compat_includedir}} for programs that include <mach/mach.h>,\n\
         # <CoreFoundation/CoreFoundation.h> or <rocketbootstrap/rocketbootstrap.h>.\n\
         compat_includedir=${{includedir}}/LightMessaging/compat/include\n\n",
        prefix.display()
    );
    let pc = |name: &str, description: &str, libs: &str| {
        let to = lib.join("pkgconfig").join(format!("{name}.pc"));
        let text = format!(
            "{folders}Name: {name}\nDescription: {description}\nVersion: {VERSION}\n{libs}\n\
             Cflags: -I${{includedir}}\n"
        );
        write(&to, &text)?;
        Ok::<_, io::Error>(to)
    };
    written.push(pc(
        "lightmessaging",
        "Messages between processes of one machine",
        &format!("Libs: -L${{libdir}} -llightmessaging\nLibs.private: {STATIC_LIBS}"),
    )?);
    written.push(pc(
        "lightmessaging-static",
        "Messages between processes of one machine, as part of the program",
        &format!("Libs: ${{libdir}}/liblightmessaging.a {STATIC_LIBS}"),
    )?);
    Ok(written)
}

/// Where what belongs to the prefix is written.
fn root(prefix: &Path, destdir: Option<&Path>) -> io::Result<PathBuf> {
    let shown = prefix.display().to_string();
    if !prefix.is_absolute() {
        return Err(refused(format!("the prefix {shown} must be an absolute path")));
    }
    // The shell splits what pkg-config says at white space, and makes no home of a quoted tilde.
    if shown.contains(char::is_whitespace) || shown.contains("/~") {
        return Err(refused(format!("the prefix {shown} must have no white space and no ~ in it")));
    }
    Ok(match destdir {
        Some(destdir) => destdir.join(prefix.strip_prefix("/").unwrap_or(prefix)),
        None => prefix.to_owned(),
    })
}

fn refused(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// The files below a folder, as paths in it.
fn walk(folder: &Path, below: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let here = folder.join(below);
    for entry in std::fs::read_dir(&here).map_err(|error| about(error, &here))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() { walk(folder, &path, files)? } else { files.push(path) }
    }
    files.sort();
    Ok(())
}

fn parent(to: &Path) -> io::Result<()> {
    let folder = to.parent().unwrap_or(to);
    std::fs::create_dir_all(folder).map_err(|error| about(error, folder))
}

/// Replaces a file as a whole: programs may be running with the old one.
fn copy(from: &Path, to: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    parent(to)?;
    let new = to.with_extension("new");
    std::fs::copy(from, &new).map_err(|error| about(error, from))?;
    std::fs::set_permissions(&new, PermissionsExt::from_mode(mode))
        .and_then(|()| std::fs::rename(&new, to))
        .map_err(|error| about(error, to))
}

fn write(to: &Path, text: &str) -> io::Result<()> {
    parent(to)?;
    std::fs::write(to, text).map_err(|error| about(error, to))
}

fn about(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
