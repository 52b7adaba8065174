/*
 * Where services are served: on a run loop of this library's, or as a guest on Foundation's or
 * CoreFoundation's, which then polls the descriptor of ours. Used by LightMessaging.h.
 */
#ifndef LIGHTMESSAGING_RUN_LOOPS_H
#define LIGHTMESSAGING_RUN_LOOPS_H

#if LM_HAS_COREFOUNDATION

/* --- a real CoreFoundation: a CFSocket watches our descriptor --- */

#include <unistd.h>

static inline void *lm_loop_of(CFRunLoopRef runLoop) {
    if (runLoop == CFRunLoopGetCurrent()) {
        return lm_loop_current();
    }
    return runLoop == CFRunLoopGetMain() ? lm_loop_main() : NULL;
}

static inline void lm_loop_is_readable(CFSocketRef socket, CFSocketCallBackType type, CFDataRef address,
                                       const void *data, void *info) {
    (void)socket;
    (void)type;
    (void)address;
    (void)data;
    (void)info;
    (void)lm_loop_dispatch();
}

static inline kern_return_t lm_loop_join(CFRunLoopRef runLoop, void *loop) {
    CFSocketRef socket = NULL;
    CFRunLoopSourceRef source;
    int descriptor;
    if (!lm_loop_watch(loop, true)) {
        return KERN_SUCCESS;
    }
    /* It closes the descriptor that it is given. */
    descriptor = dup(lm_loop_descriptor(loop));
    if (descriptor >= 0) {
        socket = CFSocketCreateWithNative(NULL, descriptor, kCFSocketReadCallBack,
                                          lm_loop_is_readable, NULL);
    }
    source = socket ? CFSocketCreateRunLoopSource(NULL, socket, 0) : NULL;
    if (source) {
        CFRunLoopAddSource(runLoop, source, kCFRunLoopCommonModes);
        CFRelease(source);
    }
    if (socket) {
        CFRelease(socket);
    }
    if (!source) {
        (void)lm_loop_watch(loop, false);
        return KERN_RESOURCE_SHORTAGE;
    }
    return KERN_SUCCESS;
}

#else

static inline void *lm_loop_of(CFRunLoopRef runLoop) {
    return runLoop ? (void *)runLoop : lm_loop_current();
}

#if LM_HAS_FOUNDATION

/* --- GNUstep's Foundation: the NSRunLoop watches our descriptor --- */

#include <objc/runtime.h>

static void lm_loop_received(id self, SEL selector, void *data, RunLoopEventType type, void *extra,
                             NSString *mode) {
    (void)self;
    (void)selector;
    (void)data;
    (void)type;
    (void)extra;
    (void)mode;
    (void)lm_loop_dispatch();
}

/* On the loop's own thread. */
static void lm_loop_attach(id self, SEL selector, id descriptor) {
    NSRunLoop *runLoop = [NSRunLoop currentRunLoop];
    NSString *modes[] = {NSDefaultRunLoopMode, @"NSConnectionReplyMode", @"NSModalPanelRunLoopMode",
                         @"NSEventTrackingRunLoopMode"};
    unsigned int mode;
    (void)selector;
    for (mode = 0; mode < sizeof(modes) / sizeof(modes[0]); mode++) {
        [runLoop addEvent:(void *)(intptr_t)[descriptor intValue]
                     type:ET_RDESC
                  watcher:(id<RunLoopEvents>)self
                  forMode:modes[mode]];
    }
}

/* The class is made at run time, once for all files that include this. */
static inline Class lm_loop_watcher_class(void) {
    Class made = objc_getClass("LMRunLoopWatcher");
    if (!made) {
        made = objc_allocateClassPair([NSObject class], "LMRunLoopWatcher", 0);
        if (!made) {
            return objc_getClass("LMRunLoopWatcher");
        }
        class_addMethod(made, @selector(receivedEvent:type:extra:forMode:),
                        (IMP)(void (*)(void))lm_loop_received, "v@:^vi^v@");
        class_addMethod(made, @selector(lmAttach:), (IMP)(void (*)(void))lm_loop_attach, "v@:@");
        objc_registerClassPair(made);
    }
    return made;
}

static inline kern_return_t lm_loop_join(CFRunLoopRef runLoop, void *loop) {
    id watcher;
    NSNumber *descriptor;
    (void)runLoop;
    if (!lm_loop_watch(loop, true)) {
        return KERN_SUCCESS;
    }
    /* Never freed: it stays as long as the loop. */
    watcher = [lm_loop_watcher_class() new];
    descriptor = [NSNumber numberWithInt:lm_loop_descriptor(loop)];
    if (loop == lm_loop_current()) {
        lm_loop_attach(watcher, NULL, descriptor);
    } else {
        [watcher performSelectorOnMainThread:@selector(lmAttach:)
                                  withObject:descriptor
                               waitUntilDone:NO];
    }
    return KERN_SUCCESS;
}

#else

static inline kern_return_t lm_loop_join(CFRunLoopRef runLoop, void *loop) {
    (void)runLoop;
    (void)loop;
    return KERN_SUCCESS;
}

#endif
#endif

static inline kern_return_t lm_start_on(const char *name, CFRunLoopRef runLoop,
                                        CFMachPortCallBack callback, void *info, uint32_t options) {
    void *loop = lm_loop_of(runLoop);
    kern_return_t code;
    if (!loop) {
        return KERN_INVALID_ARGUMENT;
    }
#if LIGHTMESSAGING_USE_ROCKETBOOTSTRAP
    options |= LM_START_UNLOCKED;
#endif
    code = lm_start(name, loop, (lm_callback)callback, info, options, NULL);
    if (code == KERN_SUCCESS && (code = lm_loop_join(runLoop, loop)) != KERN_SUCCESS) {
        (void)lm_stop(name);
    }
    return code;
}

static inline int LMRunLoopGetDescriptor(CFRunLoopRef runLoop) {
    return lm_loop_descriptor(lm_loop_of(runLoop));
}

#endif
