//! `cargo xtask`: chores of the project that cargo has no command for.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Args, Parser, Subcommand};
use xtask::{Install, InstallRocketd, install, install_rocketd};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Chores of the project")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Build the C library and install it, with its headers and pkg-config files.
    Install {
        #[command(flatten)]
        place: Place,
        /// The folder for libraries below the prefix.
        #[arg(long, default_value = "lib")]
        libdir: String,
    },
    /// Build rocketd, as one static program, and install it with its systemd units and examples.
    InstallRocketd {
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Args)]
struct Place {
    /// The folder to install to.
    #[arg(long, default_value = "/usr/local")]
    prefix: PathBuf,
    /// A folder to put in front of the prefix while files are written, for packages.
    #[arg(long, env = "DESTDIR")]
    destdir: Option<PathBuf>,
}

impl Place {
    fn prefix(&self) -> PathBuf {
        std::path::absolute(&self.prefix).unwrap_or_else(|_| self.prefix.clone())
    }
}

fn main() -> ExitCode {
    let (written, hint) = match Arguments::parse().chore {
        Chore::Install { place, libdir } => {
            let Some(built) = build_library() else { return ExitCode::FAILURE };
            let prefix = place.prefix();
            let plan = Install { prefix, libdir, destdir: place.destdir, built };
            (install(&plan), library_hint(&plan))
        }
        Chore::InstallRocketd { place } => {
            let Some(built) = build_rocketd() else { return ExitCode::FAILURE };
            let plan = InstallRocketd { prefix: place.prefix(), destdir: place.destdir, built };
            (install_rocketd(&plan), rocketd_hint(&plan.prefix))
        }
    };
    report(written, &hint)
}

fn report(written: io::Result<Vec<PathBuf>>, hint: &str) -> ExitCode {
    match written {
        Ok(written) => {
            for file in &written {
                println!("{}", file.display());
            }
            println!("\n{hint}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("cannot install: {error}");
            ExitCode::FAILURE
        }
    }
}

fn is_usual(prefix: &Path) -> bool {
    ["/usr", "/usr/local"].map(Path::new).contains(&prefix)
}

fn library_hint(plan: &Install) -> String {
    let lib = plan.prefix.join(&plan.libdir);
    let lib = lib.display();
    let hint = "To build a program: cc app.c $(pkg-config --cflags --libs lightmessaging)\n";
    if is_usual(&plan.prefix) {
        format!("{hint}(run ldconfig once, so that programs find the library)")
    } else {
        format!("{hint}with PKG_CONFIG_PATH={lib}/pkgconfig, and LD_LIBRARY_PATH={lib} to run it")
    }
}

fn rocketd_hint(prefix: &Path) -> String {
    // systemd looks for units below the usual prefixes only; others it is told.
    let unit = |whose: &str| match is_usual(prefix) {
        true => "rocketd".to_owned(),
        false => format!("{}/lib/systemd/{whose}/rocketd.service", prefix.display()),
    };
    format!(
        "To have your own: systemctl --user daemon-reload && systemctl --user enable --now {}\n\
         The system's:     systemctl daemon-reload && systemctl enable --now {}",
        unit("user"),
        unit("system")
    )
}

/// Builds the libraries and returns the folder that they are in.
fn build_library() -> Option<PathBuf> {
    let target = target();
    let mut cargo = cargo("lightmessaging-c", &target);
    // For this machine, and so not in a folder of another's.
    cargo.env_remove("CARGO_BUILD_TARGET");
    run(cargo).then(|| target.join("release"))
}

/// Builds rocketd, with all that it needs in it, and returns the program.
fn build_rocketd() -> Option<PathBuf> {
    let Some(host) = host() else {
        eprintln!("cannot find out for which machine rustc compiles");
        return None;
    };
    let target = target();
    let mut cargo = cargo("rocketd", &target);
    // With a machine that is named, even if it is this one, the flags are not for build scripts.
    cargo.args(["--bin", "rocketd", "--target", &host]);
    let own = std::env::var("RUSTFLAGS").unwrap_or_default();
    cargo.env("RUSTFLAGS", format!("{own} -Ctarget-feature=+crt-static"));
    cargo.env_remove("CARGO_ENCODED_RUSTFLAGS").env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    if run(cargo) {
        return Some(target.join(host).join("release/rocketd"));
    }
    eprintln!(
        "(a static program needs the static C library; some systems have it in glibc-static)"
    );
    None
}

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn target() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    project().join(target)
}

fn tool(variable: &str, name: &str) -> OsString {
    std::env::var_os(variable).unwrap_or_else(|| name.into())
}

/// The machine that rustc compiles for unless it is told another.
fn host() -> Option<String> {
    let output = Command::new(tool("RUSTC", "rustc")).arg("-vV").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned)
}

fn cargo(package: &str, target: &Path) -> Command {
    let mut cargo = Command::new(tool("CARGO", "cargo"));
    cargo.args(["build", "--release", "--package", package, "--locked", "--target-dir"]);
    cargo.arg(target).current_dir(project());
    cargo
}

fn run(mut cargo: Command) -> bool {
    match cargo.status() {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("cannot run cargo: {error}");
            false
        }
    }
}
