//! Images: a header that says what the pixels mean, and the pixels as they are in memory.
//!
//! One payload for Rust, C and cairo. Its header is 64 bytes, the numbers in the machine's own
//! order; then come exactly [`height`](Header::height) × [`bytes_per_row`](Header::bytes_per_row)
//! bytes of pixels. Nothing is compressed, so a receiver may look at an image where it is: see
//! [`Image`].
//!
//! The image's colours are those that both sides take for granted, usually sRGB.

use std::fmt;

use ::image::flat::SampleLayout;
use ::image::{ColorType, DynamicImage, FlatSamples, ImageBuffer, Luma, Pixel, Rgb, Rgba};

use crate::{Error, PAYLOAD_MAX, Result};

/// How long the header is; the rest of it after the eight numbers is reserved.
const HEADER: usize = 64;

const ALPHA: u32 = 0x1f;
const NONE: u32 = 0;
const PREMULTIPLIED_LAST: u32 = 1;
const PREMULTIPLIED_FIRST: u32 = 2;
const LAST: u32 = 3;
const FIRST: u32 = 4;
const SKIP_LAST: u32 = 5;
const SKIP_FIRST: u32 = 6;
const ALPHA_ONLY: u32 = 7;
const FLOAT: u32 = 0x100;
const ORDER: u32 = 0x7000;
const LITTLE_16: u32 = 0x1000;
const LITTLE_32: u32 = 0x2000;
const BIG_16: u32 = 0x3000;
const BIG_32: u32 = 0x4000;
/// What 16-bit components are in when they are in memory as this machine has them.
const NATIVE_16: u32 = if cfg!(target_endian = "little") { LITTLE_16 } else { BIG_16 };

/// What an image's pixels mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Header {
    /// Pixels in a row, at least 1.
    pub width: u32,
    /// Rows, at least 1. The first one is the top, but for [`orientation`](Header::orientation).
    pub height: u32,
    /// 1 to 32, usually 8.
    pub bits_per_component: u32,
    /// From `bits_per_component` to 128.
    pub bits_per_pixel: u32,
    /// From one row's beginning to the next one's: at least `width` × `bits_per_pixel` / 8.
    pub bytes_per_row: u32,
    /// The order of the components, as the bits of CoreGraphics' `CGBitmapInfo`.
    ///
    /// The low 5 bits are the alpha's place: 0 none, 1 premultiplied last, 2 premultiplied first, 3
    /// last, 4 first, 5 none but room for it last, 6 none but room for it first, 7 nothing else.
    /// 0x100 says that components are floating point numbers. The bits 0x7000 are the order of
    /// bytes: 0 or 0x4000 as named, 0x2000 reversed in each 32 bits, 0x1000 and 0x3000 16-bit
    /// components, low and high byte first.
    pub bitmap_info: u32,
    /// Pixels for each point of a layout: 1 for most images, 2 on most dense displays. Finite,
    /// above 0.
    pub scale: f32,
    /// 0 to 7, as `UIImageOrientation`: up, down, left, right, and the same mirrored. Nothing here
    /// turns the pixels.
    pub orientation: u32,
}

