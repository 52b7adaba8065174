//! Both sends as futures, without any runtime.

mod common;
#[path = "common/executor.rs"]
mod executor;

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use common::{
    Call, DROP, ECHO, Folder, HANG, HANG_UP, LATER, LOG, LOGGED, Running, descriptors, hear,
    pattern, play, server, tell, until,
};
use executor::{Set, block_on, poll_once};
use lightmessaging::{Connection, Deadline, Error, Events, Service};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

#[test]
fn role() {
    play(&[("server", server), ("busy", busy), ("alone", alone)]);
}

/// A client with many calls in flight that ends at once when it is told to.
fn busy(arguments: &[String]) {
    let connection = Connection::builder(&arguments[0]).calls_in_flight(64).build().unwrap();
    let events = connection.events().unwrap();
    let calls = (0..1000).map(|_| connection.send_two_way_async(LATER, "1000"));
    let mut calls = Set::new(&events, calls);
    calls.run_until_it_sleeps();
    tell("sent");
    hear();
    std::process::abort();
}

/// Makes calls and drops them, and says how many descriptors it has then.
fn alone(arguments: &[String]) {
    let connection = Connection::new(&arguments[0]).unwrap();
    let events = connection.events().unwrap();
    let mut before = 0;
    for round in 0..20 {
        for _ in 0..100 {
            let calls = (0..12).map(|_| connection.send_two_way_async(LATER, "0"));
            let mut calls = Set::new(&events, calls);
            calls.turn();
        }
        let posts = (0..100).map(|_| connection.send_one_way_async(0, pattern(5000)));
        assert!(Set::new(&events, posts).join().iter().all(Result::is_ok));
        assert!(block_on(&events, connection.send_two_way_async(ECHO, "x")).is_ok());
        if round == 10 {
            before = descriptors(std::process::id());
        }
    }
    let after = descriptors(std::process::id());
    tell(if after <= before { "as many".to_owned() } else { format!("{before} and {after}") });
}

fn timed_out(error: &Error) -> Option<bool> {
    if let Error::TimedOut { delivered, .. } = error { Some(*delivered) } else { None }
}

fn text(response: lightmessaging::Response) -> String {
    String::from_utf8(response.into_vec()).unwrap()
}

#[test]
fn futures_go_to_any_thread_and_nothing_is_sent_before_the_first_poll() {
    fn is_free<T: Send + Unpin + 'static>(_: &T) {}
    let folder = Folder::new();
    let connection = folder.connect("x");
    let call = connection.send_two_way_async(LOG, b"call".to_vec());
    let post = connection.send_one_way_async(LOG, "post");
    is_free(&call);
    is_free(&post);
    let _server = folder.serve("server", &["x"]);
    drop((call, post));
    assert!(connection.send_two_way(LOGGED, []).unwrap().is_empty());
}

#[test]
fn a_thousand_calls_are_in_flight_from_one_thread() {
    let folder = Folder::new();
    let _server = folder.serve("server", &["x"]);
    for slots in [1, 2, 8, 63, 64] {
        let connection = folder.connection("x").calls_in_flight(slots).build().unwrap();
        let events = connection.events().unwrap();
        let payload = |n: usize| pattern(if n.is_multiple_of(50) { n * 40 } else { n });
        let calls = (0..1000).map(|n| connection.send_two_way_async(ECHO, payload(n)));
        for (n, answer) in Set::new(&events, calls).join().into_iter().enumerate() {
            assert!(answer.unwrap().data() == payload(n), "{n} of {slots}");
        }
    }
}

#[test]
fn answers_in_any_order_reach_whoever_waits_for_them() {
    let folder = Folder::new();
    let _server = folder.serve("server", &["x"]);
    let connection = folder.connect("x");
    let events = connection.events().unwrap();
    // More than there are slots, the last to be answered first among those that are.
    let mut calls: Vec<_> = (0..24)
        .map(|n: u64| connection.send_two_way_async(LATER, (60 - n % 8 * 8).to_string()))
        .collect();
    let order = std::cell::RefCell::new(Vec::new());
    let calls = calls.drain(..).enumerate().map(|(n, call)| {
        let order = &order;
        async move {
            let answer = call.await;
            order.borrow_mut().push(n);
            answer
        }
    });
    for answer in Set::new(&events, calls).join() {
        assert_eq!(answer.unwrap().data(), b"late");
    }
    let order = order.into_inner();
    let place = |n: usize| order.iter().position(|m| *m == n).unwrap();
    assert!(place(7) < place(0), "{order:?}");
}

