//! What programs written for the original rely on, and what it got wrong: each has its test.

mod kit;

use kit::common::{Folder, Process, pattern, play, tell, until};
use kit::{Build, C99, ask, serve, start};
use lightmessaging::Service;

/// Named checks of `cases.c`, which ends with an error at the first that is not true.
fn check(cases: &[&str]) {
    let folder = Folder::new();
    let _server = serve(&folder, &C99, &["server"]);
    let mut program = start(&folder, &C99.program("cases.c"), cases);
    for case in cases {
        program.expect(&format!("ok {case}"));
    }
    program.finish();
}

fn client(folder: &Folder, build: &Build) -> Process {
    let client = start(folder, &build.program("client.c"), &[]);
    client.expect("ready");
    client
}

const NARROW: Build =
    Build { name: "c99-32", flags: &["-m32", "-std=c99", "-D_GNU_SOURCE"], ..C99 };

const UNKNOWN_SERVICE: &str = "0x44e 0";
const PORT_DIED: &str = "0x10004009 0";
const RCV_TIMED_OUT: &str = "0x10004003 0";
const SEND_TIMED_OUT: &str = "0x10000004 0";
const NO_REPLY: &str = "0x4c4d0001 0";

#[test]
fn role() {
    play(&[("deaf", deaf), ("dying", dying), ("rust", kit::common::server)]);
}

/// Holds a name and never takes a message.
fn deaf(names: &[String]) {
    let _service = Service::start(&names[0], drop).unwrap();
    tell("ready");
    kit::common::hear();
}

/// Listens under a name, and hangs up on everybody; says how often that was.
fn dying(names: &[String]) {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};

    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    let path = lightmessaging::Registry::from_env().path().join(&names[0]);
    rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&socket, 16).unwrap();
    let count = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = count.clone();
    std::thread::spawn(move || {
        while let Ok(client) = rustix::net::accept(&socket) {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            drop(client);
        }
    });
    tell("ready");
    while kit::common::hear().is_some() {
        tell(count.load(std::sync::atomic::Ordering::Relaxed));
    }
}

// --- behaviour that programs rely on ---

#[test]
fn behaviour_01_up_to_4096_bytes_travel_inline_and_more_out_of_line() {
    check(&["up_to_4096_bytes_travel_inline_and_more_out_of_line", "a_message_is_built_by_hand"]);
}

#[test]
fn behaviour_02_an_empty_message_is_a_whole_message() {
    check(&["an_empty_message_is_a_whole_message"]);
}

#[test]
fn behaviour_03_a_message_id_is_any_signed_integer() {
    check(&["any_message_id_arrives"]);
}

#[test]
fn behaviour_04_a_service_is_looked_up_on_the_first_send_and_again_when_it_has_gone() {
    let folder = Folder::new();
    let mut client = client(&folder, &C99);
    assert_eq!(ask(&mut client, "call server 1 10"), UNKNOWN_SERVICE);
    assert_eq!(ask(&mut client, "send server 1 10"), "0x44e");
    let mut server = serve(&folder, &C99, &["server"]);
    assert_eq!(ask(&mut client, "call server 1 10"), "0 10");
    for _ in 0..3 {
        server.kill();
        server = serve(&folder, &C99, &["server"]);
        assert_eq!(ask(&mut client, "call server 1 10"), "0 10", "unseen by the caller");
        assert_eq!(ask(&mut client, "send server 12 0"), "0");
        assert_eq!(ask(&mut client, "call server 1 5000"), "0 5000");
    }
    server.kill();
    assert_eq!(ask(&mut client, "call server 1 10"), UNKNOWN_SERVICE);
    assert_eq!(ask(&mut client, "alive server"), "dead");
}

#[test]
fn behaviour_05_a_reply_to_a_one_way_message_does_nothing_and_succeeds() {
    check(&["a_reply_to_nobody_does_nothing"]);
}

