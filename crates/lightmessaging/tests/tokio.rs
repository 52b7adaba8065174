//! Both sends in tokio runtimes, which need nothing besides.

mod common;

use std::time::Duration;

use common::{
    DROP, ECHO, Folder, HANG, HANG_UP, LATER, LOG, LOGGED, descriptors, hear, pattern, play,
    server, tell, until,
};
use lightmessaging::{Connection, Deadline, Error, Response, Result};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::timeout;

#[test]
fn role() {
    play(&[("server", server), ("alone", alone), ("one_for_all", one_for_all)]);
}

fn on_one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn on_several() -> Runtime {
    Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap()
}

/// Both of tokio's schedulers.
fn runtimes() -> [Runtime; 2] {
    [on_one_thread(), on_several()]
}

fn text(response: Response) -> String {
    String::from_utf8(response.into_vec()).unwrap()
}

async fn echo(connection: &Connection, text: &str) {
    let answer = connection.send_two_way_async(ECHO, text).await;
    assert_eq!(answer.unwrap().data(), text.as_bytes());
}

/// Connections that come and go, with calls that are dropped at any point, in runtimes that do too;
/// says how many descriptors there are then.
fn alone(arguments: &[String]) {
    let mut before = 0;
    for round in 0..40 {
        let runtime = if round % 2 == 0 { on_one_thread() } else { on_several() };
        runtime.block_on(async {
            let connection = Connection::new(&arguments[0]).unwrap();
            let mut tasks = JoinSet::new();
            for n in 0..200u64 {
                let connection = connection.clone();
                tasks.spawn(async move {
                    let call = connection.send_two_way_async(LATER, "1");
                    let _ = timeout(Duration::from_micros(n * 20), call).await;
                    let post = connection.send_one_way_async(0, pattern(n as usize * 40));
                    let _ = timeout(Duration::from_micros(n), post).await;
                });
            }
            while tasks.join_next().await.is_some() {}
            echo(&connection, "x").await;
        });
        drop(runtime);
        match round {
            19 => before = descriptors(std::process::id()),
            39 => {
                let after = descriptors(std::process::id());
                tell(if after <= before { "as many".into() } else { format!("{before}, {after}") });
            }
            _ => {}
        }
    }
    hear();
}

/// A connection that outlives every runtime that it is used in.
fn one_for_all(arguments: &[String]) {
    let connection = Connection::new(&arguments[0]).unwrap();
    for _ in 0..30 {
        for runtime in runtimes() {
            runtime.block_on(async {
                echo(&connection, "x").await;
                let answer = connection.send_two_way_async(LATER, "1").await;
                assert_eq!(text(answer.unwrap()), "late");
                // Left to end with its runtime.
                let connection = connection.clone();
                tokio::spawn(async move { connection.send_two_way_async(LATER, "100").await });
                tokio::task::yield_now().await;
            });
        }
    }
    tell("fine");
}

#[test]
fn a_thousand_calls_are_in_flight_in_one_task_and_in_many() {
    let folder = Folder::new();
    let _server = folder.serve("server", &["x"]);
    for runtime in runtimes() {
        for slots in [1, 8, 64] {
            let connection = folder.connection("x").calls_in_flight(slots).build().unwrap();
            runtime.block_on(async {
                let mut tasks = JoinSet::new();
                for n in 0..1000 {
                    let connection = connection.clone();
                    tasks.spawn(async move {
                        let len = if n % 50 == 0 { n * 30 } else { n };
                        let answer = connection.send_two_way_async(ECHO, pattern(len)).await;
                        assert!(answer.unwrap().data() == pattern(len));
                    });
                }
                while let Some(ended) = tasks.join_next().await {
                    ended.unwrap();
                }
                let (a, b, c, d, e) = tokio::join!(
                    connection.send_two_way_async(ECHO, "a"),
                    connection.send_two_way_async(LATER, "3"),
                    connection.send_one_way_async(0, "c"),
                    connection.send_two_way_async(DROP, "d"),
                    connection.send_two_way_async(ECHO, "e"),
                );
                assert_eq!((text(a.unwrap()), text(b.unwrap())), ("a".into(), "late".into()));
                assert!(c.is_ok() && matches!(d, Err(Error::NoReply { .. })));
                assert_eq!(text(e.unwrap()), "e");
            });
        }
    }
}

