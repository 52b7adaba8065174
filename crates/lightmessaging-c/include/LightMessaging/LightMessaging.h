/*
 * LightMessaging: messages between processes of one machine.
 *
 *     // a service, in one process
 *     static void answer(CFMachPortRef port, LMMessage *request, CFIndex size, void *info) {
 *         LMSendReply(request->head.msgh_remote_port, "lol", 4);
 *     }
 *     if (LMStartService("net.example.server", CFRunLoopGetCurrent(), (CFMachPortCallBack)answer)) {
 *         fprintf(stderr, "%s\n", LMLastError());
 *     }
 *     CFRunLoopRun();
 *
 *     // a client, in another
 *     LMConnection connection = { MACH_PORT_NULL, "net.example.server" };
 *     LMResponseBuffer buffer;
 *     if (LMConnectionSendTwoWay(&connection, 1, "hello", 6, &buffer) == 0) {
 *         if (LMMessageGetData(&buffer.message)) {
 *             puts((const char *)LMMessageGetData(&buffer.message));
 *         }
 *         LMResponseBufferFree(&buffer);
 *     }
 *
 *     cc app.c $(pkg-config --cflags --libs lightmessaging)
 *
 * A message is a signed 32-bit id, any, and 0 to 4 GiB - 1 bytes. One-way messages are sent and
 * forgotten; two-way messages wait for their reply. Functions return a kern_return_t, 0 for success,
 * unless they say otherwise: LMErrorString() gives it in words, LMLastError() the whole sentence.
 * Everything may be called from any thread. NULL data is an empty message, whatever its length is said to
 * be.
 *
 * Services are found in the folder $LIGHTMESSAGING_DIR, else $XDG_RUNTIME_DIR/lightmessaging, else
 * lightmessaging-UID in the temporary directory: both sides must have the same. A client that has not,
 * or cannot see it, as in a sandbox, finds through rocketd those that are unlocked.
 *
 * Before this header is included:
 *   LIGHTMESSAGING_TIMEOUT             how long a call of this file may take, in milliseconds, with all
 *                                      that it does: look-up, sending, waiting. 0 is for ever, the
 *                                      default.
 *   LIGHTMESSAGING_USE_ROCKETBOOTSTRAP 1, the default: services that are started in this file are
 *                                      unlocked. 0: they are not, until rocketbootstrap_unlock(). See
 *                                      compat/rocketbootstrap.h.
 *   <plist/plist.h>                    for property lists in C; see property_lists.h
 *   <cairo.h>                          for images as cairo surfaces; see images.h
 *   <Foundation/Foundation.h>          in Objective-C, for NSData, and property lists as objects
 */
#ifndef LIGHTMESSAGING_H
#define LIGHTMESSAGING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <LightMessaging/compat/corefoundation.h>
#include <LightMessaging/compat/mach.h>
#include <LightMessaging/lm.h>
#include <LightMessaging/types.h>

#ifndef LIGHTMESSAGING_USE_ROCKETBOOTSTRAP
#define LIGHTMESSAGING_USE_ROCKETBOOTSTRAP 1
#endif
#if LIGHTMESSAGING_USE_ROCKETBOOTSTRAP
#include <LightMessaging/compat/rocketbootstrap.h>
#endif

#ifndef LIGHTMESSAGING_TIMEOUT
#define LIGHTMESSAGING_TIMEOUT 0
#endif

/* Codes of ours, for what the original returned success, or never returned. */
#define LM_NO_REPLY ((kern_return_t)0x4c4d0001)       /* the service took the message, and did not reply */
#define LM_WOULD_DEADLOCK ((kern_return_t)0x4c4d0002) /* the calling thread itself runs the service */
#define LM_VERSION ((kern_return_t)0x4c4d0003)        /* the service speaks another protocol version */
#define LM_NOT_STARTED ((kern_return_t)0x4c4d0004)    /* it is started on demand, and could not be */

/* For LMConnectionSetTimeout(): what LIGHTMESSAGING_TIMEOUT says. */
#define LM_TIMEOUT_DEFAULT 0xffffffffu

/* --- messages --- */

/* How much memory an inline message with so long a payload takes; an out-of-line one has none. */
static inline uint32_t LMBufferSizeForLength(uint32_t length) {
    uint32_t size = (uint32_t)sizeof(LMMessage);
    return length > LM_INLINE_MAX ? size : ((size + length + 3u) & ~3u);
}

/* Puts a payload into a message, which has room for it. `data` may be NULL: then only the length is
 * set. */
