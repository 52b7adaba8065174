/*
 * Images as messages: a header of 64 bytes, then the rows. Used by LightMessaging.h.
 *
 * The header is a LMImageHeader and 32 bytes of zero; there are exactly height * bytesPerRow bytes of
 * rows. A LMImage is that, taken apart; where <cairo.h> was included first, LMSendImageReply() and
 * LMResponseConsumeImage() speak of cairo surfaces instead. Numbers are in the machine's byte order.
 */
#ifndef LIGHTMESSAGING_IMAGES_H
#define LIGHTMESSAGING_IMAGES_H

#include <stdlib.h>

/* CGBitmapInfo: where the alpha is and whether the colours were multiplied by it */
#define LM_ALPHA_NONE 0u
#define LM_ALPHA_PREMULTIPLIED_LAST 1u
#define LM_ALPHA_PREMULTIPLIED_FIRST 2u
#define LM_ALPHA_LAST 3u
#define LM_ALPHA_FIRST 4u
#define LM_ALPHA_NONE_SKIP_LAST 5u
#define LM_ALPHA_NONE_SKIP_FIRST 6u
#define LM_ALPHA_ONLY 7u
#define LM_ALPHA_MASK 0x1fu
/* and the order of the bytes of a pixel's unit of 16 or 32 bits; none is as big */
#define LM_ORDER_16_LITTLE 0x1000u
#define LM_ORDER_32_LITTLE 0x2000u
#define LM_ORDER_16_BIG 0x3000u
#define LM_ORDER_32_BIG 0x4000u
#define LM_ORDER_MASK 0x7000u

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define LM_ORDER_32_HOST LM_ORDER_32_BIG
#else
#define LM_ORDER_32_HOST LM_ORDER_32_LITTLE
#endif

/* Where the rows begin in a payload, in bytes. */
#define LM_IMAGE_ROWS 64u

typedef struct LMImage {
    uint32_t width;  /* in pixels, at least 1 */
    uint32_t height; /* in pixels, at least 1 */
    uint32_t bitsPerComponent;
    uint32_t bitsPerPixel;
    uint32_t bytesPerRow;
    uint32_t bitmapInfo;  /* LM_ALPHA_* | LM_ORDER_* */
    float scale;          /* pixels per point */
    uint32_t orientation; /* UIImageOrientation, 0 (up) to 7 */
    void *pixels;         /* the first row; NULL if there is no image */
    LMView memory;        /* of a received image: what LMImageFree() gives back */
} LMImage;

/* Whether such a header and so many bytes are an image, and where its rows are. */
static inline bool lm_image_parse(const void *payload, uint32_t length, LMImage *image) {
    LMImageHeader header;
    if (!payload || length < LM_IMAGE_ROWS) {
        return false;
    }
    memcpy(&header, payload, sizeof(header));
    if (header.width == 0 || header.height == 0 || header.bitsPerComponent == 0 ||
        header.bitsPerComponent > 32 || header.bitsPerPixel < header.bitsPerComponent ||
        header.bitsPerPixel > 128 || header.orientation > 7 ||
        !(header.scale > 0 && header.scale <= 3.4e38f)) {
        return false;
    }
    if ((uint64_t)header.bytesPerRow * 8 < (uint64_t)header.width * header.bitsPerPixel ||
        (uint64_t)header.height * header.bytesPerRow != (uint64_t)length - LM_IMAGE_ROWS) {
        return false;
    }
    image->width = header.width;
    image->height = header.height;
    image->bitsPerComponent = header.bitsPerComponent;
    image->bitsPerPixel = header.bitsPerPixel;
    image->bytesPerRow = header.bytesPerRow;
    image->bitmapInfo = header.bitmapInfo;
    image->scale = header.scale;
    image->orientation = header.orientation;
    return true;
}

/* Gives back the memory of a received image. Harmless for a second time. */
static inline void LMImageFree(LMImage *image) {
    image->pixels = NULL;
    LMViewRelease(&image->memory);
}

/* The image of a response, which is freed; LMImageFree() it. Large ones take over the received memory,
 * which may be written; small ones are copied. False, and no pixels, for what is no image. */
