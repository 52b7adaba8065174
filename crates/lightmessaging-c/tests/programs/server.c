/* A service with a bit of everything: server NAME [NAME ...]. Ends when its input does. */
#include <LightMessaging/LightMessaging.h>

#include "check.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

static mach_port_t kept;
static kern_return_t code;
static int count, wins, loops_run;
static char info_text[] = "info";

static void *later(void *port) {
    usleep(20000);
    CHECK_INT(LMSendReply((mach_port_t)(uintptr_t)port, "late", 5), 0);
    return NULL;
}

static void *race(void *port) {
    if (LMSendReply((mach_port_t)(uintptr_t)port, "won", 4) == 0) {
        __sync_fetch_and_add(&wins, 1);
    }
    return NULL;
}

static void callback(CFMachPortRef port, LMMessage *request, CFIndex size, void *info) {
    mach_port_t reply = request->head.msgh_remote_port;
    void *data = LMMessageGetData(request);
    uint32_t length = LMMessageGetDataLength(request);
    int32_t number = 0;
    pthread_t threads[2];
    int i;
    if (!LMDataWithSizeIsValidMessage(request, size) || (size_t)size < sizeof(LMMessage)) {
        fprintf(stderr, "not a valid message\n");
        exit(1);
    }
    CHECK(CFMachPortGetPort(port) == request->head.msgh_local_port);
    CHECK(LMMessageGetReplyPort(request) == reply);
    if (length == sizeof(number)) {
        memcpy(&number, data, sizeof(number));
    }
    switch (request->head.msgh_id) {
        case DESCRIBE: {
            char text[256];
            const mach_msg_audit_trailer_t *trailer =
                (const mach_msg_audit_trailer_t *)((const char *)request +
                                                   round_msg(request->head.msgh_size));
            snprintf(text, sizeof(text),
                     "size %ld msgh_size %u descriptors %u length %u data %d info %s two-way %d "
                     "trailer %u pid %d uid %u gid %u euid %u",
                     (long)size, request->head.msgh_size, request->body.msgh_descriptor_count, length,
                     data != NULL, info ? (const char *)info : "none", reply != MACH_PORT_NULL,
                     trailer->msgh_trailer_size, (int)audit_token_to_pid(trailer->msgh_audit),
                     trailer->msgh_sender.val[0], trailer->msgh_sender.val[1],
                     (unsigned)audit_token_to_euid(trailer->msgh_audit));
            LMSendReply(reply, text, (uint32_t)strlen(text) + 1);
            break;
        }
        case DROP:
            CHECK_INT(mach_port_deallocate(mach_task_self(), reply), 0);
            CHECK_INT(mach_port_deallocate(mach_task_self(), reply), reply ? KERN_INVALID_NAME : 0);
            break;
        case LATER:
            pthread_create(&threads[0], NULL, later, (void *)(uintptr_t)reply);
            pthread_detach(threads[0]);
            break;
        case KEEP:
            kept = reply;
            puts("kept");
            fflush(stdout);
            break;
        case ANSWER:
            LMSendIntegerReply(reply, LMSendReply(kept, "kept", 5));
            break;
        case TWICE:
            CHECK_INT(LMSendReply(reply, "once", 5), 0);
            code = LMSendReply(reply, "twice", 6);
            break;
        case CODE:
            LMSendIntegerReply(reply, code);
            break;
        case DOUBLE:
            LMSendIntegerReply(reply, number * 2);
            break;
        case SIZED: {
            unsigned char *bytes = (unsigned char *)malloc((size_t)number + 1);
            fill(bytes, (size_t)number);
            CHECK_INT(LMSendReply(reply, bytes, (uint32_t)number), 0);
            free(bytes);
            break;
        }
        case FILL_IN: {
            LMView view, copy;
            CHECK_INT(LMReplyAllocate(reply, 100000, &view), 0);
            LMViewRelease(&view);
            CHECK_INT(LMReplyAllocate(reply, (size_t)number + 100, &view), 0);
            CHECK_INT(view.length, number + 100);
            fill((unsigned char *)LMViewGetBytes(&view), (size_t)number);
            view.length = (uint32_t)number;
            copy = view;
            CHECK_INT(LMSendReplyView(reply, &view), 0);
            CHECK(view.data == NULL && view.length == 0);
            CHECK_INT(LMSendReplyView(reply, &view), KERN_INVALID_ARGUMENT);
            CHECK_INT(LMSendReplyView(reply, &copy), KERN_INVALID_ARGUMENT);
            CHECK_INT(LMReplyAllocate(reply, 1, &view), MACH_SEND_INVALID_DEST);
            break;
        }
        case HANG:
            puts("took");
            fflush(stdout);
            sleep(60);
            break;
        case LOG:
            count++;
            LMSendReply(reply, NULL, 0);
            break;
        case COUNT:
            LMSendIntegerReply(reply, count);
            break;
        case SCRIBBLE:
            memset(data, 0x55, length);
            LMSendReply(reply, data, length);
            break;
        case RACE:
            for (i = 0; i < 2; i++) {
                pthread_create(&threads[i], NULL, race, (void *)(uintptr_t)reply);
            }
            for (i = 0; i < 2; i++) {
                pthread_join(threads[i], NULL);
            }
            break;
        case WINS:
            LMSendIntegerReply(reply, wins);
            wins = 0;
            break;
        case DIE:
            puts("took");
            fflush(stdout);
            _exit(0);
        case FREE_FIRST: {
            LMMessage copy = *request;
            LMResponseBufferFree((LMResponseBuffer *)request);
            LMResponseBufferFree((LMResponseBuffer *)request);
            lm_message_free(&copy);
            CHECK_INT(LMMessageGetDataLength(request), length > LM_INLINE_MAX ? 0 : length);
            LMSendReply(reply, "freed", 6);
            break;
        }
        case STRING: {
            char text[32];
            /* In place, as programs do, and the byte behind it is zero anyway. */
            CHECK_INT(((char *)data)[length], 0);
            ((char *)data)[length - 1] = 0;
            snprintf(text, sizeof(text), "%u", (unsigned)strlen((char *)data));
            LMSendReply(reply, text, (uint32_t)strlen(text) + 1);
            break;
        }
        case DATA: {
            CFDataRef copy = CFDataCreate(kCFAllocatorDefault, (const UInt8 *)data, (CFIndex)length);
            CHECK_INT(LMSendCFDataReply(reply, length ? copy : NULL), 0);
            CFRelease(copy);
            break;
        }
        case STOP:
            CFMachPortInvalidate(port);
            LMSendReply(reply, "stopped", 8);
            break;
        case NOTHING:
            LMSendReply(reply, NULL, 0);
            break;
        case PEER: {
            LMPeer peer;
            char text[64];
            CHECK(LMRequestGetPeer(request, &peer));
            snprintf(text, sizeof(text), "%d %u %u %d %d", peer.pid, peer.uid, peer.gid,
                     peer.pidfd >= 0, LMReplyIsWanted(reply));
            LMSendReply(reply, text, (uint32_t)strlen(text) + 1);
            break;
        }
        default:
            CHECK_INT(LMSendReply(reply, data, length), 0);
    }
    LMResponseBufferFree((LMResponseBuffer *)request);
}

static void *watch_input(void *loop) {
    char line[16];
    while (fgets(line, sizeof(line), stdin)) {
        if (line[0] == 's') {
            CFRunLoopStop((CFRunLoopRef)loop);
        }
    }
    /* Not _exit(): a leak checker may want to look. */
    exit(0);
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t thread;
    int i;
    for (i = 1; i < argc; i++) {
        kern_return_t code =
            LMStartServiceWithUserInfo(argv[i], CFRunLoopGetCurrent(), (CFMachPortCallBack)callback,
                                       i == 1 ? info_text : NULL);
        if (code) {
            printf("%d\n", code);
            fprintf(stderr, "%s\n", LMLastError());
            return 1;
        }
    }
    pthread_create(&thread, NULL, watch_input, CFRunLoopGetCurrent());
    puts("ready");
    fflush(stdout);
    for (;;) {
        CFRunLoopRun();
        printf("run %d\n", ++loops_run);
        fflush(stdout);
        if (loops_run > 3) {
            return 0;
        }
    }
}
