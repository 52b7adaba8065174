/* The pixels that image programs send each other, in C and Rust. */
#ifndef PICTURES_H
#define PICTURES_H

#include "check.h"

#include <stdint.h>
#include <string.h>

enum {
    DRAW = 1,      /* a surface of this format and size */
    AS_IT_IS = 2,  /* the bytes of the request */
    NO_IMAGE = 3,
    SCALED = 4,    /* the same as DRAW, for a display with two pixels per point */
    BROKEN = 5,    /* a surface in an error state */
    RECORDED = 6,  /* a surface that is not made of pixels */
    RGBA_8 = 10,   /* the same picture in the formats of Rust's `image` */
    RGB_8 = 11,
    LUMA_8 = 12,
    LUMA_16 = 13,
    RGB_16 = 14,
    RGBA_16 = 15
};

/* What a request says: 12 bytes. */
typedef struct Size {
    int32_t format, width, height;
} Size;

/* Red, green, blue and alpha of a pixel, not multiplied. */
static inline void colours_at(uint32_t x, uint32_t y, uint32_t colours[4]) {
    colours[0] = (x * 7 + 3) & 0xff;
    colours[1] = (y * 11 + x) & 0xff;
    colours[2] = (x * y + 200) & 0xff;
    colours[3] = (255 - x * 5 - y) & 0xff;
}

/* The same as one unit with alpha first, multiplied. */
static inline uint32_t argb_at(uint32_t x, uint32_t y) {
    uint32_t c[4], i;
    colours_at(x, y, c);
    for (i = 0; i < 3; i++) {
        c[i] = (c[i] * c[3] + 127) / 255;
    }
    return c[3] << 24 | c[0] << 16 | c[1] << 8 | c[2];
}

static inline uint32_t rgb_at(uint32_t x, uint32_t y) {
    uint32_t c[4];
    colours_at(x, y, c);
    return c[0] << 16 | c[1] << 8 | c[2];
}

#endif
