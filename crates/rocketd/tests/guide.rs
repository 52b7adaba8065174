//! The guide, `docs/rocketd.md`, and the files of the folder `package`, as those read them who do what
//! they say.

mod kit;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kit::common::{ECHO, hear, play, tell};
use kit::{Home, ROLES, has_sandboxes, said, until_called};
use lightmessaging::Connection;
use rocketd::policy::Policy;
use rocketd::service_file::ServiceFile;

#[test]
fn role() {
    let roles: Vec<_> = ROLES.into_iter().chain([("reader", reader as fn(&[String]))]).collect();
    play(&roles);
}

/// A role: knows nothing but what the environment says.
fn reader(_: &[String]) {
    while let Some(name) = hear() {
        tell(said(Connection::new(name).and_then(|service| service.send_two_way(ECHO, "x"))));
    }
}

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn guide() -> String {
    fs::read_to_string(project("docs/rocketd.md")).unwrap()
}

/// The blocks of code of a kind.
fn code(text: &str, kind: &str) -> Vec<String> {
    let blocks = text.split("\n```").skip(1).step_by(2);
    blocks.filter_map(|block| block.strip_prefix(&format!("{kind}\n"))).map(str::to_owned).collect()
}

/// Puts something in place of a part of the guide that must be there once.
fn replace(text: &mut String, what: &str, with: &str) {
    assert_eq!(text.matches(what).count(), 1, "{what} in the guide's\n{text}");
    *text = text.replace(what, with);
}

#[test]
fn the_guides_lines_for_bubblewrap_make_one_unlocked_name_reachable_and_nothing_else() {
    if !has_sandboxes("what the guide says of bubblewrap") {
        return;
    }
    let guide = guide();
    let (_, below) = guide.split_once("\n## bubblewrap\n").expect("a heading of the guide");
    let mut script = code(below.split("\n## ").next().unwrap(), "sh").remove(0);
    replace(&mut script, "\"$XDG_RUNTIME_DIR/lightmessaging/.rocketd\"", "\"$FOLDER\"");
    replace(&mut script, "\"$(command -v lm)\"", "\"$PROGRAM\"");
    replace(&mut script, "/lm call com.example.clock 1", "/lm \"$@\"");

    let home = Home::new();
    let mut rocketd = home.rocketd();
    let _clock = home.serve("com.example.clock", "unlocked");
    let _locked = home.serve("com.example.locked", "locked");
    until_called(&home, "com.example.clock", "ok");
    let mut command = Command::new("sh");
    command.args(["-ec", &script, "sh"]).env_remove("LIGHTMESSAGING_ROCKETD");
    command.env("FOLDER", home.run()).env("PROGRAM", std::env::current_exe().unwrap());
    let mut reader = home.folder.run(command, "reader", &[]);
    assert_eq!(reader.ask("com.example.clock"), "ok x");
    assert!(reader.ask("com.example.locked").starts_with("NotFound "));

    // It was given the folder, so it sees the next rocketd too.
    rocketd.stop();
    assert!(reader.ask("com.example.clock").starts_with("NotFound "));
    let _rocketd = home.rocketd();
    until_called(&home, "com.example.clock", "ok");
    assert_eq!(reader.ask("com.example.clock"), "ok x");
    assert!(reader.ask("com.example.locked").starts_with("NotFound "));
}

#[test]
fn the_files_in_the_guide_are_good() {
    let files = code(&guide(), "toml");
    assert!(files.len() > 3, "{files:?}");
    for file in files {
        let (policy, service) = (Policy::parse(&file), ServiceFile::parse(&file));
        assert!(policy.is_ok() || service.is_ok(), "{file}\n{policy:?}\n{service:?}");
    }
}

#[test]
fn the_examples_are_good() {
    let text = fs::read_to_string(project("package/rocketd/policy.toml")).unwrap();
    // It says what is so without it.
    let example = Policy::parse(&text).unwrap();
    assert_eq!(format!("{example:?}"), format!("{:?}", Policy::default()));
    // And its rules are good for whoever takes away the marks before them.
    let bare = |line: &str| {
        let rule = line.strip_prefix("# ").unwrap_or(line);
        let is_rule = rule.starts_with("[[") || rule.contains(" = ");
        if is_rule { rule.to_owned() } else { line.to_owned() }
    };
    let rules = text.lines().map(bare).collect::<Vec<_>>().join("\n");
    assert_eq!(rules.matches("\n[[").count(), 3, "{rules}");
    Policy::parse(&rules).unwrap();

    let text = fs::read_to_string(project("package/rocketd/services/com.example.clock.toml"));
    let service = ServiceFile::parse(&text.unwrap().replace("@PREFIX@", "/usr")).unwrap();
    assert_eq!(service.name, b"com.example.clock");
    assert!(service.unlocked);
}
