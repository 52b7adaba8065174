//! One kind of message again and again, for `bench/hot-path.py` to count what it takes.
//!
//! `hot serve FOLDER` is the service; `hot calls FOLDER N` calls it N times, `hot one-way FOLDER N`
//! sends it N one-way messages, all of 64 bytes. Nothing is timed here.

use lightmessaging::{Connection, Registry, Service};

const NAME: &str = "hot";
const ECHO: i32 = 1;
const ONE_WAY: i32 = 2;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [role, folder, rest @ ..] = &arguments[..] else { panic!("hot ROLE FOLDER [N]") };
    let registry = Registry::at(folder);
    if role == "serve" {
        return serve(registry);
    }
    let messages: u64 = rest[0].parse().expect("a number of messages");
    let connection = Connection::builder(NAME).registry(registry).build().expect("a name");
    let call = || {
        let response = connection.send_two_way(ECHO, [7; 64]).expect("an answer");
        assert_eq!(response.len(), 64);
    };
    call();
    for _ in 0..messages {
        match role.as_str() {
            "calls" => call(),
            _ => connection.send_one_way(ONE_WAY, [7; 64]).expect("room"),
        }
    }
    // Everything before it was handled.
    call();
}

fn serve(registry: Registry) {
    let service = Service::builder(NAME).registry(registry).start(|request| {
        if request.id() == ECHO {
            let (message, reply) = request.split();
            reply.reply(message.data()).expect("a client that lives");
        } else {
            std::hint::black_box(request.data());
        }
    });
    service.expect("the service starts").run().expect("the service runs");
}