impl Header {
    fn read(bytes: &[u8; HEADER]) -> Header {
        let number = |index: usize| {
            let at = 4 * index;
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Header {
            width: number(0),
            height: number(1),
            bits_per_component: number(2),
            bits_per_pixel: number(3),
            bytes_per_row: number(4),
            bitmap_info: number(5),
            scale: f32::from_bits(number(6)),
            orientation: number(7),
        }
    }

    fn write(&self) -> [u8; HEADER] {
        let numbers = [
            self.width,
            self.height,
            self.bits_per_component,
            self.bits_per_pixel,
            self.bytes_per_row,
            self.bitmap_info,
            self.scale.to_bits(),
            self.orientation,
        ];
        let mut bytes = [0; HEADER];
        for (place, number) in bytes.chunks_exact_mut(4).zip(numbers) {
            place.copy_from_slice(&number.to_ne_bytes());
        }
        bytes
    }

    /// How many bytes of pixels there are.
    fn len(&self) -> u64 {
        u64::from(self.height) * u64::from(self.bytes_per_row)
    }

    fn check(&self) -> Result<()> {
        let row_bits = u64::from(self.width) * u64::from(self.bits_per_pixel);
        if self.width == 0 || self.height == 0 {
            Err(wrong(format!("it is {} × {} pixels", self.width, self.height)))
        } else if !(1..=32).contains(&self.bits_per_component) {
            Err(wrong(format!("its components have {} bits", self.bits_per_component)))
        } else if !(self.bits_per_component..=128).contains(&self.bits_per_pixel) {
            Err(wrong(format!("its pixels have {} bits", self.bits_per_pixel)))
        } else if u64::from(self.bytes_per_row) * 8 < row_bits {
            Err(wrong(format!("its rows of {} bits have {} bytes", row_bits, self.bytes_per_row)))
        } else if !(self.scale.is_finite() && self.scale > 0.0) {
            Err(wrong(format!("its scale is {}", self.scale)))
        } else if self.orientation > 7 {
            Err(wrong(format!("its orientation is {}", self.orientation)))
        } else {
            Ok(())
        }
    }

    /// Whether there is nothing between the rows.
    fn is_tight(&self) -> bool {
        u64::from(self.bytes_per_row) * 8 == u64::from(self.width) * u64::from(self.bits_per_pixel)
    }
}

/// Where the components of a pixel are, for the pixels that can be converted.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Layout {
    /// The bytes of a component: 1 or 2.
    component: usize,
    /// Whether a component of 2 bytes has its low one first.
    little: bool,
    /// The places of red, green and blue, or of gray alone, counted in components.
    colours: &'static [usize],
    alpha: Option<Alpha>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Alpha {
    place: usize,
    premultiplied: bool,
}

impl Layout {
    fn of(header: &Header) -> Result<Layout> {
        let (alpha, order) = (header.bitmap_info & ALPHA, header.bitmap_info & ORDER);
        let unknown = || {
            wrong(format!(
                "there is no conversion for {} bits per component, {} per pixel, bitmap info {:#x}",
                header.bits_per_component, header.bits_per_pixel, header.bitmap_info
            ))
        };
        if header.bitmap_info & FLOAT != 0 {
            return Err(unknown());
        }
        let (component, little) = match (header.bits_per_component, order) {
            (8, 0 | BIG_32) => (1, false),
            // Only where a pixel has 32 bits is it sure what they do to it.
            (8, LITTLE_32) if header.bits_per_pixel == 32 => (1, true),
            (16, 0 | BIG_16) => (2, false),
            (16, LITTLE_16) => (2, true),
            _ => return Err(unknown()),
        };
        // In 32 little bits the components of a byte each are in the reverse order.
        let reversed = component == 1 && little;
        let at = |place, premultiplied| Some(Alpha { place, premultiplied });
        let channels = header.bits_per_pixel / header.bits_per_component;
        if channels * header.bits_per_component != header.bits_per_pixel {
            return Err(unknown());
        }
        let (colours, alpha): (&[usize], _) = match (channels, alpha, reversed) {
            (1, NONE | ALPHA_ONLY, _) => (&[0], None),
            (3, NONE, _) => (&[0, 1, 2], None),
            (4, NONE | SKIP_LAST, false) => (&[0, 1, 2], None),
            (4, NONE | SKIP_LAST, true) => (&[3, 2, 1], None),
            (4, LAST, false) => (&[0, 1, 2], at(3, false)),
            (4, LAST, true) => (&[3, 2, 1], at(0, false)),
            (4, PREMULTIPLIED_LAST, false) => (&[0, 1, 2], at(3, true)),
            (4, PREMULTIPLIED_LAST, true) => (&[3, 2, 1], at(0, true)),
            (4, SKIP_FIRST, false) if component == 1 => (&[1, 2, 3], None),
            (4, SKIP_FIRST, true) => (&[2, 1, 0], None),
            (4, FIRST, false) if component == 1 => (&[1, 2, 3], at(0, false)),
            (4, FIRST, true) => (&[2, 1, 0], at(3, false)),
            (4, PREMULTIPLIED_FIRST, false) if component == 1 => (&[1, 2, 3], at(0, true)),
            (4, PREMULTIPLIED_FIRST, true) => (&[2, 1, 0], at(3, true)),
            _ => return Err(unknown()),
        };
        Ok(Layout { component, little, colours, alpha })
    }

    /// What the `image` crate calls bytes in this order, if it knows them.
    fn color_type(&self) -> Option<ColorType> {
        match (self.component, self.colours, self.alpha) {
            (1, [0], None) => Some(ColorType::L8),
            (1, [0, 1, 2], None) => Some(ColorType::Rgb8),
            (1, [0, 1, 2], Some(Alpha { place: 3, premultiplied: false })) => {
                Some(ColorType::Rgba8)
            }
            _ => None,
        }
    }
}

/// An image in a payload, looked at where it is.
///
/// Over [`Response::data`](crate::Response::data) it costs that one copy of the payload:
///
/// ```
/// # use lightmessaging::{Connection, Result};
/// use lightmessaging::helpers::image::Image;
///
/// fn average_red(camera: &Connection) -> Result<Option<u64>> {
///     let response = camera.send_two_way(1, [])?;
///     let image = Image::new(response.data())?;
///     Ok(image.as_rgba8().map(|pixels| {
///         let sum: u64 = pixels.pixels().map(|pixel| u64::from(pixel.0[0])).sum();
///         sum / u64::from(pixels.width() * pixels.height())
///     }))
/// }
/// ```
///
/// Over [`Response::as_slice`](crate::Response::as_slice) it costs none, for a peer that is
/// trusted:
///
/// ```
/// # use lightmessaging::{Connection, Result};
/// # use lightmessaging::helpers::image::Image;
/// # fn show(_: &[u8]) {}
/// fn show_frame(camera: &Connection) -> Result<()> {
///     let response = camera.send_two_way(1, [])?;
///     // SAFETY: the camera is our own program and never writes to a frame that it has sent: no
///     // process writes to the payload until `image` and all that borrows from it is gone.
///     let image = Image::new(unsafe { response.as_slice() })?;
///     show(image.pixels());
///     Ok(())
/// }
/// ```
///
/// The header is read once, and its copy is what counts: the pixels are where it said.
#[derive(Clone, Copy)]
pub struct Image<'a> {
    header: Header,
    pixels: &'a [u8],
}

