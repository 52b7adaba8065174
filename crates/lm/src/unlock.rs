//! `lm unlock`: lets those reach a running service who cannot see the registry.

use std::time::{Duration, Instant};

use clap::Args;
use lightmessaging::{Registry, ServiceName};

use crate::failure::Failure;

/// How long a service may take to hear it.
const HEARD: Duration = Duration::from_secs(5);

/// Arguments of `lm unlock`.
#[derive(Args)]
pub struct Unlock {
    /// The service's name.
    #[arg(value_parser = crate::name())]
    name: ServiceName,
    /// Lock it again: connections that were made stay.
    #[arg(long)]
    undo: bool,
}

impl Unlock {
    /// Unlocks it, for as long as it runs.
    pub fn run(self) -> Result<(), Failure> {
        let registry = Registry::from_env();
        registry.unlock(&self.name, !self.undo, HEARD)?;
        let is_unlocked = || {
            registry.reachable(HEARD).iter().any(|known| known.name == self.name && known.unlocked)
        };
        // The service has been told, and tells rocketd in its own time.
        let end = Instant::now() + Duration::from_secs(1);
        while is_unlocked() == self.undo && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let places: Vec<String> =
            registry.rocketds().iter().map(|socket| socket.display().to_string()).collect();
        let places = places.join(" and ");
        match (self.undo, is_unlocked()) {
            (false, true) | (true, false) => {}
            (false, false) => eprintln!(
                "lm: {}: the service asks to be unlocked, but it cannot be looked up from here yet: no \
                 rocketd runs ({places}; start one with lm rocketd), or its policy does not allow it",
                self.name
            ),
            (true, true) => eprintln!(
                "lm: {}: the service asks no more, but it can still be looked up: rocketd's service file \
                 unlocks it",
                self.name
            ),
        }
        Ok(())
    }
}
