//! How much each client may ask for, and how much it has. Pure bookkeeping: the caller brings the
//! time, and says what is open.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer};

/// What one client may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quota {
    /// Look-ups that wait at once, 1 to 1,000,000.
    #[serde(deserialize_with = "bounded")]
    pub open_lookups: u32,
    /// Look-ups a second, 1 to 1,000,000. Twice as many may come at once after a quiet time.
    #[serde(deserialize_with = "bounded")]
    pub lookups_per_second: u32,
    /// Connections made through rocketd and still open, 1 to 1,000,000.
    #[serde(deserialize_with = "bounded")]
    pub lanes: u32,
}

impl Default for Quota {
    fn default() -> Quota {
        Quota { open_lookups: 256, lookups_per_second: 1000, lanes: 1024 }
    }
}

fn bounded<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let number = i64::deserialize(deserializer)?;
    match u32::try_from(number) {
        Ok(number @ 1..=1_000_000) => Ok(number),
        _ => Err(serde::de::Error::custom(format_args!("{number} is not between 1 and 1,000,000"))),
    }
}

/// Who is counted together: a user, and each Flatpak application of a user apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Client {
    /// The user.
    pub uid: u32,
    /// The application's id; none for programs outside Flatpak.
    pub application: Option<String>,
}

/// Accounts of one user. A user can make application ids up, outside Flatpak, but only so many.
const ACCOUNTS_OF_A_USER: usize = 256;
/// Accounts of all. Who comes after that many who hold something is refused.
const ACCOUNTS: usize = 8192;
/// How often accounts are looked through for those that can be forgotten.
const SWEEP: Duration = Duration::from_secs(1);

/// What every client has at the moment, bounded by what is open and what was asked in the last
/// seconds.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    accounts: BTreeMap<Client, Account>,
    swept: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Account {
    /// Look-ups that it may still make, as of `at`; none for one that has made none yet.
    bucket: Option<(f64, Instant)>,
    waiting: u32,
    lanes: u32,
}

impl Ledger {
    /// Counts a look-up. `false`: it is one too many, and is to be refused.
    pub fn look_up(&mut self, client: &Client, now: Instant, quota: &Quota) -> bool {
        if self.swept.is_none_or(|then| now.saturating_duration_since(then) >= SWEEP) {
            self.swept = Some(now);
            self.accounts.retain(|_, account| account.is_busy() || !account.is_full(now, quota));
        }
        let Some(account) = self.account(client) else { return false };
        let tokens = account.tokens(now, quota);
        let is_allowed = tokens >= 1.0;
        let left = if is_allowed { tokens - 1.0 } else { tokens };
        // A clock that stood still, or a caller's older `now`, gives nothing twice.
        let at = account.bucket.map_or(now, |(_, at)| at.max(now));
        account.bucket = Some((left, at));
        is_allowed
    }

    /// Counts a look-up that has to wait for its service. `false`: one too many.
    pub fn wait(&mut self, client: &Client, quota: &Quota) -> bool {
        self.account(client).is_some_and(|account| take(&mut account.waiting, quota.open_lookups))
    }

    /// A look-up waits no more.
    pub fn end_wait(&mut self, client: &Client) {
        self.give_back(client, |account| &mut account.waiting);
    }

    /// Counts a connection. `false`: one too many.
    pub fn open_lane(&mut self, client: &Client, quota: &Quota) -> bool {
        self.account(client).is_some_and(|account| take(&mut account.lanes, quota.lanes))
    }

    /// A connection is closed.
    pub fn close_lane(&mut self, client: &Client) {
        self.give_back(client, |account| &mut account.lanes);
    }

    /// How many connections a user has, all applications together.
    pub fn lanes_of_user(&self, uid: u32) -> usize {
        self.of_user(uid).map(|(_, account)| account.lanes as usize).sum()
    }

    fn of_user(&self, uid: u32) -> impl Iterator<Item = (&Client, &Account)> {
        let first = Client { uid, application: None };
        self.accounts.range(first..).take_while(move |(client, _)| client.uid == uid)
    }

    /// The client's account, a new one if need be and if there is room.
    fn account(&mut self, client: &Client) -> Option<&mut Account> {
        if !self.accounts.contains_key(client) {
            let idle = if self.of_user(client.uid).count() >= ACCOUNTS_OF_A_USER {
                Some(longest_idle(self.of_user(client.uid))?)
            } else if self.accounts.len() >= ACCOUNTS {
                Some(longest_idle(self.accounts.iter())?)
            } else {
                None
            };
            if let Some(idle) = idle {
                self.accounts.remove(&idle);
            }
        }
        let account = || Account { bucket: None, waiting: 0, lanes: 0 };
        Some(self.accounts.entry(client.clone()).or_insert_with(account))
    }

