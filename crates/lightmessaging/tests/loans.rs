//! Loans: memory that is filled in place and sent, in both directions.

mod common;

use std::time::Duration;

use common::{
    Call, ECHO, Folder, HANG, LOG, LOGGED, Process, Running, pattern, play, server, tell, until,
};
use lightmessaging::{Connection, Error, INLINE_MAX, Loan, PAYLOAD_MAX, Request, Service};

/// Answered with as many bytes on loan as the payload is long, each one greater.
const RAISE: i32 = 20;
/// Answered with how many kilobytes of private memory and how many regions the service has.
const MEMORY: i32 = 21;
/// Allocates as many loans for a reply as there are, drops all but one, and sends that.
const HOARD: i32 = 22;

const LARGE: usize = 64 << 20;

#[test]
fn role() {
    play(&[("server", server), ("raiser", raiser), ("giant", giant)]);
}

/// Sums in pieces, so that the whole is never copied.
fn is_filled_with(response: &lightmessaging::Response, byte: u8) -> bool {
    let mut is_so = true;
    response.payload().chunks(|piece| is_so &= piece == vec![byte; piece.len()]);
    is_so
}

/// Kilobytes of private memory, and regions that are mapped.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let regions = maps.lines().filter(|line| line.contains("memfd:lightmessaging")).count();
    format!("{} {regions}", line.trim().trim_end_matches(" kB"))
}

fn parse(memory: &[u8]) -> (usize, usize) {
    let text = String::from_utf8_lossy(memory);
    let (private, regions) = text.split_once(' ').unwrap();
    (private.parse().unwrap(), regions.parse().unwrap())
}

/// A role: a service that answers on loan.
fn raiser(arguments: &[String]) {
    let mut service = Service::start(&arguments[0], |request| {
        let answered = match request.id() {
            RAISE => raise(request),
            MEMORY => request.reply(memory()),
            HOARD => hoard(request),
            _ => request.reply([]),
        };
        answered.unwrap();
    })
    .unwrap();
    tell("ready");
    service.run().unwrap();
}

fn raise(request: Request) -> lightmessaging::Result<()> {
    let mut loan = request.alloc_reply(request.len())?;
    let mut at = 0;
    request.payload().chunks(|piece| {
        let raised = vec![piece[0] + 1; piece.len()];
        loan[at..at + piece.len()].copy_from_slice(&raised);
        at += piece.len();
    });
    request.reply(loan)
}

fn hoard(request: Request) -> lightmessaging::Result<()> {
    let reply = request.into_reply();
    let mut loans = Vec::new();
    let error = loop {
        match reply.alloc(5000) {
            Ok(loan) => loans.push(loan),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::QueueFull { .. }), "{error}");
    let count = loans.len().to_string();
    let mut last = loans.pop().unwrap();
    drop(loans);
    last.truncate(count.len());
    last.copy_from_slice(count.as_bytes());
    reply.reply(last)
}

/// A role: sends and receives a great deal on loan, and looks how much memory that takes.
fn giant(arguments: &[String]) {
    let connection = Connection::new(&arguments[0]).unwrap();
    let theirs = || parse(connection.send_two_way(MEMORY, []).unwrap().data());
    // Whatever is made on first use is made.
    drop(connection.send_two_way(RAISE, connection.alloc(100_000).unwrap()).unwrap());
    let (here, there) = (parse(memory().as_bytes()).0, theirs().0);
    for round in 1..4 {
        let mut loan = connection.alloc(LARGE).unwrap();
        loan.fill(round);
        let response = connection.send_two_way(RAISE, loan).unwrap();
        assert_eq!(response.len(), LARGE);
        assert!(is_filled_with(&response, round + 1));
    }
    let limit = LARGE / 1024 / 4;
    let (grown_here, grown_there) = (parse(memory().as_bytes()).0, theirs().0);
    assert!(grown_here < here + limit, "{here} kB became {grown_here}");
    assert!(grown_there < there + limit, "{there} kB became {grown_there}");
    tell("fine");
}

fn filled(connection: &Connection, bytes: &[u8]) -> Loan {
    let mut loan = connection.alloc(bytes.len()).unwrap();
    loan.copy_from_slice(bytes);
    loan
}

fn logged(connection: &Connection) -> String {
    String::from_utf8_lossy(connection.send_two_way(LOGGED, []).unwrap().data()).into_owned()
}

