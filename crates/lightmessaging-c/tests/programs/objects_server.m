/* A service that speaks property lists, on a run loop of Foundation's: objects_server NAME [thread].
 * With `thread`, another thread starts it on the main thread's loop. */
#import <Foundation/Foundation.h>
#import <LightMessaging/LightMessaging.h>

#include "objects.h"

#include <pthread.h>

static void callback(CFMachPortRef port, LMMessage *request, CFIndex size, void *info) {
    mach_port_t reply = request->head.msgh_remote_port;
    NSUInteger length = LMMessageGetDataLength(request);
    NSData *data = [NSData dataWithBytes:LMMessageGetData(request) length:length];
    id list = LMPropertyListForData(data);
    int32_t number = 0;
    (void)port;
    CHECK(info == NULL);
    CHECK([NSThread isMainThread]);
    CHECK(LMDataWithSizeIsValidMessage(request, size));
    switch (request->head.msgh_id) {
        case SAME:
            CHECK_INT(LMSendPropertyListReply(reply, list), 0);
            break;
        case IS_IT:
            CHECK_INT(LMSendIntegerReply(reply, letters_of(list) >= 0), 0);
            break;
        case MAKE:
            CHECK_INT(length, sizeof(number));
            [data getBytes:&number length:sizeof(number)];
            CHECK_INT(LMSendPropertyListReply(reply, everything((NSUInteger)number)), 0);
            break;
        case NIL:
            CHECK_INT(LMSendPropertyListReply(reply, nil), 0);
            break;
        case IS_NIL:
            CHECK_INT(LMSendIntegerReply(reply, list == nil), 0);
            break;
        case AS_DATA:
            CHECK_INT(LMSendNSDataReply(reply, data), 0);
            break;
        default:
            CHECK_INT(LMSendCFDataReply(reply, (LM_BRIDGE CFDataRef)data), 0);
    }
}

static void *start(void *name) {
    CHECK(CFRunLoopGetMain() != CFRunLoopGetCurrent());
    CHECK_INT(LMStartService((const char *)name, CFRunLoopGetMain(), (CFMachPortCallBack)callback), 0);
    puts("ready");
    fflush(stdout);
    return NULL;
}

static void *start_a_moment_later(void *name) {
    /* The main thread's loop sleeps by now. */
    [NSThread sleepForTimeInterval:0.1];
    return start(name);
}

int main(int argc, char **argv) {
    pthread_t thread;
    CHECK(argc > 1);
    POOL_BEGIN
    if (argc > 2) {
        /* Without anything to wait for, a loop of GNUstep's ends. */
        [NSTimer scheduledTimerWithTimeInterval:1e6
                                         target:[NSObject new]
                                       selector:@selector(description)
                                       userInfo:nil
                                        repeats:YES];
        CHECK(pthread_create(&thread, NULL, start_a_moment_later, argv[1]) == 0);
    } else {
        CHECK_INT(LMStartService(argv[1], CFRunLoopGetCurrent(), (CFMachPortCallBack)callback), 0);
        puts("ready");
        fflush(stdout);
    }
    [[NSRunLoop currentRunLoop] run];
    POOL_END
    return 1;
}
