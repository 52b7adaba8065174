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

/* How deep arrays and dictionaries may be in each other. */
#define LM_PLIST_DEPTH 128

/* An integer of at most 8 bytes. */
static inline uint64_t lm_plist_number(const uint8_t *bytes, uint32_t size) {
    uint64_t number = 0;
    while (size--) {
        number = number << 8 | *bytes++;
    }
    return number;
}

/* Whether bytes are a binary property list that any reader can be given: no other form is read.
 *
 * The readers trust too much. GNUstep's reads beyond the end for a wrong count, and follows references
 * in a circle until the stack ends; libplist's makes as many objects as a list stands for that has its
 * parts in common. So all objects are walked here first, as often as they are referred to. They and
 * what they refer to must lie between the magic and the table of objects; keys are text, text is ASCII
 * or whole UTF-16, dates are in the years 1 to 9999. Written out, with 64 bytes for each object beside
 * its text or data, a list may have 16 MiB and 128 times its length, and it may be 128 deep. */
static inline bool lm_is_property_list(const void *data, size_t size_of_all) {
    const uint8_t *bytes = (const uint8_t *)data, *trailer;
    uint32_t length = size_of_all > 0xffffffffu ? 0 : (uint32_t)size_of_all;
    /* the arrays and dictionaries around the object in hand: their next reference, and how many */
    struct {
        uint64_t at, left, keys;
    } open[LM_PLIST_DEPTH];
    uint64_t budget = (uint64_t)length * 128 + (16u << 20);
    uint64_t count, object, table;
    uint32_t offset_size, reference_size, depth = 0;
    bool is_key = false;
    if (!bytes || length < 8 + 1 + 1 + 32 || memcmp(bytes, "bplist00", 8) != 0) {
        return false;
    }
    trailer = bytes + length - 32;
    offset_size = trailer[6];
    reference_size = trailer[7];
    count = lm_plist_number(trailer + 8, 8);
    object = lm_plist_number(trailer + 16, 8);
    table = lm_plist_number(trailer + 24, 8);
    if (offset_size < 1 || offset_size > 8 || reference_size < 1 || reference_size > 8 ||
        table < 9 || table > length - 32 || count > (length - 32 - table) / offset_size) {
        return false;
    }
    for (;;) {
        uint64_t at, size, i, room;
        uint8_t kind, low;
        if (object >= count) {
            return false;
        }
        at = lm_plist_number(bytes + table + object * offset_size, offset_size);
        if (at < 8 || at >= table) {
            return false;
        }
        kind = bytes[at] >> 4;
        low = bytes[at] & 0x0f;
        size = low;
        at++;
        room = table - at;
        if (kind == 4 || kind == 5 || kind == 6 || kind == 0xa || kind == 0xd) {
            if (low == 0x0f) {
                /* An integer of 1 to 8 bytes follows. */
                uint32_t wide;
                if (room < 1 || bytes[at] < 0x10 || bytes[at] > 0x13) {
                    return false;
                }
                wide = 1u << (bytes[at] & 3);
                if (room < 1 + wide) {
                    return false;
                }
                size = lm_plist_number(bytes + at + 1, wide);
                at += 1 + wide;
                room = table - at;
            }
            if (size > room) {
                return false;
            }
        }
        if (is_key && kind != 5 && kind != 6) {
            return false;
        }
        switch (kind) {
            case 0x0: /* false and true */
                if (low != 8 && low != 9) {
                    return false;
                }
                break;
            case 0x1: /* an integer */
                if (low > 4 || room < (1u << low)) {
                    return false;
                }
                break;
            case 0x2: /* a real */
                if ((low != 2 && low != 3) || room < (1u << low)) {
                    return false;
                }
                break;
            case 0x3: { /* a date: seconds since the beginning of 2001 */
                uint64_t bits;
                double seconds;
                if (low != 3 || room < 8) {
                    return false;
                }
                bits = lm_plist_number(bytes + at, 8);
                memcpy(&seconds, &bits, sizeof(seconds));
                if (!(seconds >= -63113904000.0 && seconds < 252423993600.0)) {
                    return false;
                }
                break;
            }
            case 0x8: /* a UID */
                if (low > 7 || room < (uint64_t)low + 1) {
                    return false;
                }
                break;
            case 0x4: /* data */
            case 0x5: /* ASCII */
                if (size > budget) {
                    return false;
                }
                budget -= size;
                for (i = 0; kind == 5 && i < size; i++) {
                    if (bytes[at + i] & 0x80) {
                        return false;
                    }
                }
                break;
            case 0x6: /* UTF-16 */
                if (size * 2 > room || size * 4 > budget) {
                    return false;
                }
                budget -= size * 4;
                for (i = 0; i < size; i++) {
                    uint8_t half = bytes[at + i * 2] & 0xfc;
                    if (half == 0xd8 && i + 1 < size && (bytes[at + i * 2 + 2] & 0xfc) == 0xdc) {
                        i++;
                    } else if (half == 0xd8 || half == 0xdc) {
                        return false;
                    }
                }
                break;
            case 0xa: /* an array */
            case 0xd: /* a dictionary: all keys, then all values */
                i = kind == 0xd ? size * 2 : size;
                if (i * reference_size > room || i * 64 > budget || depth == LM_PLIST_DEPTH) {
                    return false;
                }
                budget -= i * 64;
                open[depth].at = at;
                open[depth].left = i;
                open[depth].keys = kind == 0xd ? size : 0;
                depth++;
                break;
            default:
                return false;
        }
        while (depth && open[depth - 1].left == 0) {
            depth--;
        }
        if (depth == 0) {
            return true;
        }
        object = lm_plist_number(bytes + open[depth - 1].at, reference_size);
        open[depth - 1].at += reference_size;
        open[depth - 1].left--;
        is_key = open[depth - 1].keys != 0;
        if (is_key) {
            open[depth - 1].keys--;
        }
    }
}

