//! Compiles the calls that are made through the C header.

fn main() {
    println!("cargo:rerun-if-changed=src/c.c");
    println!("cargo:rerun-if-changed=../crates/lightmessaging-c/include");
    cc::Build::new()
        .file("src/c.c")
        .include("../crates/lightmessaging-c/include")
        .define("_GNU_SOURCE", None)
        .std("c99")
        .opt_level(2)
        .warnings_into_errors(true)
        .compile("bench_c");
}
