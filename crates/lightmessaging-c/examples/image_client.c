/* Asks a service for an image, paints on it, and writes it to a file, with cairo.
 *
 *     cc image_client.c $(pkg-config --cflags --libs lightmessaging cairo) -o image_client
 *     cargo run -p lightmessaging-c --example image_service &
 *     ./image_client 320 out.png
 */
#include <stdio.h>
#include <stdlib.h>

/* Before LightMessaging.h, which then speaks of cairo_surface_t. */
#include <cairo.h>

#define LIGHTMESSAGING_TIMEOUT 10000 /* milliseconds */
#include <LightMessaging/LightMessaging.h>

#define SERVICE "net.example.images"
#define GET_IMAGE 1 /* a message id, of the two programs' choice */

int main(int argc, char **argv) {
    LMConnection connection = {MACH_PORT_NULL, SERVICE};
    LMResponseBuffer buffer;
    kern_return_t code;
    int32_t width;
    cairo_surface_t *surface;
    cairo_t *context;
    cairo_status_t status;
    if (argc != 3) {
        fprintf(stderr, "usage: %s WIDTH FILE\n", argv[0]);
        return 2;
    }
    width = atoi(argv[1]);
    code = LMConnectionSendTwoWay(&connection, GET_IMAGE, &width, sizeof(width), &buffer);
    if (code) {
        fprintf(stderr, "%s\n", LMLastError());
        return 1;
    }
    /* This frees the buffer, too: the surface has taken the pixels over. */
    surface = LMResponseConsumeImage(&buffer);
    if (!surface) {
        fprintf(stderr, "that was no image\n");
        return 1;
    }

    /* A red ribbon over the top. */
    context = cairo_create(surface);
    cairo_set_source_rgb(context, 1, 0, 0);
    cairo_rectangle(context, 0, 0, cairo_image_surface_get_width(surface), 4);
    cairo_fill(context);
    cairo_destroy(context);

    status = cairo_surface_write_to_png(surface, argv[2]);
    printf("%d x %d pixels: %s\n", cairo_image_surface_get_width(surface),
           cairo_image_surface_get_height(surface), cairo_status_to_string(status));
    cairo_surface_destroy(surface);
    return status != CAIRO_STATUS_SUCCESS;
}