impl<'a> Image<'a> {
    /// Checks a payload's header.
    ///
    /// # Errors
    ///
    /// [`Error::WrongKind`] if the payload is shorter than a header, a field is out of its range,
    /// or the rows do not end where the payload does.
    pub fn new(bytes: &'a [u8]) -> Result<Image<'a>> {
        let Some((header, pixels)) = bytes.split_first_chunk() else {
            return Err(wrong(format!("its header is cut short at {} bytes", bytes.len())));
        };
        let header = Header::read(header);
        header.check()?;
        if header.len() != pixels.len() as u64 {
            let (rows, row) = (header.height, header.bytes_per_row);
            return Err(wrong(format!(
                "it has {} bytes of pixels, not {rows} rows of {row}",
                pixels.len()
            )));
        }
        Ok(Image { header, pixels })
    }

    /// What the pixels mean.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The rows, [`bytes_per_row`](Header::bytes_per_row) bytes each.
    pub fn pixels(&self) -> &'a [u8] {
        self.pixels
    }

    /// The bytes with the strides of their pixels and rows, where each component is a byte.
    ///
    /// The components are in the order of memory. [`color_hint`](FlatSamples::color_hint) says
    /// which ones they are where that is an order that the `image` crate has a name for:
    ///
    /// | pixels | channels | hint |
    /// |---|---|---|
    /// | gray, or alpha alone | 1 | `L8` |
    /// | red, green, blue | 3 | `Rgb8` |
    /// | red, green, blue, a byte that means nothing | 3 | `Rgb8` |
    /// | red, green, blue, alpha | 4 | `Rgba8` |
    /// | red, green, blue premultiplied by alpha, alpha | 4 | `None` |
    /// | alpha or a byte that means nothing first, or all reversed, as cairo has it | 4 | `None` |
    ///
    /// Without a hint, red is not where [`as_view`](FlatSamples::as_view) looks for it, or alpha
    /// means something else; and that function does not look at the hint. Ask
    /// [`header`](Image::header), or take [`to_image`](Image::to_image).
    ///
    /// `None` for components of other sizes and for those that `to_image` does not convert.
    pub fn samples(&self) -> Option<FlatSamples<&'a [u8]>> {
        let layout = Layout::of(&self.header).ok().filter(|layout| layout.component == 1)?;
        let color_hint = layout.color_type();
        let pixel = self.pixel();
        let channels = color_hint.map_or(pixel as u8, |color| color.channel_count());
        let Header { width, height, bytes_per_row, .. } = self.header;
        let layout = SampleLayout {
            channels,
            channel_stride: 1,
            width,
            width_stride: pixel,
            height,
            height_stride: bytes_per_row as usize,
        };
        Some(FlatSamples { samples: self.pixels, layout, color_hint })
    }

    /// The pixels in place, if they are red, green, blue and straight alpha, a byte each, with
    /// nothing between the rows.
    pub fn as_rgba8(&self) -> Option<ImageBuffer<Rgba<u8>, &'a [u8]>> {
        self.buffer(ColorType::Rgba8)
    }

    /// The pixels in place, if they are red, green and blue, a byte each, with nothing between
    /// them.
    pub fn as_rgb8(&self) -> Option<ImageBuffer<Rgb<u8>, &'a [u8]>> {
        self.buffer(ColorType::Rgb8)
    }

    /// The pixels in place, if they are a byte of gray or of alpha each, with nothing between the
    /// rows.
    pub fn as_luma8(&self) -> Option<ImageBuffer<Luma<u8>, &'a [u8]>> {
        self.buffer(ColorType::L8)
    }

    fn buffer<P: Pixel<Subpixel = u8>>(
        &self,
        color: ColorType,
    ) -> Option<ImageBuffer<P, &'a [u8]>> {
        let layout = Layout::of(&self.header).ok()?;
        let as_it_is = layout.color_type() == Some(color)
            && self.pixel() == usize::from(P::CHANNEL_COUNT)
            && self.header.is_tight();
        as_it_is
            .then(|| ImageBuffer::from_raw(self.header.width, self.header.height, self.pixels))?
    }

    /// A copy of the image that the `image` crate works with: one pass over the pixels.
    ///
    /// Components of 8 bits become `Luma8` (8 bits per pixel, gray or alpha alone), `Rgb8` (24
    /// bits, or 32 without alpha) or `Rgba8` (32 bits, alpha first or last, big or 32-bit little
    /// order); components of 16 bits, low or high byte first, `Luma16`, `Rgb16` or `Rgba16` (alpha
    /// last). Premultiplied colours are divided by their alpha and rounded; where that is 0, they
    /// become 0. Scale and orientation stay in the header.
    ///
    /// # Errors
    ///
    /// [`Error::WrongKind`] for every other layout: CMYK, floating point, components of other
    /// sizes.
    pub fn to_image(&self) -> Result<DynamicImage> {
        let layout = Layout::of(&self.header)?;
        let Header { width, height, .. } = self.header;
        let image =
            if layout.component == 1 {
                let components = self.gather(&layout, |bytes| bytes[0], straight_8);
                match (layout.colours.len(), layout.alpha) {
                    (1, _) => ImageBuffer::from_raw(width, height, components)
                        .map(DynamicImage::ImageLuma8),
                    (_, None) => ImageBuffer::from_raw(width, height, components)
                        .map(DynamicImage::ImageRgb8),
                    _ => ImageBuffer::from_raw(width, height, components)
                        .map(DynamicImage::ImageRgba8),
                }
            } else {
                let word = if layout.little { u16::from_le_bytes } else { u16::from_be_bytes };
                let components =
                    self.gather(&layout, |bytes| word([bytes[0], bytes[1]]), straight_16);
                match (layout.colours.len(), layout.alpha) {
                    (1, _) => ImageBuffer::from_raw(width, height, components)
                        .map(DynamicImage::ImageLuma16),
                    (_, None) => ImageBuffer::from_raw(width, height, components)
                        .map(DynamicImage::ImageRgb16),
                    _ => ImageBuffer::from_raw(width, height, components)
                        .map(DynamicImage::ImageRgba16),
                }
            };
        image.ok_or_else(|| wrong("it is too large for this machine".to_owned()))
    }

    /// The bytes of a pixel, where it has whole ones.
    fn pixel(&self) -> usize {
        self.header.bits_per_pixel as usize / 8
    }

    /// Every component of every pixel, in the order red, green, blue, alpha.
    fn gather<C: Copy>(
        &self,
        layout: &Layout,
        component: impl Fn(&[u8]) -> C,
        straight: impl Fn(C, C) -> C,
    ) -> Vec<C> {
        let width = self.header.width as usize;
        let channels = layout.colours.len() + usize::from(layout.alpha.is_some());
        // No more than the pixels that are there.
        let mut components = Vec::with_capacity(width * self.header.height as usize * channels);
        for row in self.pixels.chunks_exact(self.header.bytes_per_row as usize) {
            for pixel in row.chunks_exact(self.pixel()).take(width) {
                let at = |place: usize| component(&pixel[place * layout.component..]);
                let colours = layout.colours.iter().map(|place| at(*place));
                match layout.alpha {
                    None => components.extend(colours),
                    Some(Alpha { place, premultiplied }) => {
                        let alpha = at(place);
                        if premultiplied {
                            components.extend(colours.map(|colour| straight(colour, alpha)));
                        } else {
                            components.extend(colours);
                        }
                        components.push(alpha);
                    }
                }
            }
        }
        components
    }
}