#if LM_HAS_FOUNDATION

static inline kern_return_t LMSendNSDataReply(mach_port_t replyPort, NSData *data) {
    return LMSendReply(replyPort, [data bytes], (size_t)[data length]);
}

/* Whether an object is all of a property list's types: GNUstep writes the description of any other. */
static inline bool lm_is_property_list_object(id object, unsigned int depth) {
    if ([object isKindOfClass:[NSArray class]]) {
        for (id element in object) {
            if (depth == LM_PLIST_DEPTH || !lm_is_property_list_object(element, depth + 1)) {
                return false;
            }
        }
        return true;
    }
    if ([object isKindOfClass:[NSDictionary class]]) {
        for (id key in object) {
            if (depth == LM_PLIST_DEPTH || ![key isKindOfClass:[NSString class]] ||
                !lm_is_property_list_object([object objectForKey:key], depth + 1)) {
                return false;
            }
        }
        return true;
    }
    return [object isKindOfClass:[NSString class]] || [object isKindOfClass:[NSData class]] ||
           [object isKindOfClass:[NSNumber class]] || [object isKindOfClass:[NSDate class]];
}

/* The binary property list of an object; nil for nil and for what is none. */
static inline NSData *LMDataForPropertyList(id propertyList) {
    NSData *result = nil;
    if (lm_is_property_list_object(propertyList, 0)) {
        NS_DURING
            result = [NSPropertyListSerialization dataFromPropertyList:propertyList
                                                                format:NSPropertyListBinaryFormat_v1_0
                                                      errorDescription:NULL];
        NS_HANDLER
            result = nil;
        NS_ENDHANDLER
    }
    return result;
}

/* The object of a binary property list; nil for nil, for empty data and for anything else. */
static inline id LMPropertyListForData(NSData *data) {
    id result = nil;
    if (lm_is_property_list([data bytes], (size_t)[data length])) {
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
    return LMConnectionSendTwoWay(connection, messageId, [data bytes], (size_t)[data length],
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

static inline plist_t lm_plist_of(const void *bytes, size_t length) {
    plist_t result = NULL;
    if (lm_is_property_list(bytes, length)) {
        plist_from_bin((const char *)bytes, (uint32_t)length, &result);
    }
    return result;
}

/* The plist of a binary property list; plist_free() it. NULL for NULL, for empty data and for anything
 * else. */
static inline plist_t LMPropertyListForData(CFDataRef data) {
    return data ? lm_plist_of(CFDataGetBytePtr(data), (size_t)CFDataGetLength(data)) : NULL;
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