#[test]
fn behaviour_06_a_reply_may_come_after_the_callback_and_from_another_thread() {
    check(&["a_reply_may_come_later_from_another_thread"]);
    // And from a later callback.
    let folder = Folder::new();
    let server = serve(&folder, &C99, &["server"]);
    let (mut one, mut other) = (client(&folder, &C99), client(&folder, &C99));
    one.say("text server 5");
    server.expect("kept");
    assert!(one.is_quiet());
    assert_eq!(ask(&mut other, "call server 6 0"), "0 4");
    one.expect("kept");
}

#[test]
fn behaviour_07_a_message_may_be_freed_twice_after_a_consume_and_after_an_error() {
    check(&[
        "a_response_may_be_freed_twice_and_as_a_copy",
        "a_request_may_be_freed_or_not",
        "data_may_be_taken_over",
        "a_reply_may_be_read_in_place",
        "requests_may_be_read_in_place",
        "the_memory_of_a_response_is_private_and_may_be_written",
        "a_string_is_terminated_in_place",
    ]);
}

#[test]
fn behaviour_08_consuming_frees_and_gives_nothing_for_what_is_of_another_kind() {
    check(&["integers_are_exactly_four_bytes", "images_go_there_and_back", "garbage_is_no_image"]);
}

#[test]
fn behaviour_09_the_return_values_differ() {
    check(&["the_return_values_differ_as_they_did"]);
}

#[test]
fn behaviour_10_no_data_is_an_empty_message() {
    check(&[
        "nothing_is_sent_as_an_empty_message",
        "cf_data_is_counted_and_a_release_too_many_is_harmless",
    ]);
}

#[test]
fn behaviour_11_the_callback_gets_port_message_size_and_user_info() {
    check(&["a_request_says_who_sent_it"]);
    let folder = Folder::new();
    let _server = serve(&folder, &C99, &["with info", "without"]);
    let mut client = client(&folder, &C99);
    client.say("text without 2");
    assert!(client.line().contains("info none"));
}

#[test]
fn behaviour_12_both_checks_of_a_servers_accept_every_message() {
    check(&[
        "only_whole_messages_are_valid",
        "one_way_messages_arrive_in_order_and_are_counted",
        "an_empty_message_is_a_whole_message",
    ]);
}

#[test]
fn behaviour_13_the_header_and_the_audit_trailer_can_be_read() {
    check(&["a_request_says_who_sent_it"]);
}

#[test]
fn behaviour_14_garbage_in_a_connection_leads_to_a_look_up() {
    check(&["garbage_in_a_connection_means_look_it_up"]);
}

#[test]
fn behaviour_15_a_started_service_stays_on_its_run_loop() {
    check(&[
        "a_run_loop_without_services_returns_at_once",
        "a_service_is_started_stopped_and_started_again",
        "another_thread_adds_a_service_to_the_main_threads_loop",
        "callers_are_told_when_a_service_stops_that_nobody_runs",
        "services_are_guests_on_a_loop_that_polls",
        "a_thread_that_ends_takes_its_services_along",
    ]);
    let folder = Folder::new();
    let mut server = serve(&folder, &C99, &["a", "b", "c"]);
    let mut client = client(&folder, &C99);
    for name in ["a", "b", "c", "b", "a"] {
        assert_eq!(ask(&mut client, &format!("call {name} 1 100")), "0 100");
    }
    server.say("stop");
    server.expect("run 1");
    assert_eq!(ask(&mut client, "call c 1 100"), "0 100", "it goes on when it is run again");
}

