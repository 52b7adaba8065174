/* A service on a real CoreFoundation's run loop, with its data. */
#include <CoreFoundation/CoreFoundation.h>

#include <LightMessaging/LightMessaging.h>

#include "check.h"

static void callback(CFMachPortRef port, void *message, CFIndex size, void *info) {
    static const char text[] = "hello from its own CFData";
    LMMessage *request = (LMMessage *)message;
    CFDataRef data;
    int before = cf_calls;
    (void)port;
    (void)size;
    (void)info;
    if (request->head.msgh_id == 2) {
        CFRunLoopStop(CFRunLoopGetCurrent());
        return;
    }
    data = CFDataCreate(kCFAllocatorDefault, (const UInt8 *)text, sizeof(text) - 1);
    CHECK_INT(LMSendCFDataReply(request->head.msgh_remote_port, data), 0);
    CFRelease(data);
    /* Create, bytes, length, release: none of them was interposed. */
    CHECK_INT(cf_calls - before, 4);
}

int main(void) {
    CHECK_INT(LMStartService("guest", CFRunLoopGetCurrent(), callback), 0);
    CHECK_INT(LMStartService("second guest", CFRunLoopGetMain(), callback), 0);
    CHECK_INT(LMStartService("nowhere", (CFRunLoopRef)(uintptr_t)64, callback), KERN_INVALID_ARGUMENT);
    puts("ready");
    fflush(stdout);
    CFRunLoopRun();
    puts("done");
    return 0;
}