#[test]
fn messages_are_sent_in_the_order_of_their_first_polls() {
    let folder = Folder::new();
    let server = folder.serve("server", &["x"]);
    let connection = folder.connection("x").deadline(HANG).build().unwrap();
    connection.send_two_way(ECHO, []).unwrap();
    server.freeze();
    let events = connection.events().unwrap();
    let sends = (0..200).map(|n| {
        let connection = &connection;
        async move {
            if n % 10 == 5 {
                return connection.send_two_way_async(LOGGED, []).await.map(text);
            }
            // Some do not fit beside each other, and some go out of line.
            let len = [10, 4000, 9000][n % 3];
            let sent = connection.send_one_way_async(LOG, format!("{n:0len$}")).await;
            sent.map(|()| String::new())
        }
    });
    let mut sends = Set::new(&events, sends);
    sends.run_until_it_sleeps();
    assert!(sends.ready() < 200);
    server.thaw();
    let answers = sends.join();
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let logged = connection.send_two_way(LOGGED, []).unwrap();
    let numbers: Vec<usize> = text(logged).split(' ').map(|text| text.parse().unwrap()).collect();
    assert_eq!(numbers, (0..200).filter(|n| n % 10 != 5).collect::<Vec<_>>());
    // What a call saw of the log is what was sent before it.
    for (n, answer) in answers.into_iter().enumerate().filter(|(n, _)| n % 10 == 5) {
        let seen = answer.unwrap();
        let last: usize = seen.rsplit(' ').next().unwrap().parse().unwrap();
        assert_eq!(last, n - 1);
    }
}

#[test]
fn a_dropped_call_that_was_not_taken_does_not_run() {
    let folder = Folder::new();
    let server = folder.serve("server", &["x"]);
    let connection = folder.connect("x");
    connection.send_two_way(ECHO, []).unwrap();
    let events = connection.events().unwrap();
    server.freeze();
    // In a slot, in line for one, and one that is kept.
    let calls = (0..20).map(|n| connection.send_two_way_async(LOG, n.to_string()));
    let mut calls = Set::new(&events, calls);
    calls.run_until_it_sleeps();
    (0..20).filter(|n| *n != 13).for_each(|n| calls.cancel(n));
    server.thaw();
    calls.run_until(20);
    let logged = text(connection.send_two_way(LOGGED, []).unwrap());
    assert_eq!(logged, "13");
}

#[test]
fn slots_of_dropped_calls_come_free_for_those_that_wait() {
    let folder = Folder::new();
    let server = folder.serve("server", &["x"]);
    let connection = folder.connection("x").calls_in_flight(2).build().unwrap();
    connection.send_two_way(ECHO, []).unwrap();
    let events = connection.events().unwrap();
    for _ in 0..20 {
        server.freeze();
        let mut given_up =
            Set::new(&events, (0..2).map(|_| connection.send_two_way_async(ECHO, [])));
        given_up.turn();
        // Before and after others wait.
        given_up.cancel(0);
        let mut waiting =
            Set::new(&events, (0..3).map(|_| connection.send_two_way_async(ECHO, "x")));
        waiting.run_until_it_sleeps();
        assert_eq!(waiting.ready(), 0);
        given_up.cancel(1);
        server.thaw();
        assert!(waiting.join().into_iter().all(|answer| answer.unwrap().data() == b"x"));
    }
}

#[test]
fn a_slot_that_a_thread_gives_up_comes_free_for_a_future() {
    let folder = Folder::new();
    let server = folder.serve("server", &["x"]);
    let connection = folder.connection("x").calls_in_flight(1).build().unwrap();
    connection.send_two_way(ECHO, []).unwrap();
    let events = connection.events().unwrap();
    server.freeze();
    let short = Duration::from_millis(20);
    let error = connection.send_two_way_within(ECHO, [], short).unwrap_err();
    assert_eq!(timed_out(&error), Some(false), "{error}");
    let mut call = Set::new(&events, [connection.send_two_way_async(ECHO, "future")]);
    call.run_until_it_sleeps();
    server.thaw();
    assert_eq!(call.join().pop().unwrap().unwrap().data(), b"future");
}