static inline bool LMResponseTakeImage(LMResponseBuffer *buffer, LMImage *image) {
    const void *payload = LMMessageGetData(&buffer->message);
    uint32_t length = LMMessageGetDataLength(&buffer->message);
    bool taken = false;
    memset(image, 0, sizeof(*image));
    if (lm_image_parse(payload, length, image)) {
        if (buffer->message.body.msgh_descriptor_count) {
            taken = LMMessageTakeData(&buffer->message, &image->memory);
        } else {
            taken = lm_memory_make(length, &image->memory);
            if (taken) {
                memcpy((void *)(uintptr_t)image->memory.data, payload, length);
            }
        }
    }
    LMResponseBufferFree(buffer);
    if (taken) {
        image->pixels = (uint8_t *)(uintptr_t)image->memory.data + LM_IMAGE_ROWS;
    } else {
        memset(image, 0, sizeof(*image));
    }
    return taken;
}

/* Answers a request with an image; with an empty message for NULL, for one without pixels and for one
 * whose numbers do not fit each other. */
static inline kern_return_t LMSendPlainImageReply(mach_port_t replyPort, const LMImage *image) {
    uint64_t rows = image ? (uint64_t)image->height * image->bytesPerRow : 0;
    uint32_t length = LM_IMAGE_ROWS + (uint32_t)rows;
    uint8_t begin[LM_IMAGE_ROWS], small[LM_INLINE_MAX], *payload = small;
    LMImageHeader header;
    LMImage checked;
    LMView view;
    kern_return_t code;
    if (replyPort == MACH_PORT_NULL || !image || !image->pixels ||
        rows > 0xffffffffu - LM_IMAGE_ROWS) {
        return LMSendReply(replyPort, NULL, 0);
    }
    header.width = image->width;
    header.height = image->height;
    header.bitsPerComponent = image->bitsPerComponent;
    header.bitsPerPixel = image->bitsPerPixel;
    header.bytesPerRow = image->bytesPerRow;
    header.bitmapInfo = image->bitmapInfo;
    header.scale = image->scale > 0 ? image->scale : 1.0f;
    header.orientation = image->orientation;
    memset(begin, 0, sizeof(begin));
    memcpy(begin, &header, sizeof(header));
    if (!lm_image_parse(begin, length, &checked)) {
        return LMSendReply(replyPort, NULL, 0);
    }
    if (length > LM_INLINE_MAX) {
        /* the rows are copied once, to where the client reads them */
        code = LMReplyAllocate(replyPort, length, &view);
        if (code) {
            (void)LMSendReply(replyPort, NULL, 0);
            return code;
        }
        payload = (uint8_t *)LMViewGetBytes(&view);
    }
    memcpy(payload, begin, sizeof(begin));
    memcpy(payload + LM_IMAGE_ROWS, image->pixels, (size_t)rows);
    return length > LM_INLINE_MAX ? LMSendReplyView(replyPort, &view)
                                  : LMSendReply(replyPort, payload, length);
}

/* Turns the pixels into units of 32 bits in the machine's order, alpha first, multiplied by it (or
 * none), as cairo wants them: in place where there is room. Reads gray, RGB, and RGB with alpha: of 8
 * bits with alpha in all places and both orders, of 16 bits, rounded, with alpha last. False, and
 * nothing changes, for other kinds. */
