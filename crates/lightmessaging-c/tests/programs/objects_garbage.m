/* Whatever the bytes, there is an object or none, and nothing is thrown: objects_garbage [slow]. */
#import <Foundation/Foundation.h>
#import <LightMessaging/LightMessaging.h>

#include "garbage.h"
#include "objects.h"

/* Looks at all of it, as a program would. */
static int is_list(const void *bytes, uint32_t length) {
    int is = 0;
    POOL_BEGIN
    NSData *data = [NSData dataWithBytesNoCopy:(void *)bytes length:length freeWhenDone:NO];
    id list = LMPropertyListForData(data);
    if (list) {
        is = 1;
        CHECK([list isEqual:list]);
        CHECK([list hash] || YES);
        CHECK([[list description] length] || YES);
        if ([list isKindOfClass:[NSDictionary class]]) {
            for (NSString *key in list) {
                CHECK([key UTF8String] != NULL);
                CHECK([list objectForKey:key]);
            }
        }
    }
    POOL_END
    return is;
}

int main(int argc, char **argv) {
    (void)argv;
    POOL_BEGIN
    NSData *data = LMDataForPropertyList(everything(2));
    read_garbage(is_list);
    read_damaged(is_list, [data bytes], (uint32_t)[data length], argc > 1);
    read_evil(is_list);
    POOL_END
    puts("ok");
    return 0;
}
