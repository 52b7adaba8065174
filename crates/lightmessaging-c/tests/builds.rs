//! The header with every compiler and every check: the same programs, built and run in other ways.

mod kit;

use std::process::Command;

use kit::common::Folder;
use kit::{Build, C99, command, has, leave_out, serve, start};

const CLANG: Build = Build {
    name: "clang",
    compiler: "clang",
    flags: &["-std=c99", "-D_GNU_SOURCE"],
    packages: &[],
    debian: "clang",
};

const C17: Build = Build { name: "c17", flags: &["-std=c17", "-D_GNU_SOURCE", "-O2"], ..C99 };

const CXX: Build = Build {
    name: "c++11",
    compiler: "g++",
    flags: &["-std=c++11", "-D_GNU_SOURCE"],
    packages: &[],
    debian: "g++",
};

const CLANGXX: Build = Build {
    name: "clang++20",
    compiler: "clang++",
    flags: &["-std=c++20", "-D_GNU_SOURCE"],
    packages: &[],
    debian: "clang",
};

const SANITIZED: Build = Build {
    name: "sanitized",
    compiler: "gcc",
    flags: &[
        "-std=c99",
        "-D_GNU_SOURCE",
        "-O1",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-fno-omit-frame-pointer",
    ],
    packages: &[],
    debian: "gcc",
};

const FORTIFIED: Build = Build {
    name: "fortified",
    compiler: "clang-16",
    flags: &[
        "-std=c99",
        "-D_GNU_SOURCE",
        "-O2",
        "-D_FORTIFY_SOURCE=3",
        "-fstrict-flex-arrays=3",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
    ],
    packages: &[],
    debian: "clang-16, libclang-rt-16-dev",
};

const STATIC: Build =
    Build { name: "static", packages: &["lightmessaging-static"], debian: "pkg-config", ..C99 };

const NO_ROCKETBOOTSTRAP: Build = Build {
    name: "plain",
    flags: &["-std=c99", "-D_GNU_SOURCE", "-DLIGHTMESSAGING_USE_ROCKETBOOTSTRAP=0"],
    ..C99
};

/// All checks of `cases.c` against `server.c`, both built that way.
fn passes(build: &Build) {
    if !build.is_possible(&format!("the C programs as {}", build.name)) {
        return;
    }
    let folder = Folder::new();
    let mut server = serve(&folder, build, &["server"]);
    let mut cases = start(&folder, &build.program("cases.c"), &["all"]);
    cases.finish();
    // The leak checker looks at its end.
    server.finish();
}

#[test]
fn all_checks_pass_with_clang() {
    passes(&CLANG);
}

#[test]
fn all_checks_pass_as_optimised_c17() {
    passes(&C17);
}

#[test]
fn all_checks_pass_as_cxx11() {
    passes(&CXX);
}

#[test]
fn all_checks_pass_as_cxx20_with_clang() {
    passes(&CLANGXX);
}

#[test]
fn all_checks_pass_under_the_address_and_undefined_behaviour_sanitizers() {
    passes(&SANITIZED);
}

#[test]
fn all_checks_pass_fortified_with_strict_flexible_arrays() {
    passes(&FORTIFIED);
}

#[test]
fn all_checks_pass_with_the_library_as_part_of_the_program() {
    passes(&STATIC);
    if STATIC.is_possible("the static library") {
        let program = STATIC.program("client.c");
        let needed = Command::new("ldd").arg(&program).output();
        if let Ok(output) = needed {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(!text.contains("lightmessaging"), "{text}");
        }
    }
}

#[test]
fn valgrind_finds_nothing() {
    if !has("valgrind") {
        return leave_out(
            "the C programs under valgrind",
            "it is not installed (Debian: valgrind)",
        );
    }
    let folder = Folder::new();
    // The descriptors of threads that never end, and what the standard library keeps for them, are
    // no leaks; what nobody points to any more is.
    let valgrind = |program: &str, arguments: &[&str]| {
        let mut valgrind = Command::new("valgrind");
        valgrind
            .env("LD_LIBRARY_PATH", kit::lib())
            .args(["--quiet", "--error-exitcode=9", "--leak-check=full"])
            .args(["--errors-for-leak-kinds=definite", "--show-leak-kinds=definite"])
            .arg(C99.program(program))
            .args(arguments);
        valgrind
    };
    let mut server = folder.spawn(valgrind("server.c", &["server"]), "");
    server.expect("ready");
    // All but those of many rounds: a program takes thirty times as long under valgrind.
    let cases = std::fs::read_to_string(
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/cases.c"),
    )
    .unwrap();
    let names: Vec<&str> = cases
        .lines()
        .filter_map(|line| line.trim().strip_prefix("CASE(")?.strip_suffix("),"))
        .filter(|name| !name.starts_with("ten_thousand"))
        .collect();
    assert!(names.len() > 30);
    let mut program = folder.spawn(valgrind("cases.c", &names), "");
    for name in &names {
        program.expect(&format!("ok {name}"));
    }
    program.finish();
    server.finish();
}