fn serve(name: &str) -> (Folder, Process, Connection) {
    let folder = Folder::new();
    let server = folder.serve("server", &[name]);
    let connection = folder.connect(name);
    (folder, server, connection)
}

#[test]
fn a_loan_is_filled_and_read_in_place_and_takes_no_other_memory() {
    let folder = Folder::new();
    let _server = folder.serve("raiser", &["x"]);
    let mut client = folder.start("giant", &["x"]);
    client.expect("fine");
    client.finish();
}

#[test]
fn a_loan_of_any_length_arrives() {
    let (_folder, _server, connection) = serve("x");
    for len in [0, 1, 100, INLINE_MAX, INLINE_MAX + 1, 100_000, 3 << 20] {
        let sent = pattern(len);
        let loan = filled(&connection, &sent);
        assert_eq!(*loan, *sent);
        assert!(connection.send_two_way(ECHO, loan).unwrap().data() == sent, "{len}");
    }
    for word in ["", "one", "two"] {
        connection.send_one_way(LOG, filled(&connection, word.as_bytes())).unwrap();
    }
    connection.send_one_way(LOG, "three").unwrap();
    assert_eq!(logged(&connection), " one two three");
}

#[test]
fn a_reply_on_loan_may_be_small_too() {
    let folder = Folder::new();
    let service = folder.service("x").start(|request| {
        let mut loan = request.alloc_reply(10).unwrap();
        assert!(format!("{loan:?}").contains("len: 10"));
        loan.copy_from_slice(b"0123456789");
        loan.truncate(request.len());
        request.reply(loan).unwrap();
    });
    let _running = Running::new(service.unwrap());
    let connection = folder.connect("x");
    for len in [0, 1, 9, 10, 11] {
        let response = connection.send_two_way(1, pattern(len)).unwrap();
        assert_eq!(response.data(), &b"0123456789"[..len.min(10)]);
        assert_eq!(response.payload().to_vec(), response.data());
    }
}

#[test]
fn a_loan_is_cut_to_what_was_used() {
    let (_folder, _server, connection) = serve("x");
    let mut loan = connection.alloc(1 << 20).unwrap();
    loan.truncate(2 << 20);
    assert_eq!(loan.len(), 1 << 20);
    loan[..5].copy_from_slice(b"hello");
    loan.truncate(5);
    assert_eq!(connection.send_two_way(ECHO, loan).unwrap().data(), b"hello");
}

#[test]
fn one_region_serves_for_all_loans_that_follow_each_other() {
    let folder = Folder::new();
    let _server = folder.serve("raiser", &["x"]);
    let connection = folder.connect("x");
    let regions = || parse(connection.send_two_way(MEMORY, []).unwrap().data()).1;
    let raise = || {
        let mut loan = connection.alloc(1 << 20).unwrap();
        loan.fill(1);
        assert!(is_filled_with(&connection.send_two_way(RAISE, loan).unwrap(), 2));
    };
    let before = regions();
    for _ in 0..100 {
        raise();
    }
    assert_eq!(regions(), before + 2, "one of the client's, one of the service's");
}

#[test]
fn loans_that_are_not_sent_go_back() {
    let (_folder, _server, connection) = serve("x");
    for _ in 0..100 {
        drop(connection.alloc(5000).unwrap());
    }
    let mut loans: Vec<_> = (0..32).map(|_| connection.alloc(5000).unwrap()).collect();
    let moment = Duration::from_millis(30);
    let error = connection.alloc_within(5000, moment).unwrap_err();
    assert!(matches!(error, Error::QueueFull { .. }), "{error}");
    let error = connection.send_two_way_within(ECHO, pattern(5000), moment).unwrap_err();
    assert!(matches!(error, Error::QueueFull { .. }), "{error}");
    let mut last = loans.pop().unwrap();
    last.copy_from_slice(&pattern(5000));
    let response = connection.send_two_way_within(ECHO, last, HANG).unwrap();
    assert!(response.data() == pattern(5000), "one that is there needs no other");
    drop(loans);
    let _again: Vec<_> = (0..32).map(|_| connection.alloc(5000).unwrap()).collect();
}