#[test]
fn a_one_way_message_is_sent_once_there_is_room_or_not_at_all() {
    let folder = Folder::new();
    let server = folder.serve("server", &["x"]);
    let connection = folder.connection("x").deadline(HANG).build().unwrap();
    connection.send_two_way(ECHO, []).unwrap();
    let events = connection.events().unwrap();
    server.freeze();
    let posts = (0..600).map(|n| connection.send_one_way_async(LOG, format!("{n:0500}")));
    let mut posts = Set::new(&events, posts);
    posts.run_until_it_sleeps();
    let sent = posts.ready();
    assert!((50..200).contains(&sent), "{sent}");
    let late = connection.send_one_way_async(LOG, "late").within(Duration::from_millis(10));
    let error = block_on(&events, late).unwrap_err();
    assert!(matches!(error, Error::QueueFull { .. }), "{error}");
    for n in (sent..600).filter(|n| n % 2 == 0) {
        posts.cancel(n);
    }
    server.thaw();
    posts.run_until(600);
    let logged = text(connection.send_two_way(LOGGED, []).unwrap());
    let expected = (0..600).filter(|n| *n < sent || n % 2 == 1).map(|n| format!("{n:0500}"));
    assert!(logged == expected.collect::<Vec<_>>().join(" "));
}

#[test]
fn large_messages_wait_for_regions() {
    let folder = Folder::new();
    let server = folder.serve("server", &["x"]);
    let connection = folder.connection("x").deadline(HANG).build().unwrap();
    connection.send_two_way(ECHO, []).unwrap();
    let events = connection.events().unwrap();
    server.freeze();
    let large = |n: usize| format!("{n:05000}");
    let posts = (0..150).map(|n| connection.send_one_way_async(LOG, large(n)));
    let mut posts = Set::new(&events, posts);
    posts.run_until_it_sleeps();
    assert!(posts.ready() < 150);
    server.thaw();
    assert!(posts.join().into_iter().all(|sent| sent.is_ok()));
    let logged = text(connection.send_two_way(LOGGED, []).unwrap());
    assert!(logged == (0..150).map(large).collect::<Vec<_>>().join(" "));
}

#[test]
fn loans_are_sent_by_futures_and_go_back_with_them() {
    let folder = Folder::new();
    let mut server = folder.serve("server", &["x"]);
    let connection = folder.connection("x").wait_for_service(HANG).deadline(HANG).build().unwrap();
    let events = connection.events().unwrap();
    let loan = |len: usize| {
        let mut loan = connection.alloc(len).unwrap();
        loan.copy_from_slice(&pattern(len));
        loan
    };
    for round in 0..10 {
        let calls = (0..20).map(|n| connection.send_two_way_async(ECHO, loan(round + n * 1000)));
        for (n, answer) in Set::new(&events, calls).join().into_iter().enumerate() {
            assert!(answer.unwrap().data() == pattern(round + n * 1000));
        }
        // Dropped before and after they were sent, all regions are there again.
        let calls = (0..32).map(|_| connection.send_two_way_async(ECHO, loan(5000)));
        let mut calls = Set::new(&events, calls);
        if round % 2 == 1 {
            calls.turn();
        }
    }
    server.freeze();
    let calls = (0..20).map(|n| connection.send_two_way_async(ECHO, loan(n * 300)));
    let mut calls = Set::new(&events, calls);
    calls.run_until_it_sleeps();
    server.kill();
    // To the next service they are copied.
    let _next = folder.serve("server", &["x"]);
    for (n, answer) in calls.join().into_iter().enumerate() {
        assert!(answer.unwrap().data() == pattern(n * 300));
    }
}

