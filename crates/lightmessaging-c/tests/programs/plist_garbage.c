/* Whatever the bytes, there is a plist or none: plist_garbage [slow]. */
#include <plist/plist.h>

#include <LightMessaging/LightMessaging.h>

#include "everything.h"
#include "garbage.h"

static int is_list(const void *bytes, uint32_t length) {
    CFDataRef data = CFDataCreateWithBytesNoCopy(NULL, (const UInt8 *)bytes, (CFIndex)length,
                                                 kCFAllocatorNull);
    plist_t list = LMPropertyListForData(data);
    CFRelease(data);
    if (!list) {
        return 0;
    }
    plist_free(list);
    return 1;
}

int main(int argc, char **argv) {
    plist_t all = everything(2);
    CFDataRef data = LMDataForPropertyList(all);
    (void)argv;
    read_garbage(is_list);
    read_damaged(is_list, CFDataGetBytePtr(data), (uint32_t)CFDataGetLength(data), argc > 1);
    read_evil(is_list);
    CFRelease(data);
    plist_free(all);
    puts("ok");
    return 0;
}
