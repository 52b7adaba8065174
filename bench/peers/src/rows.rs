//! The rows: what everybody does, where, and for how long.

use std::time::Duration;

use crate::contest::Contender;
use crate::drive::Command;
use crate::floors::payload::Form;
use crate::peer::Peer;
use crate::peers::{self, Kind, SET_UP_ONLY};
use crate::place::Place;
use crate::report::{Entry, Figures, Outcome};
use crate::work::Result;
use crate::{Effort, work};

/// What is done in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    TwoWay(Form),
    /// Two-way while a busy process sits on each core.
    Crowded,
    OneWay,
    SetUp,
    /// A call each ten milliseconds.
    Sporadic,
    Idle,
    /// Eight clients, each in a process.
    Eight,
}

/// One row.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: String,
    pub work: Work,
    pub place: Place,
    pub len: usize,
    /// What ours is compared with besides the peers, with the calls of a block.
    floor: Option<(&'static str, usize)>,
}

pub const TWO_CORES: &str = "two-way 64 B, two cores";
pub const ONE_CORE: &str = "two-way 64 B, one core";
pub const CROWDED: &str = "two-way 64 B, busy processes on every core";
pub const SPORADIC: &str = "sporadic: two-way 64 B every 10 ms, two cores";
pub const ONE_WAY: &str = "one-way 64 B, two cores";
/// Where both sides meet decides more than what they do, so that all three are shown.
pub const SET_UPS: [(&str, Place); 3] = [
    ("set-up: new connection to first reply, two cores", Place::TwoCores),
    ("set-up: new connection to first reply, one core", Place::OneCore),
    ("set-up: new connection to first reply, unpinned", Place::Unpinned),
];
pub const EIGHT: &str = "eight clients at once, two-way 64 B, unpinned";
pub const IDLE: &str = "idle: connected, both sides, unpinned";
/// The lengths of the payload rows, by their names.
pub const SIZES: [(&str, usize); 4] =
    [("4 KiB", 4 << 10), ("64 KiB", 64 << 10), ("1 MiB", 1 << 20), ("16 MiB", 16 << 20)];

/// The name of a payload row.
pub fn payload(size: &str, form: Form) -> String {
    format!("two-way {size} {}, two cores", form.name())
}

/// Every row; the consumed payloads come before those that are handed over.
pub fn all() -> Vec<Row> {
    let row = |name: &str, work, place, len, floor| Row {
        name: name.to_owned(),
        work,
        place,
        len,
        floor,
    };
    let two_way = Work::TwoWay(Form::Consumed);
    let mut rows = vec![
        row(TWO_CORES, two_way, Place::TwoCores, work::SMALL, Some(("slot", 20_000))),
        row(ONE_CORE, two_way, Place::OneCore, work::SMALL, Some(("bell", 2000))),
        row(CROWDED, Work::Crowded, Place::Unpinned, work::SMALL, None),
        row(SPORADIC, Work::Sporadic, Place::TwoCores, work::SMALL, None),
    ];
    for form in [Form::Consumed, Form::HandedOver] {
        let floor =
            if form == Form::Consumed { "payload, consumed" } else { "payload, handed over" };
        for (size, len) in SIZES {
            let calls = ((64 << 20) / len).clamp(4, 2000);
            let name = payload(size, form);
            rows.push(row(&name, Work::TwoWay(form), Place::TwoCores, len, Some((floor, calls))));
        }
    }
    rows.push(row(ONE_WAY, Work::OneWay, Place::TwoCores, work::SMALL, Some(("ring", 1))));
    rows.extend(
        SET_UPS.map(|(name, place)| {
            row(name, Work::SetUp, place, work::SMALL, Some(("connect", 200)))
        }),
    );
    rows.extend([
        row(EIGHT, Work::Eight, Place::Unpinned, work::SMALL, None),
        row(IDLE, Work::Idle, Place::Unpinned, work::SMALL, None),
    ]);
    rows
}

impl Row {
    pub fn needs_two_cores(&self) -> bool {
        self.place == Place::TwoCores || self.work == Work::Eight
    }

    /// Whether a peer can take part: it has what is done here, for messages of this length.
    fn suits(&self, kind: &Kind) -> bool {
        let (least, most) = kind.lengths;
        match self.work {
            Work::SetUp if kind.lengths == SET_UP_ONLY => true,
            Work::OneWay => kind.has_one_way,
            _ => (least..=most).contains(&self.len),
        }
    }

    fn clients(&self) -> usize {
        if self.work == Work::Eight { 8 } else { 1 }
    }

    fn start(&self, kind: &Kind) -> Result<Contender> {
        let is_one_way = self.work == Work::OneWay;
        Contender::peer(kind, self.place, self.len, is_one_way, self.clients())
    }

