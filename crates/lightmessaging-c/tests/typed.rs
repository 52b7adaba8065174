//! Property lists, images and objects between C, Objective-C and Rust, and the examples.

mod kit;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use image::{DynamicImage, ImageBuffer, Luma, Rgb, Rgba};
use kit::common::{Folder, Process, play, tell, until};
use kit::{Build, C99, command, has, leave_out, pkg_config, start};
use lightmessaging::helpers::{image as image_payload, integer, property_list};
use lightmessaging::{Request, Service};
use plist::{Dictionary, Value};

const PLIST: Build =
    Build { name: "plist", packages: &["libplist-2.0"], debian: "libplist-dev", ..C99 };
const PLIST_CXX: Build =
    Build { name: "plist-c++", compiler: "g++", flags: &["-std=c++11"], ..PLIST };
const CAIRO: Build = Build {
    name: "cairo",
    flags: &["-std=c99", "-D_GNU_SOURCE", "-DWITH_CAIRO"],
    packages: &["cairo"],
    debian: "libcairo2-dev",
    ..C99
};
const CAIRO_CXX: Build =
    Build { name: "cairo-c++", compiler: "g++", flags: &["-std=c++11", "-DWITH_CAIRO"], ..CAIRO };
const CXX: Build =
    Build { name: "typed-c++", compiler: "g++", flags: &["-std=c++11"], debian: "g++", ..C99 };
const SANITIZED: [&str; 2] = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];

#[test]
fn role() {
    play(&[("lists", lists), ("pictures", pictures)]);
}

/// Runs a program that checks itself and says `ok`.
fn check(folder: &Folder, program: &Path, arguments: &[&str]) {
    let mut process = start(folder, program, arguments);
    process.expect("ok");
    process.finish();
}

/// Starts a service program and waits until it serves.
fn serve(folder: &Folder, program: &Path, arguments: &[&str]) -> Process {
    let process = start(folder, program, arguments);
    process.expect("ready");
    process
}

/// Waits until a name is served.
fn wait_for(folder: &Folder, name: &str) {
    let connection = folder.connect(name);
    until(|| connection.is_alive());
}

// --- property lists ---

const SAME: i32 = 1;
const IS_IT: i32 = 2;
const MAKE: i32 = 3;
const NIL: i32 = 4;
const IS_NIL: i32 = 5;

/// `everything()` of the programs.
fn everything(letters: usize) -> Value {
    // From 1970 to 2001, and on.
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(978_307_200 + 700_000_000);
    let inner = Dictionary::from_iter([("empty", Value::Array(Vec::new()))]);
    let list = Value::Array(vec![1.into(), 2.into(), inner.into()]);
    let entries: [(&str, Value); 12] = [
        ("note", "n".repeat(letters).into()),
        ("text", "plain".into()),
        ("wide", "größer ★ 🎈".into()),
        ("latin", "café".into()),
        ("data", Value::Data(vec![0, 1, 2, 255])),
        ("number", 1_234_567_890_123_i64.into()),
        ("negative", (-42).into()),
        ("real", (-1.5).into()),
        ("yes", true.into()),
        ("no", false.into()),
        ("date", Value::Date(date.into())),
        ("list", list),
    ];
    Dictionary::from_iter(entries).into()
}

/// Whether a list is everything(), with whatever note; of dictionaries the order does not matter.
fn is_everything(list: &Value) -> bool {
    let note = list.as_dictionary().and_then(|all| all.get("note")?.as_string());
    note.is_some_and(|note| sorted(list.clone()) == sorted(everything(note.len())))
}

fn sorted(list: Value) -> Value {
    match list {
        Value::Dictionary(mut all) => {
            all.sort_keys();
            all.into()
        }
        other => other,
    }
}