    fn give_back(&mut self, client: &Client, count: impl Fn(&mut Account) -> &mut u32) {
        let Some(account) = self.accounts.get_mut(client) else { return };
        let count = count(account);
        *count = count.saturating_sub(1);
        if !account.is_busy() && account.bucket.is_none() {
            self.accounts.remove(client);
        }
    }
}

/// The one who holds nothing and has asked for nothing the longest.
fn longest_idle<'a>(accounts: impl Iterator<Item = (&'a Client, &'a Account)>) -> Option<Client> {
    let idle = accounts.filter(|(_, account)| !account.is_busy());
    let longest = idle.min_by_key(|(_, account)| account.bucket.map(|(_, at)| at));
    longest.map(|(client, _)| client.clone())
}

fn take(count: &mut u32, most: u32) -> bool {
    let is_allowed = *count < most;
    *count += u32::from(is_allowed);
    is_allowed
}

impl Account {
    fn is_busy(&self) -> bool {
        self.waiting > 0 || self.lanes > 0
    }

    fn is_full(&self, now: Instant, quota: &Quota) -> bool {
        self.tokens(now, quota) >= capacity(quota)
    }

    fn tokens(&self, now: Instant, quota: &Quota) -> f64 {
        self.bucket.map_or(capacity(quota), |(tokens, at)| {
            let new = now.saturating_duration_since(at).as_secs_f64();
            (tokens + new * f64::from(quota.lookups_per_second)).min(capacity(quota))
        })
    }
}