#[test]
fn behaviour_16_what_was_sent_before_a_service_checked_in_is_delivered() {
    use std::os::fd::AsRawFd;

    let folder = Folder::new();
    // As a service manager does: it listens, and starts the service when there is something.
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let path = folder.path().join("on-demand");
    rustix::net::bind(&socket, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&socket, 16).unwrap();
    let mut client = client(&folder, &C99);
    assert_eq!(ask(&mut client, "send on-demand 12 100"), "0");
    assert_eq!(ask(&mut client, "send on-demand 12 100"), "0");
    client.say("call on-demand 13 0");
    let mut fds = [rustix::event::PollFd::new(&socket, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, None).unwrap();
    assert!(client.is_quiet());

    let mut command = kit::command(&C99.program("check_in.c"));
    command.arg("on-demand").env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "on-demand");
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::empty()).unwrap();
    let mut command = kit::command(&C99.program("check_in.c"));
    command
        .args(["on-demand", &socket.as_raw_fd().to_string()])
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", "on-demand");
    let server = folder.spawn(command, "");
    server.expect("ready");
    assert_eq!(client.line(), "0 4");
    assert_eq!(ask(&mut client, "call on-demand 1 10000"), "0 10000");
    // The name outlives the service, which can check in to it again.
    client.say("call on-demand 21 0");
    server.expect("stopped");
    assert_eq!(client.line(), "0 8");
    client.say("call on-demand 1 10");
    server.expect("ready");
    assert_eq!(client.line(), "0 10");
    drop(server);
    assert!(path.exists());
}

#[test]
fn behaviour_17_processes_of_other_word_sizes_understand_each_other() {
    // The layouts are asserted when they are compiled, for 32 and 64 bits. A library for 32 bits has
    // to be brought along; see CONTRIBUTING.md.
    let Some(built) = std::env::var_os("LIGHTMESSAGING_LIB32") else {
        let why = "LIGHTMESSAGING_LIB32 does not name a folder with the library";
        return kit::leave_out("the C programs with 32 bits against those with 64", why);
    };
    let folder = Folder::new();
    let library = std::path::Path::new(&built).join("liblightmessaging_c.so");
    for name in ["liblightmessaging.so", "liblightmessaging.so.0"] {
        std::os::unix::fs::symlink(&library, folder.path().join(name)).unwrap();
    }
    let here = format!("-L{}", folder.path().display());
    let narrow = |file: &str, arguments: &[&str]| {
        let program = NARROW.program_with(file, &[&here]);
        let mut command = std::process::Command::new(program);
        command.env("LD_LIBRARY_PATH", folder.path()).args(arguments);
        folder.spawn(command, "")
    };
    let server = narrow("server.c", &["server"]);
    server.expect("ready");
    start(&folder, &C99.program("cases.c"), &["all"]).finish();
    drop(server);
    let _server = serve(&folder, &C99, &["server"]);
    narrow("cases.c", &["all"]).finish();
}

#[test]
fn rust_and_c_agree_on_every_length() {
    let folder = Folder::new();
    let server = serve(&folder, &C99, &["c"]);
    let rust = folder.connect("c");
    for len in [0, 1, 4, 4095, 4096, 4097, 65536, 1 << 20] {
        let sent = pattern(len);
        assert_eq!(rust.send_two_way(1, &sent).unwrap().data(), sent, "{len}");
    }
    drop(server);
    let _server = folder.serve("rust", &["rust"]);
    let mut client = client(&folder, &C99);
    for len in [0, 1, 4, 4095, 4096, 4097, 65536, 1 << 20] {
        assert_eq!(ask(&mut client, &format!("call rust 1 {len}")), format!("0 {len}"));
    }
}

#[test]
fn behaviour_18_a_response_buffer_is_a_few_kilobytes_on_the_stack() {
    // Its size and the offsets of all fields are asserted in types.h, which every program here
    // includes; that the room is enough is seen with 4096 bytes and a trailer.
    check(&["up_to_4096_bytes_travel_inline_and_more_out_of_line", "a_request_says_who_sent_it"]);
}

// --- what the original gets wrong ---

#[test]
fn mended_01_an_empty_one_way_message_passes_its_validity_check() {
    check(&["one_way_messages_arrive_in_order_and_are_counted", "only_whole_messages_are_valid"]);
}

#[test]
fn mended_02_after_an_error_the_response_is_empty() {
    check(&["after_an_error_the_response_is_empty"]);
}

#[test]
fn mended_03_a_service_that_dies_after_taking_a_request_is_an_error_of_its_own() {
    let folder = Folder::new();
    for len in [0, 10, 100_000] {
        let mut server = serve(&folder, &C99, &["server"]);
        let mut client = client(&folder, &C99);
        assert_eq!(ask(&mut client, &format!("call server 17 {len}")), PORT_DIED);
        server.expect("took");
        // The client may see the end before the name is free.
        server.end();
        let mut server = serve(&folder, &C99, &["server"]);
        client.say(&format!("call server 11 {len}"));
        server.expect("took");
        server.kill();
        assert_eq!(client.line(), PORT_DIED);
    }
}

