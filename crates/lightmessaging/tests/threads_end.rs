//! How a service over several threads ends: stopped, by a panic, when it is idle, or handed over.

mod common;
#[path = "common/team.rs"]
mod team;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use common::{Call, Folder, HANG, play, tell, until};
use lightmessaging::{Error, Service};
use team::*;

#[test]
fn role() {
    play(&[
        ("team", team),
        ("mixed", mixed),
        ("panics", panics),
        ("startled", startled),
        ("idler", idler),
        ("instance", instance),
    ]);
}

fn is_lost(error: &Error) -> bool {
    matches!(error, Error::NotFound { .. } | Error::NotDelivered { .. })
}

#[test]
fn a_stop_waits_for_the_handlers_that_run_and_tells_everybody_else_at_once() {
    let folder = Folder::new();
    let mut server = folder.serve("team", &["3"]);
    let connections: Vec<_> = (0..4).map(|_| folder.connect("x")).collect();
    connections.iter().for_each(|connection| {
        connection.send_two_way(ECHO, []).unwrap();
    });
    let blocked: Vec<_> = connections[..2].iter().map(|c| Call::start(c, BLOCK, &[])).collect();
    blocked.iter().for_each(|_| server.expect("took"));
    server.say("stop");
    until(|| connections[3].send_two_way(ECHO, []).is_err());
    let error = connections[2].send_two_way(ECHO, []).unwrap_err();
    assert!(is_lost(&error), "{error}");
    assert!(server.is_quiet(), "two handlers run yet");
    // The name is free.
    let mut next = folder.serve("team", &["2"]);
    assert_eq!(connections[2].send_two_way(ECHO, b"next").unwrap().data(), b"next");
    stop(&mut next);
    server.say("go");
    for call in blocked {
        assert_eq!(call.end().unwrap().data(), b"released", "what was taken is finished");
    }
    server.expect("ended");
    server.finish();
}

#[test]
fn what_was_sent_behind_a_handler_goes_to_the_next_service_when_that_has_returned() {
    let folder = Folder::new();
    let (path, text) = ledger(&folder);
    let mut server = folder.serve("team", &["3", &text]);
    let connection = folder.connection("x").wait_for_service(HANG).build().unwrap();
    let blocked = Call::start(&connection, BLOCK, &[]);
    server.expect("took");
    server.say("stop");
    until(|| folder.registry().services().unwrap().is_empty());
    let mut next = folder.serve("team", &["3", &text]);
    connection.send_one_way(NOTE, "0 0\n").unwrap();
    let behind = Call::start(&connection, CALL, b"0 1\n");
    // Somebody else needs not wait for it.
    folder.connect("x").send_two_way(CALL, "1 0\n").unwrap();
    behind.wait_until_it_sleeps();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "1 0\n", "nothing overtakes it");
    server.say("go");
    assert_eq!(blocked.end().unwrap().data(), b"released");
    behind.end().unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "1 0\n0 0\n0 1\n");
    server.expect("ended");
    server.finish();
    stop(&mut next);
}

#[test]
fn a_stop_from_within_a_handler_returns_there_and_the_run_waits_for_the_others() {
    let folder = Folder::new();
    let mut server = folder.serve("team", &["3"]);
    let blocked: Vec<_> = (0..2).map(|_| Call::start(&folder.connect("x"), BLOCK, &[])).collect();
    blocked.iter().for_each(|_| server.expect("took"));
    let connection = folder.connect("x");
    assert_eq!(connection.send_two_way(STOP, []).unwrap().data(), b"stopped");
    let error = connection.send_two_way(ECHO, []).unwrap_err();
    assert!(is_lost(&error), "{error}");
    assert!(server.is_quiet(), "the run has not ended");
    server.say("go");
    for call in blocked {
        assert_eq!(call.end().unwrap().data(), b"released", "what was taken is finished");
    }
    server.expect("ended");
    server.finish();
}

#[test]
fn a_stop_while_every_thread_sleeps_ends_the_run() {
    let folder = Folder::new();
    for round in 0..20 {
        let mut server = folder.serve("team", &["8"]);
        if round % 2 == 1 {
            folder.connect("x").send_two_way(ECHO, []).unwrap();
        }
        stop(&mut server);
    }
}

