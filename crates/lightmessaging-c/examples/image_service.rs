//! Serves an image file in any width: `cargo run -p lightmessaging-c --example image_service -- FILE`,
//! or the first PNG below `/usr/share`. `image_client.c` is a client of it.

use std::error::Error;
use std::path::{Path, PathBuf};

use image::DynamicImage;
use image::imageops::FilterType;
use lightmessaging::helpers::{image as image_payload, integer};
use lightmessaging::{Request, Service};

/// The id of the one message that it knows: the width as an integer, answered with the image.
const GET_IMAGE: i32 = 1;

fn main() -> Result<(), Box<dyn Error>> {
    let path = match std::env::args_os().nth(1) {
        Some(path) => path.into(),
        None => find_png(Path::new("/usr/share")).ok_or("there is no PNG below /usr/share")?,
    };
    let image = image::open(&path)?;
    let mut service = Service::start("net.example.images", move |request| {
        if let Err(error) = answer(&image, request) {
            eprintln!("{error}");
        }
    })?;
    println!("serving {}", path.display());
    service.run()?;
    Ok(())
}

/// A request that is left unanswered, for what it asks or because of an error, is dropped: its
/// client gets an error at once.
fn answer(image: &DynamicImage, request: Request) -> Result<(), Box<dyn Error>> {
    let width = integer::decode(request.data())?;
    if request.id() != GET_IMAGE || !(1..=4096).contains(&width) {
        return Err(format!("nothing is known of message {}, {width}", request.id()).into());
    }
    let width = width as u32;
    let height = u64::from(image.height()) * u64::from(width) / u64::from(image.width());
    let height = height.clamp(1, 4096) as u32;
    let resized = image.resize_exact(width, height, FilterType::Triangle);
    request.reply(image_payload::encode(&resized)?)?;
    Ok(())
}

/// The first PNG in a folder and those in it.
fn find_png(folder: &Path) -> Option<PathBuf> {
    let mut entries: Vec<_> = std::fs::read_dir(folder).ok()?.filter_map(Result::ok).collect();
    entries.sort_by_key(|entry| entry.file_name());
    entries.into_iter().find_map(|entry| {
        let (path, kind) = (entry.path(), entry.file_type().ok()?);
        if kind.is_dir() {
            return find_png(&path);
        }
        (kind.is_file() && path.extension()? == "png" && image::open(&path).is_ok()).then_some(path)
    })
}
