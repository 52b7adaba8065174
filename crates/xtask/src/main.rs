//! `cargo xtask`: chores of the project that cargo has no command for.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};
use xtask::{Install, install};

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
        /// The folder to install to.
        #[arg(long, default_value = "/usr/local")]
        prefix: PathBuf,
        /// The folder for libraries below the prefix.
        #[arg(long, default_value = "lib")]
        libdir: String,
        /// A folder to put in front of the prefix while files are written, for packages.
        #[arg(long, env = "DESTDIR")]
        destdir: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let Chore::Install { prefix, libdir, destdir } = Arguments::parse().chore;
    let prefix = std::path::absolute(&prefix).unwrap_or(prefix);
    let Some(built) = build() else { return ExitCode::FAILURE };
    let plan = Install { prefix, libdir, destdir, built };
    match install(&plan) {
        Ok(written) => {
            for file in &written {
                println!("{}", file.display());
            }
            let lib = plan.prefix.join(&plan.libdir);
            println!("\nTo build a program: cc app.c $(pkg-config --cflags --libs lightmessaging)");
            if !["/usr", "/usr/local"].map(Path::new).contains(&&*plan.prefix) {
                let lib = lib.display();
                println!(
                    "with PKG_CONFIG_PATH={lib}/pkgconfig, and LD_LIBRARY_PATH={lib} to run it"
                );
            } else {
                println!("(run ldconfig once, so that programs find the library)");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("cannot install: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Builds the libraries and returns the folder that they are in.
fn build() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let target = root.join(target);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--package", "lightmessaging-c", "--locked", "--target-dir"])
        .arg(&target)
        // For this machine, and so not in a folder of another's.
        .env_remove("CARGO_BUILD_TARGET")
        .current_dir(&root)
        .status();
    match status {
        Ok(status) if status.success() => Some(target.join("release")),
        Ok(_) => None,
        Err(error) => {
            eprintln!("cannot run cargo: {error}");
            None
        }
    }
}
