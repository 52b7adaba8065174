/* Asks for images: cairo_client NAME cairo, of cairo_server.c; cairo_client NAME rust, of a service that
 * sends those of Rust's `image`. */
#include <cairo.h>

#include <LightMessaging/LightMessaging.h>

#include "surfaces.h"

static LMConnection server;

static cairo_surface_t *ask(int32_t id, int32_t format, int32_t width, int32_t height) {
    LMResponseBuffer buffer;
    Size size;
    const unsigned char *received;
    uint32_t length;
    bool is_large;
    cairo_surface_t *surface;
    size.format = format;
    size.width = width;
    size.height = height;
    CHECK_INT(LMConnectionSendTwoWay(&server, id, &size, sizeof(size), &buffer), 0);
    is_large = buffer.message.body.msgh_descriptor_count;
    received = (const unsigned char *)LMMessageGetData(&buffer.message);
    length = LMMessageGetDataLength(&buffer.message);
    surface = LMResponseConsumeImage(&buffer);
    if (surface && is_large && id <= SCALED) {
        /* Nothing was copied. */
        CHECK(cairo_image_surface_get_data(surface) > received);
        CHECK(cairo_image_surface_get_data(surface) < received + length);
        CHECK_INT(LMMessageGetDataLength(&buffer.message), 0);
    }
    if (surface) {
        CHECK_INT(cairo_surface_status(surface), CAIRO_STATUS_SUCCESS);
        CHECK_INT(cairo_surface_get_reference_count(surface), 1);
        CHECK(!is_large || id > SCALED || length > LM_INLINE_MAX);
        /* Harmless, whoever does it. */
        LMResponseBufferFree(&buffer);
        CHECK(LMResponseConsumeImage(&buffer) == NULL || !is_large);
    }
    return surface;
}

static void check_surface(cairo_format_t format, int width, int height) {
    static const cairo_format_t plain[] = {CAIRO_FORMAT_ARGB32, CAIRO_FORMAT_RGB24, CAIRO_FORMAT_A8};
    cairo_surface_t *surface = ask(DRAW, format, width, height);
    cairo_format_t is;
    int x, y;
    CHECK(surface);
    is = cairo_image_surface_get_format(surface);
    CHECK_INT(is, format == plain[1] || format == plain[2] ? format : plain[0]);
    CHECK_INT(cairo_image_surface_get_width(surface), width);
    CHECK_INT(cairo_image_surface_get_height(surface), height);
    for (y = 0; y < height; y++) {
        for (x = 0; x < width; x++) {
            CHECK_INT(unit_at(surface, x, y), expected_at(format, x, y));
        }
    }
    cairo_surface_destroy(surface);
}

static void every_format_arrives(void) {
    static const cairo_format_t formats[] = {CAIRO_FORMAT_ARGB32, CAIRO_FORMAT_RGB24, CAIRO_FORMAT_A8,
                                             CAIRO_FORMAT_A1, CAIRO_FORMAT_RGB16_565};
    static const int sizes[][2] = {{1, 1}, {3, 5}, {33, 20}, {101, 77}, {640, 480}};
    size_t i, j;
    for (i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        for (j = 0; j < sizeof(sizes) / sizeof(sizes[0]); j++) {
            check_surface(formats[i], sizes[j][0], sizes[j][1]);
        }
    }
}

/* It is painted on, as any other. */
static void a_received_surface_is_a_surface(int width) {
    cairo_surface_t *surface = ask(DRAW, CAIRO_FORMAT_ARGB32, width, width);
    cairo_t *context = cairo_create(surface);
    cairo_set_source_rgb(context, 1, 0, 0);
    cairo_rectangle(context, 0, 0, 2, 2);
    cairo_fill(context);
    cairo_destroy(context);
    cairo_surface_flush(surface);
    CHECK_INT(unit_at(surface, 0, 0), 0xffff0000);
    CHECK_INT(unit_at(surface, 1, 1), 0xffff0000);
    CHECK_INT(unit_at(surface, 2, 2), expected_at(CAIRO_FORMAT_ARGB32, 2, 2));
    /* Somebody else may keep it. */
    CHECK(cairo_surface_reference(surface) == surface);
    cairo_surface_destroy(surface);
    CHECK_INT(unit_at(surface, 2, 2), expected_at(CAIRO_FORMAT_ARGB32, 2, 2));
    cairo_surface_destroy(surface);
}