static inline void LMMessageCopyInline(LMMessage *message, const void *data, uint32_t length) {
    message->body.msgh_descriptor_count = 0;
    message->data.in_line.length = length;
    if (data && length) {
        memcpy((uint8_t *)message + offsetof(LMMessage, data.in_line.bytes), data, length);
    }
}

/* Has a message lead to a payload, which stays where it is. */
static inline void LMMessageAssignOutOfLine(LMMessage *message, const void *data, uint32_t length) {
    message->head.msgh_bits |= MACH_MSGH_BITS_COMPLEX;
    message->body.msgh_descriptor_count = 1;
    memset(&message->data, 0, sizeof(message->data));
    message->data.out_of_line.descriptor.address = (void *)(uintptr_t)data;
    message->data.out_of_line.descriptor.size = length;
    message->data.out_of_line.descriptor.copy = MACH_MSG_VIRTUAL_COPY;
    message->data.out_of_line.descriptor.type = MACH_MSG_OOL_DESCRIPTOR;
}

/* One of the two, as `msgh_size` has it: LMBufferSizeForLength() of this length. */
static inline void LMMessageAssignData(LMMessage *message, const void *data, uint32_t length) {
    if (length == 0 || message->head.msgh_size != sizeof(LMMessage)) {
        LMMessageCopyInline(message, data, length);
    } else {
        LMMessageAssignOutOfLine(message, data, length);
    }
}

/* The payload of a received message; NULL if it is empty. It may be written to, and stays until
 * LMResponseBufferFree(), but no longer than the callback that it was given to. A zero byte follows
 * it, so that text is terminated. */
static inline void *LMMessageGetData(LMMessage *message) {
    if (message->body.msgh_descriptor_count) {
        return message->data.out_of_line.descriptor.address;
    }
    if (message->data.in_line.length == 0) {
        return NULL;
    }
    return (uint8_t *)message + offsetof(LMMessage, data.in_line.bytes);
}

/* The payload's length in bytes. */
static inline uint32_t LMMessageGetDataLength(LMMessage *message) {
    uint32_t length;
    if (message->body.msgh_descriptor_count) {
        return message->data.out_of_line.descriptor.size;
    }
    length = message->data.in_line.length;
    return length > LM_INLINE_MAX ? LM_INLINE_MAX : length;
}

/* Whether so many bytes are a whole message: every one that this library delivers is. */
static inline bool LMDataWithSizeIsValidMessage(const void *data, CFIndex size) {
    LMMessage message;
    if (!data || size < (CFIndex)sizeof(LMMessage)) {
        return false;
    }
    memcpy(&message, data, sizeof(message));
    if (message.body.msgh_descriptor_count) {
        return message.body.msgh_descriptor_count == 1 &&
               message.data.out_of_line.descriptor.type == MACH_MSG_OOL_DESCRIPTOR &&
               (message.data.out_of_line.descriptor.address ||
                message.data.out_of_line.descriptor.size == 0);
    }
    return message.data.in_line.length <= LM_INLINE_MAX &&
           message.data.in_line.length <=
               (uint64_t)size - offsetof(LMMessage, data.in_line.bytes);
}

/* Frees the payload of a received message, a response or (cast) a request, which is empty then.
 * Harmless for an inline message, after an error, for a second time, and for a copy of one that was
 * freed. Requests are freed when their callback returns, if they were not before. */
static inline void LMResponseBufferFree(LMResponseBuffer *buffer) {
    lm_message_free(&buffer->message);
}

/* Takes an out-of-line payload over: it stays until LMViewRelease(), whatever becomes of the message,
 * which is empty then. False, and nothing happens, for an inline one, which can be copied. */
static inline bool LMMessageTakeData(LMMessage *message, LMView *view) {
    return lm_message_take(message, view);
}

/* Gives back what a view shows, which is nothing then. */
static inline void LMViewRelease(LMView *view) {
    lm_view_release(view);
}

/* The bytes of a view that may be written to: those of LMMessageTakeData(), LMConnectionAllocate() and
 * LMReplyAllocate(). */
static inline void *LMViewGetBytes(const LMView *view) {
    return (void *)(uintptr_t)view->data;
}

/* --- clients --- */

/* Sends a message and forgets it: it is in the service's queue when this returns. The service is
 * looked up on the first send, and again when it has gone; a failed look-up is what is returned. If
 * the service goes before it takes the message, the next send on this connection sends it again. */