static inline bool lm_image_convert(LMImage *image) {
    uint32_t alpha = image->bitmapInfo & LM_ALPHA_MASK;
    uint32_t order = image->bitmapInfo & LM_ORDER_MASK;
    uint32_t wide = image->bitsPerComponent / 8, size = image->bitsPerPixel / 8;
    bool little = order == LM_ORDER_32_LITTLE;
    bool first = alpha == LM_ALPHA_PREMULTIPLIED_FIRST || alpha == LM_ALPHA_FIRST ||
                 alpha == LM_ALPHA_NONE_SKIP_FIRST;
    bool opaque = alpha == LM_ALPHA_NONE || alpha == LM_ALPHA_NONE_SKIP_FIRST ||
                  alpha == LM_ALPHA_NONE_SKIP_LAST;
    bool straight = alpha == LM_ALPHA_FIRST || alpha == LM_ALPHA_LAST;
    /* the bytes of red, green, blue and alpha in a pixel, and which of two is the high one */
    uint32_t place[4], high = order == LM_ORDER_16_LITTLE ? 1 : 0;
    uint64_t row = (uint64_t)image->width * 4;
    LMView moved;
    uint8_t *to;
    uint32_t x, y, i, channels, bytes_per_row = image->bytesPerRow;
    memset(&moved, 0, sizeof(moved));
    if ((image->bitsPerComponent != 8 && image->bitsPerComponent != 16) ||
        image->bitsPerPixel % image->bitsPerComponent ||
        (image->bitmapInfo & ~(LM_ALPHA_MASK | LM_ORDER_MASK)) || alpha > LM_ALPHA_NONE_SKIP_FIRST) {
        return false;
    }
    channels = size / wide;
    if ((channels != 4 && ((channels != 1 && channels != 3) || alpha != LM_ALPHA_NONE)) ||
        (wide == 1 && order != 0 && order != LM_ORDER_32_BIG && (!little || channels != 4)) ||
        (wide == 2 && (first || (order != 0 && order != LM_ORDER_16_BIG && high == 0)))) {
        return false;
    }
    for (i = 0; i < 4; i++) {
        uint32_t at = channels == 1 ? 0 : channels == 3 ? i % 3 : first ? (i + 1) % 4 : i;
        place[i] = little ? 3 - at : at * wide;
    }
    to = (uint8_t *)image->pixels;
    if (size != 4 || bytes_per_row % 4) {
        uint64_t length = row * image->height;
        if (length > 0xffffffffu || !lm_memory_make((uint32_t)length, &moved)) {
            return false;
        }
        to = (uint8_t *)(uintptr_t)moved.data;
        bytes_per_row = (uint32_t)row;
    }
    for (y = 0; y < image->height; y++) {
        const uint8_t *from = (const uint8_t *)image->pixels + (size_t)y * image->bytesPerRow;
        uint8_t *line = to + (size_t)y * bytes_per_row;
        for (x = 0; x < image->width; x++) {
            uint32_t value[4], unit;
            const uint8_t *pixel = from + (size_t)x * size;
            for (i = 0; i < 4; i++) {
                value[i] = pixel[place[i]];
                if (wide == 2) {
                    value[i] = pixel[place[i] + high] * 256u + pixel[place[i] + 1 - high];
                    value[i] = (value[i] + 128) / 257;
                }
            }
            if (opaque) {
                value[3] = 0xff;
            }
            for (i = 0; straight && i < 3; i++) {
                value[i] = (value[i] * value[3] + 127) / 255;
            }
            unit = value[3] << 24 | value[0] << 16 | value[1] << 8 | value[2];
            memcpy(line + (size_t)x * 4, &unit, sizeof(unit));
        }
    }
    image->bitsPerComponent = 8;
    image->bitsPerPixel = 32;
    image->bytesPerRow = bytes_per_row;
    image->bitmapInfo =
        LM_ORDER_32_HOST | (opaque ? LM_ALPHA_NONE_SKIP_FIRST : LM_ALPHA_PREMULTIPLIED_FIRST);
    if (moved.data) {
        LMViewRelease(&image->memory);
        image->memory = moved;
        image->pixels = to;
    }
    return true;
}

#ifdef CAIRO_H

/* Answers a request with the pixels of a surface, an image surface or another, which stays the
 * caller's; with an empty message for NULL and for one in an error state. */
static inline kern_return_t LMSendImageReply(mach_port_t replyPort, cairo_surface_t *surface) {
    cairo_surface_t *mapped = NULL, *drawn = NULL;
    double scale_x = 1, scale_y = 1;
    kern_return_t code;
    LMImage image;
    memset(&image, 0, sizeof(image));
    if (replyPort != MACH_PORT_NULL && surface &&
        cairo_surface_status(surface) == CAIRO_STATUS_SUCCESS) {
        mapped = cairo_surface_map_to_image(surface, NULL);
    }
    if (mapped && cairo_surface_status(mapped) == CAIRO_STATUS_SUCCESS) {
        cairo_surface_t *source = mapped;
        cairo_format_t format = cairo_image_surface_get_format(mapped);
        if (format != CAIRO_FORMAT_ARGB32 && format != CAIRO_FORMAT_RGB24 &&
            format != CAIRO_FORMAT_A8) {
            cairo_t *context;
            drawn = cairo_image_surface_create(CAIRO_FORMAT_ARGB32,
                                               cairo_image_surface_get_width(mapped),
                                               cairo_image_surface_get_height(mapped));
            context = cairo_create(drawn);
            cairo_set_source_surface(context, mapped, 0, 0);
            cairo_paint(context);
            cairo_destroy(context);
            cairo_surface_flush(drawn);
            source = drawn;
            format = CAIRO_FORMAT_ARGB32;
        }
        cairo_surface_get_device_scale(surface, &scale_x, &scale_y);
        image.width = (uint32_t)cairo_image_surface_get_width(source);
        image.height = (uint32_t)cairo_image_surface_get_height(source);
        image.bitsPerComponent = 8;
        image.bitsPerPixel = format == CAIRO_FORMAT_A8 ? 8 : 32;
        image.bytesPerRow = (uint32_t)cairo_image_surface_get_stride(source);
        image.bitmapInfo = format == CAIRO_FORMAT_A8 ? LM_ALPHA_ONLY
                           : LM_ORDER_32_HOST | (format == CAIRO_FORMAT_ARGB32
                                                     ? LM_ALPHA_PREMULTIPLIED_FIRST
                                                     : LM_ALPHA_NONE_SKIP_FIRST);
        image.scale = (float)scale_x;
        image.pixels = cairo_image_surface_get_data(source);
    }
    code = LMSendPlainImageReply(replyPort, &image);
    if (drawn) {
        cairo_surface_destroy(drawn);
    }
    if (mapped) {
        cairo_surface_unmap_image(surface, mapped);
    }
    return code;
}