fn capacity(quota: &Quota) -> f64 {
    2.0 * f64::from(quota.lookups_per_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: Quota = Quota { open_lookups: 2, lookups_per_second: 10, lanes: 3 };
    const SECOND: Duration = Duration::from_secs(1);

    fn user(uid: u32) -> Client {
        Client { uid, application: None }
    }

    fn application(uid: u32, name: impl ToString) -> Client {
        Client { uid, application: Some(name.to_string()) }
    }

    fn look_ups(ledger: &mut Ledger, client: &Client, now: Instant, tries: u32) -> u32 {
        (0..tries).map(|_| u32::from(ledger.look_up(client, now, &QUOTA))).sum()
    }

    #[test]
    fn twice_a_seconds_look_ups_may_come_at_once() {
        let mut ledger = Ledger::default();
        let now = Instant::now();
        assert_eq!(look_ups(&mut ledger, &user(1), now, 100), 20);
        assert_eq!(look_ups(&mut ledger, &user(1), now + SECOND / 2, 100), 5);
        assert_eq!(look_ups(&mut ledger, &user(1), now + SECOND, 100), 5);
        assert_eq!(look_ups(&mut ledger, &user(1), now + 60 * SECOND, 100), 20);
    }

    #[test]
    fn a_steady_client_gets_exactly_its_rate() {
        let mut ledger = Ledger::default();
        let now = Instant::now();
        assert_eq!(look_ups(&mut ledger, &user(1), now, 20), 20);
        let allowed: u32 =
            (1..=1000).map(|ms| look_ups(&mut ledger, &user(1), now + ms * SECOND / 100, 1)).sum();
        assert!((99..=100).contains(&allowed), "{allowed}");
    }

    #[test]
    fn an_older_time_gives_nothing_twice() {
        let mut ledger = Ledger::default();
        let now = Instant::now() + 10 * SECOND;
        assert_eq!(look_ups(&mut ledger, &user(1), now, 100), 20);
        for _ in 0..10 {
            assert_eq!(look_ups(&mut ledger, &user(1), now - SECOND, 100), 0);
            assert_eq!(look_ups(&mut ledger, &user(1), now, 100), 0);
        }
    }

    #[test]
    fn users_and_their_applications_are_counted_apart() {
        let mut ledger = Ledger::default();
        let now = Instant::now();
        for client in [user(1), user(2), application(1, "org.a"), application(1, "org.b")] {
            assert_eq!(look_ups(&mut ledger, &client, now, 100), 20);
            assert!(ledger.wait(&client, &QUOTA) && ledger.wait(&client, &QUOTA));
            assert!(!ledger.wait(&client, &QUOTA));
        }
    }

    #[test]
    fn what_is_given_back_may_be_taken_again() {
        let mut ledger = Ledger::default();
        for _ in 0..3 {
            assert!(ledger.open_lane(&user(1), &QUOTA));
        }
        assert!(!ledger.open_lane(&user(1), &QUOTA));
        ledger.close_lane(&user(1));
        assert!(ledger.open_lane(&user(1), &QUOTA));
        assert!(!ledger.open_lane(&user(1), &QUOTA));
        assert!(ledger.wait(&user(1), &QUOTA));
        ledger.end_wait(&user(1));
        assert!(ledger.wait(&user(1), &QUOTA));
    }

    #[test]
    fn giving_back_what_was_not_taken_does_nothing() {
        let mut ledger = Ledger::default();
        ledger.close_lane(&user(1));
        ledger.end_wait(&user(1));
        assert!(ledger.accounts.is_empty());
        assert!(ledger.open_lane(&user(1), &QUOTA));
        ledger.end_wait(&user(1));
        ledger.close_lane(&user(1));
        ledger.close_lane(&user(1));
        assert!(ledger.accounts.is_empty());
    }

    #[test]
    fn a_smaller_quota_counts_at_once() {
        let mut ledger = Ledger::default();
        let now = Instant::now();
        assert!(ledger.look_up(&user(1), now, &QUOTA));
        assert!(ledger.open_lane(&user(1), &QUOTA) && ledger.open_lane(&user(1), &QUOTA));
        let small = Quota { open_lookups: 1, lookups_per_second: 1, lanes: 1 };
        assert!(!ledger.open_lane(&user(1), &small));
        let allowed = (0..100).filter(|_| ledger.look_up(&user(1), now, &small)).count();
        assert_eq!(allowed, 2);
    }

    #[test]
    fn who_holds_nothing_is_forgotten_after_two_seconds() {
        let mut ledger = Ledger::default();
        let now = Instant::now();
        for uid in 0..100 {
            look_ups(&mut ledger, &user(uid), now, 100);
        }
        assert!(ledger.open_lane(&user(7), &QUOTA));
        look_ups(&mut ledger, &user(1000), now + SECOND, 1);
        assert_eq!(ledger.accounts.len(), 101);
        look_ups(&mut ledger, &user(1000), now + 2 * SECOND, 1);
        assert_eq!(ledger.accounts.len(), 2);
        ledger.close_lane(&user(7));
        look_ups(&mut ledger, &user(1000), now + 3 * SECOND, 1);
        assert_eq!(ledger.accounts.len(), 1);
    }

    #[test]
    fn made_up_applications_take_no_room_and_nobody_elses_account() {
        let mut ledger = Ledger::default();
        let now = Instant::now();
        look_ups(&mut ledger, &user(1), now, 100);
        assert!(ledger.open_lane(&application(2, "org.other"), &QUOTA));
        for name in 0..10_000 {
            assert!(ledger.look_up(&application(2, name), now + SECOND / 2, &QUOTA));
        }
        assert_eq!(ledger.accounts.len(), ACCOUNTS_OF_A_USER + 1);
        assert_eq!(look_ups(&mut ledger, &user(1), now + SECOND / 2, 100), 5);
        assert!(ledger.accounts.contains_key(&application(2, "org.other")));
        // Those that hold something stay, and then there is room for no more of them.
        let taken =
            (0..10_000).filter(|name| ledger.open_lane(&application(3, name), &QUOTA)).count();
        assert_eq!(taken, ACCOUNTS_OF_A_USER);
        assert!(!ledger.look_up(&application(3, "org.late"), now, &QUOTA));
        assert!(ledger.look_up(&application(4, "org.late"), now, &QUOTA));
    }

    #[test]
    fn there_is_room_for_so_many_clients_only() {
        let mut ledger = Ledger::default();
        let now = Instant::now();
        for uid in 0..ACCOUNTS as u32 + 100 {
            assert!(ledger.look_up(&user(uid), now, &QUOTA));
        }
        assert_eq!(ledger.accounts.len(), ACCOUNTS);
        for client in ledger.accounts.keys().cloned().collect::<Vec<_>>() {
            assert!(ledger.wait(&client, &QUOTA));
        }
        assert!(!ledger.wait(&user(u32::MAX), &QUOTA));
        assert!(!ledger.look_up(&user(u32::MAX), now, &QUOTA));
        ledger.end_wait(&user(ACCOUNTS as u32));
        assert!(ledger.look_up(&user(u32::MAX), now, &QUOTA));
    }
}