/// A role: what `plist_server.c` and `objects_server.m` are.
fn lists(names: &[String]) {
    let mut service = Service::start(&names[0], |request: Request| {
        let list = property_list::decode::<Value>(request.data());
        let reply = match request.id() {
            SAME => list.map_or(Vec::new(), |list| property_list::encode(&list).unwrap()),
            IS_IT => integer::encode(list.is_ok_and(|list| is_everything(&list)).into()).to_vec(),
            MAKE => {
                let letters = integer::decode(request.data()).unwrap();
                property_list::encode(&everything(letters as usize)).unwrap()
            }
            NIL => Vec::new(),
            IS_NIL => integer::encode(list.is_err().into()).to_vec(),
            _ => request.data().to_vec(),
        };
        request.reply(reply).unwrap();
    })
    .unwrap();
    tell("ready");
    service.run().unwrap();
}

/// What the client programs do, from Rust.
fn ask_for_lists(folder: &Folder, name: &str) {
    let server = folder.connect(name);
    let is = |id, payload: &[u8]| {
        integer::decode(server.send_two_way(id, payload).unwrap().data()).unwrap()
    };
    for letters in [0, 1, 14, 15, 16, 255, 256, 3000, 4097, 70_000, 1 << 20] {
        let all = everything(letters);
        let sent = property_list::encode(&all).unwrap();
        assert_eq!(is(IS_IT, &sent), 1, "{letters}");
        let back = server.send_two_way(SAME, &sent).unwrap();
        assert_eq!(sorted(property_list::decode(back.data()).unwrap()), sorted(all.clone()));
        let made = server.send_two_way(MAKE, integer::encode(letters as i32)).unwrap();
        assert_eq!(sorted(property_list::decode(made.data()).unwrap()), sorted(all));
    }
    assert!(server.send_two_way(NIL, []).unwrap().data().is_empty());
    for nothing in [&b""[..], b"bplist00", b"<plist><true/></plist>", &[0xff; 5000]] {
        assert_eq!(is(IS_NIL, nothing), 1);
        assert!(server.send_two_way(SAME, nothing).unwrap().data().is_empty());
    }
}

#[test]
fn every_type_of_property_list_travels_between_c_programs() {
    for build in [PLIST, PLIST_CXX] {
        if build.is_possible("property lists in C") {
            let folder = Folder::new();
            let _server = serve(&folder, &PLIST.program("plist_server.c"), &["lists"]);
            check(&folder, &build.program("plist_client.c"), &["lists"]);
        }
    }
}

#[test]
fn every_type_of_property_list_travels_from_c_to_rust_and_back() {
    if PLIST.is_possible("property lists between C and Rust") {
        let folder = Folder::new();
        let _c = serve(&folder, &PLIST.program("plist_server.c"), &["c"]);
        let _rust = folder.serve("lists", &["rust"]);
        ask_for_lists(&folder, "c");
        check(&folder, &PLIST.program("plist_client.c"), &["rust"]);
    }
}

#[test]
fn property_lists_in_c_leak_nothing() {
    if PLIST.is_possible("leaks of property lists in C") {
        let folder = Folder::new();
        let server = serve(&folder, &PLIST.program("plist_server.c"), &["lists"]);
        let program = PLIST.program("plist_client.c");
        check(&folder, &program, &["lists", "leaks"]);
        let before = memory_in_use(server.pid());
        check(&folder, &program, &["lists", "leaks"]);
        returns_to(before, &server);
    }
}

