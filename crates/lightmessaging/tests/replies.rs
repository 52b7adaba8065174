//! Replies: late, never, out of order, and after the service was stopped.

mod common;

use std::sync::mpsc::channel;
use std::time::Duration;

use common::{Call, ECHO, Folder, HANG, HANG_UP, LATER, ON_CUE, Running, play, server, tell};
use lightmessaging::{ClientEvent, Connection, Error, Reply};

#[test]
fn role() {
    play(&[("server", server), ("caller", caller)]);
}

/// Makes one call and tells its own pid in it.
fn caller(arguments: &[String]) {
    let connection = Connection::new(&arguments[0]).unwrap();
    let response = connection.send_two_way(1, std::process::id().to_string()).unwrap();
    tell(String::from_utf8_lossy(response.data()));
}

#[test]
fn a_reply_may_come_a_second_later_from_another_thread() {
    let folder = Folder::new();
    let _server = folder.serve("server", &["x"]);
    let connection = folder.connect("x");
    let late = Call::start(&connection, LATER, b"1000");
    late.wait_until_it_sleeps();
    // The service is not held up by it.
    assert_eq!(connection.send_two_way(ECHO, b"now").unwrap().data(), b"now");
    assert_eq!(late.end().unwrap().data(), b"late");
}

#[test]
fn kept_replies_may_be_given_in_any_order() {
    let folder = Folder::new();
    let (sender, kept) = channel();
    let service = folder.service("x").start(move |request| {
        let id = request.id();
        sender.send((id, request.into_reply())).unwrap();
    });
    let _running = Running::new(service.unwrap());
    let connection = folder.connect("x");
    let calls: Vec<_> = (0..6).map(|id| Call::start(&connection, id, &[])).collect();
    let mut replies: Vec<(i32, Reply)> = (0..6).map(|_| kept.recv_timeout(HANG).unwrap()).collect();
    replies.sort_by_key(|(id, _)| (id * 5) % 7);
    for (id, reply) in replies {
        if id == 3 { drop(reply) } else { reply.reply(vec![id as u8; 3000 * id as usize]).unwrap() }
    }
    for (id, call) in calls.into_iter().enumerate() {
        match call.end() {
            Ok(response) => assert!(response.data() == vec![id as u8; 3000 * id]),
            Err(error) => assert!(id == 3 && matches!(error, Error::NoReply { .. }), "{error}"),
        }
    }
}

#[test]
fn a_late_reply_to_a_call_that_gave_up_is_dropped() {
    let folder = Folder::new();
    let mut server = folder.serve("server", &["x"]);
    let connection = folder.connect("x");
    for round in 0..20 {
        let error =
            connection.send_two_way_within(ON_CUE, [], Duration::from_millis(20)).unwrap_err();
        assert!(matches!(error, Error::TimedOut { delivered: true, .. }), "{error}");
        server.expect("took");
        server.say("go on");
        server.expect("cancelled");
        let text = round.to_string();
        assert_eq!(connection.send_two_way(ECHO, &text).unwrap().data(), text.as_bytes());
    }
}

#[test]
fn late_large_replies_leave_no_region_behind() {
    let folder = Folder::new();
    let (sender, kept) = channel::<Reply>();
    let service = folder.service("x").start(move |request| match request.id() {
        ECHO => drop(request.reply("yes")),
        _ => sender.send(request.into_reply()).unwrap(),
    });
    let _running = Running::new(service.unwrap());
    let connection = folder.connect("x");
    // More than there are regions.
    for _ in 0..100 {
        let short = Duration::from_millis(1);
        let error = connection.send_two_way_within(2, vec![1; 5000], short).unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        if let Error::TimedOut { delivered: true, .. } = error {
            let reply = kept.recv_timeout(HANG).unwrap();
            assert!(reply.is_cancelled());
            reply.reply(vec![2; 5000]).unwrap();
        }
        assert_eq!(connection.send_two_way(ECHO, vec![3; 5000]).unwrap().data(), b"yes");
    }
}

#[test]
fn replying_to_a_one_way_message_does_nothing() {
    let folder = Folder::new();
    let (sender, done) = channel();
    let service = folder.service("x").start(move |request| {
        assert!(!request.is_two_way());
        sender.send(request.reply("nobody hears this").is_ok()).unwrap();
    });
    let _running = Running::new(service.unwrap());
    folder.connect("x").send_one_way(1, []).unwrap();
    assert!(done.recv_timeout(HANG).unwrap());
}

#[test]
fn a_service_that_is_stopped_while_busy_answers_what_it_took_and_refuses_the_rest() {
    let folder = Folder::new();
    let (sender, took) = channel();
    let (go_on, wait) = channel::<()>();
    let mut service = folder
        .service("x")
        .start(move |request| {
            sender.send(()).unwrap();
            wait.recv().unwrap();
            request.reply("in time").unwrap();
        })
        .unwrap();
    let stop = service.stop_handle();
    let loops = std::thread::spawn(move || service.run());
    let connection = folder.connect("x");
    let taken = Call::start(&connection, 1, &[]);
    took.recv_timeout(HANG).unwrap();
    let waiting = Call::start(&connection, 2, &[]);
    waiting.wait_until_it_sleeps();
    let stopping = {
        let stop = stop.clone();
        std::thread::spawn(move || stop.stop())
    };
    // The name is free while the handler still runs.
    common::until(|| folder.registry().services().unwrap().is_empty());
    let next = folder.service("x").start(drop).unwrap();
    drop(next);
    go_on.send(()).unwrap();
    assert_eq!(taken.end().unwrap().data(), b"in time");
    let error = waiting.end().unwrap_err();
    assert!(matches!(error, Error::NotDelivered { .. }), "{error}");
    stopping.join().unwrap();
    loops.join().unwrap().unwrap();
    // Again is fine.
    stop.stop();
}

