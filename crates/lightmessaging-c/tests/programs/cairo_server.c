/* A service that sends cairo surfaces: cairo_server NAME. */
#include <cairo.h>

#include <LightMessaging/LightMessaging.h>

#include "surfaces.h"

static void callback(CFMachPortRef port, LMMessage *request, CFIndex size, void *info) {
    mach_port_t reply = request->head.msgh_remote_port;
    cairo_surface_t *surface = NULL;
    Size asked = {0, 0, 0};
    (void)port;
    (void)info;
    CHECK(LMDataWithSizeIsValidMessage(request, size));
    if (LMMessageGetDataLength(request) == sizeof(asked)) {
        memcpy(&asked, LMMessageGetData(request), sizeof(asked));
    }
    switch (request->head.msgh_id) {
        case DRAW:
        case SCALED:
            surface = draw((cairo_format_t)asked.format, asked.width, asked.height);
            if (request->head.msgh_id == SCALED) {
                cairo_surface_set_device_scale(surface, 2, 2);
            }
            break;
        case BROKEN:
            surface = cairo_image_surface_create(CAIRO_FORMAT_ARGB32, -1, -1);
            CHECK(cairo_surface_status(surface) != CAIRO_STATUS_SUCCESS);
            break;
        case RECORDED: {
            cairo_rectangle_t bounds = {0, 0, 8, 6};
            cairo_t *context;
            surface = cairo_recording_surface_create(CAIRO_CONTENT_COLOR_ALPHA, &bounds);
            context = cairo_create(surface);
            cairo_set_source_rgb(context, 0, 0, 1);
            cairo_rectangle(context, 2, 0, 4, 6);
            cairo_fill(context);
            cairo_destroy(context);
            break;
        }
        case AS_IT_IS:
            CHECK_INT(LMSendReply(reply, LMMessageGetData(request), LMMessageGetDataLength(request)), 0);
            return;
        default:
            break;
    }
    CHECK_INT(LMSendImageReply(reply, surface), 0);
    if (surface) {
        /* It stays the caller's, and as it was. */
        CHECK_INT(cairo_surface_get_reference_count(surface),
                  request->head.msgh_id == BROKEN ? 0 : 1);
        cairo_surface_destroy(surface);
    }
}

int main(int argc, char **argv) {
    CHECK(argc > 1);
    CHECK_INT(LMStartService(argv[1], CFRunLoopGetCurrent(), (CFMachPortCallBack)callback), 0);
    puts("ready");
    fflush(stdout);
    CFRunLoopRun();
    return 0;
}