#[test]
fn who_waits_for_a_loan_gets_the_one_that_another_thread_drops() {
    let (_folder, _server, connection) = serve("x");
    for _ in 0..20 {
        let mut loans: Vec<_> = (0..32).map(|_| connection.alloc(5000).unwrap()).collect();
        let waiting = {
            let connection = connection.clone();
            std::thread::spawn(move || connection.alloc_within(5000, HANG).map(drop))
        };
        std::thread::sleep(Duration::from_millis(2));
        drop(loans.pop());
        waiting.join().unwrap().unwrap();
    }
}

#[test]
fn threads_take_and_send_loans_side_by_side() {
    let (_folder, _server, connection) = serve("x");
    std::thread::scope(|scope| {
        for thread in 0..40usize {
            let connection = &connection;
            scope.spawn(move || {
                for round in 0..25 {
                    let text = format!("{thread} {round}").repeat(500);
                    let loan = filled(connection, text.as_bytes());
                    if (thread + round).is_multiple_of(3) {
                        connection.send_one_way(0, loan).unwrap();
                        continue;
                    }
                    let response = connection.send_two_way(ECHO, loan).unwrap();
                    assert!(response.data() == text.as_bytes());
                }
            });
        }
    });
}

#[test]
fn a_service_may_have_as_many_loans_as_regions() {
    let folder = Folder::new();
    let _server = folder.serve("raiser", &["x"]);
    let connection = folder.connect("x");
    for _ in 0..3 {
        assert_eq!(connection.send_two_way(HOARD, []).unwrap().data(), b"32");
    }
}

#[test]
#[cfg(target_pointer_width = "64")]
fn what_is_too_large_is_not_lent() {
    let (_folder, _server, connection) = serve("x");
    let error = connection.alloc(PAYLOAD_MAX as usize + 1).unwrap_err();
    assert!(matches!(error, Error::TooLarge { len, .. } if len == PAYLOAD_MAX + 1), "{error}");
}