#[test]
fn mended_04_nothing_but_the_payload_leaves_the_process() {
    check(&["nothing_but_the_payload_leaves_the_process"]);
}

#[test]
fn mended_05_the_timeout_covers_everything_a_call_does() {
    let folder = Folder::new();
    let deaf = folder.serve("deaf", &["server"]);
    let mut client = client(&folder, &C99);
    // Nobody takes it.
    assert_eq!(ask(&mut client, "call server 1 10 30"), SEND_TIMED_OUT);
    // The queue of one-way messages, 64 KiB, is full at last.
    let full = (0..40).map(|_| ask(&mut client, "send server 12 4000")).find(|code| code != "0");
    assert_eq!(full.as_deref(), Some("0x10000004"));
    drop(deaf);
    // And a time of the translation unit's own, for the same service.
    let _server = serve(&folder, &C99, &["server"]);
    let timed = Build {
        name: "timed",
        flags: &["-std=c99", "-D_GNU_SOURCE", "-DLIGHTMESSAGING_TIMEOUT=40"],
        ..C99
    };
    let mut timed = self::client(&folder, &timed);
    assert_eq!(ask(&mut timed, "call server 1 10"), "0 10");
    assert_eq!(ask(&mut timed, "call server 11 10"), RCV_TIMED_OUT);
}

#[test]
fn mended_06_a_name_that_leads_to_dying_services_is_not_tried_for_ever() {
    let folder = Folder::new();
    let mut dying = folder.serve("dying", &["server"]);
    let mut client = client(&folder, &C99);
    // Nobody ever takes it: it may be tried again, but within the timeout and not without a pause.
    let code = ask(&mut client, "call server 1 10 400");
    assert!([UNKNOWN_SERVICE, SEND_TIMED_OUT].contains(&code.as_str()), "{code}");
    let tries: u32 = ask(&mut dying, "how often?").parse().unwrap();
    assert!((1..100).contains(&tries), "{tries}");
    drop(dying);
    std::fs::remove_file(folder.path().join("server")).unwrap();
    // What a service has taken is never sent again, whoever comes next.
    let mut server = serve(&folder, &C99, &["server"]);
    assert_eq!(ask(&mut client, "call server 17 10 60000"), PORT_DIED);
    server.expect("took");
    let _ = server.end();
    assert_eq!(ask(&mut client, "call server 17 10 60000"), UNKNOWN_SERVICE);
}

#[test]
fn mended_07_a_connection_is_shared_by_threads() {
    check(&["a_connection_is_shared_by_threads"]);
    let folder = Folder::new();
    let _server = folder.serve("rust", &["nobody"]);
    let server = serve(&folder, &C99, &["server"]);
    let mut client = client(&folder, &C99);
    assert_eq!(ask(&mut client, "busy server"), "0 failed");
    drop(server);
}

