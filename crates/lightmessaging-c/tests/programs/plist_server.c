/* A service that speaks property lists, with libplist: plist_server NAME. */
#include <plist/plist.h>

#include <LightMessaging/LightMessaging.h>

#include "everything.h"

static void callback(CFMachPortRef port, LMMessage *request, CFIndex size, void *info) {
    mach_port_t reply = request->head.msgh_remote_port;
    const UInt8 *bytes = (const UInt8 *)LMMessageGetData(request);
    CFIndex length = (CFIndex)LMMessageGetDataLength(request);
    CFDataRef data = CFDataCreateWithBytesNoCopy(NULL, bytes, length, kCFAllocatorNull);
    plist_t list = LMPropertyListForData(data);
    int32_t number = 0;
    (void)port;
    (void)info;
    CHECK(LMDataWithSizeIsValidMessage(request, size));
    switch (request->head.msgh_id) {
        case SAME:
            CHECK_INT(LMSendPropertyListReply(reply, list), 0);
            break;
        case IS_IT:
            CHECK_INT(LMSendIntegerReply(reply, list && letters_of(list) >= 0), 0);
            break;
        case MAKE: {
            plist_t made;
            CHECK_INT(length, sizeof(number));
            memcpy(&number, bytes, sizeof(number));
            made = everything((uint32_t)number);
            CHECK_INT(LMSendPropertyListReply(reply, made), 0);
            plist_free(made);
            break;
        }
        case NIL:
            CHECK_INT(LMSendPropertyListReply(reply, NULL), 0);
            break;
        case IS_NIL:
            CHECK_INT(LMSendIntegerReply(reply, list == NULL), 0);
            break;
        case AS_DATA:
            CHECK_INT(LMSendCFDataReply(reply, data), 0);
            break;
        default:
            CHECK_INT(LMSendReply(reply, bytes, (uint32_t)length), 0);
    }
    if (list) {
        plist_free(list);
    }
    CFRelease(data);
}

int main(int argc, char **argv) {
    CHECK(argc > 1);
    CHECK_INT(LMStartService(argv[1], CFRunLoopGetCurrent(), (CFMachPortCallBack)callback), 0);
    puts("ready");
    fflush(stdout);
    CFRunLoopRun();
    return 0;
}
