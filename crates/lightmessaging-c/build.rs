//! Gives the shared library its name. What it exports is what is `no_mangle`: the compiler passes
//! the linker a version script of its own that says so, and a test looks.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,liblightmessaging.so.0");
    // Threads have destructors of ours pending, and a fork has handlers.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