impl fmt::Debug for Image<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image").field("header", &self.header).finish_non_exhaustive()
    }
}

/// An image as a payload, of scale 1 and upright.
///
/// ```
/// use lightmessaging::helpers::image;
/// use ::image::{DynamicImage, Rgba, RgbaImage};
///
/// let red = DynamicImage::from(RgbaImage::from_pixel(64, 64, Rgba([255, 0, 0, 255])));
/// let payload = image::encode(&red)?;
/// // `connection.send_one_way(1, payload)?`, and in the receiver:
/// assert_eq!(image::decode(&payload)?, red);
/// # Ok::<(), lightmessaging::Error>(())
/// ```
///
/// `Luma8`, `Rgb8` and `Rgba8` go as they are, 8, 24 and 32 bits per pixel; `Luma16`, `Rgb16` and
/// `Rgba16` as well, in the machine's order of bytes. Gray with alpha becomes colour with alpha,
/// and floating point components, cut off at 0 and 1, become 16-bit ones.
///
/// # Errors
///
/// [`Error::WrongKind`] if the width or the height is 0, or the payload would have more than
/// 4 GiB − 1.
pub fn encode(image: &DynamicImage) -> Result<Vec<u8>> {
    encode_with(image, 1.0, 0)
}

/// The same with a [`scale`](Header::scale) and an [`orientation`](Header::orientation).
///
/// # Errors
///
/// As [`encode`], and if one of the two is out of its range.
pub fn encode_with(image: &DynamicImage, scale: f32, orientation: u32) -> Result<Vec<u8>> {
    use DynamicImage::*;
    let (channels, component, bitmap_info) = match image {
        ImageLuma8(_) => (1, 1, NONE),
        ImageRgb8(_) => (3, 1, NONE),
        ImageRgba8(_) | ImageLumaA8(_) => (4, 1, LAST | BIG_32),
        ImageLuma16(_) => (1, 2, NONE | NATIVE_16),
        ImageRgb16(_) | ImageRgb32F(_) => (3, 2, NONE | NATIVE_16),
        _ => (4, 2, LAST | NATIVE_16),
    };
    let size = (image.width(), image.height());
    let header = tight(size, channels, component, bitmap_info, scale, orientation)?;
    let mut payload = Vec::with_capacity(HEADER + header.len() as usize);
    payload.extend(header.write());
    match image {
        ImageLuma8(buffer) => payload.extend_from_slice(buffer.as_raw()),
        ImageRgb8(buffer) => payload.extend_from_slice(buffer.as_raw()),
        ImageRgba8(buffer) => payload.extend_from_slice(buffer.as_raw()),
        ImageLumaA8(_) => payload.extend_from_slice(image.to_rgba8().as_raw()),
        ImageLuma16(buffer) => put_words(&mut payload, buffer.as_raw()),
        ImageRgb16(buffer) => put_words(&mut payload, buffer.as_raw()),
        ImageRgba16(buffer) => put_words(&mut payload, buffer.as_raw()),
        ImageRgb32F(_) => put_words(&mut payload, image.to_rgb16().as_raw()),
        _ => put_words(&mut payload, image.to_rgba16().as_raw()),
    }
    // A buffer may have more than its pixels.
    payload.truncate(HEADER + header.len() as usize);
    Ok(payload)
}

/// The image in a payload: [`Image::new`] and [`Image::to_image`].
///
/// # Errors
///
/// As those.
pub fn decode(bytes: &[u8]) -> Result<DynamicImage> {
    Image::new(bytes)?.to_image()
}

/// The header of an image with nothing between its rows, if it fits a payload.
fn tight(
    (width, height): (u32, u32),
    channels: u32,
    component: u32,
    bitmap_info: u32,
    scale: f32,
    orientation: u32,
) -> Result<Header> {
    let too_large = || wrong(format!("{width} × {height} pixels are too many for a payload"));
    let header = Header {
        width,
        height,
        bits_per_component: 8 * component,
        bits_per_pixel: 8 * component * channels,
        bytes_per_row: width.checked_mul(component * channels).ok_or_else(too_large)?,
        bitmap_info,
        scale,
        orientation,
    };
    header.check()?;
    if header.len() > PAYLOAD_MAX - HEADER as u64 {
        return Err(too_large());
    }
    Ok(header)
}

