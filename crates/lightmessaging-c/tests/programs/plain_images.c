/* Images without cairo: plain_images serve NAME, and plain_images ask NAME. */
#include <LightMessaging/LightMessaging.h>

#include "pictures.h"

static unsigned char rows[200 * 820];

static void callback(CFMachPortRef port, LMMessage *request, CFIndex size, void *info) {
    mach_port_t reply = request->head.msgh_remote_port;
    LMImage image;
    Size asked = {0, 0, 0};
    (void)port;
    (void)info;
    CHECK(LMDataWithSizeIsValidMessage(request, size));
    CHECK_INT(LMMessageGetDataLength(request), sizeof(asked));
    memcpy(&asked, LMMessageGetData(request), sizeof(asked));
    memset(&image, 0, sizeof(image));
    image.width = (uint32_t)asked.width;
    image.height = (uint32_t)asked.height;
    image.bitsPerComponent = 8;
    image.bitsPerPixel = 32;
    /* The rows are a little longer than they need be. */
    image.bytesPerRow = image.width * 4 + 20;
    image.bitmapInfo = LM_ALPHA_LAST;
    image.scale = 3;
    image.orientation = 6;
    image.pixels = rows;
    switch (request->head.msgh_id) {
        case DRAW:
            CHECK_INT(LMSendImageReply(reply, &image), 0);
            break;
        case NO_IMAGE:
            CHECK_INT(LMSendImageReply(reply, NULL), 0);
            break;
        case BROKEN:
            image.bytesPerRow = image.width * 4 - 1;
            CHECK_INT(LMSendImageReply(reply, &image), 0);
            break;
        default:
            image.pixels = NULL;
            CHECK_INT(LMSendImageReply(reply, &image), 0);
    }
}

static LMImage get(LMConnectionRef server, int32_t id, int32_t width, int32_t height) {
    LMResponseBuffer buffer;
    LMImage image;
    Size size;
    const unsigned char *received;
    bool is_large;
    size.format = 0;
    size.width = width;
    size.height = height;
    CHECK_INT(LMConnectionSendTwoWay(server, id, &size, sizeof(size), &buffer), 0);
    is_large = buffer.message.body.msgh_descriptor_count;
    received = (const unsigned char *)LMMessageGetData(&buffer.message);
    image = LMResponseConsumeImage(&buffer);
    CHECK(!is_large || image.pixels == received + LM_IMAGE_ROWS);
    CHECK_INT(is_large ? LMMessageGetDataLength(&buffer.message) : 0, 0);
    return image;
}

static void images_arrive(LMConnectionRef server, int32_t width, int32_t height) {
    LMImage image = get(server, DRAW, width, height), copy;
    CHECK_INT(image.width, width);
    CHECK_INT(image.height, height);
    CHECK_INT(image.bitsPerComponent, 8);
    CHECK_INT(image.bitsPerPixel, 32);
    CHECK_INT(image.bytesPerRow, width * 4 + 20);
    CHECK_INT(image.bitmapInfo, LM_ALPHA_LAST);
    CHECK_INT(image.scale, 3);
    CHECK_INT(image.orientation, 6);
    CHECK(is_filled(image.pixels, (size_t)height * image.bytesPerRow));
    /* It is the client's own. */
    memset(image.pixels, 0xee, (size_t)height * image.bytesPerRow);
    copy = image;
    LMImageFree(&image);
    CHECK(image.pixels == NULL);
    LMImageFree(&image);
    LMImageFree(&copy);
}

int main(int argc, char **argv) {
    LMConnection server;
    int round;
    CHECK(argc > 2);
    memset(&server, 0, sizeof(server));
    memcpy(server.serverName, argv[2], strlen(argv[2]) + 1);
    fill(rows, sizeof(rows));
    if (strcmp(argv[1], "serve") == 0) {
        CHECK_INT(LMStartService(argv[2], CFRunLoopGetCurrent(), (CFMachPortCallBack)callback), 0);
        puts("ready");
        fflush(stdout);
        CFRunLoopRun();
        return 0;
    }
    images_arrive(&server, 1, 1);
    images_arrive(&server, 10, 20);
    images_arrive(&server, 200, 200);
    CHECK(get(&server, NO_IMAGE, 10, 10).pixels == NULL);
    CHECK(get(&server, BROKEN, 10, 10).pixels == NULL);
    CHECK(get(&server, AS_IT_IS, 10, 10).pixels == NULL);
    for (round = 0; round < 1000; round++) {
        images_arrive(&server, 100, 100);
    }
    puts("ok");
    return 0;
}
