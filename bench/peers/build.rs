//! Generates tonic's client and server from Rust, without a `.proto` file and without protoc, and
//! notes the commit that is built: the checkout may be another one by the time this runs.

use std::process::Command;

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    for path in ["build.rs", "../../.git/logs/HEAD", "../../crates/lightmessaging/src"] {
        println!("cargo:rerun-if-changed={path}");
    }
    let described = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let described = described.ok().filter(|output| output.status.success());
    let commit = described.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    println!("cargo:rustc-env=BUILT_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
    let method = |name: &str, route: &str| {
        Method::builder()
            .name(name)
            .route_name(route)
            .input_type("crate::peers::tonic::Payload")
            .output_type("crate::peers::tonic::Sum")
            .codec_path("tonic_prost::ProstCodec")
    };
    let service = Service::builder()
        .name("Desk")
        .package("lightmessaging.peers")
        .method(method("ask", "Ask").build())
        .method(method("count", "Count").client_streaming().build())
        .build();
    Builder::new().compile(&[service]);
}
