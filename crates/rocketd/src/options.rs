//! The command line.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;
use lightmessaging::Registry;

const AFTER: &str = "\
Files:
  socket    $LIGHTMESSAGING_ROCKETD, else /run/rocketd/socket for root and .rocketd/socket in the
            registry's folder for everybody else
  policy    /etc/rocketd/policy.toml for root, else $XDG_CONFIG_HOME/rocketd/policy.toml or
            ~/.config/rocketd/policy.toml; read again when it changes and on SIGHUP
  services  the folder services beside the policy

A service unlocks its name by itself (`ServiceBuilder::unlocked`, LMStartService) or by
`lm unlock NAME`. Only clients of the same user are let in unless the policy says otherwise.";

/// Looks LightMessaging services up for programs that cannot, and starts services on demand.
#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER)]
pub struct Options {
    /// Listen on this socket.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The socket's mode, in octal: who may write may ask. 0666 for root, else 0600.
    #[arg(long, value_name = "MODE", value_parser = mode)]
    pub mode: Option<u32>,
    /// Start services on demand in this registry folder instead of the environment's.
    #[arg(long, value_name = "FOLDER")]
    pub registry: Option<PathBuf>,
    /// The policy.
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// A folder of service files; may be given several times.
    #[arg(long, value_name = "FOLDER")]
    pub services: Vec<PathBuf>,
    /// Check a policy and exit: 0 if it is good.
    #[arg(long, value_name = "FILE")]
    pub check: Option<PathBuf>,
    /// Check a service file and exit: 0 if it is good.
    #[arg(long, value_name = "FILE")]
    pub check_service: Option<PathBuf>,
    /// Say more; twice for everything.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Become a service: what rocketd itself runs to start one.
    #[arg(long, hide = true, num_args = 1.., allow_hyphen_values = true, value_name = "COMMAND")]
    pub become_service: Option<Vec<OsString>>,
    /// The limit of descriptors that a service begins with.
    #[arg(long, hide = true, value_name = "N")]
    pub descriptors: Option<u64>,
}

fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("not a mode, such as 0660".to_owned()),
    }
}

/// What the command line comes to.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) socket: PathBuf,
    pub(crate) mode: u32,
    pub(crate) registry: Registry,
    pub(crate) policy: PathBuf,
    /// Whether the policy was named: then it must be there.
    pub(crate) policy_is_named: bool,
    pub(crate) services: Vec<PathBuf>,
}

impl Settings {
    /// The folders of what people write.
    pub(crate) fn folders(&self) -> impl Iterator<Item = &Path> {
        self.policy.parent().into_iter().chain(self.services.iter().map(PathBuf::as_path))
    }
}

impl Options {
    pub(crate) fn settings(&self) -> Settings {
        let is_root = rustix::process::geteuid().is_root();
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let registry = match &self.registry {
            Some(folder) => Registry::at(folder),
            None => Registry::from_env(),
        };
        let socket = self.socket.clone().or_else(|| set("LIGHTMESSAGING_ROCKETD"));
        let socket = socket.unwrap_or_else(|| {
            let at = if is_root { 1 } else { 0 };
            Registry::at(registry.path()).rocketds().swap_remove(at)
        });
        let config = if is_root {
            PathBuf::from("/etc")
        } else {
            set("XDG_CONFIG_HOME")
                .or_else(|| set("HOME").map(|home| home.join(".config")))
                .unwrap_or_else(|| PathBuf::from("/etc"))
        };
        let config = config.join("rocketd");
        let mut services = self.services.clone();
        if services.is_empty() {
            services.push(config.join("services"));
        }
        Settings {
            mode: self.mode.unwrap_or(if is_root { 0o666 } else { 0o600 }),
            registry: registry.with_rocketd(&socket),
            socket,
            policy_is_named: self.policy.is_some(),
            policy: self.policy.clone().unwrap_or_else(|| config.join("policy.toml")),
            services,
        }
    }
}
