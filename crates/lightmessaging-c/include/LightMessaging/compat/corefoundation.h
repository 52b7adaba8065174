/*
 * The CoreFoundation names that programs written for LightMessaging use, for programs without one.
 *
 * Where a real CoreFoundation (Swift's, GNUstep's) was included before, its types and functions are
 * used and nothing is defined here but what it lacks. All functions are inline: the library exports
 * none of these names, so a CoreFoundation in the same process is never interposed.
 *
 * In Objective-C with Foundation a CFDataRef is an NSData, as toll-free bridging has it.
 */
#ifndef LIGHTMESSAGING_COMPAT_COREFOUNDATION_H
#define LIGHTMESSAGING_COMPAT_COREFOUNDATION_H

#if defined(__GNUC__)
#pragma GCC system_header
#endif

#include <stdint.h>

#include <LightMessaging/lm.h>

#if defined(__COREFOUNDATION_CFBASE__) || defined(__COREFOUNDATION_CFBASE_H__) || \
    defined(__COREFOUNDATION_COREFOUNDATION__) || defined(__COREFOUNDATION_H__)
#define LM_HAS_COREFOUNDATION 1
#else
#define LM_HAS_COREFOUNDATION 0
#endif

#if defined(__OBJC__) && (defined(__Foundation_h_GNUSTEP_BASE_INCLUDE) || defined(__NSData_h_GNUSTEP_BASE_INCLUDE))
#define LM_HAS_FOUNDATION 1
#else
#define LM_HAS_FOUNDATION 0
#endif

#ifndef __has_feature
#define LM_HAS_ARC 0
#elif __has_feature(objc_arc)
#define LM_HAS_ARC 1
#else
#define LM_HAS_ARC 0
#endif
#if LM_HAS_ARC
#define LM_BRIDGE __bridge
#else
#define LM_BRIDGE
#endif

#if LM_HAS_COREFOUNDATION

#if !defined(__COREFOUNDATION_CFMACHPORT__) && !defined(__COREFOUNDATION_CFMACHPORT_H__)
typedef struct __CFMachPort *CFMachPortRef;
typedef void (*CFMachPortCallBack)(CFMachPortRef port, void *message, CFIndex size, void *info);
#endif

#else /* there is none */

typedef long CFIndex;
typedef unsigned long CFOptionFlags;
typedef unsigned char Boolean;
typedef unsigned char UInt8;
typedef signed char SInt8;
typedef unsigned short UInt16;
typedef signed short SInt16;
typedef uint32_t UInt32;
typedef int32_t SInt32;
typedef double CFTimeInterval;
typedef double CFAbsoluteTime;
typedef const void *CFTypeRef;
typedef const struct __CFAllocator *CFAllocatorRef;
typedef const struct __CFString *CFStringRef;
typedef const struct __CFData *CFDataRef;
typedef struct __CFRunLoop *CFRunLoopRef;
typedef struct __CFMachPort *CFMachPortRef;
typedef void (*CFMachPortCallBack)(CFMachPortRef port, void *message, CFIndex size, void *info);

#define kCFAllocatorDefault ((CFAllocatorRef)0)
#define kCFAllocatorSystemDefault ((CFAllocatorRef)0)
#define kCFAllocatorMalloc ((CFAllocatorRef)8)
#define kCFAllocatorNull ((CFAllocatorRef)16)

/* There is one mode: a service is served in all of them. */
#define kCFRunLoopDefaultMode ((CFStringRef)"kCFRunLoopDefaultMode")
#define kCFRunLoopCommonModes ((CFStringRef)"kCFRunLoopCommonModes")

enum {
    kCFRunLoopRunFinished = 1,
    kCFRunLoopRunStopped = 2,
    kCFRunLoopRunTimedOut = 3,
    kCFRunLoopRunHandledSource = 4
};

/* --- references --- */

#if LM_HAS_FOUNDATION && LM_HAS_ARC
id objc_retain(id object);
void objc_release(id object);
#endif

static inline CFTypeRef CFRetain(CFTypeRef object) {
    if (!lm_retain(object)) {
#if LM_HAS_FOUNDATION && LM_HAS_ARC
        objc_retain((__bridge id)object);
#elif LM_HAS_FOUNDATION
        [(id)object retain];
#endif
    }
    return object;
}

