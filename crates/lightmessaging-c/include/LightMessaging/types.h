/*
 * The structures of LightMessaging, byte for byte as on 64-bit Darwin, so that programs which touch
 * their fields keep working. Used by <LightMessaging/LightMessaging.h>.
 */
#ifndef LIGHTMESSAGING_TYPES_H
#define LIGHTMESSAGING_TYPES_H

/* For the array without a length and the packed structures. */
#if defined(__GNUC__)
#pragma GCC system_header
#endif

#include <stddef.h>
#include <stdint.h>

#include <LightMessaging/compat/corefoundation.h>
#include <LightMessaging/compat/mach.h>

/* The largest payload that travels inside a message, in bytes. */
#define LM_INLINE_MAX 4096u

/* A service's name, and its port once it was looked up. Only the name has to be set, to 1 to 127
 * bytes: what else stands in `serverPort` means that the service has yet to be looked up. It may be
 * copied, moved, freed, and used by several threads at once. */
typedef struct LMConnection {
    mach_port_t serverPort;
    name_t serverName;
} LMConnection;
typedef LMConnection *LMConnectionRef;

#pragma pack(push, 4)

/* A message with its payload behind it, inline, or elsewhere, out of line. Use LMMessageGetData()
 * and LMMessageGetDataLength(), which know both. */
typedef struct LMMessage {
    mach_msg_header_t head;
    mach_msg_body_t body;
    union {
        struct {
            mach_msg_ool_descriptor_t descriptor;
        } out_of_line;
        struct {
            uint32_t length;
#ifdef __cplusplus
            uint8_t bytes[0];
#else
            uint8_t bytes[];
#endif
        } in_line;
    } data;
} LMMessage;

#pragma pack(pop)

/* Room for any message and its trailer: about 4.2 KB, on the caller's stack. It need not be
 * initialised. */
typedef struct LMResponseBuffer {
    LMMessage message;
    uint8_t slack[LM_INLINE_MAX + MAX_TRAILER_SIZE];
} LMResponseBuffer;

/* What an image begins with; see <LightMessaging/images.h>. */
typedef struct __attribute__((packed)) LMImageHeader {
    uint32_t width;  /* in pixels */
    uint32_t height; /* in pixels */
    uint32_t bitsPerComponent;
    uint32_t bitsPerPixel;
    uint32_t bytesPerRow;
    uint32_t bitmapInfo;  /* CGBitmapInfo */
    float scale;          /* pixels per point */
    uint32_t orientation; /* UIImageOrientation, 0 to 7 */
} LMImageHeader;

typedef struct LMImageMessage {
    LMMessage response;
    LMImageHeader imageHeader;
} LMImageMessage;

#define LM_ASSERT(name, condition) typedef char lm_assert_##name[(condition) ? 1 : -1]
LM_ASSERT(connection_size, sizeof(LMConnection) == 132);
LM_ASSERT(connection_name, offsetof(LMConnection, serverName) == 4);
LM_ASSERT(header_size, sizeof(mach_msg_header_t) == 24);
LM_ASSERT(header_id, offsetof(mach_msg_header_t, msgh_id) == 20);
LM_ASSERT(body_size, sizeof(mach_msg_body_t) == 4);
LM_ASSERT(descriptor_size, sizeof(mach_msg_ool_descriptor_t) == 16);
LM_ASSERT(descriptor_length, offsetof(mach_msg_ool_descriptor_t, size) == 12);
LM_ASSERT(message_size, sizeof(LMMessage) == 44);
LM_ASSERT(message_head, offsetof(LMMessage, head) == 0);
LM_ASSERT(message_body, offsetof(LMMessage, body) == 24);
LM_ASSERT(message_data, offsetof(LMMessage, data) == 28);
LM_ASSERT(message_bytes, offsetof(LMMessage, data.in_line.bytes) == 32);
LM_ASSERT(response_size, sizeof(LMResponseBuffer) == 44 + 4096 + 68);
LM_ASSERT(trailer_size, sizeof(mach_msg_audit_trailer_t) == 52);
LM_ASSERT(image_header_size, sizeof(LMImageHeader) == 32);
LM_ASSERT(integer_size, sizeof(int) == 4);

#endif
