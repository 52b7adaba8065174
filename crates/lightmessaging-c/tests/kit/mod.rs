//! An installed C library, compilers, and programs in C, C++ and Objective-C to run with it.
//!
//! What this machine does not have is left out, and the tests say so on standard error, past the
//! test harness.
#![allow(dead_code)]

#[path = "../../../lightmessaging/tests/common/mod.rs"]
pub mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, OnceLock};

use common::{Folder, Process};

/// A way to build the same program.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    pub name: &'static str,
    pub compiler: &'static str,
    pub flags: &'static [&'static str],
    /// Packages that pkg-config knows, besides this library's.
    pub packages: &'static [&'static str],
    /// The Debian package that has all it takes.
    pub debian: &'static str,
}

const STRICT: [&str; 5] = ["-g", "-Wall", "-Wextra", "-pedantic", "-Werror"];

/// What every C program is built with, unless a test is about something else.
pub const C99: Build = Build {
    name: "c99",
    compiler: "cc",
    flags: &["-std=c99", "-D_GNU_SOURCE"],
    packages: &[],
    debian: "gcc",
};

/// Where the library was installed, once for each test program.
pub fn prefix() -> &'static Path {
    static PREFIX: OnceLock<PathBuf> = OnceLock::new();
    PREFIX.get_or_init(|| {
        let program = std::env::current_exe().unwrap();
        let name = program.file_name().unwrap();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("c").join(name);
        // Programs that were built for an earlier run, too.
        let _ = std::fs::remove_dir_all(&folder);
        let prefix = folder.join("usr");
        // Cargo has put the libraries beside the test program.
        let built = program.parent().unwrap().to_owned();
        let plan = xtask::Install { prefix, libdir: "lib".into(), destdir: None, built };
        xtask::install(&plan).unwrap();
        plan.prefix
    })
}

pub fn lib() -> PathBuf {
    prefix().join("lib")
}

/// Says what is left out, where the harness does not swallow it.
pub fn leave_out(what: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "left out: {what}: {why}");
}

/// Whether a program can be run here.
pub fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// What pkg-config says; `None` if it does not know a package.
pub fn pkg_config(arguments: &[&str]) -> Option<Vec<String>> {
    let output = Command::new("pkg-config")
        .env("PKG_CONFIG_PATH", lib().join("pkgconfig"))
        .args(arguments)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).unwrap();
    output.status.success().then(|| text.split_whitespace().map(str::to_owned).collect())
}

/// The flags for this library: pkg-config's, or the same by hand where there is none.
fn flags(packages: &[&str]) -> Option<Vec<String>> {
    if !has("pkg-config") && packages == ["lightmessaging"] {
        let (include, lib) = (prefix().join("include"), lib());
        let flags = [format!("-I{}", include.display()), format!("-L{}", lib.display())];
        return Some(flags.into_iter().chain(["-llightmessaging".to_owned()]).collect());
    }
    let mut arguments = vec!["--cflags", "--libs"];
    arguments.extend(packages);
    pkg_config(&arguments)
}

/// How a compiler builds Objective-C with GNUstep; says what is left out where it cannot.
pub fn gnustep(compiler: &'static str, what: &str) -> Option<Build> {
    let ask = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().ok()?;
        let text = String::from_utf8(output.stdout).unwrap();
        output.status.success().then(|| text.split_whitespace().map(str::to_owned).collect())
    };
    let build = || {
        let flags: Vec<String> = ask("gnustep-config", "--objc-flags")?;
        let libs: Vec<String> = ask("gnustep-config", "--base-libs")?;
        // Warnings of GNUstep's own headers are not for us, nor are its files of dependencies.
        let unwanted = |flag: &String| ["-MMD", "-MP", "-I."].contains(&flag.as_str());
        let mut all = vec!["-std=gnu99".to_owned(), "-Wl,--no-as-needed".to_owned()];
        let mine = flags.into_iter().filter(|flag| !unwanted(flag));
        all.extend(mine.flat_map(|flag| match flag.strip_prefix("-I") {
            Some(folder) => vec!["-isystem".to_owned(), folder.to_owned()],
            None => vec![flag],
        }));
        all.extend(libs);
        if compiler.contains("clang") {
            // The runtime's headers are among gcc's own.
            let found: Vec<String> = ask("gcc", "-print-file-name=include")?;
            all.extend(["-fobjc-runtime=gcc".to_owned(), "-idirafter".to_owned()]);
            all.extend(found);
        }
        let flags: Vec<&'static str> = all.into_iter().map(|flag| &*flag.leak()).collect();
        let name = if compiler.contains("clang") { "gnustep-clang" } else { "gnustep" };
        Some(Build { name, compiler, flags: flags.leak(), debian: GNUSTEP, packages: &[] })
    };
    let works = |build: &Build| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("try.m");
        std::fs::write(&file, "#import <Foundation/Foundation.h>\nint main(void) { return 0; }\n")
            .unwrap();
        let mut command = Command::new(build.compiler);
        command.arg(&file).args(build.flags).arg("-o").arg(folder.path().join("try"));
        command.output().is_ok_and(|output| output.status.success())
    };
    let build = build().filter(works);
    if build.is_none() {
        leave_out(what, &format!("this machine lacks {compiler} with GNUstep (Debian: {GNUSTEP})"));
    }
    build
}

