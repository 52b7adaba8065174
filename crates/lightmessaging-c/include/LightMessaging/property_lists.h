/*
 * Property lists as messages: binary, version 1.0. Used by LightMessaging.h.
 *
 * In Objective-C with Foundation they are objects (NSDictionary, NSArray, NSString, NSData, NSNumber,
 * NSDate); in C and C++ they are the plist_t of libplist, where <plist/plist.h> was included first.
 * Nothing (nil, NULL) is sent as an empty message; what is empty or no binary property list is read as
 * nothing.
 */
#ifndef LIGHTMESSAGING_PROPERTY_LISTS_H
#define LIGHTMESSAGING_PROPERTY_LISTS_H

/* Whether bytes begin as a binary property list does: no other form is read. */
static inline bool lm_is_property_list(const void *bytes, uint32_t length) {
    return bytes && length > 8 && memcmp(bytes, "bplist00", 8) == 0;
}

#if LM_HAS_FOUNDATION

static inline kern_return_t LMSendNSDataReply(mach_port_t replyPort, NSData *data) {
    return LMSendReply(replyPort, [data bytes], (uint32_t)[data length]);
}

/* The binary property list of an object; nil for nil and for what is none. */
static inline NSData *LMDataForPropertyList(id propertyList) {
    if (!propertyList) {
        return nil;
    }
    return [NSPropertyListSerialization dataFromPropertyList:propertyList
                                                      format:NSPropertyListBinaryFormat_v1_0
                                            errorDescription:NULL];
}

/* The object of a binary property list; nil for nil, for empty data and for anything else. */
static inline id LMPropertyListForData(NSData *data) {
    id result = nil;
    if (lm_is_property_list([data bytes], (uint32_t)[data length])) {
        NS_DURING
            result = [NSPropertyListSerialization propertyListFromData:data
                                                      mutabilityOption:NSPropertyListImmutable
                                                                format:NULL
                                                      errorDescription:NULL];
        NS_HANDLER
            result = nil;
        NS_ENDHANDLER
    }
    return result;
}

static inline kern_return_t LMSendPropertyListReply(mach_port_t replyPort, id propertyList) {
    return LMSendNSDataReply(replyPort, LMDataForPropertyList(propertyList));
}

static inline kern_return_t LMConnectionSendTwoWayPropertyList(LMConnectionRef connection,
                                                               SInt32 messageId, id propertyList,
                                                               LMResponseBuffer *buffer) {
    NSData *data = LMDataForPropertyList(propertyList);
    return LMConnectionSendTwoWay(connection, messageId, [data bytes], (uint32_t)[data length],
                                  buffer);
}

/* The property list of a response, which is freed. */
static inline id LMResponseConsumePropertyList(LMResponseBuffer *buffer) {
    NSData *data = [NSData dataWithBytes:LMMessageGetData(&buffer->message)
                                  length:LMMessageGetDataLength(&buffer->message)];
    LMResponseBufferFree(buffer);
    return LMPropertyListForData(data);
}

#elif defined(LIBPLIST_H)

#include <stdlib.h>

/* The binary property list of a plist, which stays the caller's; CFRelease() it. NULL for NULL. */
static inline CFDataRef LMDataForPropertyList(plist_t propertyList) {
    char *bytes = NULL;
    uint32_t length = 0;
    if (propertyList) {
        plist_to_bin(propertyList, &bytes, &length);
    }
    if (!bytes) {
        return NULL;
    }
    return CFDataCreateWithBytesNoCopy(kCFAllocatorDefault, (const UInt8 *)bytes, (CFIndex)length,
                                       kCFAllocatorDefault);
}

static inline plist_t lm_plist_of(const void *bytes, uint32_t length) {
    plist_t result = NULL;
    if (lm_is_property_list(bytes, length)) {
        plist_from_bin((const char *)bytes, length, &result);
    }
    return result;
}

/* The plist of a binary property list; plist_free() it. NULL for NULL, for empty data and for anything
 * else. */
static inline plist_t LMPropertyListForData(CFDataRef data) {
    return data ? lm_plist_of(CFDataGetBytePtr(data), (uint32_t)CFDataGetLength(data)) : NULL;
}

static inline kern_return_t LMSendPropertyListReply(mach_port_t replyPort, plist_t propertyList) {
    CFDataRef data = LMDataForPropertyList(propertyList);
    kern_return_t code = LMSendCFDataReply(replyPort, data);
    if (data) {
        CFRelease(data);
    }
    return code;
}

static inline kern_return_t LMConnectionSendTwoWayPropertyList(LMConnectionRef connection,
                                                               SInt32 messageId,
                                                               plist_t propertyList,
                                                               LMResponseBuffer *buffer) {
    CFDataRef data = LMDataForPropertyList(propertyList);
    kern_return_t code = LMConnectionSendTwoWayData(connection, messageId, data, buffer);
    if (data) {
        CFRelease(data);
    }
    return code;
}

/* The property list of a response, which is freed; plist_free() it. */
static inline plist_t LMResponseConsumePropertyList(LMResponseBuffer *buffer) {
    plist_t result = lm_plist_of(LMMessageGetData(&buffer->message),
                                 LMMessageGetDataLength(&buffer->message));
    LMResponseBufferFree(buffer);
    return result;
}

#endif

#endif