fn memory_in_use(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Waits until a service uses no more memory than before: it takes a moment to see that a client has
/// gone.
fn returns_to(before: u64, server: &Process) {
    until(|| memory_in_use(server.pid()) < before + (2 << 20));
}

#[test]
fn no_bytes_crash_the_reader_of_property_lists_in_c() {
    if PLIST.is_possible("garbage as property lists in C") {
        check(&Folder::new(), &PLIST.program("plist_garbage.c"), &[]);
    }
}

#[test]
fn no_bytes_are_read_beyond_a_property_list_in_c() {
    let build = Build { name: "plist-sanitized", flags: &SANITIZED, ..PLIST };
    if build.is_possible("garbage as property lists in C, with AddressSanitizer") {
        check_sanitized(&build.program("plist_garbage.c"), true);
    }
    if PLIST.is_possible("garbage as property lists in C, with valgrind") {
        let program = PLIST.program("plist_garbage.c");
        if !has("valgrind") {
            return leave_out("garbage under valgrind", "this machine lacks it (Debian: valgrind)");
        }
        // It looks into libplist, too, and is slow.
        let mut command = command(Path::new("valgrind"));
        command.args(["-q", "--error-exitcode=9"]).arg(program).arg("slow");
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }
}

/// Runs a program that the sanitizers watch, and for leaks where the machine allows it.
fn check_sanitized(program: &Path, with_leaks: bool) {
    let run = |leaks: bool| {
        let mut command = command(program);
        command.env("ASAN_OPTIONS", format!("detect_leaks={}", u8::from(leaks)));
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    };
    let (mut is_well, mut said) = run(with_leaks);
    if !is_well && said.contains("LeakSanitizer has encountered a fatal error") {
        leave_out("leaks of a sanitized program", "LeakSanitizer may not look at it here");
        (is_well, said) = run(false);
    }
    assert!(is_well, "{}: {said}", program.display());
}

// --- Objective-C ---

const BOTH: [&str; 2] = ["gcc", "clang"];

#[test]
fn every_type_of_property_list_travels_between_objects_c_and_rust() {
    for compiler in BOTH {
        let Some(build) = kit::gnustep(compiler, "property lists as objects") else { continue };
        let folder = Folder::new();
        let _server = serve(&folder, &build.program("objects_server.m"), &["objects"]);
        let _rust = folder.serve("lists", &["rust"]);
        let client = build.program("objects_client.m");
        check(&folder, &client, &["objects"]);
        check(&folder, &client, &["rust"]);
        ask_for_lists(&folder, "objects");
        if PLIST.is_possible("property lists between C and Objective-C") {
            let _c = serve(&folder, &PLIST.program("plist_server.c"), &["c"]);
            check(&folder, &client, &["c"]);
            check(&folder, &PLIST.program("plist_client.c"), &["objects"]);
        }
    }
}

#[test]
fn a_service_that_another_thread_starts_is_served_by_the_main_threads_ns_run_loop() {
    for compiler in BOTH {
        let Some(build) = kit::gnustep(compiler, "a run loop of Foundation's") else { continue };
        let folder = Folder::new();
        let program = build.program("objects_server.m");
        let _server = serve(&folder, &program, &["objects", "thread"]);
        check(&folder, &build.program("objects_client.m"), &["objects"]);
    }
}

#[test]
fn an_ns_run_loop_sleeps_until_a_request_comes() {
    let Some(build) = kit::gnustep("gcc", "a run loop that sleeps") else { return };
    let folder = Folder::new();
    let program = build.program("objects_server.m");
    for arguments in [&["objects"][..], &["objects", "thread"]] {
        let server = serve(&folder, &program, arguments);
        let client = folder.connect("objects");
        for _ in 0..3 {
            wait_until_it_sleeps(server.pid());
            // Nobody but the request wakes it.
            assert_eq!(client.send_two_way(6, "hello").unwrap().data(), b"hello");
            assert_eq!(client.send_two_way(7, vec![7; 100_000]).unwrap().data(), [7; 100_000]);
            client.send_one_way(6, "hello").unwrap();
        }
        wait_until_it_sleeps(server.pid());
        let before = ticks(server.pid());
        std::thread::sleep(Duration::from_millis(500));
        // One that spins has 50 ticks of a hundredth of a second each.
        assert!(ticks(server.pid()) < before + 10, "it does not sleep");
    }
}

fn stat(pid: u32) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, behind_the_name) = text.rsplit_once(") ").unwrap();
    behind_the_name.split(' ').map(str::to_owned).collect()
}

fn wait_until_it_sleeps(pid: u32) {
    until(|| stat(pid)[0] == "S");
}