#[test]
fn the_shared_library_exports_its_own_names_only() {
    let library = kit::lib().join("liblightmessaging.so");
    let Ok(output) = Command::new("nm").args(["-D", "--defined-only"]).arg(&library).output()
    else {
        return leave_out("the exported names", "there is no nm (Debian: binutils)");
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let names: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next_back()).collect();
    let is_ours = |name: &&str| {
        ["LM", "lm_", "rocketbootstrap_"].iter().any(|prefix| name.starts_with(prefix))
    };
    let (ours, others): (Vec<&str>, Vec<&str>) = names.into_iter().partition(is_ours);
    assert!(others.is_empty(), "{others:?}");
    // Each is documented: it stands in lm.h.
    let header =
        std::fs::read_to_string(kit::prefix().join("include/LightMessaging/lm.h")).unwrap();
    for name in &ours {
        assert!(header.contains(&format!("{name}(")), "{name} is not in lm.h");
    }
    assert!(ours.len() > 25);
    let output = Command::new("readelf").arg("-d").arg(&library).output();
    if let Ok(output) = output {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("liblightmessaging.so.0"), "{text}");
    }
}

#[test]
fn pkg_config_says_all_that_a_user_needs() {
    let Some(flags) = kit::pkg_config(&["--cflags", "--libs", "lightmessaging"]) else {
        return leave_out("the flags of pkg-config", "it is not installed (Debian: pkg-config)");
    };
    let prefix = kit::prefix().display().to_string();
    assert_eq!(
        flags,
        [format!("-I{prefix}/include"), format!("-L{prefix}/lib"), "-llightmessaging".to_owned()]
    );
    let version = kit::pkg_config(&["--modversion", "lightmessaging"]).unwrap();
    assert_eq!(version, [env!("CARGO_PKG_VERSION")]);
    let compat =
        kit::pkg_config(&["--variable=compat_includedir", "lightmessaging"]).unwrap().remove(0);
    assert!(std::path::Path::new(&compat).join("mach/mach.h").exists());
}

#[test]
fn programs_find_the_headers_under_the_names_that_they_include() {
    let folder = Folder::new();
    let compat = kit::prefix().join("include/LightMessaging/compat/include");
    let include = format!("-I{}", compat.display());
    for build in [&C99, &CXX, &CLANG, &NO_ROCKETBOOTSTRAP] {
        if !build.is_possible(&format!("the compatibility headers as {}", build.name)) {
            continue;
        }
        let program = folder.path().join(format!("includes-{}", build.name));
        let output = build.compile("includes.c", &[&include], &program);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(command(&program).status().unwrap().success());
    }
}

#[test]
fn import_works_in_c() {
    let build = Build {
        name: "import",
        flags: &["-std=c99", "-D_GNU_SOURCE", "-Wno-pedantic", "-Wno-deprecated"],
        ..C99
    };
    let folder = Folder::new();
    let program = folder.path().join("import");
    let output = build.compile("import.c", &[], &program);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(command(&program).status().unwrap().success());
}

#[test]
fn a_real_corefoundations_types_and_functions_are_used_where_it_was_included_first() {
    let folder = Folder::new();
    let programs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    let library = folder.path().join("libcf.so");
    let built = Command::new("cc")
        .args([
            "-std=c99",
            "-D_GNU_SOURCE",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-g",
            "-shared",
            "-fPIC",
        ])
        .arg(programs.join("real_cf/cf.c"))
        .arg("-o")
        .arg(&library)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let program = folder.path().join("real_cf");
    let include = format!("-I{}", programs.join("real_cf").display());
    let path = format!("-L{}", folder.path().display());
    let output = C99.compile("real_cf.c", &[&include, &path, "-lcf"], &program);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut run = command(&program);
    run.env("LD_LIBRARY_PATH", format!("{}:{}", kit::lib().display(), folder.path().display()));
    let mut run = folder.spawn(run, "");
    run.expect("ready");
    let connection = folder.connect("guest");
    for _ in 0..10 {
        assert_eq!(
            connection.send_two_way(1, "hello").unwrap().data(),
            b"hello from its own CFData"
        );
    }
    connection.send_one_way(2, []).unwrap();
    run.expect("done");
    run.finish();
}