#[test]
fn a_stop_under_load_loses_and_doubles_nothing_that_was_answered() {
    let folder = Folder::new();
    let mut server = folder.serve("team", &["4"]);
    let callers: Vec<_> = (0..6)
        .map(|_| {
            let connection = folder.connect("x");
            std::thread::spawn(move || {
                for number in 0u32.. {
                    match connection.send_two_way(ECHO, number.to_ne_bytes()) {
                        Ok(response) => assert_eq!(response.data(), number.to_ne_bytes()),
                        Err(error) => return error,
                    }
                }
                unreachable!()
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(50));
    server.say("stop");
    for caller in callers {
        let error = caller.join().unwrap();
        assert!(is_lost(&error), "{error}");
    }
    server.finish();
}

/// Says what a run that a handler's panic ends does, and runs again.
fn panics(_: &[String]) {
    let builder = Service::builder("x").threads(3);
    let mut service = builder.start(handler(None, &STOPPER)).unwrap();
    std::panic::set_hook(Box::new(|_| {}));
    std::thread::spawn(|| {
        while common::hear().is_some() {
            BARRIER.release();
        }
    });
    tell("ready");
    let end = catch_unwind(AssertUnwindSafe(|| service.run())).unwrap_err();
    tell(end.downcast_ref::<&str>().unwrap());
    service.run().unwrap();
}

#[test]
fn a_panic_in_a_handler_comes_out_of_the_run_once_the_other_handlers_have_ended() {
    let folder = Folder::new();
    let mut server = folder.serve("panics", &[]);
    let (connection, other) = (folder.connect("x"), folder.connect("x"));
    let blocked = Call::start(&other, BLOCK, &[]);
    server.expect("took");
    let error = connection.send_two_way(PANIC, []).unwrap_err();
    assert!(matches!(error, Error::NoReply { .. }), "{error}");
    assert!(server.is_quiet(), "one handler runs yet");
    server.say("go");
    assert_eq!(blocked.end().unwrap().data(), b"released");
    server.expect("as it was told");
    // Whoever catches it may go on.
    assert_eq!(connection.send_two_way(ECHO, b"again").unwrap().data(), b"again");
    assert_eq!(other.send_two_way(ECHO, b"again").unwrap().data(), b"again");
    let callers = Callers::start(&folder, 3);
    callers.each_makes(100);
    callers.end();
}

/// Runs again after a notice has panicked.
fn startled(_: &[String]) {
    let mut count = 0;
    let builder = Service::builder("x").on_client(move |_| {
        count += 1;
        assert!(count != 3, "as it was told");
    });
    let mut service = builder.threads(3).start(handler(None, &STOPPER)).unwrap();
    std::panic::set_hook(Box::new(|_| {}));
    tell("ready");
    catch_unwind(AssertUnwindSafe(|| service.run())).unwrap_err();
    tell("startled");
    common::hear();
    run(&mut service);
}

#[test]
fn a_run_after_a_notice_that_has_panicked_hears_of_everybody() {
    let folder = Folder::new();
    let mut server = folder.serve("startled", &[]);
    let connections = [folder.connect("x"), folder.connect("x")];
    connections.iter().for_each(|connection| {
        connection.send_two_way(ECHO, []).unwrap();
    });
    let third = folder.connect("x");
    let call = Call::start(&third, ECHO, &[]);
    server.expect("startled");
    let calls: Vec<_> = connections.iter().map(|c| Call::start(c, ECHO, &[])).collect();
    server.say("go on");
    server.expect("ready");
    call.end().unwrap();
    calls.into_iter().for_each(|call| drop(call.end().unwrap()));
    folder.connect("x").send_two_way(ECHO, []).unwrap();
    drop((connections, third));
    until(|| folder.registry().services().unwrap()[0].connections == 0);
    stop(&mut server);
}

/// Leaves after so many milliseconds with nothing to do.
fn idler(arguments: &[String]) {
    let time = Duration::from_millis(arguments[0].parse().unwrap());
    let builder = Service::builder("x").exit_when_idle(time).threads(3);
    let ledger = arguments.get(1).map(String::as_str);
    run(&mut builder.start(handler(ledger, &STOPPER)).unwrap());
}

#[test]
fn it_leaves_when_it_is_idle() {
    let folder = Folder::new();
    let started = Instant::now();
    let mut server = folder.serve("idler", &["700"]);
    let silent = folder.connect("x");
    silent.send_two_way(ECHO, []).unwrap();
    server.expect("ended");
    server.finish();
    assert!(started.elapsed() >= Duration::from_millis(700));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "it leaves nothing behind");
    assert!(matches!(silent.send_two_way(ECHO, []), Err(Error::NotFound { .. })));
}

#[test]
fn it_does_not_leave_while_a_handler_runs_that_has_answered_already() {
    let folder = Folder::new();
    let mut server = folder.serve("idler", &["700"]);
    let connection = folder.connect("x");
    assert_eq!(connection.send_two_way(LINGER, []).unwrap().data(), b"at once");
    server.expect("took");
    std::thread::sleep(Duration::from_millis(1_800));
    assert!(server.is_quiet());
    folder.connect("x").send_two_way(ECHO, []).unwrap();
    server.say("go");
    server.expect("ended");
    server.finish();
}

#[test]
fn it_leaves_after_a_handler_as_long_as_after_a_message() {
    let folder = Folder::new();
    let mut server = folder.serve("idler", &["700"]);
    let connection = folder.connect("x");
    connection.send_two_way(LINGER, []).unwrap();
    server.expect("took");
    // Late in the second time that it looks whether to leave.
    std::thread::sleep(Duration::from_millis(1_200));
    let released = Instant::now();
    server.say("go");
    server.expect("ended");
    assert!(released.elapsed() >= Duration::from_millis(600), "{:?}", released.elapsed());
    server.finish();
}

#[test]
fn a_message_at_the_last_moment_of_an_idle_service_is_handled_by_it_or_by_the_next() {
    let folder = Folder::new();
    let (path, text) = ledger(&folder);
    let mut server = folder.serve("idler", &["20", &text]);
    let connection = folder.connection("x").wait_for_service(HANG).build().unwrap();
    let client = std::thread::spawn(move || {
        for round in 0..40 {
            std::thread::sleep(Duration::from_millis(15 + round * 7 % 20));
            connection.send_one_way(NOTE, format!("0 {}\n", 2 * round)).unwrap();
            let call = format!("0 {}\n", 2 * round + 1);
            connection.send_two_way(CALL, call).unwrap();
        }
    });
    loop {
        server.expect("ended");
        server.finish();
        if client.is_finished() {
            break;
        }
        server = folder.serve("idler", &["20", &text]);
    }
    client.join().unwrap();
    let expected: String = (0..80).map(|number| format!("0 {number}\n")).collect();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
}

/// An instance on several threads that takes the name over, and ends when another does.
fn instance(arguments: &[String]) {
    let handler = handler(Some(&arguments[0]), &STOPPER);
    let threads = arguments[1].parse().unwrap();
    let mut service = Service::builder("x").threads(threads).take_over(HANG, handler).unwrap();
    run(&mut service);
    assert!(service.was_handed_over());
    let stats = service.stats();
    assert_eq!((stats.malformed, stats.version, stats.busy, stats.clients), (0, 0, 0, 0));
}

#[test]
fn a_name_changes_hands_under_load_and_nothing_is_lost_doubled_or_reordered() {
    let folder = Folder::new();
    let (path, text) = ledger(&folder);
    let mut instance = folder.serve("instance", &[&text, "3"]);
    let mut clients: Vec<_> =
        (0..8).map(|number| folder.start("mixed", &[&number.to_string(), "0"])).collect();
    clients.iter().for_each(|client| client.expect("going"));
    for round in 0..8 {
        // Now and then to one on a single thread.
        let next = folder.serve("instance", &[&text, ["1", "3", "4"][round % 3]]);
        instance.expect("ended");
        instance.finish();
        instance = next;
        std::thread::sleep(Duration::from_millis(round as u64 * 7 % 10));
    }
    clients.iter_mut().for_each(|client| client.say("stop"));
    check(&path, &mut clients);
}

#[test]
fn a_name_changes_hands_while_handlers_run_and_requests_are_kept() {
    let folder = Folder::new();
    let (path, text) = ledger(&folder);
    let mut old = folder.serve("instance", &[&text, "3"]);
    let (connection, other) = (folder.connect("x"), folder.connect("x"));
    let blocked = Call::start(&connection, BLOCK, &[]);
    old.expect("took");
    let kept = Call::start(&other, KEEP, &[]);
    old.expect("took");
    // Behind the handler that blocks, and so before the end.
    for number in 0..3 {
        connection.send_one_way(NOTE, format!("0 {number}\n")).unwrap();
    }
    let _new = folder.serve("instance", &[&text, "3"]);
    let third = folder.connect("x");
    assert_eq!(third.send_two_way(CALL, b"1 0\n").unwrap().data(), b"1 0\n");
    assert!(old.is_quiet(), "a handler runs yet");
    old.say("go");
    assert_eq!(blocked.end().unwrap().data(), b"released");
    assert_eq!(kept.end().unwrap().data(), b"kept");
    old.expect("ended");
    old.finish();
    connection.send_two_way(CALL, b"0 3\n").unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "1 0\n0 0\n0 1\n0 2\n0 3\n");
}