/// How much time of a processor's a process has used.
fn ticks(pid: u32) -> u64 {
    stat(pid)[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

#[test]
fn objects_leak_nothing() {
    let Some(build) = kit::gnustep("gcc", "leaks of objects") else { return };
    let folder = Folder::new();
    let server = serve(&folder, &build.program("objects_server.m"), &["objects"]);
    let program = build.program("objects_client.m");
    check(&folder, &program, &["objects", "leaks"]);
    let before = memory_in_use(server.pid());
    check(&folder, &program, &["objects", "leaks"]);
    returns_to(before, &server);
}

#[test]
fn no_bytes_crash_the_reader_of_objects_or_throw() {
    for compiler in BOTH {
        let Some(build) = kit::gnustep(compiler, "garbage as objects") else { continue };
        check(&Folder::new(), &build.program("objects_garbage.m"), &[]);
    }
}

#[test]
fn no_bytes_are_read_beyond_a_property_list_in_objective_c() {
    let Some(build) = kit::gnustep("gcc", "garbage as objects, with AddressSanitizer") else {
        return;
    };
    let flags = [build.flags, &SANITIZED].concat().leak();
    let build = Build { name: "gnustep-sanitized", flags, ..build };
    if build.is_possible("garbage as objects, with AddressSanitizer") {
        // GNUstep keeps what it has made for itself.
        check_sanitized(&build.program("objects_garbage.m"), false);
    }
}

// --- images ---

const DRAW: i32 = 1;
const RGBA_8: i32 = 10;

/// `colours_at()` of the programs.
fn colours_at(x: u32, y: u32) -> [u8; 4] {
    [x * 7 + 3, y * 11 + x, x * y + 200, (255 - x as i32 * 5 - y as i32) as u32].map(|c| c as u8)
}

/// The same multiplied by alpha, and divided by it again as the receiver does.
fn there_and_back(x: u32, y: u32) -> [u8; 4] {
    let [r, g, b, alpha] = colours_at(x, y);
    let a = u32::from(alpha);
    let colour = |c: u8| {
        let multiplied = (u32::from(c) * a + 127) / 255;
        (multiplied * 255 + a / 2).checked_div(a).unwrap_or(0).min(255) as u8
    };
    [colour(r), colour(g), colour(b), alpha]
}

/// The picture in each of the formats that have a number from [`RGBA_8`] on.
fn picture(kind: i32, width: u32, height: u32) -> DynamicImage {
    let wide = |byte: u8| u16::from(byte) * 257;
    let rgba = ImageBuffer::from_fn(width, height, |x, y| Rgba(colours_at(x, y)));
    let rgb = ImageBuffer::from_fn(width, height, |x, y| {
        let [r, g, b, _] = colours_at(x, y);
        Rgb([r, g, b])
    });
    let luma = ImageBuffer::from_fn(width, height, |x, y| Luma([colours_at(x, y)[0]]));
    match kind - RGBA_8 {
        0 => rgba.into(),
        1 => rgb.into(),
        2 => luma.into(),
        3 => ImageBuffer::from_fn(width, height, |x, y| Luma([wide(colours_at(x, y)[0])])).into(),
        4 => {
            ImageBuffer::from_fn(width, height, |x, y| Rgb(rgb.get_pixel(x, y).0.map(wide))).into()
        }
        _ => ImageBuffer::from_fn(width, height, |x, y| Rgba(colours_at(x, y).map(wide))).into(),
    }
}

fn size(format: i32, width: u32, height: u32) -> Vec<u8> {
    [format, width as i32, height as i32].iter().flat_map(|number| number.to_ne_bytes()).collect()
}

/// A role: sends what [`picture`] makes.
fn pictures(names: &[String]) {
    let mut service = Service::start(&names[0], |request: Request| {
        let data = request.data();
        let number = |at: usize| u32::from_ne_bytes(data[at..at + 4].try_into().unwrap());
        let made = picture(request.id(), number(4), number(8));
        let payload = image_payload::encode(&made).unwrap();
        request.reply(payload).unwrap();
    })
    .unwrap();
    tell("ready");
    service.run().unwrap();
}

#[test]
fn every_format_of_cairos_travels_between_c_programs_and_large_ones_are_not_copied() {
    for build in [CAIRO, CAIRO_CXX] {
        if build.is_possible("images with cairo") {
            let folder = Folder::new();
            let _server = serve(&folder, &build.program("cairo_server.c"), &["images"]);
            check(&folder, &build.program("cairo_client.c"), &["images", "cairo"]);
        }
    }
}

#[test]
fn images_of_rusts_are_the_same_pixels_in_cairo() {
    if CAIRO.is_possible("images from Rust to cairo") {
        let folder = Folder::new();
        let _server = folder.serve("pictures", &["images"]);
        check(&folder, &CAIRO.program("cairo_client.c"), &["images", "rust"]);
    }
}

#[test]
fn surfaces_of_cairos_are_the_same_pixels_in_rust() {
    if !CAIRO.is_possible("images from cairo to Rust") {
        return;
    }
    let folder = Folder::new();
    let server = serve(&folder, &CAIRO.program("cairo_server.c"), &["images"]);
    let client = folder.connect("images");
    let get = |format: i32, width: u32, height: u32| {
        let response = client.send_two_way(DRAW, size(format, width, height)).unwrap();
        image_payload::decode(response.data()).unwrap()
    };
    for (width, height) in [(1, 1), (7, 3), (33, 20), (120, 90)] {
        // ARGB32, RGB24, A8, and RGB16_565, which is drawn over.
        let argb = get(0, width, height);
        let expected = ImageBuffer::from_fn(width, height, |x, y| Rgba(there_and_back(x, y)));
        assert_eq!(argb, expected.into());
        let rgb = get(1, width, height);
        assert_eq!(rgb, picture(RGBA_8 + 1, width, height));
        let alpha = get(2, width, height);
        let blue = ImageBuffer::from_fn(width, height, |x, y| Luma([colours_at(x, y)[2]]));
        assert_eq!(alpha, blue.into());
        let coarse = get(4, width, height).into_rgba8();
        for (x, y, pixel) in coarse.enumerate_pixels() {
            let [r, g, b, _] = colours_at(x, y);
            let five = |c: u8| (c >> 3) << 3 | c >> 5;
            assert_eq!(pixel.0, [five(r), (g >> 2) << 2 | g >> 6, five(b), 255]);
        }
    }
    let before = memory_in_use(server.pid());
    for _ in 0..1000 {
        get(0, 100, 100);
    }
    returns_to(before, &server);
}

#[test]
fn images_without_cairo_are_taken_over_or_copied() {
    for build in [C99, CXX] {
        if build.is_possible("images without cairo") {
            let folder = Folder::new();
            let program = build.program("plain_images.c");
            let _server = serve(&folder, &program, &["serve", "images"]);
            check(&folder, &program, &["ask", "images"]);
        }
    }
}

#[test]
fn no_bytes_crash_the_reader_of_images() {
    for build in [C99, CXX, CAIRO, CAIRO_CXX] {
        if build.is_possible("garbage as images") {
            check(&Folder::new(), &build.program("image_garbage.c"), &[]);
        }
    }
    let flags = [CAIRO.flags, &SANITIZED].concat().leak();
    let sanitized = [
        Build { name: "images-sanitized", flags: &SANITIZED, ..C99 },
        Build { name: "cairo-sanitized", flags, ..CAIRO },
    ];
    for build in sanitized {
        if build.is_possible("garbage as images, with AddressSanitizer") {
            check_sanitized(&build.program("image_garbage.c"), true);
        }
    }
}

// --- the examples ---

/// Compiles an example in a folder of its own, with the very line of its opening comment.
fn example(folder: &Folder, file: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(file);
    let text = std::fs::read_to_string(&source).unwrap();
    let begins = |line: &&str| line.starts_with("cc ") || line.starts_with("gcc ");
    let mut lines =
        text.lines().map(|line| line.trim_start_matches([' ', '*'])).skip_while(|l| !begins(l));
    let mut line = lines.next().expect("a line that compiles it").to_owned();
    while let Some(begun) = line.strip_suffix('\\') {
        line = format!("{begun}{}", lines.next().unwrap());
    }
    assert!(line.contains("pkg-config") && line.contains(file), "{line}");
    let place = folder.path().join(file.replace('.', "-"));
    std::fs::create_dir(&place).unwrap();
    std::fs::copy(&source, place.join(file)).unwrap();
    let output = Command::new("sh")
        .args(["-ec", &line])
        .current_dir(&place)
        .env("PKG_CONFIG_PATH", kit::lib().join("pkgconfig"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {said}");
    let name = line.split_whitespace().skip_while(|word| *word != "-o").nth(1).unwrap();
    place.join(name)
}

/// Whether the lines of the examples can be used here.
fn has_pkg_config(what: &str) -> bool {
    let has_all = has("cc") && pkg_config(&["--exists", "lightmessaging"]).is_some();
    if !has_all {
        leave_out(what, "this machine lacks cc, pkg-config (Debian: gcc pkg-config)");
    }
    has_all
}

const WIKI: [&str; 6] = [
    // What the page's own code has.
    "-Wno-sign-compare",
    "-Wno-unused-parameter",
    "-Wno-unused-variable",
    // `#import`
    "-Wno-deprecated",
    "-Wno-pedantic",
    "-Wno-import-preprocessor-directive-pedantic",
];

#[test]
fn the_examples_compile_without_a_warning() {
    for (file, c, cxx) in [
        ("poll_server.c", C99, CXX),
        ("property_list_service.c", PLIST, PLIST_CXX),
        ("image_client.c", CAIRO, CAIRO_CXX),
    ] {
        for build in [c, cxx] {
            if build.is_possible(file) {
                build.program(file);
            }
        }
    }
    for compiler in BOTH {
        if let Some(build) = kit::gnustep(compiler, "property_list_service.m") {
            build.program("property_list_service.m");
        }
    }
}

#[test]
fn the_wikis_programs_work_in_c_and_in_cxx() {
    let said = |folder: &Folder, server: &Path, client: &Path| {
        let _server = start(folder, server, &[]);
        wait_for(folder, "net.iphonedevwiki.some.server");
        let mut client = start(folder, client, &[]);
        client.expect("lol");
        client.finish();
    };
    if has_pkg_config("the wiki's programs as they say") {
        let folder = Folder::new();
        said(&folder, &example(&folder, "wiki_server.c"), &example(&folder, "wiki_client.c"));
    }
    let clang = ["-Wno-unknown-warning-option"];
    let builds = [
        ("wiki-gcc", "gcc", "-std=c99", "gcc"),
        ("wiki-clang", "clang", "-std=c99", "clang"),
        ("wiki-g++", "g++", "-std=c++11", "g++"),
        ("wiki-clang++", "clang++", "-std=c++11", "clang"),
    ];
    for (name, compiler, standard, debian) in builds {
        let flags = [&[standard], &WIKI[..], &clang].concat().leak();
        let build = Build { name, compiler, flags, debian, ..C99 };
        if build.is_possible("the wiki's programs") {
            let folder = Folder::new();
            said(&folder, &build.program("wiki_server.c"), &build.program("wiki_client.c"));
        }
    }
}

#[test]
fn the_property_list_services_in_c_and_objective_c_understand_each_other() {
    if !PLIST.is_possible("property_list_service.c") || !has_pkg_config("property_list_service.c") {
        return;
    }
    let folder = Folder::new();
    let mut programs = vec![example(&folder, "property_list_service.c")];
    if kit::gnustep("gcc", "property_list_service.m").is_some() {
        programs.push(example(&folder, "property_list_service.m"));
    }
    for server in &programs {
        let _server = start(&folder, server, &["serve"]);
        wait_for(&folder, "net.example.greeter");
        let mut visitor = 0;
        for client in programs.iter().chain(&programs) {
            visitor += 1;
            let mut client = start(&folder, client, &["ask", "Zoë"]);
            client.expect(&format!("Hello, Zoë! You are visitor {visitor}."));
            client.finish();
        }
        // What is no question is answered with nothing.
        let stranger = folder.connect("net.example.greeter");
        let wrong = property_list::encode(&["Zoë"]).unwrap();
        for payload in [&wrong[..], b"", b"garbage"] {
            assert!(stranger.send_two_way(1, payload).unwrap().data().is_empty());
        }
    }
    let mut alone = start(&folder, &programs[0], &["ask", "Zoë"]);
    assert_eq!(alone.end().code(), Some(1));
}

#[test]
fn the_image_client_paints_on_what_the_image_service_sends() {
    if !CAIRO.is_possible("image_client.c") || !has_pkg_config("image_client.c") {
        return;
    }
    let Some(service) = rust_example("image_service") else { return };
    let folder = Folder::new();
    let client = example(&folder, "image_client.c");
    let (source, painted) = (folder.path().join("source.png"), folder.path().join("painted.png"));
    let original = picture(RGBA_8 + 1, 100, 60);
    original.save(&source).unwrap();
    let mut command = Command::new(service);
    command.arg(&source);
    let server = folder.spawn(command, "");
    assert!(server.line().starts_with("serving "));
    for width in [25, 100, 400] {
        let height = width * 60 / 100;
        let arguments = [&width.to_string(), painted.to_str().unwrap()];
        let mut client = start(&folder, &client, &arguments);
        client.expect(&format!("{width} x {height} pixels: no error has occurred"));
        client.finish();
        let filter = image::imageops::FilterType::Triangle;
        let mut expected = original.resize_exact(width, height, filter).into_rgb8();
        for (_, y, pixel) in expected.enumerate_pixels_mut() {
            if y < 4 {
                *pixel = Rgb([255, 0, 0]);
            }
        }
        assert!(image::open(&painted).unwrap().into_rgb8() == expected, "{width}");
    }
    let mut refused = start(&folder, &client, &["0", painted.to_str().unwrap()]);
    assert_eq!(refused.end().code(), Some(1));
}

/// An example in Rust. Cargo builds it before it runs all tests, not before those of one file.
fn rust_example(name: &str) -> Option<PathBuf> {
    let program = std::env::current_exe().unwrap();
    let profile = program.ancestors().nth(2).unwrap();
    let built = profile.join("examples").join(name);
    if let Some(cargo) = std::env::var_os("CARGO") {
        let profile_name = match profile.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            other => other,
        };
        // Where it cannot be built, the one that is there will do.
        let _ = Command::new(cargo)
            .args(["build", "--quiet", "--offline", "--example", name, "--profile", profile_name])
            .arg("--target-dir")
            .arg(profile.parent().unwrap())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
    }
    if built.exists() {
        return Some(built);
    }
    leave_out(name, "cargo has not built it (cargo test --examples)");
    None
}

#[test]
fn the_poll_server_answers_and_reads_its_other_descriptor() {
    if !has_pkg_config("poll_server.c") {
        return;
    }
    let folder = Folder::new();
    let mut server = start(&folder, &example(&folder, "poll_server.c"), &[]);
    wait_for(&folder, "net.example.typed");
    let client = folder.connect("net.example.typed");
    let last = || client.send_two_way(1, "what").unwrap().data().to_vec();
    assert_eq!(last(), b"nothing yet\0");
    for line in ["one", "two", "three"] {
        server.say(line);
        server.expect(&format!("typed: {line}"));
        assert_eq!(last(), format!("{line}\0").as_bytes());
        assert_eq!(last(), format!("{line}\0").as_bytes());
    }
    // Many at once, on both.
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let client = client.clone();
            std::thread::spawn(move || {
                for _ in 0..200 {
                    assert!(client.send_two_way(1, "what").is_ok());
                }
            })
        })
        .collect();
    for line in 0..50 {
        server.say(&line.to_string());
        server.expect(&format!("typed: {line}"));
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    server.finish();
    server.expect("asked 807 times");
    assert!(!client.is_alive());
}