fn put_words(payload: &mut Vec<u8>, words: &[u16]) {
    payload.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
}

/// A premultiplied component without its alpha, rounded to the nearest.
fn straight_8(colour: u8, alpha: u8) -> u8 {
    let (colour, alpha, max) = (u32::from(colour), u32::from(alpha), u32::from(u8::MAX));
    // More than the alpha is no premultiplied colour; it is as bright as there is.
    (colour * max + alpha / 2).checked_div(alpha).unwrap_or(0).min(max) as u8
}

/// The same for 16 bits.
fn straight_16(colour: u16, alpha: u16) -> u16 {
    let (colour, alpha, max) = (u64::from(colour), u64::from(alpha), u64::from(u16::MAX));
    (colour * max + alpha / 2).checked_div(alpha).unwrap_or(0).min(max) as u16
}

fn wrong(reason: String) -> Error {
    Error::WrongKind { expected: "an image", reason }
}

#[cfg(test)]
mod tests {
    use ::image::{GenericImageView, GrayAlphaImage, GrayImage, Rgb32FImage, RgbImage, RgbaImage};

    use super::super::hostile;
    use super::*;

    /// A payload of a header and pixels, whatever they are.
    fn payload(header: &Header, pixels: &[u8]) -> Vec<u8> {
        [&header.write(), pixels].concat()
    }

    /// The header of one row of pixels of 8-bit components.
    fn row(width: u32, bits_per_pixel: u32, bitmap_info: u32) -> Header {
        Header {
            width,
            height: 1,
            bits_per_component: 8,
            bits_per_pixel,
            bytes_per_row: width * bits_per_pixel / 8,
            bitmap_info,
            scale: 1.0,
            orientation: 0,
        }
    }

    fn wide(header: Header) -> Header {
        Header { bits_per_component: 16, ..header }
    }

    fn read(bytes: &[u8]) {
        match Image::new(bytes) {
            Ok(image) => {
                assert_eq!(image.pixels().len(), bytes.len() - HEADER);
                if let Some(samples) = image.samples() {
                    assert!(samples.layout.fits(samples.samples.len()));
                }
                let buffers = image.as_rgba8().is_some()
                    || image.as_rgb8().is_some()
                    || image.as_luma8().is_some();
                assert!(!buffers || image.samples().is_some());
                if let Ok(copy) = image.to_image() {
                    assert_eq!(copy.dimensions(), (image.header.width, image.header.height));
                }
            }
            Err(error) => assert!(matches!(error, Error::WrongKind { .. }), "{error}"),
        }
    }

    #[test]
    fn the_header_has_its_fields_where_the_protocol_says() {
        let header = Header {
            width: 2,
            height: 3,
            bits_per_component: 8,
            bits_per_pixel: 32,
            bytes_per_row: 12,
            bitmap_info: 0x2002,
            scale: 2.0,
            orientation: 7,
        };
        let bytes = payload(&header, &[5; 36]);
        let words = [2_u32, 3, 8, 32, 12, 0x2002, 0x4000_0000, 7, 0, 0, 0, 0, 0, 0, 0, 0];
        let expected: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(bytes[..64], expected);
        let image = Image::new(&bytes).unwrap();
        assert_eq!(*image.header(), header);
        assert_eq!(image.pixels(), [5; 36]);
    }

    #[test]
    fn the_reserved_bytes_are_not_looked_at() {
        let mut bytes = payload(&row(1, 8, NONE), &[9]);
        bytes[32..64].fill(0xff);
        assert_eq!(decode(&bytes).unwrap(), GrayImage::from_raw(1, 1, vec![9]).unwrap().into());
    }

    #[test]
    fn each_field_that_is_wrong_is_told() {
        let right = Header { height: 2, ..row(4, 32, LAST) };
        let pixels = [0; 32];
        assert!(Image::new(&payload(&right, &pixels)).is_ok());
        let wrongs: [(&str, &[Header]); 8] = [
            ("pixels", &[Header { width: 0, ..right }, Header { height: 0, ..right }]),
            (
                "components",
                &[0, 33, u32::MAX].map(|bits_per_component| Header { bits_per_component, ..right }),
            ),
            (
                "pixels have",
                &[0, 7, 129, u32::MAX].map(|bits_per_pixel| Header { bits_per_pixel, ..right }),
            ),
            (
                "rows",
                &[
                    Header { width: 5, ..right },
                    Header { width: u32::MAX, ..right },
                    Header { bits_per_pixel: 33, ..right },
                    Header { bytes_per_row: 15, ..right },
                    Header { bytes_per_row: 0, ..right },
                ],
            ),
            (
                "bytes of pixels",
                &[
                    Header { height: 1, ..right },
                    Header { height: 3, ..right },
                    Header { height: u32::MAX, ..right },
                    Header { bytes_per_row: 17, ..right },
                    Header { bytes_per_row: u32::MAX, ..right },
                ],
            ),
            (
                "scale",
                &[0.0, -0.0, -1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY]
                    .map(|scale| Header { scale, ..right }),
            ),
            ("orientation", &[8, u32::MAX].map(|orientation| Header { orientation, ..right })),
            // The numbers that would come out right if they were cut to 32 bits.
            ("rows", &[Header { width: 1 << 29, bits_per_pixel: 128, bytes_per_row: 16, ..right }]),
        ];
        for (word, headers) in wrongs {
            for header in headers {
                let error = Image::new(&payload(header, &pixels)).unwrap_err().to_string();
                assert!(error.contains(word), "{header:?}: {error}");
            }
        }
        for bitmap_info in 0..0x8000 {
            read(&payload(&Header { bitmap_info, ..right }, &pixels));
        }
        for len in 0..64 {
            assert!(Image::new(&payload(&right, &pixels)[..len]).is_err());
        }
    }