const GNUSTEP: &str = "gobjc libgnustep-base-dev gnustep-make";

fn source(file: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let test = root.join("tests/programs").join(file);
    if test.exists() { test } else { root.join("examples").join(file) }
}

impl Build {
    /// Whether this machine can do it; says what is left out otherwise.
    pub fn is_possible(&self, what: &str) -> bool {
        let packages: Vec<&str> = ["--exists"].iter().chain(self.packages).copied().collect();
        let has_all = self.packages.is_empty() || pkg_config(&packages).is_some();
        if has(self.compiler) && has_all && self.try_it() {
            return true;
        }
        let why = format!("this machine lacks {} (Debian: {})", self.needs(), self.debian);
        leave_out(what, &why);
        false
    }

    fn needs(&self) -> String {
        let all: Vec<&str> = [self.compiler].iter().chain(self.packages).copied().collect();
        all.join(", ")
    }

    /// Whether the compiler knows the flags and has what they need.
    fn try_it(&self) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("empty.c");
        std::fs::write(&file, "int main(void) { return 0; }\n").unwrap();
        let compiled = Command::new(self.compiler)
            .args(self.flags)
            .args(["-x", self.language("empty.c"), "-o"])
            .arg(folder.path().join("empty"))
            .arg(&file)
            .output();
        compiled.is_ok_and(|output| output.status.success())
    }

    fn language(&self, file: &str) -> &'static str {
        match Path::new(file).extension().and_then(|e| e.to_str()) {
            Some("m") => "objective-c",
            _ if self.compiler.contains("++") => "c++",
            _ => "c",
        }
    }

    /// Builds a program, without a warning, once.
    pub fn program(&self, file: &str) -> PathBuf {
        self.program_with(file, &[])
    }

    pub fn program_with(&self, file: &str, more: &[&str]) -> PathBuf {
        static BUILDING: Mutex<()> = Mutex::new(());
        let _one_at_a_time = BUILDING.lock().unwrap_or_else(|e| e.into_inner());
        let folder = prefix().parent().unwrap().join(self.name);
        let program = folder.join(file.replace('.', "_"));
        if program.exists() {
            return program;
        }
        std::fs::create_dir_all(&folder).unwrap();
        let output = self.compile(file, more, &program);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} {file}: {said}", self.name);
        program
    }

    /// Compiles and links as a user would: the source, the flags, what pkg-config says.
    pub fn compile(&self, file: &str, more: &[&str], to: &Path) -> Output {
        let packages: Vec<&str> = if self.packages.iter().any(|p| p.starts_with("lightmessaging")) {
            self.packages.to_vec()
        } else {
            ["lightmessaging"].iter().chain(self.packages).copied().collect()
        };
        Command::new(self.compiler)
            .args(STRICT)
            .args(self.flags)
            .args(["-x", self.language(file)])
            .arg(source(file))
            // Archives and libraries are what they are.
            .args(["-x", "none", "-Wno-unused-command-line-argument", "-o"])
            .arg(to)
            .args(more)
            .args(flags(&packages).expect("the packages are there"))
            .arg("-pthread")
            .output()
            .unwrap()
    }
}

/// How to run a program that was built here.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", lib());
    command
}

/// Starts a program; all of its lines count.
pub fn start(folder: &Folder, program: &Path, arguments: &[&str]) -> Process {
    let mut command = command(program);
    command.args(arguments);
    folder.spawn(command, "")
}

/// Starts the service program and waits until it serves.
pub fn serve(folder: &Folder, build: &Build, names: &[&str]) -> Process {
    let server = start(folder, &build.program("server.c"), names);
    server.expect("ready");
    server
}

/// A line to a program, and its answer.
pub fn ask(process: &mut Process, line: &str) -> String {
    process.say(line);
    process.line()
}
