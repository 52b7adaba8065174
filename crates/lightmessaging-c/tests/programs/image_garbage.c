/* Whatever the bytes, there is an image or none. With cairo, there is a surface or none. */
#ifdef WITH_CAIRO
#include <cairo.h>
#endif

#include <LightMessaging/LightMessaging.h>

#include "pictures.h"

/* Reads every byte that is said to be there. */
static int is_image(const void *bytes, uint32_t length) {
    static volatile unsigned char seen;
    LMResponseBuffer buffer;
    size_t i, size;
    memset(&buffer, 0, sizeof(buffer));
    buffer.message.head.msgh_size = LMBufferSizeForLength(length);
    CHECK(length <= LM_INLINE_MAX);
    LMMessageAssignData(&buffer.message, bytes, length);
#ifdef WITH_CAIRO
    {
        cairo_surface_t *surface = LMResponseConsumeImage(&buffer);
        cairo_t *context;
        if (!surface) {
            return 0;
        }
        CHECK_INT(cairo_surface_status(surface), CAIRO_STATUS_SUCCESS);
        context = cairo_create(surface);
        cairo_paint(context);
        CHECK_INT(cairo_status(context), CAIRO_STATUS_SUCCESS);
        cairo_destroy(context);
        cairo_surface_flush(surface);
        size = (size_t)cairo_image_surface_get_height(surface) *
               (size_t)cairo_image_surface_get_stride(surface);
        for (i = 0; i < size; i++) {
            seen = cairo_image_surface_get_data(surface)[i];
        }
        cairo_surface_destroy(surface);
    }
#else
    {
        LMImage image = LMResponseConsumeImage(&buffer);
        if (!image.pixels) {
            CHECK_INT(image.width, 0);
            CHECK(image.memory.data == NULL);
            return 0;
        }
        size = (size_t)image.height * image.bytesPerRow;
        CHECK_INT(size + LM_IMAGE_ROWS, length);
        for (i = 0; i < size; i++) {
            seen = ((unsigned char *)image.pixels)[i];
        }
        LMImageFree(&image);
        LMImageFree(&image);
    }
#endif
    (void)seen;
    return 1;
}

static uint32_t make(unsigned char *bytes, uint32_t bits, uint32_t pixel_bits, uint32_t info) {
    LMImageHeader header;
    header.width = 5;
    header.height = 3;
    header.bitsPerComponent = bits;
    header.bitsPerPixel = pixel_bits;
    header.bytesPerRow = (5 * pixel_bits / 8 + 3) & ~3u;
    header.bitmapInfo = info;
    header.scale = 1;
    header.orientation = 0;
    memset(bytes, 0x5a, 400);
    memset(bytes, 0, LM_IMAGE_ROWS);
    memcpy(bytes, &header, sizeof(header));
    return LM_IMAGE_ROWS + header.bytesPerRow * header.height;
}

int main(void) {
    static const uint32_t kinds[][3] = {
        {8, 32, LM_ORDER_32_HOST | LM_ALPHA_PREMULTIPLIED_FIRST},
        {8, 32, LM_ORDER_32_HOST | LM_ALPHA_NONE_SKIP_FIRST},
        {8, 32, LM_ORDER_32_BIG | LM_ALPHA_LAST},
        {8, 24, LM_ALPHA_NONE},
        {8, 8, LM_ALPHA_NONE},
        {8, 8, LM_ALPHA_ONLY},
        {16, 16, LM_ORDER_16_LITTLE},
        {16, 48, LM_ORDER_16_BIG},
        {16, 64, LM_ORDER_16_LITTLE | LM_ALPHA_LAST},
    };
    unsigned char bytes[512];
    uint32_t length, at, change, i, images = 0;
    for (length = 0; length <= 300; length++) {
        memset(bytes, (int)length, length);
        CHECK(!is_image(bytes, length));
        fill(bytes, length);
        CHECK(!is_image(bytes, length));
        memset(bytes, 0xff, length);
        CHECK(!is_image(bytes, length));
    }
    for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        length = make(bytes, kinds[i][0], kinds[i][1], kinds[i][2]);
        CHECK(is_image(bytes, length));
        for (at = 0; at < length; at++) {
            CHECK(!is_image(bytes, at));
        }
        CHECK(!is_image(bytes, length + 1));
        for (at = 0; at < LM_IMAGE_ROWS; at++) {
            for (change = 1; change < 256; change++) {
                bytes[at] ^= (unsigned char)change;
                images += (uint32_t)is_image(bytes, length);
                bytes[at] ^= (unsigned char)change;
            }
        }
    }
    CHECK(images > 0);
    puts("ok");
    return 0;
}
