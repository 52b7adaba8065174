//! `lm ls`: which services run.

use std::fmt::Write as _;
use std::io::Write;
use std::time::Duration;

use clap::Args;
use lightmessaging::{Reachable, Registry, ServiceInfo};
use serde::Serialize;

use crate::failure::Failure;

/// Arguments of `lm ls`.
#[derive(Args)]
pub struct Ls {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    name: String,
    /// None: it is started on demand, and does not run now.
    pid: Option<u32>,
    user: String,
    uid: u32,
    program: Option<String>,
    /// None: only rocketd knows of it.
    connections: Option<u32>,
    /// It may be looked up through rocketd from here.
    unlocked: bool,
    /// It wants that.
    asked: bool,
    on_demand: bool,
}

fn user(uid: u32) -> String {
    let user = uzers::get_user_by_uid(uid).map(|user| user.name().display().to_string());
    user.unwrap_or_else(|| uid.to_string())
}

impl Row {
    fn of_registry(info: &ServiceInfo) -> Row {
        Row {
            name: info.name.to_string(),
            pid: info.pid,
            user: user(info.uid),
            uid: info.uid,
            program: info.program.as_ref().map(|path| printable(&path.display().to_string())),
            connections: info.pid.map(|_| info.connections),
            unlocked: false,
            asked: info.unlocked,
            on_demand: info.on_demand,
        }
    }

    fn of_rocketd(known: &Reachable) -> Row {
        Row {
            name: known.name.to_string(),
            pid: known.pid,
            user: user(known.uid),
            uid: known.uid,
            program: None,
            connections: None,
            unlocked: false,
            asked: false,
            on_demand: false,
        }
    }

    /// What rocketd knows besides.
    fn add(&mut self, known: &Reachable) {
        self.unlocked |= known.unlocked;
        self.on_demand |= known.command.is_some();
        let command = known.command.as_ref().map(|command| printable(command));
        self.program = self.program.take().or(command);
    }
}

/// The services of the environment's registry, and what rocketd lets us know of.
fn rows() -> Result<Vec<Row>, Failure> {
    let registry = Registry::from_env();
    let reachable = registry.reachable(ROCKETD);
    // In a sandbox there may be no registry to be seen, and rocketd all the same.
    let services = match registry.services() {
        Err(_) if !reachable.is_empty() => Vec::new(),
        services => services?,
    };
    let mut rows: Vec<Row> = services.iter().map(Row::of_registry).collect();
    for known in &reachable {
        let name = known.name.to_string();
        let at = rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            rows.push(Row::of_rocketd(known));
            rows.len() - 1
        });
        rows[at].add(known);
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(rows)
}

/// How long rocketd may take to answer.
const ROCKETD: Duration = Duration::from_secs(1);

impl Ls {
    /// Lists the services of the environment's registry, and those that rocketd knows; nothing at all
    /// where there are none.
    pub fn run(self) -> Result<(), Failure> {
        let rows = rows()?;
        let text = if self.json {
            let mut text = serde_json::to_string(&rows).expect("rows can be written as JSON");
            text.push('\n');
            text
        } else {
            table(&rows)
        };
        std::io::stdout().write_all(text.as_bytes()).map_err(|error| Failure::output("ls", error))
    }
}

fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    if rows.is_empty() {
        return text;
    }
    let width = |head: &str, cell: fn(&Row) -> &str| {
        rows.iter().map(|row| cell(row).chars().count()).chain([head.len()]).max().unwrap_or(0)
    };
    let (name, user) = (width("NAME", |row| &row.name), width("USER", |row| &row.user));
    let mut line = |cells: [&str; 6]| {
        let [a, b, c, d, e, f] = cells;
        let _ = writeln!(text, "{a:name$}  {b:>7}  {c:user$}  {d:>11}  {e:8}  {f}");
    };
    line(["NAME", "PID", "USER", "CONNECTIONS", "UNLOCKED", "PROGRAM"]);
    let number = |number: Option<u32>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
    for row in rows {
        let program = row.program.as_deref().unwrap_or("-");
        let program = match row.on_demand {
            true => format!("{program} (on demand)"),
            false => program.to_owned(),
        };
        let unlocked = match row {
            Row { unlocked: true, .. } => "yes",
            Row { asked: true, .. } => "asked",
            _ => "no",
        };
        let (pid, connections) = (number(row.pid), number(row.connections));
        line([&row.name, &pid, &row.user, &connections, unlocked, &program]);
    }
    text
}

/// Escapes what could drive a terminal.
fn printable(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}
