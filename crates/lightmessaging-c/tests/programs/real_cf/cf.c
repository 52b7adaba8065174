/* The functions of CoreFoundation.h beside this: one run loop with one socket. */
#include "CoreFoundation/CoreFoundation.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct __CFData {
    CFIndex length;
    UInt8 bytes[];
};
struct __CFRunLoop {
    int stopped;
};
struct __CFSocket {
    int native;
    CFSocketCallBack callback;
};

const CFAllocatorRef kCFAllocatorDefault = NULL;
const CFStringRef kCFRunLoopCommonModes = NULL;
int cf_calls;

static struct __CFRunLoop main_loop;
static struct __CFSocket the_socket = {-1, NULL};
static int is_added;

CFDataRef CFDataCreate(CFAllocatorRef allocator, const UInt8 *bytes, CFIndex length) {
    struct __CFData *data = malloc(sizeof(*data) + (size_t)length);
    (void)allocator;
    cf_calls++;
    data->length = length;
    memcpy(data->bytes, bytes, (size_t)length);
    return data;
}

const UInt8 *CFDataGetBytePtr(CFDataRef data) {
    cf_calls++;
    return data->bytes;
}

CFIndex CFDataGetLength(CFDataRef data) {
    cf_calls++;
    return data->length;
}

void CFRelease(CFTypeRef object) {
    cf_calls++;
    if (object != &the_socket) {
        free((void *)object);
    }
}

CFRunLoopRef CFRunLoopGetCurrent(void) {
    return &main_loop;
}

CFRunLoopRef CFRunLoopGetMain(void) {
    return &main_loop;
}

CFSocketRef CFSocketCreateWithNative(CFAllocatorRef allocator, CFSocketNativeHandle native,
                                     CFOptionFlags types, CFSocketCallBack callback,
                                     const void *context) {
    (void)allocator;
    (void)types;
    (void)context;
    the_socket.native = native;
    the_socket.callback = callback;
    return &the_socket;
}

CFRunLoopSourceRef CFSocketCreateRunLoopSource(CFAllocatorRef allocator, CFSocketRef socket,
                                               CFIndex order) {
    (void)allocator;
    (void)socket;
    (void)order;
    return (CFRunLoopSourceRef)malloc(1);
}

void CFRunLoopAddSource(CFRunLoopRef run_loop, CFRunLoopSourceRef source, CFStringRef mode) {
    (void)run_loop;
    (void)source;
    (void)mode;
    is_added = 1;
}

void CFRunLoopRun(void) {
    while (is_added && !main_loop.stopped) {
        struct pollfd it = {the_socket.native, POLLIN, 0};
        if (poll(&it, 1, -1) == 1) {
            the_socket.callback(&the_socket, kCFSocketReadCallBack, NULL, NULL, NULL);
        }
    }
    close(the_socket.native);
}

void CFRunLoopStop(CFRunLoopRef run_loop) {
    run_loop->stopped = 1;
}