#[test]
fn there_is_no_loan_without_a_service() {
    let error = Folder::new().connect("nobody").alloc(1).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

#[test]
fn a_loan_is_sent_to_a_service_that_was_started_anew_meanwhile() {
    for len in [10, 100_000] {
        let (folder, mut server, connection) = serve("x");
        let text = "text".repeat(len / 4);
        let [first, second, unused] = [0; 3].map(|_| filled(&connection, text.as_bytes()));
        server.kill();
        let _server = folder.serve("server", &["x"]);
        assert_eq!(connection.send_two_way(ECHO, first).unwrap().data(), text.as_bytes());
        connection.send_one_way(LOG, second).unwrap();
        assert_eq!(logged(&connection), text);
        drop(unused);
    }
}

#[test]
fn a_call_on_loan_that_was_not_taken_goes_to_the_next_service() {
    let folder = Folder::new();
    let mut server = folder.serve("server", &["x"]);
    let connection = folder.connection("x").wait_for_service(HANG).build().unwrap();
    connection.send_two_way(ECHO, []).unwrap();
    server.freeze();
    let text = pattern(50_000);
    let call = {
        let (connection, text) = (connection.clone(), text.clone());
        std::thread::spawn(move || {
            let loan = filled(&connection, &text);
            connection.send_two_way(ECHO, loan)
        })
    };
    // It may or may not be in the lane by now: it is sent again, or for the first time.
    std::thread::sleep(Duration::from_millis(50));
    server.kill();
    let _server = folder.serve("server", &["x"]);
    assert!(call.join().unwrap().unwrap().data() == text);
}

#[test]
fn one_way_loans_that_were_not_taken_go_to_the_next_service_in_order() {
    let (folder, mut server, connection) = serve("x");
    connection.send_two_way(ECHO, []).unwrap();
    server.freeze();
    let texts: Vec<_> = ["a", "b", "c"].iter().map(|text| text.repeat(30_000)).collect();
    for text in &texts {
        connection.send_one_way(LOG, filled(&connection, text.as_bytes())).unwrap();
    }
    // Filled, but not sent: nobody sends it.
    let _unsent = filled(&connection, b"unsent");
    server.kill();
    let _server = folder.serve("server", &["x"]);
    connection.send_one_way(LOG, "d").unwrap();
    assert!(logged(&connection) == format!("{} d", texts.join(" ")));
}

#[test]
fn a_loan_that_nobody_takes_ends_with_the_deadline_and_goes_back() {
    let (_folder, server, connection) = serve("x");
    connection.send_two_way(ECHO, []).unwrap();
    server.freeze();
    let moment = Duration::from_millis(20);
    let mut sent = 0;
    // Small ones first, until the ring is full.
    while connection.send_one_way_within(LOG, "x".repeat(1000), moment).is_ok() {
        sent += 1;
    }
    for _ in 0..100 {
        let loan = connection.alloc_within(5000, moment).unwrap();
        if connection.send_one_way_within(0, loan, Duration::from_millis(1)).is_err() {
            break;
        }
    }
    let loan = filled(&connection, b"late");
    let error = connection.send_one_way_within(LOG, loan, moment).unwrap_err();
    assert!(matches!(error, Error::QueueFull { .. }), "{error}");
    server.thaw();
    assert_eq!(logged(&connection).split(' ').count(), sent);
}

#[test]
fn a_loan_is_sent_where_it_does_not_come_from() {
    let (folder, _server, connection) = serve("x");
    let _other = folder.serve("server", &["y"]);
    let other = folder.connect("y");
    for len in [10, 100_000] {
        let sent = pattern(len);
        assert!(other.send_two_way(ECHO, filled(&connection, &sent)).unwrap().data() == sent);
    }
    // A message's as a reply, and a reply's as a message.
    let there = other.clone();
    let service = folder.service("z").start(move |request| {
        let mut loan = request.alloc_reply(request.len()).unwrap();
        request.payload().read_at(0, &mut loan);
        let echoed = there.send_two_way(ECHO, loan).unwrap();
        let reply = filled(&there, echoed.data());
        request.reply(reply).unwrap();
    });
    let _running = Running::new(service.unwrap());
    let connection = folder.connect("z");
    for len in [10, 100_000] {
        let sent = pattern(len);
        assert!(connection.send_two_way(1, &sent).unwrap().data() == sent);
    }
}

#[test]
fn a_loan_outlives_its_connection_and_holds_nothing_open() {
    let (folder, mut server, connection) = serve("x");
    let mut loan = filled(&connection, b"first");
    until(|| folder.registry().services().unwrap()[0].connections == 1);
    drop(connection);
    until(|| folder.registry().services().unwrap()[0].connections == 0);
    loan.copy_from_slice(b"still");
    let connection = folder.connect("x");
    assert_eq!(connection.send_two_way(ECHO, loan).unwrap().data(), b"still");
    let mut loan = filled(&connection, b"first");
    server.kill();
    drop((folder, connection));
    loan.fill(b'x');
    assert_eq!(*loan, *b"xxxxx");
}

#[test]
fn a_loan_for_a_client_that_has_gone_is_nobodys() {
    let folder = Folder::new();
    let (sender, requests) = std::sync::mpsc::channel();
    let service = folder.service("x").start(move |request| sender.send(request).unwrap());
    let _running = Running::new(service.unwrap());
    let connection = folder.connect("x");
    let call = Call::start(&connection, 1, b"hello");
    let request = requests.recv_timeout(HANG).unwrap();
    let mut loan = request.alloc_reply(5000).unwrap();
    loan.fill(1);
    request.reply(loan).unwrap();
    assert!(is_filled_with(&call.end().unwrap(), 1));
    connection.send_one_way(1, "one-way").unwrap();
    let request = requests.recv_timeout(HANG).unwrap();
    let loan = request.alloc_reply(5000).unwrap();
    request.reply(loan).unwrap();
    connection.send_one_way(1, "one-way").unwrap();
    let request = requests.recv_timeout(HANG).unwrap();
    let mut loan = request.alloc_reply(5000).unwrap();
    drop(connection);
    until(|| request.is_cancelled());
    loan.fill(2);
    request.reply(loan).unwrap();
}

#[test]
fn old_calls_keep_compiling() {
    let (_folder, _server, connection) = serve("x");
    let (vec, string) = (vec![1, 2], String::from("text"));
    connection.send_one_way(0, []).unwrap();
    connection.send_one_way(0, "text").unwrap();
    connection.send_one_way(0, b"text").unwrap();
    connection.send_one_way(0, &vec).unwrap();
    connection.send_one_way(0, vec).unwrap();
    connection.send_one_way(0, &string).unwrap();
    connection.send_one_way(0, &string[1..]).unwrap();
    connection.send_one_way(0, [1, 2]).unwrap();
    let response = connection.send_two_way(ECHO, string).unwrap();
    connection.send_one_way(0, response.data()).unwrap();
    connection.send_one_way(0, Box::<[u8]>::from([1])).unwrap();
}