    fn command(&self, effort: Effort) -> Command {
        let limit_ms = effort.limit_ms(40);
        match self.work {
            Work::TwoWay(form) => {
                Command::Calls { most: 20_000, limit_ms, is_consumed: form == Form::Consumed }
            }
            Work::Crowded | Work::Idle => {
                let limit_ms = effort.limit_ms(100);
                Command::Calls { most: 20_000, limit_ms, is_consumed: true }
            }
            Work::OneWay => Command::OneWay { limit_ms },
            Work::SetUp => Command::SetUp { most: 200, limit_ms },
            Work::Sporadic => Command::Paced { calls: effort.calls(15), every_us: 10_000 },
            Work::Eight => Command::Flood { limit_ms: effort.limit_ms(150) },
        }
    }

    /// Measures everybody who suits, each against ours in alternating blocks.
    pub fn measure(&self, effort: Effort, kinds: &[&'static Kind]) -> Outcome {
        let mut entries = Vec::new();
        // They sit on the cores as long as the row lasts.
        let _busy = (self.work == Work::Crowded).then(busy_processes);
        let mut ours = self.start(peers::all()[0]);
        let is_suited = |kind: &&&Kind| self.suits(kind);
        for kind in kinds.iter().filter(is_suited) {
            eprintln!("  {}", kind.name);
            let theirs = self.start(kind);
            entries.push(self.contest(kind.name, &mut ours, theirs, effort, self.command(effort)));
        }
        if let Some((floor, calls)) = self.floor {
            eprintln!("  floor: {floor}");
            let theirs = Contender::floor(floor, self.place, self.len);
            let command =
                Command::Calls { most: effort.calls(calls), limit_ms: 0, is_consumed: true };
            entries.push(self.contest_of(
                &format!("floor: {floor}"),
                &mut ours,
                theirs,
                effort,
                command,
            ));
        }
        Outcome { row: self.name.clone(), entries }
    }

    fn contest(
        &self,
        name: &str,
        ours: &mut Result<Contender>,
        theirs: Result<Contender>,
        effort: Effort,
        command: Command,
    ) -> Entry {
        if self.work == Work::Idle {
            idle(name, ours, theirs, effort)
        } else {
            self.contest_of(name, ours, theirs, effort, command)
        }
    }

    /// Blocks in turn; whoever fails has failed, and ours starts anew if it was ours.
    fn contest_of(
        &self,
        name: &str,
        ours: &mut Result<Contender>,
        theirs: Result<Contender>,
        effort: Effort,
        command: Command,
    ) -> Entry {
        let mut entry =
            Entry { name: name.to_owned(), ours: Vec::new(), theirs: Vec::new(), failed: None };
        let mut theirs = match theirs {
            Ok(theirs) => theirs,
            Err(error) => return Entry { failed: Some(error.to_string()), ..entry },
        };
        for _ in 0..effort.blocks {
            let block = match ours {
                Ok(contender) => contender.block(self.command(effort)),
                Err(error) => Err(error.to_string().into()),
            };
            match block {
                Ok(figures) => entry.ours.push(figures),
                Err(error) => {
                    *ours = self.start(peers::all()[0]);
                    return Entry { failed: Some(format!("LightMessaging: {error}")), ..entry };
                }
            }
            match theirs.block(command) {
                Ok(figures) => entry.theirs.push(figures),
                Err(error) => return Entry { failed: Some(error.to_string()), ..entry },
            }
        }
        entry
    }
}

/// Both while nothing happens, once.
fn idle(
    name: &str,
    ours: &mut Result<Contender>,
    theirs: Result<Contender>,
    effort: Effort,
) -> Entry {
    let (settle, time) = if effort.quick { (200, 200) } else { (1200, 1500) };
    let (settle, time) = (Duration::from_millis(settle), Duration::from_millis(time));
    let failed = |error: &dyn std::fmt::Display| Some(error.to_string());
    let (mut all, mut failure) = ((Vec::new(), Vec::new()), None);
    match ours {
        // It does not change from contest to contest, so its first figure is enough.
        Ok(ours) if name == OURS_BLOCK => all.0.push(ours.idle(settle, time)),
        Ok(_) => {}
        Err(error) => failure = failed(error),
    }
    match theirs {
        Ok(mut theirs) => all.1.push(theirs.idle(settle, time)),
        Err(error) => failure = failed(&error),
    }
    let (ours, theirs): (Vec<Figures>, Vec<Figures>) = all;
    Entry { name: name.to_owned(), ours, theirs, failed: failure }
}

/// Ours without its spinning.
pub const OURS_BLOCK: &str = "LightMessaging, block-only";

/// A busy process on each core.
fn busy_processes() -> Result<Vec<(Peer, tempfile::TempDir)>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let busy = (0..cores).map(|core| {
        let folder = tempfile::tempdir()?;
        let (peer, _) = Peer::in_folder(&["burn".to_owned(), core.to_string()], folder.path())?;
        Ok((peer, folder))
    });
    busy.collect()
}