static inline kern_return_t LMConnectionSendOneWay(LMConnectionRef connection, SInt32 messageId,
                                                   const void *data, size_t length) {
    return lm_send(connection, messageId, data, length, LIGHTMESSAGING_TIMEOUT);
}

static inline kern_return_t LMConnectionSendEmptyOneWay(LMConnectionRef connection,
                                                        SInt32 messageId) {
    return lm_send(connection, messageId, NULL, 0, LIGHTMESSAGING_TIMEOUT);
}

/* Sends a message and waits for its reply: LMMessageGetData(&responseBuffer->message), and
 * LMResponseBufferFree() when done. After an error the buffer holds an empty message.
 *
 * MACH_SEND_*, BOOTSTRAP_* and LM_NOT_STARTED mean that the service has not run it, so that sending
 * again is safe; MACH_RCV_* and LM_NO_REPLY that it has, or may have. */
static inline kern_return_t LMConnectionSendTwoWay(LMConnectionRef connection, SInt32 messageId,
                                                   const void *data, size_t length,
                                                   LMResponseBuffer *responseBuffer) {
    return lm_call(connection, messageId, data, length, LIGHTMESSAGING_TIMEOUT, responseBuffer);
}

/* Both with a timeout of their own, in milliseconds, which goes before LMConnectionSetTimeout(); 0 is for
 * ever. */
static inline kern_return_t LMConnectionSendOneWayWithTimeout(LMConnectionRef connection,
                                                              SInt32 messageId, const void *data,
                                                              size_t length,
                                                              uint32_t milliseconds) {
    return lm_send(connection, messageId, data, length, milliseconds | LM_TIMEOUT_EXACT);
}

static inline kern_return_t LMConnectionSendTwoWayWithTimeout(LMConnectionRef connection,
                                                              SInt32 messageId, const void *data,
                                                              size_t length,
                                                              uint32_t milliseconds,
                                                              LMResponseBuffer *responseBuffer) {
    return lm_call(connection, messageId, data, length, milliseconds | LM_TIMEOUT_EXACT,
                   responseBuffer);
}

/* LMConnectionSendTwoWay() without a copy of a large reply: the view shows the memory that the service wrote, until
 * LMViewRelease(). Use it only with services that you trust not to write to it meanwhile, and do not
 * write to it yourself. */
static inline kern_return_t LMConnectionSendTwoWayInPlace(LMConnectionRef connection,
                                                          SInt32 messageId, const void *data,
                                                          size_t length, LMView *view) {
    return lm_call_in_place(connection, messageId, data, length, LIGHTMESSAGING_TIMEOUT, view);
}

/* Memory for a message of so many bytes, to be filled and sent without a copy:
 *
 *     LMView view;
 *     if (LMConnectionAllocate(&connection, size, &view) == 0) {
 *         draw(LMViewGetBytes(&view), size);
 *         code = LMConnectionSendOneWayView(&connection, 1, &view);
 *     }
 *
 * What is there before is what an earlier message of this connection left, or zeroes. LMViewRelease()
 * gives it back unsent. Blocks while 32 large messages to the service, or such views, are out. */
static inline kern_return_t LMConnectionAllocate(LMConnectionRef connection, size_t length,
                                                 LMView *view) {
    return lm_allocate(connection, length, LIGHTMESSAGING_TIMEOUT, view);
}

/* LMConnectionSendOneWay() and LMConnectionSendTwoWay() of such memory; `view->length` may have been made
 * less. Whatever comes of it, the view shows nothing then, and the memory is not the program's any more.
 * KERN_INVALID_ARGUMENT, and nothing happens, for any other view, and for one that was sent or released
 * before. */
static inline kern_return_t LMConnectionSendOneWayView(LMConnectionRef connection, SInt32 messageId,
                                                       LMView *view) {
    return lm_send_view(connection, messageId, view, LIGHTMESSAGING_TIMEOUT);
}

static inline kern_return_t LMConnectionSendTwoWayView(LMConnectionRef connection, SInt32 messageId,
                                                       LMView *view,
                                                       LMResponseBuffer *responseBuffer) {
    return lm_call_view(connection, messageId, view, LIGHTMESSAGING_TIMEOUT, responseBuffer);
}

/* True for success. */
static inline bool LMConnectionSendOneWayData(LMConnectionRef connection, SInt32 messageId,
                                              CFDataRef data) {
    return LMConnectionSendOneWay(connection, messageId, data ? CFDataGetBytePtr(data) : NULL,
                                  data ? (size_t)CFDataGetLength(data) : 0) == 0;
}