#[test]
fn a_call_that_is_timed_out_or_not_selected_is_given_up() {
    let folder = Folder::new();
    for runtime in runtimes() {
        let server = folder.serve("server", &["x"]);
        let connection = folder.connect("x");
        runtime.block_on(async {
            echo(&connection, "x").await;
            server.freeze();
            for n in 0..40 {
                let call = connection.send_two_way_async(LOG, format!("call {n}"));
                let nothing = timeout(Duration::from_millis(1), call).await;
                assert!(nothing.is_err());
                tokio::select! {
                    _ = connection.send_two_way_async(LOG, "other") => panic!("it is stopped"),
                    () = tokio::time::sleep(Duration::from_millis(1)) => {}
                }
            }
            server.thaw();
            let logged = connection.send_two_way_async(LOGGED, []).await;
            assert_eq!(text(logged.unwrap()), "");
        });
    }
}

#[test]
fn all_that_wait_end_when_the_service_dies() {
    let folder = Folder::new();
    for runtime in runtimes() {
        let mut server = folder.serve("server", &["x"]);
        let connection = folder.connection("x").deadline(Deadline::Never).build().unwrap();
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for _ in 0..100 {
                let connection = connection.clone();
                tasks.spawn(async move { connection.send_two_way_async(HANG_UP, []).await });
            }
            while server.is_quiet() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            server.kill();
            let mut died = 0;
            while let Some(ended) = tasks.join_next().await {
                match ended.unwrap().unwrap_err() {
                    Error::PeerDied { .. } => died += 1,
                    Error::NotDelivered { .. } | Error::NotFound { .. } => {}
                    error => panic!("{error}"),
                }
            }
            assert_eq!(died, 1);
        });
    }
}

#[test]
fn deadlines_fire() {
    let folder = Folder::new();
    let server = folder.serve("server", &["x"]);
    for runtime in runtimes() {
        let connection = folder.connect("x");
        connection.send_two_way(ECHO, []).unwrap();
        server.freeze();
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for n in 0..50 {
                let connection = connection.clone();
                tasks.spawn(async move {
                    let short = Duration::from_millis(n);
                    connection.send_two_way_async(LOG, []).within(short).await
                });
            }
            while let Some(ended) = tasks.join_next().await {
                let error = ended.unwrap().unwrap_err();
                let is_late = matches!(error, Error::TimedOut { delivered: false, .. });
                assert!(is_late || matches!(error, Error::QueueFull { .. }), "{error}");
            }
        });
        server.thaw();
    }
}

#[test]
fn one_way_messages_keep_their_order_through_a_full_ring() {
    let folder = Folder::new();
    let server = folder.serve("server", &["x"]);
    for runtime in runtimes() {
        let connection = folder.connection("x").deadline(HANG).build().unwrap();
        connection.send_two_way(ECHO, []).unwrap();
        server.freeze();
        let logged = runtime.block_on(async {
            let sender = async {
                for n in 0..500 {
                    let message = format!("{n:0600}");
                    connection.send_one_way_async(LOG, message).await.unwrap();
                }
                text(connection.send_two_way_async(LOGGED, []).await.unwrap())
            };
            let thaw = async {
                tokio::time::sleep(Duration::from_millis(30)).await;
                server.thaw();
            };
            tokio::join!(sender, thaw).0
        });
        let expected: Vec<_> = (0..500).map(|n| format!("{n:0600}")).collect();
        assert!(logged.ends_with(&expected.join(" ")));
    }
}

