/* The headers as programs for the original include them, each more than once. */
#include <mach/mach.h>
#include <mach/mach_error.h>
#include <mach/mach_init.h>
#include <mach/mach_port.h>
#include <mach/mach_types.h>
#include <mach/kern_return.h>
#include <mach/message.h>
#include <mach/port.h>
#include <CoreFoundation/CoreFoundation.h>
#include <CoreFoundation/CFBase.h>
#include <CoreFoundation/CFData.h>
#include <CoreFoundation/CFMachPort.h>
#include <CoreFoundation/CFRunLoop.h>
#include <bsm/libbsm.h>
#include <servers/bootstrap.h>
#include "bootstrap.h"
#include <rocketbootstrap/rocketbootstrap.h>
#include "rocketbootstrap.h"
#include <LightMessaging/LightMessaging.h>
#include "LightMessaging/LightMessaging.h"

#include "check.h"

#include <string.h>

int main(void) {
    mach_msg_header_t head;
    CFIndex index = -1;
    SInt32 number = INT32_MIN;
    UInt8 byte = 255;
    CFMachPortRef port = (CFMachPortRef)(uintptr_t)17;
    memset(&head, 0, sizeof(head));
    head.msgh_bits = MACH_MSGH_BITS(MACH_MSG_TYPE_COPY_SEND, MACH_MSG_TYPE_MAKE_SEND_ONCE);
    CHECK_INT(MACH_MSGH_BITS_REMOTE(head.msgh_bits), MACH_MSG_TYPE_COPY_SEND);
    CHECK_INT(MACH_MSGH_BITS_LOCAL(head.msgh_bits), MACH_MSG_TYPE_MAKE_SEND_ONCE);
    head.msgh_reserved = 0;
    head.msgh_size = 44;
    CHECK(MACH_PORT_NULL == 0 && MACH_PORT_DEAD == 0xffffffffu);
    CHECK(!MACH_PORT_VALID(MACH_PORT_NULL) && MACH_PORT_VALID(mach_task_self()));
    CHECK_INT(round_msg(45), 48);
    CHECK_INT(MAX_TRAILER_SIZE, 68);
    CHECK_INT(CFMachPortGetPort(port), 17);
    CHECK(index < 0 && number < 0 && byte == 255);
    CHECK(sizeof(name_t) == 128);
    CHECK(kCFAllocatorDefault == NULL && kCFAllocatorNull != NULL);
    CHECK(kCFRunLoopDefaultMode && kCFRunLoopCommonModes);
    /* Every code has its words. */
    CHECK(strcmp(mach_error_string(KERN_SUCCESS), "no error") == 0);
    CHECK(strstr(mach_error_string(MACH_SEND_TIMED_OUT), "not delivered") != NULL);
    CHECK(strstr(mach_error_string(MACH_RCV_TIMED_OUT), "may have run") != NULL);
    CHECK(strstr(mach_error_string(MACH_RCV_PORT_DIED), "died") != NULL);
    CHECK(strstr(bootstrap_strerror(BOOTSTRAP_UNKNOWN_SERVICE), "no service") != NULL);
    CHECK(strstr(bootstrap_strerror(BOOTSTRAP_NAME_IN_USE), "in use") != NULL);
    CHECK(strstr(LMErrorString(LM_WOULD_DEADLOCK), "thread") != NULL);
    CHECK(strstr(LMErrorString(LM_VERSION), "version") != NULL);
    CHECK(strstr(LMErrorString(LM_NOT_STARTED), "could not be") != NULL);
    CHECK(strstr(LMErrorString(12345678), "unknown") != NULL);
#if LIGHTMESSAGING_USE_ROCKETBOOTSTRAP
    CHECK_INT(rocketbootstrap_unlock("name"), 0);
#endif
    return 0;
}