    #[test]
    fn every_image_of_8_bits_comes_back_as_it_was() {
        for (width, height) in [(1, 1), (3, 5), (17, 1), (1, 300)] {
            let bytes = |channels: u32| -> Vec<u8> {
                let mut next = hostile::noise(channels.into());
                (0..width * height * channels).map(|_| next()).collect()
            };
            let images: [DynamicImage; 3] = [
                GrayImage::from_raw(width, height, bytes(1)).unwrap().into(),
                RgbImage::from_raw(width, height, bytes(3)).unwrap().into(),
                RgbaImage::from_raw(width, height, bytes(4)).unwrap().into(),
            ];
            for image in images {
                let payload = encode(&image).unwrap();
                assert_eq!(payload[HEADER..], *image.as_bytes());
                assert_eq!(decode(&payload).unwrap(), image);
                let view = Image::new(&payload).unwrap();
                let hint = view.samples().unwrap().color_hint;
                assert_eq!(hint, Some(image.color()));
                let buffers = [
                    view.as_luma8().map(|buffer| buffer.as_raw().to_vec()),
                    view.as_rgb8().map(|buffer| buffer.as_raw().to_vec()),
                    view.as_rgba8().map(|buffer| buffer.as_raw().to_vec()),
                ];
                assert_eq!(buffers.iter().flatten().count(), 1);
                assert!(buffers.contains(&Some(image.as_bytes().to_vec())));
            }
        }
    }

    #[test]
    fn encoded_images_have_the_layout_of_the_protocol() {
        let layout = |image: DynamicImage| {
            let payload = encode(&image).unwrap();
            let header = *Image::new(&payload).unwrap().header();
            assert_eq!((header.width, header.height), (3, 2));
            assert_eq!((header.scale, header.orientation), (1.0, 0));
            assert!(header.is_tight());
            (header.bits_per_component, header.bits_per_pixel, header.bitmap_info)
        };
        let native = if cfg!(target_endian = "little") { 0x1000 } else { 0x3000 };
        assert_eq!(layout(DynamicImage::new_luma8(3, 2)), (8, 8, 0));
        assert_eq!(layout(DynamicImage::new_rgb8(3, 2)), (8, 24, 0));
        assert_eq!(layout(DynamicImage::new_rgba8(3, 2)), (8, 32, 0x4003));
        assert_eq!(layout(DynamicImage::new_luma_a8(3, 2)), (8, 32, 0x4003));
        assert_eq!(layout(DynamicImage::new_luma16(3, 2)), (16, 16, native));
        assert_eq!(layout(DynamicImage::new_rgb16(3, 2)), (16, 48, native));
        assert_eq!(layout(DynamicImage::new_rgba16(3, 2)), (16, 64, native | 3));
        assert_eq!(layout(DynamicImage::new_luma_a16(3, 2)), (16, 64, native | 3));
        assert_eq!(layout(DynamicImage::new_rgb32f(3, 2)), (16, 48, native));
        assert_eq!(layout(DynamicImage::new_rgba32f(3, 2)), (16, 64, native | 3));
    }

    #[test]
    fn images_of_16_bits_come_back_as_they_were() {
        let words = |len| -> Vec<u16> { (0..len).map(|i| i * 2749 + 259).collect() };
        let images = [
            DynamicImage::ImageLuma16(ImageBuffer::from_raw(3, 2, words(6)).unwrap()),
            DynamicImage::ImageRgb16(ImageBuffer::from_raw(3, 2, words(18)).unwrap()),
            DynamicImage::ImageRgba16(ImageBuffer::from_raw(3, 2, words(24)).unwrap()),
        ];
        for image in images {
            let payload = encode(&image).unwrap();
            assert_eq!(decode(&payload).unwrap(), image);
            assert!(Image::new(&payload).unwrap().samples().is_none());
        }
    }

    #[test]
    fn gray_with_alpha_and_floating_point_become_what_can_be_sent() {
        let image = GrayAlphaImage::from_raw(2, 1, vec![10, 20, 30, 40]).unwrap();
        let expected = RgbaImage::from_raw(2, 1, vec![10, 10, 10, 20, 30, 30, 30, 40]).unwrap();
        assert_eq!(decode(&encode(&image.into()).unwrap()).unwrap(), expected.into());
        let real = Rgb32FImage::from_raw(2, 1, vec![0.0, 0.5, 1.0, -1.0, 7.0, f32::NAN]).unwrap();
        let DynamicImage::ImageRgb16(words) = decode(&encode(&real.into()).unwrap()).unwrap()
        else {
            panic!("16 bits");
        };
        assert_eq!(words.as_raw()[..5], [0, 32768, 65535, 0, 65535]);
    }

    #[test]
    fn a_buffer_with_more_than_its_pixels_is_sent_without_the_rest() {
        let image = GrayImage::from_raw(2, 1, vec![1, 2, 3, 4]).unwrap();
        assert_eq!(encode(&image.into()).unwrap()[HEADER..], [1, 2]);
    }