#[test]
fn a_call_that_a_stopped_service_did_not_take_goes_to_the_next_one() {
    let folder = Folder::new();
    let (sender, took) = channel();
    let (go_on, wait) = channel::<()>();
    let service = folder.service("x").start(move |request| {
        sender.send(()).unwrap();
        wait.recv().unwrap();
        request.reply("first").unwrap();
    });
    let running = Running::new(service.unwrap());
    let patience = Duration::from_secs(20);
    let connection = folder.connection("x").wait_for_service(patience).build().unwrap();
    let first = Call::start(&connection, 1, &[]);
    took.recv_timeout(HANG).unwrap();
    let second = Call::start(&connection, 2, &[]);
    second.wait_until_it_sleeps();
    let stopping = std::thread::spawn(move || running.stop());
    common::until(|| folder.registry().services().unwrap().is_empty());
    let next = folder.service("x").start(|request| request.reply("second").unwrap());
    let _next = Running::new(next.unwrap());
    go_on.send(()).unwrap();
    stopping.join().unwrap();
    assert_eq!(first.end().unwrap().data(), b"first");
    assert_eq!(second.end().unwrap().data(), b"second");
}

#[test]
fn a_handler_may_stop_its_own_service() {
    let folder = Folder::new();
    let handle = std::sync::Arc::new(std::sync::OnceLock::<lightmessaging::StopHandle>::new());
    let inner = handle.clone();
    let mut service = folder
        .service("x")
        .start(move |request| {
            inner.get().unwrap().stop();
            request.reply("bye").unwrap();
        })
        .unwrap();
    handle.set(service.stop_handle()).unwrap();
    let loops = std::thread::spawn(move || service.run());
    assert_eq!(folder.connect("x").send_two_way(1, []).unwrap().data(), b"bye");
    loops.join().unwrap().unwrap();
    assert!(matches!(folder.connect("x").send_two_way(1, []), Err(Error::NotFound { .. })));
}

#[test]
fn a_kept_request_is_answered_although_its_service_has_stopped() {
    let folder = Folder::new();
    let (sender, kept) = channel();
    let service = folder.service("x").start(move |request| sender.send(request).unwrap());
    let running = Running::new(service.unwrap());
    let connection = folder.connect("x");
    let call = Call::start(&connection, 1, b"question");
    let request = kept.recv_timeout(HANG).unwrap();
    call.wait_until_it_sleeps();
    running.stop();
    assert_eq!(request.data(), b"question");
    request.reply(vec![7; 10_000]).unwrap();
    assert!(call.end().unwrap().data() == [7; 10_000]);
}

#[test]
fn a_stop_while_nobody_runs_the_service_returns() {
    let folder = Folder::new();
    let mut service = folder.service("x").start(drop).unwrap();
    service.stop_handle().stop();
    assert!(service.is_stopped());
    service.run().unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_request_knows_who_sent_it() {
    let folder = Folder::new();
    let (sender, peers) = channel();
    let service = folder.service("x").start(move |request| {
        let peer = request.peer().clone();
        let _ = request.reply(peer.pid().to_string());
        sender.send(peer).unwrap();
    });
    let _running = Running::new(service.unwrap());
    let mut client = folder.start("caller", &["x"]);
    client.expect(&client.pid().to_string());
    let peer = peers.recv_timeout(HANG).unwrap();
    assert_eq!(peer.pid(), client.pid());
    assert_eq!(peer.uid(), rustix::process::geteuid().as_raw());
    assert_eq!(peer.gid(), rustix::process::getegid().as_raw());
    if let Some(pidfd) = peer.pidfd() {
        // It names the process, and becomes readable when that ends (`pidfd_open(2)`).
        client.finish();
        let mut fds = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut fds, None).unwrap(), 1);
    } else {
        println!("no pidfd: this kernel is older than 6.5");
    }
}

#[test]
fn a_service_is_told_of_every_client_once() {
    let folder = Folder::new();
    let (sender, events) = channel();
    let service = folder
        .service("x")
        .on_client(move |event| sender.send(event).unwrap())
        .start(|request| drop(request.reply([])));
    let _running = Running::new(service.unwrap());
    let mut seen = std::collections::HashSet::new();
    for _ in 0..5 {
        let connection = folder.connect("x");
        connection.clone().send_two_way(1, []).unwrap();
        connection.send_two_way(1, []).unwrap();
        drop(connection);
        let ClientEvent::Came(came) = events.recv_timeout(HANG).unwrap() else { panic!("it came") };
        let ClientEvent::Gone(gone) = events.recv_timeout(HANG).unwrap() else { panic!("it went") };
        assert_eq!(came.id, gone.id);
        assert!(seen.insert(came.id));
    }
}

#[test]
fn a_hung_handler_keeps_other_clients_waiting_only_until_their_deadline() {
    let folder = Folder::new();
    let server = folder.serve("server", &["x"]);
    let hung = Call::start(&folder.connect("x"), HANG_UP, &[]);
    server.expect("took");
    let short = Duration::from_millis(50);
    let error = folder.connect("x").send_two_way_within(ECHO, [], short).unwrap_err();
    assert!(matches!(error, Error::TimedOut { delivered: false, .. }), "{error}");
    drop(server);
    assert!(matches!(hung.end(), Err(Error::PeerDied { .. })));
}
