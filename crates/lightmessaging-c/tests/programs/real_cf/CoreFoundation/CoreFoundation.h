/* A CoreFoundation as far as a test needs one: its own types and exported functions, under the guards
 * that Apple's and Swift's have. */
#ifndef __COREFOUNDATION_COREFOUNDATION__
#define __COREFOUNDATION_COREFOUNDATION__ 1
#define __COREFOUNDATION_CFBASE__ 1
#define __COREFOUNDATION_CFDATA__ 1
#define __COREFOUNDATION_CFRUNLOOP__ 1
#define __COREFOUNDATION_CFSOCKET__ 1

typedef signed long CFIndex;
typedef signed int SInt32;
typedef unsigned char UInt8;
typedef unsigned char Boolean;
typedef unsigned long CFOptionFlags;
typedef double CFTimeInterval;
typedef const void *CFTypeRef;
typedef const struct __CFAllocator *CFAllocatorRef;
typedef const struct __CFString *CFStringRef;
typedef const struct __CFData *CFDataRef;
typedef struct __CFRunLoop *CFRunLoopRef;
typedef struct __CFRunLoopSource *CFRunLoopSourceRef;
typedef struct __CFSocket *CFSocketRef;
typedef CFOptionFlags CFSocketCallBackType;
typedef int CFSocketNativeHandle;
enum { kCFSocketReadCallBack = 1 };
typedef void (*CFSocketCallBack)(CFSocketRef s, CFSocketCallBackType type, CFDataRef address,
                                 const void *data, void *info);

extern const CFAllocatorRef kCFAllocatorDefault;
extern const CFStringRef kCFRunLoopCommonModes;

CFDataRef CFDataCreate(CFAllocatorRef allocator, const UInt8 *bytes, CFIndex length);
const UInt8 *CFDataGetBytePtr(CFDataRef data);
CFIndex CFDataGetLength(CFDataRef data);
void CFRelease(CFTypeRef object);
CFRunLoopRef CFRunLoopGetCurrent(void);
CFRunLoopRef CFRunLoopGetMain(void);
void CFRunLoopRun(void);
void CFRunLoopStop(CFRunLoopRef run_loop);
void CFRunLoopAddSource(CFRunLoopRef run_loop, CFRunLoopSourceRef source, CFStringRef mode);
CFSocketRef CFSocketCreateWithNative(CFAllocatorRef allocator, CFSocketNativeHandle native,
                                     CFOptionFlags types, CFSocketCallBack callback,
                                     const void *context);
CFRunLoopSourceRef CFSocketCreateRunLoopSource(CFAllocatorRef allocator, CFSocketRef socket,
                                               CFIndex order);

/* How often its functions were called, for the test. */
extern int cf_calls;
#endif