    #[test]
    fn scale_and_orientation_are_kept() {
        let image = DynamicImage::new_rgb8(1, 1);
        let payload = encode_with(&image, 2.5, 6).unwrap();
        let header = *Image::new(&payload).unwrap().header();
        assert_eq!((header.scale, header.orientation), (2.5, 6));
        for (scale, orientation) in [(0.0, 0), (f32::NAN, 0), (1.0, 8)] {
            let error = encode_with(&image, scale, orientation).unwrap_err();
            assert!(matches!(error, Error::WrongKind { expected: "an image", .. }));
        }
    }

    #[test]
    fn images_that_no_payload_holds_are_not_encoded() {
        for (width, height) in [(0, 0), (0, 5), (5, 0)] {
            assert!(encode(&DynamicImage::new_rgb8(width, height)).is_err());
        }
        let fits = |width, height| tight((width, height), 4, 1, LAST, 1.0, 0).is_ok();
        assert!(fits(1 << 15, (1 << 15) - 1));
        assert!(fits(1, (1 << 30) - 17));
        assert!(!fits(1, (1 << 30) - 16));
        assert!(!fits(1 << 15, 1 << 15));
        assert!(!fits(1 << 30, 1));
        assert!(!fits(u32::MAX, u32::MAX));
    }

    #[test]
    fn cairos_argb32_is_shown_in_its_colours() {
        // Pixels are native 32-bit numbers, alpha in the highest bits; this is a little machine's.
        let half_red = 0x8040_0000_u32.to_le_bytes();
        let blue = 0xff00_00ff_u32.to_le_bytes();
        let clear = 0x0000_0000_u32.to_le_bytes();
        let padding = [0xee; 4];
        let pixels = [half_red, blue, padding, clear, half_red, padding].concat();
        let header = Header { height: 2, bytes_per_row: 12, ..row(2, 32, 0x2002) };
        let bytes = payload(&header, &pixels);
        let image = Image::new(&bytes).unwrap();
        let expected = [128, 0, 0, 128, 0, 0, 255, 255, 0, 0, 0, 0, 128, 0, 0, 128];
        let expected = RgbaImage::from_raw(2, 2, expected.to_vec()).unwrap();
        assert_eq!(image.to_image().unwrap(), expected.into());
        let samples = image.samples().unwrap();
        assert_eq!(samples.color_hint, None);
        assert_eq!(samples.strides_cwh(), (1, 4, 12));
        assert_eq!(samples.layout.channels, 4);
        assert!(image.as_rgba8().is_none());
    }

    #[test]
    fn cairos_rgb24_is_shown_in_its_colours() {
        // The highest 8 bits mean nothing.
        let pixels = [0x0001_0203_u32.to_le_bytes(), 0xffff_8000_u32.to_le_bytes()].concat();
        let bytes = payload(&row(2, 32, 0x2006), &pixels);
        let image = Image::new(&bytes).unwrap();
        let expected = RgbImage::from_raw(2, 1, vec![1, 2, 3, 255, 128, 0]).unwrap();
        assert_eq!(image.to_image().unwrap(), expected.into());
        assert_eq!(image.samples().unwrap().color_hint, None);
        assert!(image.as_rgb8().is_none());
    }

    #[test]
    fn four_bytes_are_found_in_every_order() {
        let colour = |bitmap_info, pixel: [u8; 4]| {
            let bytes = payload(&row(1, 32, bitmap_info), &pixel);
            decode(&bytes).unwrap().as_bytes().to_vec()
        };
        for order in [0, BIG_32] {
            assert_eq!(colour(order | NONE, [1, 2, 3, 4]), [1, 2, 3]);
            assert_eq!(colour(order | PREMULTIPLIED_LAST, [1, 2, 3, 255]), [1, 2, 3, 255]);
            assert_eq!(colour(order | PREMULTIPLIED_FIRST, [255, 1, 2, 3]), [1, 2, 3, 255]);
            assert_eq!(colour(order | LAST, [1, 2, 3, 4]), [1, 2, 3, 4]);
            assert_eq!(colour(order | FIRST, [4, 1, 2, 3]), [1, 2, 3, 4]);
            assert_eq!(colour(order | SKIP_LAST, [1, 2, 3, 4]), [1, 2, 3]);
            assert_eq!(colour(order | SKIP_FIRST, [4, 1, 2, 3]), [1, 2, 3]);
        }
        assert_eq!(colour(LITTLE_32 | NONE, [4, 3, 2, 1]), [1, 2, 3]);
        assert_eq!(colour(LITTLE_32 | PREMULTIPLIED_LAST, [255, 3, 2, 1]), [1, 2, 3, 255]);
        assert_eq!(colour(LITTLE_32 | PREMULTIPLIED_FIRST, [3, 2, 1, 255]), [1, 2, 3, 255]);
        assert_eq!(colour(LITTLE_32 | LAST, [4, 3, 2, 1]), [1, 2, 3, 4]);
        assert_eq!(colour(LITTLE_32 | FIRST, [3, 2, 1, 4]), [1, 2, 3, 4]);
        assert_eq!(colour(LITTLE_32 | SKIP_LAST, [4, 3, 2, 1]), [1, 2, 3]);
        assert_eq!(colour(LITTLE_32 | SKIP_FIRST, [3, 2, 1, 4]), [1, 2, 3]);
    }