#[test]
fn deadlines_fire_wherever_a_message_is() {
    let folder = Folder::new();
    let mut server = folder.serve("server", &["x"]);
    let connection = folder.connect("x");
    connection.send_two_way(ECHO, []).unwrap();
    let events = connection.events().unwrap();
    let within = |n: u64| Duration::from_millis(30 + n);
    let taken = connection.send_two_way_async(HANG_UP, []).within(Duration::from_millis(200));
    let mut taken = Set::new(&events, [taken]);
    taken.run_until_it_sleeps();
    server.expect("took");
    let calls = (0..20).map(|n| connection.send_two_way_async(LOG, "x").within(within(n)));
    let (mut late, mut full) = (0, 0);
    for answer in Set::new(&events, calls).join() {
        match answer.unwrap_err() {
            Error::TimedOut { delivered: false, .. } => late += 1,
            Error::QueueFull { .. } => full += 1,
            error => panic!("{error}"),
        }
    }
    assert_eq!((late, full), (7, 13));
    let error = taken.join().pop().unwrap().unwrap_err();
    assert_eq!(timed_out(&error), Some(true), "{error}");
    let _ = &mut server;
}

#[test]
fn all_that_wait_end_when_the_service_dies() {
    let folder = Folder::new();
    let mut server = folder.serve("server", &["x"]);
    let connection = folder.connection("x").deadline(Deadline::Never).build().unwrap();
    let events = connection.events().unwrap();
    for _ in 0..3 {
        let calls = (0..100).map(|_| connection.send_two_way_async(HANG_UP, []));
        let mut calls = Set::new(&events, calls);
        calls.turn();
        server.expect("took");
        server.kill();
        let (mut died, mut others) = (0, 0);
        for answer in calls.join() {
            match answer.unwrap_err() {
                Error::PeerDied { .. } => died += 1,
                Error::NotDelivered { .. } | Error::NotFound { .. } => others += 1,
                error => panic!("{error}"),
            }
        }
        assert_eq!((died, others), (1, 99));
        server = folder.serve("server", &["x"]);
        assert!(block_on(&events, connection.send_two_way_async(ECHO, [])).is_ok());
    }
}

#[test]
fn what_was_not_taken_goes_to_the_next_service() {
    let folder = Folder::new();
    let mut server = folder.serve("server", &["x"]);
    let connection = folder.connection("x").wait_for_service(HANG).deadline(HANG).build().unwrap();
    connection.send_two_way(ECHO, []).unwrap();
    let events = connection.events().unwrap();
    server.freeze();
    let sends = (0..430).map(|n| {
        let connection = &connection;
        async move {
            if n < 30 {
                return connection.send_two_way_async(ECHO, n.to_string()).await.map(text);
            }
            let sent = connection.send_one_way_async(LOG, format!("{n:0400}")).await;
            sent.map(|()| n.to_string())
        }
    });
    let mut sends = Set::new(&events, sends);
    sends.run_until_it_sleeps();
    server.kill();
    sends.run_until_it_sleeps();
    assert_eq!(sends.ready(), 0);
    let _next = folder.serve("server", &["x"]);
    for (n, sent) in sends.join().into_iter().enumerate() {
        assert_eq!(sent.unwrap(), n.to_string());
    }
    let logged = text(connection.send_two_way(LOGGED, []).unwrap());
    let expected: Vec<_> = (30..430).map(|n| format!("{n:0400}")).collect();
    assert!(logged == expected.join(" "));
}

#[test]
fn a_service_that_is_not_there_is_not_found_or_waited_for() {
    let folder = Folder::new();
    let connection = folder.connect("x");
    let events = connection.events().unwrap();
    let error = block_on(&events, connection.send_two_way_async(ECHO, [])).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let short = Duration::from_millis(30);
    let impatient = folder.connection("x").wait_for_service(short).build().unwrap();
    let events = impatient.events().unwrap();
    let error = block_on(&events, impatient.send_one_way_async(ECHO, [])).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let patient = folder.connection("x").wait_for_service(HANG).build().unwrap();
    let events = patient.events().unwrap();
    let calls = (0..20).map(|_| patient.send_two_way_async(ECHO, "x"));
    let mut calls = Set::new(&events, calls);
    calls.run_until_it_sleeps();
    assert_eq!(calls.ready(), 0);
    let _server = folder.serve("server", &["x"]);
    assert!(calls.join().iter().all(Result::is_ok));
}

#[test]
fn a_service_that_drops_a_request_says_so() {
    let folder = Folder::new();
    let _server = folder.serve("server", &["x"]);
    let connection = folder.connect("x");
    let events = connection.events().unwrap();
    let calls = (0..50).map(|_| connection.send_two_way_async(DROP, []));
    for answer in Set::new(&events, calls).join() {
        assert!(matches!(answer, Err(Error::NoReply { .. })));
    }
}

