//! The helpers for typed payloads, from one process to another and back.

mod common;

use common::{Folder, play, tell};
use image::{DynamicImage, ImageBuffer, Luma, Rgb, RgbImage, Rgba, RgbaImage};
use lightmessaging::helpers::{integer, property_list, value};
use lightmessaging::{Connection, Error, Request, Result, Service};
use serde::{Deserialize, Serialize};

const INTEGER: i32 = 1;
const PROPERTY_LIST: i32 = 2;
const IMAGE: i32 = 3;
const VALUE: i32 = 4;
/// Answered with a text.
const TEXT: i32 = 5;

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
struct Question {
    words: Vec<String>,
    times: u32,
    note: Option<String>,
    kind: Kind,
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
enum Kind {
    Plain,
    Weighted { weight: f64 },
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Answer {
    text: String,
    question: Question,
}

#[test]
fn role() {
    play(&[("answering", answering)]);
}

/// A service that reads each kind of payload and answers with another one of the kind; what is of
/// the wrong kind is answered with the error's text.
fn answering(arguments: &[String]) {
    let mut service = Service::start(&arguments[0], |request| {
        let answered = match answer(&request) {
            Ok(bytes) => request.reply(bytes),
            Err(error) => request.reply(error.to_string()),
        };
        answered.unwrap();
    })
    .unwrap();
    tell("ready");
    service.run().unwrap();
}

fn answer(request: &Request) -> Result<Vec<u8>> {
    match request.id() {
        INTEGER => Ok(integer::encode(-integer::decode(request.data())?).to_vec()),
        PROPERTY_LIST => property_list::encode(&reply_to(property_list::decode(request.data())?)),
        IMAGE => {
            let image = lightmessaging::helpers::image::decode(request.data())?;
            lightmessaging::helpers::image::encode(&image.rotate180())
        }
        VALUE => value::encode(&reply_to(value::decode(request.data())?)),
        _ => Ok(b"a text that is no other kind".to_vec()),
    }
}

fn reply_to(question: Question) -> Answer {
    Answer { text: question.words.join(" ").repeat(question.times as usize), question }
}

/// A question that fits a message's own room, and one that does not, as its answer.
fn questions() -> [Question; 2] {
    let small = Question {
        words: vec!["how".into(), "größer".into()],
        times: 2,
        note: None,
        kind: Kind::Weighted { weight: 0.5 },
    };
    let large = Question {
        words: (0..20_000).map(|i| format!("word {i}")).collect(),
        times: 3,
        note: Some("★".repeat(5000)),
        kind: Kind::Plain,
    };
    [small, large]
}

fn start() -> (Folder, common::Process, Connection) {
    let folder = Folder::new();
    let process = folder.serve("answering", &["x"]);
    let connection = folder.connect("x");
    (folder, process, connection)
}

#[test]
fn an_integer_goes_there_and_back() -> Result<()> {
    let (_folder, _process, connection) = start();
    for number in [0, 1, -42, i32::MAX] {
        let response = connection.send_two_way(INTEGER, integer::encode(number))?;
        assert_eq!(integer::decode(response.data())?, -number);
    }
    Ok(())
}

#[test]
fn property_lists_small_and_large_go_there_and_back() -> Result<()> {
    let (_folder, _process, connection) = start();
    for question in questions() {
        let bytes = property_list::encode(&question)?;
        let response = connection.send_two_way(PROPERTY_LIST, bytes)?;
        let answer: Answer = property_list::decode(response.data())?;
        assert!(answer == reply_to(question));
    }
    Ok(())
}

#[test]
fn values_small_and_large_go_there_and_back() -> Result<()> {
    let (_folder, _process, connection) = start();
    for question in questions() {
        let response = connection.send_two_way(VALUE, value::encode(&question)?)?;
        let answer: Answer = value::decode(response.data())?;
        assert!(answer == reply_to(question));
    }
    Ok(())
}

#[test]
fn images_small_and_large_go_there_and_back() -> Result<()> {
    use lightmessaging::helpers::image::{Image, decode, encode};

    let (_folder, _process, connection) = start();
    for (width, height) in [(3, 2), (512, 512), (1000, 7)] {
        let at = |x: u32, y: u32| ((x * 31) ^ (y * 17)) as u8;
        let images: [DynamicImage; 4] = [
            ImageBuffer::from_fn(width, height, |x, y| Luma([at(x, y)])).into(),
            RgbImage::from_fn(width, height, |x, y| Rgb([at(x, y), at(y, x), x as u8])).into(),
            RgbaImage::from_fn(width, height, |x, y| Rgba([1, 2, at(x, y), y as u8])).into(),
            ImageBuffer::from_fn(width, height, |x, y| Rgb([x as u16, 258, y as u16 * 127])).into(),
        ];
        for image in images {
            let response = connection.send_two_way(IMAGE, encode(&image)?)?;
            let turned = image.rotate180();
            assert!(decode(response.data())? == turned);
            // Where it is, without a copy of the pixels.
            let view = Image::new(response.data())?;
            assert_eq!((view.header().width, view.header().height), (width, height));
            assert_eq!(view.as_rgba8().is_some(), turned.as_rgba8().is_some());
            if let Some(pixels) = view.as_rgba8() {
                assert_eq!(pixels.get_pixel(0, 0), turned.as_rgba8().unwrap().get_pixel(0, 0));
            }
        }
    }
    Ok(())
}

#[test]
fn a_payload_of_the_wrong_kind_is_told_on_both_sides() -> Result<()> {
    let (_folder, _process, connection) = start();
    let kinds = [
        (INTEGER, "an integer"),
        (PROPERTY_LIST, "a property list"),
        (IMAGE, "an image"),
        (VALUE, "a value of the type"),
    ];
    for bytes in [&b""[..], b"no such thing", &[0xff; 10_000]] {
        for (id, kind) in kinds {
            let response = connection.send_two_way(id, bytes)?;
            let text = String::from_utf8_lossy(response.data());
            assert!(text.starts_with(&format!("the payload is not {kind}: ")), "{text}");
        }
    }
    let response = connection.send_two_way(TEXT, [])?;
    let errors = [
        integer::decode(response.data()).map(drop),
        property_list::decode::<Answer>(response.data()).map(drop),
        lightmessaging::helpers::image::decode(response.data()).map(drop),
        value::decode::<Answer>(response.data()).map(drop),
    ];
    for (error, (_, kind)) in errors.map(Result::unwrap_err).iter().zip(kinds) {
        assert!(matches!(error, Error::WrongKind { expected, .. } if *expected == kind), "{error}");
        assert!(error.service().is_none());
    }
    Ok(())
}
