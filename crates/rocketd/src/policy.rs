//! Who may look up and unlock which names: one TOML file, read once. Knows nothing of sockets.
//!
//! ```toml
//! # Who may look up which names, besides the default: what its service unlocked, for clients of
//! # rocketd's own user.
//! hide_denied = false        # true: a denied name looks as if it did not exist
//! default = "own-user"       # or "nobody": only the rules below let anybody in
//!
//! [[allow]]                  # every condition that is given must hold; a list holds if one of it does
//! names = ["com.example.*"]  # globs over whole names; * also matches dots and slashes
//! uid = [1001, 1002]         # or a single number
//! gid = 100
//! executable = "/usr/bin/*"
//! application = "org.example.App"   # Flatpak id, glob
//! cgroup = "/user.slice/*"
//! label = "*"
//!
//! [[deny]]                   # goes before allow and default
//! names = ["*"]
//! application = "*"
//!
//! [[unlock]]                 # who may unlock names here, besides rocketd's own user and root
//! names = ["com.example.*"]
//! uid = 1001
//!
//! [quota]                    # per client: a user, and each Flatpak application of a user apart
//! open_lookups = 256         # look-ups that wait at once
//! lookups_per_second = 1000
//! lanes = 1024               # connections made through rocketd and still open
//! ```
//!
//! What a condition is worth, see [`Asker`]: users and groups are the kernel's word. Everything else
//! tells one program of a user from another and can be made up by a user who sets out to, outside
//! Flatpak; an `allow` or `unlock` rule that rests on it should name the user too.
//!
//! A condition on something that is not known of an asker does not hold, in any rule, with one
//! exception: a program that keeps rocketd from seeing whether it is in a Flatpak
//! ([`Asker::is_opaque`]) might be in any, so `deny` rules about applications hold for it.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::Deserialize;

use crate::asker::Asker;
use crate::pattern::{Id, List, Pattern};
use crate::quota::Quota;
use crate::toml_file::{self, FileError};

/// Why a policy is of no use.
pub type PolicyError = FileError;

/// What may be looked up, by whom.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    hide_denied: bool,
    default: Fallback,
    allow: Vec<Rule>,
    deny: Vec<Rule>,
    unlock: Vec<Rule>,
    quota: Quota,
}

/// What a policy says to a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Allowed,
    /// No, and the asker may know.
    Denied,
    /// No, and the asker is told that there is no such name.
    Hidden,
}

/// What goes where no rule does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Fallback {
    #[default]
    OwnUser,
    Nobody,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    names: List<Pattern>,
    uid: Option<List<Id>>,
    gid: Option<List<Id>>,
    executable: Option<List<Pattern>>,
    application: Option<List<Pattern>>,
    cgroup: Option<List<Pattern>>,
    label: Option<List<Pattern>>,
}

impl Policy {
    /// Understands a policy.
    ///
    /// # Errors
    ///
    /// [`FileError::Wrong`], with the place of the first mistake.
    pub fn parse(text: &str) -> Result<Policy, PolicyError> {
        toml_file::parse(text)
    }

    /// Reads a policy from a file of at most 1 MiB.
    ///
    /// # Errors
    ///
    /// [`FileError::Missing`] if there is no such file: the default policy is meant for that case.
    /// Everything else is about a file that is there, and nothing to go on without.
    pub fn load(path: &Path) -> Result<Policy, PolicyError> {
        toml_file::load(path)
    }

    /// Whether somebody may look up a name that its service has unlocked. Root is nobody special here,
    /// except for its own rocketd.
    pub fn may_look_up(&self, own_uid: u32, asker: &Asker, name: &[u8]) -> Verdict {
        let is_denied = self.deny.iter().any(|rule| rule.holds(asker, name, asker.is_opaque));
        let is_allowed = || {
            let is_default = self.default == Fallback::OwnUser && asker.uid == own_uid;
            is_default || self.allow.iter().any(|rule| rule.holds(asker, name, false))
        };
        match (!is_denied && is_allowed(), self.hide_denied) {
            (true, _) => Verdict::Allowed,
            (false, false) => Verdict::Denied,
            (false, true) => Verdict::Hidden,
        }
    }

    /// Whether a service may have its name looked up here: rocketd's own user's and root's may that are
    /// in no sandbox, from where names could be taken that others expect elsewhere, and whom a rule
    /// lets.
    pub fn may_unlock(&self, own_uid: u32, asker: &Asker, name: &[u8]) -> bool {
        asker.is_outside && (asker.uid == 0 || asker.uid == own_uid)
            || self.unlock.iter().any(|rule| rule.holds(asker, name, false))
    }

