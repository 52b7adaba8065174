/* The picture of pictures.h as a cairo surface. */
#ifndef SURFACES_H
#define SURFACES_H

#include "pictures.h"

static inline cairo_surface_t *draw(cairo_format_t format, int width, int height) {
    cairo_surface_t *surface = cairo_image_surface_create(format, width, height);
    unsigned char *rows = cairo_image_surface_get_data(surface);
    int stride = cairo_image_surface_get_stride(surface), x, y;
    CHECK_INT(cairo_surface_status(surface), CAIRO_STATUS_SUCCESS);
    for (y = 0; y < height; y++) {
        unsigned char *row = rows + (ptrdiff_t)y * stride;
        for (x = 0; x < width; x++) {
            uint32_t unit = format == CAIRO_FORMAT_ARGB32 ? argb_at((uint32_t)x, (uint32_t)y)
                                                          : rgb_at((uint32_t)x, (uint32_t)y);
            if (format == CAIRO_FORMAT_A8) {
                row[x] = (unsigned char)unit;
            } else if (format == CAIRO_FORMAT_RGB16_565) {
                uint16_t small = (uint16_t)((unit >> 19 & 0x1f) << 11 | (unit >> 10 & 0x3f) << 5 |
                                            (unit >> 3 & 0x1f));
                memcpy(row + x * 2, &small, 2);
            } else if (format == CAIRO_FORMAT_A1) {
                uint32_t word;
                memcpy(&word, row + x / 32 * 4, 4);
                word |= (unit & 1) << (LM_ORDER_32_HOST == LM_ORDER_32_LITTLE ? x % 32 : 31 - x % 32);
                memcpy(row + x / 32 * 4, &word, 4);
            } else {
                memcpy(row + x * 4, &unit, 4);
            }
        }
    }
    cairo_surface_mark_dirty(surface);
    return surface;
}

/* The unit of a surface's pixel. */
static inline uint32_t unit_at(cairo_surface_t *surface, int x, int y) {
    const unsigned char *row = cairo_image_surface_get_data(surface) +
                               (ptrdiff_t)y * cairo_image_surface_get_stride(surface);
    uint32_t unit;
    if (cairo_image_surface_get_format(surface) == CAIRO_FORMAT_A8) {
        return row[x];
    }
    memcpy(&unit, row + x * 4, 4);
    return cairo_image_surface_get_format(surface) == CAIRO_FORMAT_RGB24 ? unit & 0xffffff : unit;
}

/* A picture, as the client is to see it. */
static inline uint32_t expected_at(cairo_format_t format, int x, int y) {
    uint32_t unit = rgb_at((uint32_t)x, (uint32_t)y), r, g, b;
    switch (format) {
        case CAIRO_FORMAT_ARGB32:
            return argb_at((uint32_t)x, (uint32_t)y);
        case CAIRO_FORMAT_A8:
            return unit & 0xff;
        case CAIRO_FORMAT_A1:
            return unit & 1 ? 0xff000000 : 0;
        case CAIRO_FORMAT_RGB16_565:
            /* The high bits fill the low ones up. */
            r = unit >> 19 & 0x1f;
            g = unit >> 10 & 0x3f;
            b = unit >> 3 & 0x1f;
            return 0xff000000 | (r << 3 | r >> 2) << 16 | (g << 2 | g >> 4) << 8 | (b << 3 | b >> 2);
        default:
            return unit;
    }
}

#endif