#[test]
fn mended_08_a_service_is_stopped_and_a_failed_start_leaves_nothing() {
    check(&["a_service_is_started_stopped_and_started_again", "a_failed_start_leaves_nothing"]);
    let folder = Folder::new();
    let mut server = serve(&folder, &C99, &["server"]);
    let mut client = client(&folder, &C99);
    client.say("text server 21");
    client.expect("stopped");
    for run in 1..=4 {
        server.expect(&format!("run {run}"));
    }
    server.finish();
    assert_eq!(ask(&mut client, "call server 1 1"), UNKNOWN_SERVICE);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn mended_09_lengths_counts_and_image_headers_are_checked() {
    check(&["only_whole_messages_are_valid", "garbage_is_no_image"]);
}

#[test]
fn mended_10_a_dropped_reply_is_an_error_at_once_and_a_second_one_is_caught() {
    check(&[
        "a_request_that_is_dropped_is_an_error",
        "a_second_reply_is_an_error",
        "of_two_threads_that_reply_one_wins",
    ]);
    let folder = Folder::new();
    let _server = serve(&folder, &C99, &["server"]);
    let mut client = client(&folder, &C99);
    assert_eq!(ask(&mut client, "call server 3 100"), NO_REPLY);
    assert_eq!(ask(&mut client, "call server 3 100000"), NO_REPLY);
}

#[test]
fn mended_11_a_callback_knows_who_sent_the_message() {
    check(&["a_request_says_who_sent_it"]);
    let folder = Folder::new();
    let server = serve(&folder, &C99, &["server"]);
    let mut client = client(&folder, &C99);
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(ask(&mut client, "peer server"), format!("0 {} {uid}", server.pid()));
    client.say("text server 23");
    let said = client.line();
    let fields: Vec<&str> = said.split(' ').collect();
    assert_eq!(fields[..2], [client.pid().to_string(), uid.to_string()]);
    assert_eq!(fields[4], "1", "it waits for the reply");
}

#[test]
fn mended_12_a_suspended_service_does_not_hang_its_clients() {
    let folder = Folder::new();
    let server = serve(&folder, &C99, &["server"]);
    let mut client = client(&folder, &C99);
    assert_eq!(ask(&mut client, "call server 1 10"), "0 10");
    server.freeze();
    assert_eq!(ask(&mut client, "call server 1 10 30"), SEND_TIMED_OUT);
    assert_eq!(ask(&mut client, "alive server"), "alive", "it is stopped, not dead");
    // For one call only.
    assert_eq!(ask(&mut client, "within server 1 10 20"), SEND_TIMED_OUT);
    server.thaw();
    until(|| ask(&mut client, "call server 1 10 60000") == "0 10");
    server.freeze();
    assert_eq!(ask(&mut client, "within server 1 10 20"), SEND_TIMED_OUT, "not the connection's");
    server.thaw();
}

#[test]
fn what_goes_wrong_in_a_program_is_an_error_code() {
    check(&[
        "a_bad_name_is_an_error",
        "a_name_is_looked_up_without_sending",
        "a_look_up_says_why_it_failed",
        "calling_ones_own_service_is_an_error_and_no_deadlock",
    ]);
}

#[test]
fn a_forked_child_connects_anew() {
    check(&["a_forked_child_connects_anew"]);
}

#[test]
fn messages_and_replies_are_filled_in_place() {
    check(&[
        "messages_are_filled_where_they_are_read",
        "memory_that_was_allocated_is_sent_or_released_once",
        "a_forked_child_has_none_of_its_parents_memory",
    ]);
}

#[test]
fn replies_that_are_owed_to_a_client_that_died_are_forgotten() {
    let folder = Folder::new();
    let server = serve(&folder, &C99, &["server"]);
    let before = kit::common::descriptors(server.pid());
    for _ in 0..5 {
        let mut asker = client(&folder, &C99);
        asker.say("call server 5 10");
        server.expect("kept");
        asker.kill();
    }
    let mut last = client(&folder, &C99);
    // The port that was kept last leads nowhere now.
    last.say("call server 6 0");
    last.expect("0 4");
    drop(last);
    until(|| kit::common::descriptors(server.pid()) == before);
}

#[test]
fn a_c_program_leaks_nothing() {
    check(&[
        "a_fresh_connection_for_every_call_leaks_nothing",
        "replies_that_a_stopped_service_owes_to_nobody_are_forgotten",
        "ten_thousand_large_requests_leave_memory_and_descriptors_as_they_were",
    ]);
    let folder = Folder::new();
    let server = serve(&folder, &C99, &["server"]);
    let mut client = client(&folder, &C99);
    let resident = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
        text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let mut after_some = (0, 0);
    for round in 0..2000 {
        assert_eq!(ask(&mut client, "call server 1 100000"), "0 100000");
        if round == 200 {
            after_some = (kit::common::descriptors(server.pid()), resident(server.pid()));
        }
    }
    assert_eq!(kit::common::descriptors(server.pid()), after_some.0);
    assert!(resident(server.pid()) < after_some.1 + (2 << 20));
}