/* Releasing once too often does nothing, but for objects of Foundation's. */
static inline void CFRelease(CFTypeRef object) {
    if (!lm_release(object)) {
#if LM_HAS_FOUNDATION && LM_HAS_ARC
        objc_release((__bridge id)object);
#elif LM_HAS_FOUNDATION
        [(id)object release];
#endif
    }
}

/* --- CFData --- */

/* A data of a copy of the bytes; CFRelease() it. The allocator does not matter. */
static inline CFDataRef CFDataCreate(CFAllocatorRef allocator, const UInt8 *bytes, CFIndex length) {
    (void)allocator;
#if LM_HAS_FOUNDATION && LM_HAS_ARC
    return (__bridge_retained CFDataRef)[[NSData alloc] initWithBytes:bytes length:(NSUInteger)length];
#elif LM_HAS_FOUNDATION
    return (CFDataRef)[[NSData alloc] initWithBytes:bytes length:(NSUInteger)length];
#else
    return (CFDataRef)lm_data_create(bytes, length > 0 ? (size_t)length : 0, LM_DATA_COPY);
#endif
}

/* A data of the bytes themselves. With kCFAllocatorNull they stay the program's; else they come from
 * malloc(3) and are freed with the data. */
static inline CFDataRef CFDataCreateWithBytesNoCopy(CFAllocatorRef allocator, const UInt8 *bytes,
                                                    CFIndex length, CFAllocatorRef deallocator) {
    (void)allocator;
#if LM_HAS_FOUNDATION
    NSData *data = [[NSData alloc] initWithBytesNoCopy:(void *)bytes
                                                length:(NSUInteger)length
                                          freeWhenDone:deallocator != kCFAllocatorNull];
#if LM_HAS_ARC
    return (__bridge_retained CFDataRef)data;
#else
    return (CFDataRef)data;
#endif
#else
    return (CFDataRef)lm_data_create(bytes, length > 0 ? (size_t)length : 0,
                                     deallocator == kCFAllocatorNull ? LM_DATA_BORROW
                                                                     : LM_DATA_FREE);
#endif
}

static inline const UInt8 *CFDataGetBytePtr(CFDataRef data) {
#if LM_HAS_FOUNDATION
    return (const UInt8 *)[(LM_BRIDGE NSData *)(const void *)data bytes];
#else
    return lm_data_bytes(data);
#endif
}

static inline CFIndex CFDataGetLength(CFDataRef data) {
#if LM_HAS_FOUNDATION
    return (CFIndex)[(LM_BRIDGE NSData *)(const void *)data length];
#else
    return (CFIndex)lm_data_length(data);
#endif
}

/* --- run loops --- */

/* The calling thread's run loop; it lives as long as the thread. */
static inline CFRunLoopRef CFRunLoopGetCurrent(void) {
    return (CFRunLoopRef)lm_loop_current();
}

static inline CFRunLoopRef CFRunLoopGetMain(void) {
    return (CFRunLoopRef)lm_loop_main();
}

/* Serves the services of the calling thread's loop, until it is stopped or none of them is left. It
 * returns at once if there is none. A callback that runs the loop again is served all services but
 * its own. */
static inline void CFRunLoopRun(void) {
    (void)lm_loop_run(1e10, false);
}

/* The same for so many seconds, or until a message was handled. The mode does not matter. */
static inline SInt32 CFRunLoopRunInMode(CFStringRef mode, CFTimeInterval seconds,
                                        Boolean return_after_source_handled) {
    (void)mode;
    return lm_loop_run(seconds, return_after_source_handled != 0);
}

/* Ends the innermost run of a loop that is being run, from any thread or callback. */
static inline void CFRunLoopStop(CFRunLoopRef run_loop) {
    lm_loop_stop(run_loop);
}

#endif /* LM_HAS_COREFOUNDATION */

/* --- CFMachPort: the port of a service, as its callback gets it --- */

#if !defined(__COREFOUNDATION_CFMACHPORT__) && !defined(__COREFOUNDATION_CFMACHPORT_H__)

static inline uint32_t CFMachPortGetPort(CFMachPortRef port) {
    return (uint32_t)(uintptr_t)port;
}

/* Stops the service. */
static inline void CFMachPortInvalidate(CFMachPortRef port) {
    (void)lm_stop_port((uint32_t)(uintptr_t)port);
}

#endif

#endif
