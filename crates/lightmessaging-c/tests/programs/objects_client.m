/* Asks a service that speaks property lists: objects_client NAME. */
#import <Foundation/Foundation.h>
#import <LightMessaging/LightMessaging.h>

#include "objects.h"

static LMConnection server;

static void a_list_of_every_type_arrives(NSUInteger letters) {
    LMResponseBuffer buffer;
    NSDictionary *sent = everything(letters);
    CHECK_INT(LMConnectionSendTwoWayPropertyList(&server, IS_IT, sent, &buffer), 0);
    CHECK_INT(LMResponseConsumeInteger(&buffer), 1);
    CHECK_INT(LMConnectionSendTwoWayPropertyList(&server, SAME, sent, &buffer), 0);
    CHECK_INT(buffer.message.body.msgh_descriptor_count, letters > LM_INLINE_MAX);
    CHECK_INT(letters_of(LMResponseConsumePropertyList(&buffer)), letters);
    CHECK_INT(LMMessageGetDataLength(&buffer.message) > LM_INLINE_MAX, 0);
}

static void a_list_of_every_type_comes_back(uint32_t letters) {
    LMResponseBuffer buffer;
    CHECK_INT(LMConnectionSendTwoWay(&server, MAKE, &letters, sizeof(letters), &buffer), 0);
    CHECK_INT(letters_of(LMResponseConsumePropertyList(&buffer)), letters);
}

static void each_type_travels_alone(void) {
    NSDictionary *all = everything(3);
    for (NSString *key in all) {
        LMResponseBuffer buffer;
        id sent = [all objectForKey:key];
        CHECK_INT(LMConnectionSendTwoWayPropertyList(&server, SAME, sent, &buffer), 0);
        CHECK([LMResponseConsumePropertyList(&buffer) isEqual:sent]);
        CHECK([LMPropertyListForData(LMDataForPropertyList(sent)) isEqual:sent]);
    }
}

static void nothing_is_an_empty_message(void) {
    LMResponseBuffer buffer;
    CHECK_INT(LMConnectionSendTwoWayPropertyList(&server, IS_NIL, nil, &buffer), 0);
    CHECK_INT(LMResponseConsumeInteger(&buffer), 1);
    CHECK_INT(LMConnectionSendTwoWayPropertyList(&server, RAW, nil, &buffer), 0);
    CHECK_INT(LMMessageGetDataLength(&buffer.message), 0);
    CHECK_INT(LMConnectionSendTwoWay(&server, NIL, NULL, 0, &buffer), 0);
    CHECK_INT(LMMessageGetDataLength(&buffer.message), 0);
    CHECK(LMResponseConsumePropertyList(&buffer) == nil);
    CHECK(LMResponseConsumePropertyList(&buffer) == nil);
    CHECK(LMDataForPropertyList(nil) == nil);
    CHECK(LMPropertyListForData(nil) == nil);
    CHECK(LMPropertyListForData([NSData data]) == nil);
    /* Nor is what is no property list sent as one. */
    CHECK(LMDataForPropertyList([NSThread currentThread]) == nil);
    CHECK(LMDataForPropertyList([NSArray arrayWithObject:[NSNull null]]) == nil);
    CHECK(LMDataForPropertyList([NSDictionary dictionaryWithObject:@"one"
                                                            forKey:[NSNumber numberWithInt:1]]) == nil);
}