    #[test]
    fn words_are_found_in_both_orders() {
        let colour = |bits: u32, bitmap_info, pixel: &[u8]| {
            let bytes = payload(&wide(row(1, bits, bitmap_info)), pixel);
            match decode(&bytes).unwrap() {
                DynamicImage::ImageLuma16(image) => image.into_raw(),
                DynamicImage::ImageRgb16(image) => image.into_raw(),
                DynamicImage::ImageRgba16(image) => image.into_raw(),
                other => panic!("{:?}", other.color()),
            }
        };
        for order in [0, BIG_16] {
            assert_eq!(colour(16, order, &[1, 2]), [0x102]);
            assert_eq!(colour(48, order, &[1, 2, 3, 4, 5, 6]), [0x102, 0x304, 0x506]);
            let four = [1, 2, 3, 4, 5, 6, 0xff, 0xff];
            assert_eq!(colour(64, order | SKIP_LAST, &four), [0x102, 0x304, 0x506]);
            assert_eq!(colour(64, order | LAST, &four), [0x102, 0x304, 0x506, 0xffff]);
            let premultiplied = order | PREMULTIPLIED_LAST;
            assert_eq!(colour(64, premultiplied, &four), [0x102, 0x304, 0x506, 0xffff]);
        }
        assert_eq!(colour(16, LITTLE_16 | ALPHA_ONLY, &[1, 2]), [0x201]);
        assert_eq!(colour(48, LITTLE_16, &[1, 2, 3, 4, 5, 6]), [0x201, 0x403, 0x605]);
        let four = [0, 0x40, 0, 0, 0, 0x80, 0, 0x80];
        let half = [32768, 0, 65535, 32768];
        assert_eq!(colour(64, LITTLE_16 | PREMULTIPLIED_LAST, &four), half);
    }

    #[test]
    fn premultiplied_colours_are_rounded_to_the_nearest() {
        for alpha in 0..=255_u8 {
            for colour in 0..=255_u8 {
                let exact = 255.0 * f64::from(colour) / f64::from(alpha);
                let expected = if alpha == 0 { 0.0 } else { exact.round().min(255.0) };
                assert_eq!(f64::from(straight_8(colour, alpha)), expected, "{colour} {alpha}");
            }
        }
        assert_eq!(straight_16(5, 0), 0);
        assert_eq!(straight_16(u16::MAX, u16::MAX), u16::MAX);
        assert_eq!(straight_16(u16::MAX, 1), u16::MAX);
        assert_eq!(straight_16(1, 3), 21845);
    }

    #[test]
    fn layouts_that_have_no_conversion_are_told() {
        let eight = [
            (8, LITTLE_32),
            (8, LAST),
            (16, LAST),
            (24, SKIP_LAST),
            (24, LITTLE_32),
            (32, ALPHA_ONLY),
            (32, 8),
            (32, 0x1f),
            (32, LAST | LITTLE_16),
            (32, LAST | BIG_16),
            (32, LAST | 0x5000),
            (32, LAST | 0x7000),
            (32, LAST | FLOAT),
            (40, LAST),
        ];
        let sixteen = [
            (16, LITTLE_32),
            (32, LAST),
            (64, FIRST),
            (64, LAST | BIG_32),
            (48, FLOAT),
            (24, NONE),
        ];
        let headers = (eight.map(|(bits, info)| row(4, bits, info)).into_iter())
            .chain(sixteen.map(|(bits, info)| wide(row(4, bits, info))))
            .chain([Header { bits_per_component: 5, ..row(4, 16, SKIP_FIRST) }])
            .chain([Header { bits_per_component: 32, ..row(4, 128, LAST | FLOAT) }]);
        for header in headers {
            let bytes = payload(&header, &vec![0; header.len() as usize]);
            let image = Image::new(&bytes).unwrap();
            let error = image.to_image().unwrap_err().to_string();
            assert!(error.contains("no conversion"), "{header:?}: {error}");
            assert!(image.samples().is_none());
            assert!(image.as_rgba8().is_none() && image.as_rgb8().is_none());
        }
    }

    #[test]
    fn samples_have_the_strides_of_rows_with_room_between_them() {
        let header = Header { height: 2, bytes_per_row: 9, ..row(2, 32, SKIP_LAST) };
        let pixels = [1, 2, 3, 0, 4, 5, 6, 0, 0, 7, 8, 9, 0, 10, 11, 12, 0, 0];
        let bytes = payload(&header, &pixels);
        let image = Image::new(&bytes).unwrap();
        let samples = image.samples().unwrap();
        assert_eq!(samples.color_hint, Some(ColorType::Rgb8));
        let view = samples.as_view::<Rgb<u8>>().unwrap();
        assert_eq!(view.get_pixel(1, 1), Rgb([10, 11, 12]));
        assert!(image.as_rgb8().is_none());
        let premultiplied = payload(&row(1, 32, PREMULTIPLIED_LAST), &[0; 4]);
        assert_eq!(Image::new(&premultiplied).unwrap().samples().unwrap().color_hint, None);
    }

    #[test]
    fn hostile_bytes_do_no_harm() {
        let beginning = Header { height: 2, ..row(2, 32, 0x2002) }.write();
        hostile::garbage(&beginning, read);
        for bitmap_info in [LAST | BIG_32, 0x2002] {
            let header = Header { height: 3, bytes_per_row: 9, ..row(2, 32, bitmap_info) };
            hostile::damaged(&payload(&header, &[7; 27]), read);
        }
        hostile::damaged(&payload(&wide(row(3, 48, NATIVE_16)), &[7; 18]), read);
        hostile::damaged(&payload(&row(3, 8, NONE), &[7; 3]), read);
    }
}
