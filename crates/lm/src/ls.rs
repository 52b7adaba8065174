//! `lm ls`: which services run.

use std::fmt::Write as _;
use std::io::Write;

use clap::Args;
use lightmessaging::{Registry, ServiceInfo};
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
    pid: u32,
    user: String,
    uid: u32,
    program: Option<String>,
    connections: u32,
}

impl Row {
    fn new(info: &ServiceInfo) -> Row {
        let user = uzers::get_user_by_uid(info.uid).map(|user| user.name().display().to_string());
        Row {
            name: info.name.to_string(),
            pid: info.pid,
            user: user.unwrap_or_else(|| info.uid.to_string()),
            uid: info.uid,
            program: info.program.as_ref().map(|path| printable(&path.display().to_string())),
            connections: info.connections,
        }
    }
}

impl Ls {
    /// Lists the services of the environment's registry; nothing at all where there are none.
    pub fn run(self) -> Result<(), Failure> {
        let rows: Vec<Row> = Registry::from_env().services()?.iter().map(Row::new).collect();
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
    let mut line = |cells: [&str; 5]| {
        let [a, b, c, d, e] = cells;
        let _ = writeln!(text, "{a:name$}  {b:>7}  {c:user$}  {d:>11}  {e}");
    };
    line(["NAME", "PID", "USER", "CONNECTIONS", "PROGRAM"]);
    for row in rows {
        let program = row.program.as_deref().unwrap_or("-");
        line([&row.name, &row.pid.to_string(), &row.user, &row.connections.to_string(), program]);
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