static inline void lm_image_destroy(void *image) {
    LMImageFree((LMImage *)image);
    free(image);
}

/* The image of a response, which is freed, as an image surface over the received memory, in the format
 * ARGB32, RGB24 or A8; cairo_surface_destroy() it. NULL for what is no image that cairo can show. */
static inline cairo_surface_t *LMResponseConsumeImage(LMResponseBuffer *buffer) {
    static const cairo_user_data_key_t key = {0};
    LMImage *image = (LMImage *)malloc(sizeof(*image));
    cairo_surface_t *surface = NULL;
    cairo_format_t format = CAIRO_FORMAT_ARGB32;
    if (!image) {
        LMResponseBufferFree(buffer);
        return NULL;
    }
    if (LMResponseTakeImage(buffer, image) && image->width <= 32767 && image->height <= 32767) {
        uint32_t alpha = image->bitmapInfo & LM_ALPHA_MASK;
        bool ready = image->bitsPerComponent == 8 && image->bytesPerRow % 4 == 0;
        if (ready && image->bitsPerPixel == 32 &&
            image->bitmapInfo == (LM_ORDER_32_HOST | LM_ALPHA_PREMULTIPLIED_FIRST)) {
            format = CAIRO_FORMAT_ARGB32;
        } else if (ready && image->bitsPerPixel == 32 &&
                   image->bitmapInfo == (LM_ORDER_32_HOST | LM_ALPHA_NONE_SKIP_FIRST)) {
            format = CAIRO_FORMAT_RGB24;
        } else if (ready && image->bitsPerPixel == 8 && image->bitmapInfo == LM_ALPHA_ONLY) {
            format = CAIRO_FORMAT_A8;
        } else {
            ready = lm_image_convert(image);
            alpha = image->bitmapInfo & LM_ALPHA_MASK;
            format = alpha == LM_ALPHA_NONE_SKIP_FIRST ? CAIRO_FORMAT_RGB24 : CAIRO_FORMAT_ARGB32;
        }
        if (ready && image->bytesPerRow <= 0x7fffffffu) {
            surface = cairo_image_surface_create_for_data((unsigned char *)image->pixels, format,
                                                          (int)image->width, (int)image->height,
                                                          (int)image->bytesPerRow);
        }
    }
    if (surface && (cairo_surface_status(surface) != CAIRO_STATUS_SUCCESS ||
                    cairo_surface_set_user_data(surface, &key, image, lm_image_destroy) !=
                        CAIRO_STATUS_SUCCESS)) {
        cairo_surface_destroy(surface);
        surface = NULL;
    }
    if (!surface) {
        lm_image_destroy(image);
        return NULL;
    }
    cairo_surface_set_device_scale(surface, image->scale, image->scale);
    return surface;
}

#else

/* LMSendPlainImageReply(); where <cairo.h> was included first, it takes a cairo_surface_t. */
static inline kern_return_t LMSendImageReply(mach_port_t replyPort, const LMImage *image) {
    return LMSendPlainImageReply(replyPort, image);
}

/* The image of a response, as LMResponseTakeImage(); where <cairo.h> was included first, it returns a
 * cairo_surface_t. */
static inline LMImage LMResponseConsumeImage(LMResponseBuffer *buffer) {
    LMImage image;
    (void)LMResponseTakeImage(buffer, &image);
    return image;
}

#endif

#endif