    /// What each client may have.
    pub fn quota(&self) -> Quota {
        self.quota
    }
}

impl Rule {
    /// Whether all conditions hold. `in_doubt`: what is to be assumed of the asker's application if it
    /// is not known.
    fn holds(&self, asker: &Asker, name: &[u8], in_doubt: bool) -> bool {
        let text = |patterns: &Option<List<Pattern>>, value: Option<&[u8]>, in_doubt: bool| {
            patterns.as_ref().is_none_or(|patterns| {
                value.map_or(in_doubt, |value| patterns.any(|pattern| pattern.matches(value)))
            })
        };
        let number = |ids: &Option<List<Id>>, value: u32| {
            ids.as_ref().is_none_or(|ids| ids.any(|id| id.0 == value))
        };
        self.names.any(|pattern| pattern.matches(name))
            && number(&self.uid, asker.uid)
            && number(&self.gid, asker.gid)
            && text(&self.application, asker.application.as_deref().map(str::as_bytes), in_doubt)
            && text(
                &self.executable,
                asker.executable.as_ref().map(|path| path.as_os_str().as_bytes()),
                false,
            )
            && text(&self.cgroup, asker.cgroup.as_deref().map(str::as_bytes), false)
            && text(&self.label, asker.label.as_deref().map(str::as_bytes), false)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// The example above.
    const EXAMPLE: &str = r#"
        # Who may look up which names, besides the default.
        hide_denied = false
        default = "own-user"

        [[allow]]
        names = ["com.example.*"]
        uid = [1001, 1002]
        gid = 100
        executable = "/usr/bin/*"
        application = "org.example.App"
        cgroup = "/user.slice/*"
        label = "*"

        [[deny]]
        names = ["*"]
        application = "*"

        [[unlock]]
        names = ["com.example.*"]
        uid = 1001

        [quota]
        open_lookups = 256
        lookups_per_second = 1000
        lanes = 1024
    "#;

    const ME: u32 = 1000;

    fn policy(text: &str) -> Policy {
        Policy::parse(text).unwrap()
    }

    fn user(uid: u32) -> Asker {
        Asker { is_opaque: false, is_outside: true, ..Asker::unknown(1, uid, uid) }
    }

    fn full(uid: u32) -> Asker {
        Asker {
            gid: 100,
            executable: Some(PathBuf::from("/usr/bin/clock")),
            application: Some("org.example.App".to_owned()),
            cgroup: Some("/user.slice/a".to_owned()),
            label: Some("clock (enforce)".to_owned()),
            ..user(uid)
        }
    }

    fn mistake(text: &str) -> String {
        Policy::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn the_example_is_a_policy() {
        let policy = policy(EXAMPLE);
        assert_eq!(policy.quota(), Quota::default());
        assert_eq!(policy.may_look_up(ME, &user(ME), b"x"), Verdict::Allowed);
        // Denied by its application before the rule above it is asked.
        assert_eq!(policy.may_look_up(ME, &full(1001), b"com.example.x"), Verdict::Denied);
        assert!(policy.may_unlock(ME, &user(1001), b"com.example.x"));
        assert!(!policy.may_unlock(ME, &user(1001), b"com.other"));
    }

    #[test]
    fn an_empty_policy_is_the_default_one() {
        for policy in [policy(""), Policy::default()] {
            assert_eq!(policy.quota(), Quota::default());
            assert_eq!(policy.may_look_up(ME, &user(ME), b"x"), Verdict::Allowed);
            assert_eq!(policy.may_look_up(ME, &Asker::unknown(0, ME, ME), b"x"), Verdict::Allowed);
            for uid in [0, 1, ME + 1, u32::MAX] {
                assert_eq!(policy.may_look_up(ME, &user(uid), b"x"), Verdict::Denied);
            }
            assert_eq!(policy.may_look_up(0, &user(0), b"x"), Verdict::Allowed);
            assert_eq!(policy.may_look_up(0, &user(ME), b"x"), Verdict::Denied);
        }
    }

    #[test]
    fn nobody_as_the_default_leaves_it_to_the_rules() {
        let policy = policy("default = 'nobody'\n[[allow]]\nnames = 'a.*'\nuid = 1000");
        assert_eq!(policy.may_look_up(ME, &user(ME), b"a.b"), Verdict::Allowed);
        assert_eq!(policy.may_look_up(ME, &user(ME), b"b"), Verdict::Denied);
    }

    #[test]
    fn a_denied_name_is_hidden_where_the_policy_says_so() {
        let policy = policy("hide_denied = true\n[[deny]]\nnames = 'secret'");
        assert_eq!(policy.may_look_up(ME, &user(ME), b"secret"), Verdict::Hidden);
        assert_eq!(policy.may_look_up(ME, &user(ME + 1), b"x"), Verdict::Hidden);
        assert_eq!(policy.may_look_up(ME, &user(ME), b"x"), Verdict::Allowed);
    }

    #[test]
    fn every_condition_must_hold() {
        let policy = policy(&EXAMPLE.replace("[[deny]]", "[[unlock]]"));
        assert_eq!(policy.may_look_up(ME, &full(1002), b"com.example.x"), Verdict::Allowed);
        let is_denied = |change: fn(&mut Asker)| {
            let mut asker = full(1002);
            change(&mut asker);
            policy.may_look_up(ME, &asker, b"com.example.x") == Verdict::Denied
        };
        assert!(is_denied(|asker| asker.uid = 1003));
        assert!(is_denied(|asker| asker.gid = 101));
        assert!(is_denied(|asker| asker.executable = Some("/usr/local/bin/clock".into())));
        assert!(is_denied(|asker| asker.executable = None));
        assert!(is_denied(|asker| asker.application = Some("org.example.App2".to_owned())));
        assert!(is_denied(|asker| asker.application = None));
        assert!(is_denied(|asker| asker.cgroup = Some("/system.slice/a".to_owned())));
        assert!(is_denied(|asker| asker.cgroup = None));
        assert!(is_denied(|asker| asker.label = None));
        assert_eq!(policy.may_look_up(ME, &full(1002), b"com.other"), Verdict::Denied);
    }

    #[test]
    fn who_hides_its_application_is_denied_as_if_it_were_any() {
        let text = "[[deny]]\nnames = 'a'\napplication = 'org.bad'\n
                    [[allow]]\nnames = 'b'\nuid = 1001\napplication = '*'";
        let policy = policy(text);
        let opaque = |uid| Asker { is_opaque: true, ..user(uid) };
        assert_eq!(policy.may_look_up(ME, &user(ME), b"a"), Verdict::Allowed);
        assert_eq!(policy.may_look_up(ME, &opaque(ME), b"a"), Verdict::Denied);
        assert_eq!(policy.may_look_up(ME, &opaque(ME), b"b"), Verdict::Allowed);
        assert_eq!(policy.may_look_up(ME, &opaque(1001), b"b"), Verdict::Denied);
    }

    #[test]
    fn names_that_are_not_text_or_look_like_paths_match_too() {
        let policy = policy("[[deny]]\nnames = ['a*', '..', 'x//y', 'z/']");
        for name in [&b"a\xff\n"[..], b"a/../b", b"..", b"x//y", b"z/"] {
            assert_eq!(policy.may_look_up(ME, &user(ME), name), Verdict::Denied, "{name:?}");
        }
        for name in [&b"x/y"[..], b"z", b".", b"\xffa"] {
            assert_eq!(policy.may_look_up(ME, &user(ME), name), Verdict::Allowed, "{name:?}");
        }
    }

    #[test]
    fn root_and_the_own_user_may_unlock_anything() {
        let policy = policy(EXAMPLE);
        for uid in [0, ME] {
            assert!(policy.may_unlock(ME, &user(uid), b"anything"));
            assert!(policy.may_unlock(ME, &full(uid), b"anything"));
        }
        assert!(!policy.may_unlock(0, &user(ME), b"anything"));
    }

    #[test]
    fn a_program_in_a_sandbox_may_unlock_only_what_a_rule_says() {
        let inside = |uid| Asker { is_outside: false, ..user(uid) };
        for uid in [0, ME] {
            assert!(!Policy::default().may_unlock(ME, &inside(uid), b"anything"));
        }
        assert!(policy(EXAMPLE).may_unlock(ME, &inside(1001), b"com.example.x"));
    }

    #[test]
    fn a_mistake_is_named_with_its_place() {
        for (text, place, what) in [
            ("hide = true", "line 1, column 1: ", "unknown field `hide`"),
            ("\n default = 'all'", "line 2, column 12: ", "unknown variant `all`"),
            ("hide_denied = 1", "line 1, column 15: ", "invalid type: integer `1`"),
            ("[[allow]]\nuid = 1", "line 1, column 1: ", "missing field `names`"),
            ("[[allow]]\nnames = []", "line 2, column 9: ", "an empty list lets nobody through"),
            ("[[allow]]\nnames = ''", "line 2, column 9: ", "an empty pattern matches nothing"),
            ("[[deny]]\nnames = 'a['", "line 2, column 9: ", "not a pattern: unclosed"),
            ("[[deny]]\nnames = ['a', 'b{']", "line 2, column 15: ", "not a pattern: unclosed"),
            ("[[deny]]\nnames = 1", "line 2, column 9: ", "invalid type: integer `1`"),
            ("[[deny]]\nnames = '*'\nuid = -1", "line 3, column 7: ", "-1 is not between 0 and"),
            ("[[deny]]\nnames = '*'\nuid = []", "line 3, column 7: ", "an empty list"),
            (
                "[[deny]]\nnames = '*'\ngid = [1, 4294967295]",
                "line 3, column 11: ",
                "4294967295 is not between 0 and 4294967294",
            ),
            ("[[deny]]\nnames = '*'\nuid = 'x'", "line 3, column 7: ", "invalid type: string"),
            ("[[deny]]\nnames = '*'\nuid = 1.5", "line 3, column 7: ", "one value or a list"),
            ("[[deny]]\nnames = '*'\nuser = 1", "line 3, column 1: ", "unknown field `user`"),
            ("[quota]\nlanes = 0", "line 2, column 9: ", "0 is not between 1 and 1,000,000"),
            ("[quota]\nlanes = 1000001", "line 2, column 9: ", "1000001 is not between"),
            ("[quota]\nlane = 1", "line 2, column 1: ", "unknown field `lane`"),
            ("default = ", "line 1, column 11: ", ""),
            ("[quota", "line 1, column 7: ", ""),
            ("quota = {}\n[quota]", "line 2, column ", "duplicate key"),
        ] {
            let sentence = mistake(text);
            assert!(sentence.starts_with(place), "{text:?}: {sentence}");
            assert!(sentence.contains(what), "{text:?}: {sentence}");
            assert!(!sentence.contains('\n'), "{text:?}: {sentence}");
        }
    }

    /// Numbers that look random and are the same in every run.
    fn random(state: &mut u64) -> usize {
        *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (*state >> 33) as usize
    }

    #[test]
    fn no_text_makes_parsing_panic() {
        let sentence = |text: &str| {
            if let Err(error) = Policy::parse(text) {
                assert!(!error.to_string().contains(char::is_control));
            }
        };
        for end in 0..=EXAMPLE.len() {
            sentence(&EXAMPLE[..end]);
        }
        let mut state = 1;
        for _ in 0..3_000 {
            let mut bytes = EXAMPLE.as_bytes().to_vec();
            for _ in 0..1 + random(&mut state) % 3 {
                let at = random(&mut state) % bytes.len();
                match random(&mut state) % 4 {
                    0 => bytes[at] = random(&mut state) as u8,
                    1 => bytes[at] = b"[]{}'\"=\\*!?,.#\n-0"[random(&mut state) % 17],
                    2 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, b"[]{}'\"=\\*!?,.#\n-0"[random(&mut state) % 17]),
                }
            }
            sentence(&String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn another_user_never_gets_in_without_a_rule() {
        let mut state = 7;
        let policies = [
            policy(""),
            policy("default = 'nobody'"),
            policy("[[deny]]\nnames = 'a'"),
            policy("[[unlock]]\nnames = '*'"),
            policy("[[allow]]\nnames = '*'\nuid = 4000000000"),
            policy("[[allow]]\nnames = '*'\nlabel = 'never'"),
        ];
        for _ in 0..20_000 {
            let own = random(&mut state) as u32 % 4;
            let uid = random(&mut state) as u32 % 4;
            let some = |state: &mut u64| random(state).is_multiple_of(2);
            let asker = Asker {
                executable: some(&mut state).then(|| "/usr/bin/x".into()),
                application: some(&mut state).then(|| "org.x.Y".to_owned()),
                cgroup: some(&mut state).then(|| "/".to_owned()),
                label: some(&mut state).then(|| "x".to_owned()),
                is_opaque: some(&mut state),
                ..Asker::unknown(random(&mut state) as u32, uid, random(&mut state) as u32)
            };
            let name: Vec<u8> =
                (0..1 + random(&mut state) % 127).map(|_| random(&mut state) as u8).collect();
            for (at, policy) in policies.iter().enumerate() {
                if uid != own || at == 1 {
                    assert_ne!(policy.may_look_up(own, &asker, &name), Verdict::Allowed);
                }
            }
        }
    }
}