static inline kern_return_t LMConnectionSendTwoWayData(LMConnectionRef connection, SInt32 messageId,
                                                       CFDataRef data, LMResponseBuffer *buffer) {
    return LMConnectionSendTwoWay(connection, messageId, data ? CFDataGetBytePtr(data) : NULL,
                                  data ? (size_t)CFDataGetLength(data) : 0, buffer);
}

/* How long calls on this connection, and on later copies of it, may take, in milliseconds, whatever
 * LIGHTMESSAGING_TIMEOUT says; 0 is for ever. */
static inline kern_return_t LMConnectionSetTimeout(LMConnectionRef connection,
                                                   uint32_t milliseconds) {
    return lm_connection_set_timeout(connection, milliseconds);
}

/* Whether a living process runs the service now. Sends nothing. A process that is stopped (SIGSTOP)
 * lives too: a call with a timeout tells whether it answers. */
static inline bool LMConnectionIsAlive(LMConnectionRef connection) {
    return lm_connection_is_alive(connection);
}

/* Who runs the service. Blocks until the service has met this client. */
static inline kern_return_t LMConnectionGetPeer(LMConnectionRef connection, LMPeer *peer) {
    return lm_connection_peer(connection, LIGHTMESSAGING_TIMEOUT, peer);
}

/* The integer of a response, which is freed; 0 unless it has exactly 4 bytes. */
static inline int32_t LMResponseConsumeInteger(LMResponseBuffer *buffer) {
    int32_t result = 0;
    if (LMMessageGetDataLength(&buffer->message) == sizeof(result)) {
        memcpy(&result, LMMessageGetData(&buffer->message), sizeof(result));
    }
    LMResponseBufferFree(buffer);
    return result;
}

/* --- services --- */

static inline kern_return_t lm_start_on(const char *name, CFRunLoopRef runLoop,
                                        CFMachPortCallBack callback, void *info, uint32_t options);

/* Starts a service: from now on its messages queue, and its callback gets them where the run loop is
 * run, one at a time. The callback is
 *
 *     void callback(CFMachPortRef port, void *message, CFIndex size, void *info)
 *
 * `message` is a LMMessage of `size` bytes with a mach_msg_audit_trailer_t behind it, and ends with
 * the callback. Its reply port, `head.msgh_remote_port`, is MACH_PORT_NULL for a one-way message. A
 * callback that returns without a reply has kept the request, and its client waits: the port is to be
 * replied to later, from any thread, or given up with mach_port_deallocate(), which the client is told.
 * A callback must return: not throw, not longjmp(3) out of itself, not end its thread.
 *
 * The service is unlocked: clients that cannot see the registry reach it through rocketd, if there is
 * one, now or later. LIGHTMESSAGING_USE_ROCKETBOOTSTRAP 0 leaves that to rocketbootstrap_unlock().
 *
 * BOOTSTRAP_NAME_IN_USE while a living process has the name; a failed start leaves nothing behind. */
static inline kern_return_t LMStartServiceWithUserInfo(const char *serverName, CFRunLoopRef runLoop,
                                                       CFMachPortCallBack callback, void *userInfo) {
    return lm_start_on(serverName, runLoop, callback, userInfo, 0);
}

static inline kern_return_t LMStartService(const char *serverName, CFRunLoopRef runLoop,
                                           CFMachPortCallBack callback) {
    return lm_start_on(serverName, runLoop, callback, NULL, 0);
}

/* Starts a service whose name existed before this process did: its socket was handed over by who
 * started the process (LISTEN_FDS, as rocketd and systemd do). What was sent meanwhile is delivered.
 * $LIGHTMESSAGING_IDLE_EXIT is after how many seconds without a message it leaves its run loop, losing
 * nothing. Without such a socket it is LMStartServiceWithUserInfo(). */
static inline kern_return_t LMCheckInService(const char *serverName, CFRunLoopRef runLoop,
                                             CFMachPortCallBack callback, void *userInfo) {
    return lm_start_on(serverName, runLoop, callback, userInfo, LM_START_CHECK_IN);
}

/* LMStartServiceWithUserInfo(), and large requests are not copied: LMMessageGetData() is the memory
 * that the client wrote. Use it only where you trust all clients not to write to it meanwhile, and do
 * not write to it yourself. */
