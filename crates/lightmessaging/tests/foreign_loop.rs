//! A service in somebody else's loop: a descriptor to poll, and a call that handles what is ready.

mod common;

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::{ECHO, Folder, hear, play, tell};
use lightmessaging::{Connection, Service};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

#[test]
fn role() {
    play(&[("flood", flood)]);
}

/// Sends many messages to each of the given names and checks the answers.
fn flood(names: &[String]) {
    let connections: Vec<_> = names.iter().map(|name| Connection::new(name).unwrap()).collect();
    for number in 0..3000 {
        for connection in &connections {
            connection.send_one_way(0, number.to_string()).unwrap();
            if number % 7 == 0 {
                let reply = connection.send_two_way(ECHO, []).unwrap();
                assert_eq!(reply.data(), (number + 1).to_string().as_bytes());
            }
        }
    }
    tell("done");
    hear();
}

fn readable(service: &Service, wait: i64) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(service.as_fd(), PollFlags::IN)];
    let timeout = Timespec { tv_sec: wait, tv_nsec: 0 };
    poll(&mut fds, Some(&timeout)).unwrap() > 0
}

#[test]
fn several_services_share_a_loop_and_lose_nothing() {
    let folder = Folder::new();
    let counts: Vec<_> = (0..3).map(|_| Arc::new(AtomicUsize::new(0))).collect();
    let mut services: Vec<_> = counts
        .iter()
        .enumerate()
        .map(|(n, count)| {
            let count = count.clone();
            let handler = move |request: lightmessaging::Request| {
                if request.is_two_way() {
                    let _ = request.reply(count.load(Ordering::Relaxed).to_string());
                } else {
                    let expected = count.fetch_add(1, Ordering::Relaxed).to_string();
                    assert_eq!(request.data(), expected.as_bytes());
                }
            };
            folder.service(&format!("s{n}")).start(handler).unwrap()
        })
        .collect();
    let mut client = folder.start("flood", &["s0", "s1", "s2"]);
    while counts.iter().any(|count| count.load(Ordering::Relaxed) < 3000) {
        let mut fds: Vec<_> =
            services.iter().map(|s| PollFd::from_borrowed_fd(s.as_fd(), PollFlags::IN)).collect();
        let timeout = Timespec { tv_sec: 30, tv_nsec: 0 };
        assert!(
            poll(&mut fds, Some(&timeout)).unwrap() > 0,
            "something is left and nobody says so"
        );
        let ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        for (service, ready) in services.iter_mut().zip(ready) {
            if ready {
                service.dispatch().unwrap();
            }
        }
    }
    client.expect("done");
    client.finish();
}

#[test]
fn an_idle_service_is_not_readable_and_a_dispatch_does_not_block() {
    let folder = Folder::new();
    let mut service = folder.service("x").start(|request| drop(request.reply([]))).unwrap();
    assert!(!readable(&service, 0));
    assert_eq!(service.dispatch().unwrap(), 0);
    let connection = folder.connect("x");
    connection.send_one_way(1, []).unwrap();
    let mut handled = 0;
    while handled < 1 {
        assert!(readable(&service, 30));
        handled += service.dispatch().unwrap();
    }
    // Whatever was still to be done about the new client.
    while readable(&service, 0) {
        service.dispatch().unwrap();
    }
    connection.send_one_way(1, []).unwrap();
    assert!(readable(&service, 30));
    assert_eq!(service.dispatch().unwrap(), 1);
    while readable(&service, 0) {
        service.dispatch().unwrap();
    }
}

#[test]
fn a_dispatch_is_bounded_and_the_rest_stays_readable() {
    let folder = Folder::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let inner = seen.clone();
    let mut service =
        folder.service("x").start(move |request| inner.lock().unwrap().push(request.id())).unwrap();
    let connection = folder.connect("x");
    for id in 0..1000 {
        connection.send_one_way(id, []).unwrap();
    }
    let mut most = 0;
    while seen.lock().unwrap().len() < 1000 {
        assert!(readable(&service, 30));
        most = most.max(service.dispatch().unwrap());
    }
    assert!(most < 1000, "one dispatch handled {most}");
    assert_eq!(*seen.lock().unwrap(), (0..1000).collect::<Vec<_>>());
}

#[test]
fn a_stop_wakes_the_loop() {
    let folder = Folder::new();
    let mut service = folder.service("x").start(drop).unwrap();
    let stop = service.stop_handle();
    let stopper = std::thread::spawn(move || stop.stop());
    assert!(readable(&service, 30));
    service.dispatch().unwrap();
    assert!(service.is_stopped());
    stopper.join().unwrap();
    folder.service("x").start(drop).unwrap();
}