static void other_surfaces_and_none(void) {
    double x = 0, y = 0;
    cairo_surface_t *surface = ask(SCALED, CAIRO_FORMAT_RGB24, 10, 10);
    cairo_surface_get_device_scale(surface, &x, &y);
    CHECK(x == 2 && y == 2);
    cairo_surface_destroy(surface);
    surface = ask(RECORDED, 0, 0, 0);
    CHECK(surface);
    CHECK_INT(cairo_image_surface_get_width(surface), 8);
    CHECK_INT(cairo_image_surface_get_height(surface), 6);
    CHECK_INT(unit_at(surface, 0, 0), 0);
    CHECK_INT(unit_at(surface, 3, 3), 0xff0000ff);
    cairo_surface_destroy(surface);
    CHECK(ask(NO_IMAGE, 0, 0, 0) == NULL);
    CHECK(ask(BROKEN, 0, 0, 0) == NULL);
}

/* Out of line, too. */
static void what_is_no_image_is_no_surface(void) {
    static unsigned char bytes[6000];
    uint32_t length, i;
    for (length = 0; length < sizeof(bytes); length += 97) {
        for (i = 0; i < 2; i++) {
            LMResponseBuffer buffer;
            memset(bytes, 1, sizeof(bytes));
            if (i == 0) {
                fill(bytes, length);
            }
            CHECK_INT(LMConnectionSendTwoWay(&server, AS_IT_IS, bytes, length, &buffer), 0);
            CHECK_INT(LMMessageGetDataLength(&buffer.message), length);
            CHECK(LMResponseConsumeImage(&buffer) == NULL);
            CHECK(LMMessageGetDataLength(&buffer.message) <= LM_INLINE_MAX);
        }
    }
}

static void images_of_rusts_arrive(int width, int height) {
    int32_t id;
    for (id = RGBA_8; id <= RGBA_16; id++) {
        cairo_surface_t *surface = ask(id, 0, width, height);
        bool has_alpha = id == RGBA_8 || id == RGBA_16;
        bool is_gray = id == LUMA_8 || id == LUMA_16;
        int x, y;
        CHECK(surface);
        CHECK_INT(cairo_image_surface_get_format(surface),
                  has_alpha ? CAIRO_FORMAT_ARGB32 : CAIRO_FORMAT_RGB24);
        CHECK_INT(cairo_image_surface_get_width(surface), width);
        CHECK_INT(cairo_image_surface_get_height(surface), height);
        for (y = 0; y < height; y++) {
            for (x = 0; x < width; x++) {
                uint32_t c[4];
                colours_at((uint32_t)x, (uint32_t)y, c);
                CHECK_INT(unit_at(surface, x, y), has_alpha ? argb_at((uint32_t)x, (uint32_t)y)
                                                  : is_gray ? c[0] * 0x10101
                                                            : rgb_at((uint32_t)x, (uint32_t)y));
            }
        }
        cairo_surface_destroy(surface);
    }
}

static long memory_in_use(void) {
    long pages = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file && fscanf(file, "%ld %ld", &pages, &resident) == 2);
    fclose(file);
    return resident * 4096;
}

static void nothing_leaks(int32_t id) {
    long before = 0;
    int round;
    for (round = 0; round < 1000; round++) {
        cairo_surface_destroy(ask(id, CAIRO_FORMAT_ARGB32, 5, 5));
        cairo_surface_destroy(ask(id, CAIRO_FORMAT_ARGB32, 100, 100));
        if (round == 100) {
            before = memory_in_use();
        }
    }
    CHECK(memory_in_use() - before < 2 << 20);
}

int main(int argc, char **argv) {
    CHECK(argc > 2);
    memcpy(server.serverName, argv[1], strlen(argv[1]) + 1);
    if (strcmp(argv[2], "cairo") == 0) {
        every_format_arrives();
        a_received_surface_is_a_surface(10);
        a_received_surface_is_a_surface(200);
        other_surfaces_and_none();
        what_is_no_image_is_no_surface();
        nothing_leaks(DRAW);
    } else {
        images_of_rusts_arrive(1, 1);
        images_of_rusts_arrive(7, 3);
        images_of_rusts_arrive(120, 90);
        nothing_leaks(RGB_8);
        nothing_leaks(RGBA_16);
    }
    puts("ok");
    return 0;
}