static inline kern_return_t LMStartServiceInPlace(const char *serverName, CFRunLoopRef runLoop,
                                                  CFMachPortCallBack callback, void *userInfo) {
    return lm_start_on(serverName, runLoop, callback, userInfo, LM_START_IN_PLACE);
}

/* LMStartServiceWithUserInfo(), and a running instance of this user hands its name over, without a request
 * lost: what was sent to it before it answers, everything after that goes to the new one, in order. Its
 * service leaves its run loop when that is done. Waits for it up to 30 s, then MACH_SEND_TIMED_OUT, and it
 * serves on. BOOTSTRAP_NOT_PRIVILEGED for somebody else's service, and for one that was started on
 * demand. */
static inline kern_return_t LMTakeOverService(const char *serverName, CFRunLoopRef runLoop,
                                              CFMachPortCallBack callback, void *userInfo) {
    return lm_start_on(serverName, runLoop, callback, userInfo, LM_START_TAKE_OVER);
}

/* Stops a service of this process, from any thread: its name is free when this returns, and a callback
 * that runs on another thread has returned. Requests that were kept may still be answered. */
static inline kern_return_t LMStopService(const char *serverName) {
    return lm_stop(serverName);
}

/* Where to reply to a request; MACH_PORT_NULL if nobody waits for one. */
static inline mach_port_t LMMessageGetReplyPort(const LMMessage *request) {
    return request->head.msgh_remote_port;
}

/* Who sent a request, while its callback runs; false otherwise. */
static inline bool LMRequestGetPeer(const LMMessage *request, LMPeer *peer) {
    return lm_request_peer(request, peer);
}

/* What rocketd says of who sent a request, while its callback runs: its Flatpak application, control
 * group and security label, each NULL if unknown. The texts end with the callback. False, and all of it
 * NULL, if the client did not come through rocketd. */
static inline bool LMRequestGetIntroduction(const LMMessage *request,
                                            LMIntroduction *introduction) {
    return lm_request_introduction(request, introduction);
}

/* Whether the client still waits for the reply: it lives, and has not given up. */
static inline bool LMReplyIsWanted(mach_port_t replyPort) {
    return lm_reply_is_wanted(replyPort);
}

/* Answers a request, once, from any thread. Does nothing, and succeeds, for MACH_PORT_NULL. A second
 * reply, and one to a client that is gone, is MACH_SEND_INVALID_DEST. A reply port that is not needed
 * goes to mach_port_deallocate(), which tells the client that there is no reply. */
static inline kern_return_t LMSendReply(mach_port_t replyPort, const void *data, size_t length) {
    return lm_reply(replyPort, data, length);
}

/* Memory for a reply of so many bytes, to be filled and sent by LMSendReplyView() without a copy, as
 * LMConnectionAllocate(). Never blocks. After an error the request is to be answered all the same. */
static inline kern_return_t LMReplyAllocate(mach_port_t replyPort, size_t length, LMView *view) {
    return lm_reply_allocate(replyPort, length, view);
}

/* LMSendReply() of such memory, which is not the program's any more then, as
 * LMConnectionSendOneWayView(). */
static inline kern_return_t LMSendReplyView(mach_port_t replyPort, LMView *view) {
    return lm_reply_view(replyPort, view);
}

static inline kern_return_t LMSendIntegerReply(mach_port_t replyPort, int integer) {
    return lm_reply(replyPort, &integer, (uint32_t)sizeof(integer));
}

static inline kern_return_t LMSendCFDataReply(mach_port_t replyPort, CFDataRef data) {
    return lm_reply(replyPort, data ? CFDataGetBytePtr(data) : NULL,
                    data ? (size_t)CFDataGetLength(data) : 0);
}

/* --- somebody else's loop --- */

/* What to poll for reading instead of running a run loop; do not close it. -1 if there is none. */
static inline int LMRunLoopGetDescriptor(CFRunLoopRef runLoop);

/* Handles what is ready on the calling thread's run loop, without blocking, and returns how many
 * messages it was; -1 if the system refuses. Call it when the descriptor is readable. */
static inline int LMRunLoopDispatch(void) {
    return lm_loop_dispatch();
}

/* --- errors in words --- */

/* A few words of English for a code. */
static inline const char *LMErrorString(kern_return_t code) {
    return lm_error_string(code);
}

/* The last failure on this thread, in a sentence that names the service and says what to do. */
static inline const char *LMLastError(void) {
    return lm_last_error();
}

#include <LightMessaging/run_loops.h>

#include <LightMessaging/images.h>
#include <LightMessaging/property_lists.h>

#endif