#[test]
fn threads_and_futures_share_the_slots() {
    let folder = Folder::new();
    let _server = folder.serve("server", &["x"]);
    let connection = folder.connection("x").calls_in_flight(3).deadline(HANG).build().unwrap();
    let events = connection.events().unwrap();
    let threads: Vec<_> = (0..4u64)
        .map(|thread| {
            let connection = connection.clone();
            std::thread::spawn(move || {
                for n in 0..500 {
                    // Some are given up.
                    let sent = (thread << 32 | n).to_ne_bytes();
                    let short = Duration::from_micros(n % 40 * 5);
                    match connection.send_two_way_within(ECHO, sent, short) {
                        Ok(answer) => assert_eq!(answer.data(), sent),
                        Err(Error::TimedOut { .. } | Error::QueueFull { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                    let answer = connection.send_two_way(ECHO, sent).unwrap();
                    assert_eq!(answer.data(), sent);
                }
            })
        })
        .collect();
    for round in 0..10 {
        let calls =
            (0..200).map(|n: usize| connection.send_two_way_async(ECHO, pattern(round + n)));
        for (n, answer) in Set::new(&events, calls).join().into_iter().enumerate() {
            assert_eq!(answer.unwrap().data(), pattern(round + n));
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_thread_and_a_future_wait_for_each_others_slots() {
    let folder = Folder::new();
    let _server = folder.serve("server", &["x"]);
    let connection = folder.connection("x").calls_in_flight(1).build().unwrap();
    connection.send_two_way(ECHO, []).unwrap();
    let events = connection.events().unwrap();
    for _ in 0..10 {
        let thread = Call::start(&connection, LATER, b"10");
        thread.wait_until_it_sleeps();
        let mut future = Set::new(&events, [connection.send_two_way_async(LATER, "10")]);
        future.run_until(1);
        thread.end().unwrap();
        let mut future = Set::new(&events, [connection.send_two_way_async(LATER, "10")]);
        future.run_until_it_sleeps();
        let thread = Call::start(&connection, ECHO, b"thread");
        std::thread::sleep(Duration::from_millis(1));
        future.run_until(1);
        assert_eq!(thread.end().unwrap().data(), b"thread");
    }
}

#[test]
fn threads_with_futures_of_one_connection_do_not_miss_each_others() {
    let folder = Folder::new();
    let _server = folder.serve("server", &["x"]);
    let connection = folder.connection("x").calls_in_flight(3).deadline(HANG).build().unwrap();
    let threads: Vec<_> = (0..4u64)
        .map(|n| {
            let connection = connection.clone();
            std::thread::spawn(move || {
                let events = connection.events().unwrap();
                for round in 0..40 {
                    let calls = (0..5u64).map(|m| {
                        let pause = ((m + n + round) % 3).to_string();
                        connection.send_two_way_async(LATER, pause)
                    });
                    assert!(Set::new(&events, calls).join().iter().all(Result::is_ok));
                    let call = connection.send_two_way_async(ECHO, "x");
                    assert_eq!(block_on(&events, call).unwrap().data(), b"x");
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_program_of_its_own_loop_watches_one_descriptor() {
    let folder = Folder::new();
    let _server = folder.serve("server", &["x"]);
    let connection = folder.connect("x");
    let events = connection.events().unwrap();
    let mut calls: Vec<_> = (0..8)
        .map(|n: i32| connection.send_two_way_async(LATER, (n % 3 * 10).to_string()))
        .collect();
    let woken = Waker::noop();
    let end = Instant::now() + HANG;
    while !calls.is_empty() {
        calls.retain_mut(|call| {
            let polled = std::pin::Pin::new(call).poll(&mut Context::from_waker(woken));
            !matches!(polled, Poll::Ready(Ok(_)))
        });
        let mut fds = [PollFd::from_borrowed_fd(events.as_fd(), PollFlags::IN)];
        let second = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        poll(&mut fds, Some(&second)).unwrap();
        events.dispatch().unwrap();
        assert!(Instant::now() < end);
    }
}

#[test]
fn a_service_may_be_called_from_the_loop_that_serves_it() {
    let folder = Folder::new();
    let mut service = folder
        .service("x")
        .start(|request| {
            let (message, reply) = request.split();
            let _ = reply.reply(message.data());
        })
        .unwrap();
    let connection = folder.connect("x");
    let events = connection.events().unwrap();
    let calls = (0..100).map(|n: i32| connection.send_two_way_async(ECHO, n.to_string()));
    let mut calls = Set::new(&events, calls);
    let end = Instant::now() + HANG;
    while calls.ready() < 100 {
        calls.turn();
        service.dispatch().unwrap();
        events.dispatch().unwrap();
        assert!(Instant::now() < end);
    }
    for (n, answer) in calls.join().into_iter().enumerate() {
        assert_eq!(text(answer.unwrap()), n.to_string());
    }
}

#[test]
fn a_handler_that_would_wait_for_its_own_service_is_told_where_several_threads_might_run_it() {
    let folder = Folder::new();
    let own = folder.connect("x");
    let events = own.events().unwrap();
    let mut service = folder
        .service("x")
        .threads(2)
        .start(move |request| {
            let polled = poll_once(&events, &mut own.send_two_way_async(ECHO, []));
            let is_told = matches!(polled, Poll::Ready(Err(Error::WouldDeadlock { .. })));
            let _ = request.reply(if is_told { "told" } else { "not told" });
        })
        .unwrap();
    let connection = folder.connect("x");
    let events = connection.events().unwrap();
    let mut call = connection.send_two_way_async(ECHO, []);
    let end = Instant::now() + HANG;
    // On this thread alone, as a foreign loop does it.
    let answer = loop {
        if let Poll::Ready(answer) = poll_once(&events, &mut call) {
            break answer;
        }
        service.dispatch().unwrap();
        events.dispatch().unwrap();
        assert!(Instant::now() < end);
    };
    assert_eq!(text(answer.unwrap()), "told");
}

#[test]
fn a_handler_that_would_wait_for_its_own_service_is_told() {
    let folder = Folder::new();
    let (connection, count) = (folder.connect("x"), AtomicUsize::new(0));
    let events = connection.events().unwrap();
    let mut own: Option<(Connection, Events)> = Some((connection, events));
    let service: Service = folder
        .service("x")
        .start(move |request| {
            if let Some((connection, events)) = &mut own {
                let mut call = connection.send_two_way_async(ECHO, []);
                let polled = poll_once(events, &mut call);
                assert!(matches!(polled, Poll::Ready(Err(Error::WouldDeadlock { .. }))));
                count.fetch_add(1, Ordering::Relaxed);
            }
            let _ = request.reply(count.load(Ordering::Relaxed).to_string());
        })
        .unwrap();
    let _running = Running::new(service);
    assert_eq!(folder.connect("x").send_two_way(ECHO, []).unwrap().data(), b"1");
}

#[test]
fn calls_that_are_made_and_dropped_leave_nothing() {
    let folder = Folder::new();
    let server = folder.serve("server", &["x"]);
    let client = folder.start("alone", &["x"]);
    client.expect("as many");
    drop(client);
    until(|| folder.registry().services().unwrap()[0].connections == 0);
    until(|| descriptors(server.pid()) < 20);
}

#[test]
fn a_client_that_dies_with_its_calls_harms_nobody() {
    let folder = Folder::new();
    let server = folder.serve("server", &["x"]);
    let witness = folder.connect("x");
    witness.send_two_way(ECHO, []).unwrap();
    let before = descriptors(server.pid());
    let mut client = folder.start("busy", &["x"]);
    client.expect("sent");
    client.kill();
    until(|| descriptors(server.pid()) <= before);
    assert_eq!(witness.send_two_way(ECHO, "x").unwrap().data(), b"x");
}

#[test]
fn a_connection_that_is_dropped_first_is_kept_by_its_calls() {
    let folder = Folder::new();
    let _server = folder.serve("server", &["x"]);
    let connection = folder.connect("x");
    let events = connection.events().unwrap();
    let mut calls = Set::new(&events, [connection.send_two_way_async(LATER, "20")]);
    calls.turn();
    drop(connection);
    assert_eq!(calls.join().pop().unwrap().unwrap().data(), b"late");
}