static void data_is_an_object(void) {
    LMResponseBuffer buffer;
    NSData *data = [NSData dataWithBytes:"some data" length:10];
    CFDataRef made = CFDataCreate(kCFAllocatorDefault, (const UInt8 *)"made", 5);
    static const int32_t ids[] = {RAW, AS_DATA};
    int i;
    CHECK([(LM_BRIDGE NSData *)made isKindOfClass:[NSData class]]);
    CHECK_INT(CFDataGetLength(made), 5);
    CHECK(strcmp((const char *)CFDataGetBytePtr(made), "made") == 0);
    CHECK(LMConnectionSendOneWayData(&server, RAW, (LM_BRIDGE CFDataRef)data));
    CHECK(LMConnectionSendOneWayData(&server, RAW, NULL));
    for (i = 0; i < 2; i++) {
        CHECK_INT(LMConnectionSendTwoWayData(&server, ids[i], (LM_BRIDGE CFDataRef)data, &buffer), 0);
        CHECK_INT(LMMessageGetDataLength(&buffer.message), 10);
        CHECK(strcmp((const char *)LMMessageGetData(&buffer.message), "some data") == 0);
        CHECK_INT(LMConnectionSendTwoWayData(&server, ids[i], made, &buffer), 0);
        CHECK_INT(LMMessageGetDataLength(&buffer.message), 5);
        CHECK_INT(LMConnectionSendTwoWayData(&server, ids[i], NULL, &buffer), 0);
        CHECK_INT(LMMessageGetDataLength(&buffer.message), 0);
    }
    CHECK(CFRetain(made) == made);
    CFRelease(made);
    CHECK_INT(CFDataGetLength(made), 5);
    CFRelease(made);
    {
        UInt8 *bytes = (UInt8 *)malloc(3);
        memcpy(bytes, "abc", 3);
        made = CFDataCreateWithBytesNoCopy(NULL, bytes, 3, kCFAllocatorMalloc);
        CHECK(CFDataGetBytePtr(made) == bytes);
        CFRelease(made);
        made = CFDataCreateWithBytesNoCopy(NULL, (const UInt8 *)"abc", 3, kCFAllocatorNull);
        CHECK_INT(CFDataGetLength(made), 3);
        CFRelease(made);
    }
}

static void what_is_no_list_is_nothing(void) {
    static const char xml[] = "<?xml version=\"1.0\"?><plist version=\"1.0\"><true/></plist>";
    static char large[5000];
    LMConnection nobody = {MACH_PORT_NULL, "nobody"};
    LMResponseBuffer buffer;
    CHECK_INT(LMConnectionSendTwoWay(&server, RAW, xml, sizeof(xml), &buffer), 0);
    CHECK(LMResponseConsumePropertyList(&buffer) == nil);
    CHECK_INT(LMConnectionSendTwoWay(&server, IS_NIL, xml, sizeof(xml), &buffer), 0);
    CHECK_INT(LMResponseConsumeInteger(&buffer), 1);
    /* Out of line, too. */
    memcpy(large, "bplist00", 8);
    CHECK_INT(LMConnectionSendTwoWay(&server, RAW, large, sizeof(large), &buffer), 0);
    CHECK_INT(LMMessageGetDataLength(&buffer.message), sizeof(large));
    CHECK(LMResponseConsumePropertyList(&buffer) == nil);
    CHECK_INT(LMMessageGetDataLength(&buffer.message), 0);
    CHECK(LMConnectionSendTwoWayPropertyList(&nobody, SAME, @"hello", &buffer) != 0);
    CHECK(LMResponseConsumePropertyList(&buffer) == nil);
}

static long memory_in_use(void) {
    long pages = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file && fscanf(file, "%ld %ld", &pages, &resident) == 2);
    fclose(file);
    return resident * 4096;
}

static void nothing_leaks(void) {
    long before = 0;
    int round;
    for (round = 0; round < 1000; round++) {
        POOL_BEGIN
        a_list_of_every_type_arrives(20000);
        data_is_an_object();
        POOL_END
        if (round == 200) {
            before = memory_in_use();
        }
    }
    CHECK(memory_in_use() - before < 2 << 20);
}

int main(int argc, char **argv) {
    static const uint32_t sizes[] = {0, 1, 14, 15, 16, 255, 256, 3000, 4097, 70000, 1 << 20};
    size_t i;
    CHECK(argc > 1);
    POOL_BEGIN
    memcpy(server.serverName, argv[1], strlen(argv[1]) + 1);
    for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        a_list_of_every_type_arrives(sizes[i]);
        a_list_of_every_type_comes_back(sizes[i]);
    }
    each_type_travels_alone();
    nothing_is_an_empty_message();
    data_is_an_object();
    what_is_no_list_is_nothing();
    if (argc > 2) {
        nothing_leaks();
    }
    puts("ok");
    POOL_END
    return 0;
}
