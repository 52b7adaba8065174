//! Generates tonic's client and server from Rust, without a `.proto` file and without protoc.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
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