#[test]
fn two_runtimes_share_a_connection_and_one_of_them_may_stand_still() {
    let folder = Folder::new();
    let _server = folder.serve("server", &["x"]);
    let connection = folder.connect("x");
    let idle = on_one_thread();
    // It has slept here, and nobody polls this runtime from now on.
    idle.block_on(async {
        let other = connection.clone();
        tokio::spawn(async move { other.send_two_way_async(LATER, "5").await });
        echo(&connection, "x").await;
    });
    for runtime in runtimes() {
        runtime.block_on(async {
            for _ in 0..20 {
                let answer = connection.send_two_way_async(LATER, "1").await;
                assert_eq!(text(answer.unwrap()), "late");
            }
        });
    }
    let threads: Vec<_> = (0..3)
        .map(|n| {
            let connection = connection.clone();
            std::thread::spawn(move || {
                let runtime = if n == 0 { on_several() } else { on_one_thread() };
                runtime.block_on(async {
                    for _ in 0..300 {
                        echo(&connection, "x").await;
                    }
                    let later = connection.send_two_way_async(LATER, "1").await;
                    assert!(later.is_ok());
                });
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    drop(idle);
}

#[test]
fn a_future_may_move_from_one_runtime_to_another_or_to_none() -> Result<()> {
    let folder = Folder::new();
    let _server = folder.serve("server", &["x"]);
    let connection = folder.connect("x");
    let [first, second] = runtimes();
    let mut call = connection.send_two_way_async(LATER, "30");
    first.block_on(async {
        let short = Duration::from_millis(5);
        assert!(timeout(short, &mut call).await.is_err());
    });
    drop(first);
    assert_eq!(text(second.block_on(call)?), "late");
    drop(second);
    // The thread that is left waits by itself.
    let events = connection.events()?;
    let mut call = connection.send_two_way_async(LATER, "5");
    let waker = std::task::Waker::from(std::sync::Arc::new(events.clone()));
    let mut context = std::task::Context::from_waker(&waker);
    let answer = loop {
        match std::pin::Pin::new(&mut call).poll(&mut context) {
            std::task::Poll::Ready(answer) => break answer?,
            std::task::Poll::Pending => events.wait(HANG)?,
        }
    };
    assert_eq!(text(answer), "late");
    Ok(())
}

#[test]
fn a_service_that_comes_later_is_waited_for() {
    let folder = Folder::new();
    for runtime in runtimes() {
        let connection = folder.connection("x").wait_for_service(HANG).build().unwrap();
        let _server = runtime.block_on(async {
            let calls = async {
                tokio::join!(
                    connection.send_two_way_async(ECHO, "x"),
                    connection.send_two_way_async(ECHO, "y"),
                )
            };
            let comes = async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                folder.serve("server", &["x"])
            };
            let ((x, y), server) = tokio::join!(calls, comes);
            assert_eq!((text(x.unwrap()), text(y.unwrap())), ("x".into(), "y".into()));
            server
        });
    }
}

#[test]
fn a_connection_outlives_the_runtimes_that_it_is_used_in() {
    let folder = Folder::new();
    let _server = folder.serve("server", &["x"]);
    let mut client = folder.start("one_for_all", &["x"]);
    client.expect("fine");
    client.finish();
}

#[test]
fn nothing_is_left_of_calls_connections_and_runtimes() {
    let folder = Folder::new();
    let server = folder.serve("server", &["x"]);
    let mut client = folder.start("alone", &["x"]);
    client.expect("as many");
    until(|| folder.registry().services().unwrap()[0].connections == 0);
    until(|| descriptors(server.pid()) < 20);
    client.finish();
}

#[test]
fn threads_that_block_and_tasks_share_a_connection() {
    let folder = Folder::new();
    let _server = folder.serve("server", &["x"]);
    let connection = folder.connection("x").calls_in_flight(2).deadline(HANG).build().unwrap();
    for runtime in runtimes() {
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let connection = connection.clone();
                std::thread::spawn(move || {
                    for _ in 0..300 {
                        assert_eq!(connection.send_two_way(ECHO, "t").unwrap().data(), b"t");
                    }
                })
            })
            .collect();
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for _ in 0..300 {
                let connection = connection.clone();
                tasks.spawn(async move { echo(&connection, "task").await });
            }
            while let Some(ended) = tasks.join_next().await {
                ended.unwrap();
            }
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

#[test]
#[should_panic(expected = "IO is disabled")]
fn a_runtime_without_io_says_so_where_it_is_awaited() {
    let folder = Folder::new();
    let _server = folder.serve("server", &["x"]);
    let connection = folder.connect("x");
    let runtime = Builder::new_current_thread().build().unwrap();
    let _ = runtime.block_on(connection.send_two_way_async(LATER, "1"));
}

#[tokio::test]
async fn an_awaited_call_is_all_it_takes() {
    let folder = Folder::new();
    let _server = folder.serve("server", &["x"]);
    let connection = folder.connect("x");
    echo(&connection, "hello").await;
    connection.send_one_way_async(LOG, "logged").await.unwrap();
    let logged = connection.send_two_way_async(LOGGED, []).await;
    assert_eq!(text(logged.unwrap()), "logged");
}
