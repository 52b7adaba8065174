/* Programs that check themselves against the service `server`: cases NAME... or cases all. Valid as C99
 * and as C++11. */
#include <LightMessaging/LightMessaging.h>

#include "check.h"

#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static LMConnection server = {MACH_PORT_NULL, "server"};
static unsigned char payload[1 << 20];

static const uint32_t lengths[] = {1,    2,    3,    4,    44,    64,    1000,   4000,   4064,
                                   4095, 4096, 4097, 5000, 16384, 65536, 100000, 1 << 20};
#define EACH(i, array) (i = 0; i < sizeof(array) / sizeof((array)[0]); i++)

static int descriptors(void) {
    int count = 0;
    DIR *folder = opendir("/proc/self/fd");
    while (readdir(folder)) {
        count++;
    }
    closedir(folder);
    return count;
}

static long memory_in_use(void) {
    long pages = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(fscanf(file, "%ld %ld", &pages, &resident) == 2);
    fclose(file);
    return resident * 4096;
}

/* --- the messages themselves --- */

static void up_to_4096_bytes_travel_inline_and_more_out_of_line(void) {
    size_t i;
    for
        EACH(i, lengths) {
            LMResponseBuffer buffer;
            LMMessage *message = &buffer.message;
            bool is_large = lengths[i] > 4096;
            CHECK_INT(LMConnectionSendTwoWay(&server, ECHO, payload, lengths[i], &buffer), 0);
            CHECK_INT(message->body.msgh_descriptor_count, is_large ? 1 : 0);
            CHECK_INT(LMMessageGetDataLength(message), lengths[i]);
            CHECK(is_filled(LMMessageGetData(message), lengths[i]));
            CHECK_INT((message->head.msgh_bits & MACH_MSGH_BITS_COMPLEX) != 0, is_large);
            CHECK_INT(message->head.msgh_size, LMBufferSizeForLength(lengths[i]));
            if (is_large) {
                CHECK(LMMessageGetData(message) == message->data.out_of_line.descriptor.address);
                CHECK_INT(message->data.out_of_line.descriptor.size, lengths[i]);
                CHECK_INT(message->data.out_of_line.descriptor.type, MACH_MSG_OOL_DESCRIPTOR);
            } else {
                CHECK(LMMessageGetData(message) == (void *)&message->data.in_line.bytes);
                CHECK_INT(message->data.in_line.length, lengths[i]);
            }
            LMResponseBufferFree(&buffer);
            CHECK_INT(LMMessageGetDataLength(message), is_large ? 0 : lengths[i]);
        }
}

static void an_empty_message_is_a_whole_message(void) {
    LMResponseBuffer buffer;
    CHECK_INT(LMConnectionSendTwoWay(&server, ECHO, NULL, 0, &buffer), 0);
    CHECK(LMMessageGetData(&buffer.message) == NULL);
    CHECK_INT(LMMessageGetDataLength(&buffer.message), 0);
    CHECK_INT(buffer.message.head.msgh_id, 0);
    CHECK(LMDataWithSizeIsValidMessage(&buffer, (CFIndex)buffer.message.head.msgh_size));
    LMResponseBufferFree(&buffer);
    /* A pointer with no length, and a length with no pointer, are empty too. */
    CHECK_INT(LMConnectionSendTwoWay(&server, ECHO, payload, 0, &buffer), 0);
    CHECK_INT(LMMessageGetDataLength(&buffer.message), 0);
    CHECK_INT(LMConnectionSendTwoWay(&server, ECHO, NULL, 10, &buffer), 0);
    CHECK_INT(LMMessageGetDataLength(&buffer.message), 0);
    CHECK_INT(LMConnectionSendTwoWay(&server, NOTHING, "x", 1, &buffer), 0);
    CHECK_INT(LMMessageGetDataLength(&buffer.message), 0);
    CHECK_INT(LMResponseConsumeInteger(&buffer), 0);
}

static void any_message_id_arrives(void) {
    static const SInt32 ids[] = {0, -1, 100, 0x1111, INT32_MAX, INT32_MIN};
    size_t i;
    for
        EACH(i, ids) {
            LMResponseBuffer buffer;
            CHECK_INT(LMConnectionSendTwoWay(&server, ids[i], &ids[i], 4, &buffer), 0);
            CHECK_INT(LMResponseConsumeInteger(&buffer), ids[i]);
        }
}

static void a_message_is_built_by_hand(void) {
    union {
        LMMessage message;
        unsigned char room[LM_INLINE_MAX + 128];
    } it;
    LMMessage *message = &it.message;
    CHECK_INT(LMBufferSizeForLength(0), 44);
    CHECK_INT(LMBufferSizeForLength(1), 48);
    CHECK_INT(LMBufferSizeForLength(4), 48);
    CHECK_INT(LMBufferSizeForLength(4096), 4140);
    CHECK_INT(LMBufferSizeForLength(4097), 44);
    CHECK_INT(LMBufferSizeForLength(0xffffffff), 44);
    memset(&it, 0, sizeof(it));
    message->head.msgh_size = LMBufferSizeForLength(10);
    LMMessageAssignData(message, payload, 10);
    CHECK_INT(message->body.msgh_descriptor_count, 0);
    CHECK_INT(LMMessageGetDataLength(message), 10);
    CHECK(is_filled(LMMessageGetData(message), 10));
    CHECK(LMDataWithSizeIsValidMessage(message, (CFIndex)message->head.msgh_size));
    LMMessageCopyInline(message, NULL, 12);
    CHECK_INT(LMMessageGetDataLength(message), 12);
    message->head.msgh_size = LMBufferSizeForLength(100000);
    LMMessageAssignData(message, payload, 100000);
    CHECK_INT(message->body.msgh_descriptor_count, 1);
    CHECK(LMMessageGetData(message) == (void *)payload);
    CHECK_INT(LMMessageGetDataLength(message), 100000);
    CHECK(LMDataWithSizeIsValidMessage(message, (CFIndex)message->head.msgh_size));
    /* It is not the library's, so freeing it does nothing. */
    lm_message_free(message);
    CHECK(LMMessageGetData(message) == (void *)payload);
    LMMessageAssignOutOfLine(message, payload, 5000);
    CHECK_INT(LMMessageGetDataLength(message), 5000);
    LMMessageAssignData(message, payload, 0);
    CHECK(LMMessageGetData(message) == NULL);
}

static void only_whole_messages_are_valid(void) {
    union {
        LMMessage message;
        unsigned char room[LM_INLINE_MAX + 128];
    } it;
    CFIndex size;
    uint32_t length;
    memset(&it, 0, sizeof(it));
    CHECK(!LMDataWithSizeIsValidMessage(NULL, 44));
    CHECK(!LMDataWithSizeIsValidMessage(&it, -1));
    for (size = 0; size < 44; size++) {
        CHECK(!LMDataWithSizeIsValidMessage(&it, size));
    }
    for (length = 0; length <= 4096; length++) {
        it.message.data.in_line.length = length;
        CHECK(LMDataWithSizeIsValidMessage(&it, (CFIndex)LMBufferSizeForLength(length)));
        if (length > 12) {
            CHECK(!LMDataWithSizeIsValidMessage(&it, (CFIndex)(31 + length)));
        }
    }
    it.message.data.in_line.length = 4097;
    CHECK(!LMDataWithSizeIsValidMessage(&it, (CFIndex)sizeof(it)));
    it.message.data.in_line.length = 0xffffffff;
    CHECK(!LMDataWithSizeIsValidMessage(&it, (CFIndex)sizeof(it)));
    it.message.data.in_line.length = 0;
    it.message.body.msgh_descriptor_count = 2;
    CHECK(!LMDataWithSizeIsValidMessage(&it, 44));
    LMMessageAssignOutOfLine(&it.message, NULL, 10);
    CHECK(!LMDataWithSizeIsValidMessage(&it, 44));
    LMMessageAssignOutOfLine(&it.message, payload, 10);
    CHECK(LMDataWithSizeIsValidMessage(&it, 44));
    it.message.data.out_of_line.descriptor.type = MACH_MSG_PORT_DESCRIPTOR;
    CHECK(!LMDataWithSizeIsValidMessage(&it, 44));
}

static void the_memory_of_a_response_is_private_and_may_be_written(void) {
    size_t i;
    for
        EACH(i, lengths) {
            LMResponseBuffer one, other;
            CHECK_INT(LMConnectionSendTwoWay(&server, ECHO, payload, lengths[i], &one), 0);
            CHECK_INT(LMConnectionSendTwoWay(&server, ECHO, payload, lengths[i], &other), 0);
            CHECK_INT(((char *)LMMessageGetData(&one.message))[lengths[i]], 0);
            memset(LMMessageGetData(&one.message), 0x55, lengths[i]);
            CHECK(is_filled(LMMessageGetData(&other.message), lengths[i]));
            LMResponseBufferFree(&one);
            LMResponseBufferFree(&other);
            /* The service's write to its request does not show in ours, or in anybody's later. */
            CHECK_INT(LMConnectionSendTwoWay(&server, SCRIBBLE, payload, lengths[i], &one), 0);
            CHECK_INT(*(unsigned char *)LMMessageGetData(&one.message), 0x55);
            CHECK(is_filled(payload, lengths[i]));
            CHECK_INT(LMConnectionSendTwoWay(&server, ECHO, payload, lengths[i], &other), 0);
            CHECK(is_filled(LMMessageGetData(&other.message), lengths[i]));
            LMResponseBufferFree(&one);
            LMResponseBufferFree(&other);
        }
}

static void a_string_is_terminated_in_place(void) {
    static const uint32_t sizes[] = {1, 2, 100, 4096, 4097, 8192, 100000};
    size_t i;
    char *text = (char *)malloc(100000);
    memset(text, 'x', 100000);
    for
        EACH(i, sizes) {
            LMResponseBuffer buffer;
            CHECK_INT(LMConnectionSendTwoWay(&server, STRING, text, sizes[i], &buffer), 0);
            CHECK_INT(atoi((char *)LMMessageGetData(&buffer.message)), sizes[i] - 1);
            LMResponseBufferFree(&buffer);
        }
    free(text);
}

static void nothing_but_the_payload_leaves_the_process(void) {
    static const uint32_t sizes[] = {0, 1, 5, 44, 4095, 4096};
    size_t i;
    for
        EACH(i, sizes) {
            LMResponseBuffer buffer;
            uint32_t at;
            unsigned char *bytes = (unsigned char *)&buffer + 32;
            /* What the stack held is neither sent nor received. */
            memset(&buffer, 0xa5, sizeof(buffer));
            CHECK_INT(LMConnectionSendTwoWay(&server, ECHO, payload, sizes[i], &buffer), 0);
            CHECK(is_filled(bytes, sizes[i]));
            for (at = sizes[i]; at < buffer.message.head.msgh_size - 32; at++) {
                CHECK_INT(bytes[at], 0);
            }
        }
}

/* --- freeing --- */

static void a_response_may_be_freed_twice_and_as_a_copy(void) {
    LMResponseBuffer buffer, copy, next;
    size_t i;
    for
        EACH(i, lengths) {
            CHECK_INT(LMConnectionSendTwoWay(&server, ECHO, payload, lengths[i], &buffer), 0);
            copy = buffer;
            LMResponseBufferFree(&buffer);
            LMResponseBufferFree(&buffer);
            /* The memory may be another message's by now. */
            CHECK_INT(LMConnectionSendTwoWay(&server, ECHO, payload, lengths[i], &next), 0);
            LMResponseBufferFree(&copy);
            LMResponseBufferFree(&copy);
            CHECK(is_filled(LMMessageGetData(&next.message), lengths[i]));
            LMResponseBufferFree(&next);
        }
    CHECK_INT(LMConnectionSendTwoWay(&server, ECHO, payload, 5000, &buffer), 0);
    CHECK_INT(LMResponseConsumeInteger(&buffer), 0);
    LMResponseBufferFree(&buffer);
    CHECK_INT(LMResponseConsumeInteger(&buffer), 0);
    memset(&buffer, 0, sizeof(buffer));
    LMResponseBufferFree(&buffer);
    memset(&buffer, 0xff, sizeof(buffer));
    LMResponseBufferFree(&buffer);
    memset(&buffer, 0x01, sizeof(buffer));
    LMResponseBufferFree(&buffer);
    lm_message_free(NULL);
}

static void a_request_may_be_freed_or_not(void) {
    static const uint32_t sizes[] = {0, 10, 5000, 1 << 20};
    size_t i;
    for
        EACH(i, sizes) {
            LMResponseBuffer buffer;
            CHECK_INT(LMConnectionSendTwoWay(&server, FREE_FIRST, payload, sizes[i], &buffer), 0);
            CHECK(strcmp((char *)LMMessageGetData(&buffer.message), "freed") == 0);
        }
}

static void data_may_be_taken_over(void) {
    LMResponseBuffer buffer, next;
    LMView view, again;
    CHECK_INT(LMConnectionSendTwoWay(&server, ECHO, payload, 100000, &buffer), 0);
    CHECK(LMMessageTakeData(&buffer.message, &view));
    CHECK_INT(view.length, 100000);
    CHECK_INT(LMMessageGetDataLength(&buffer.message), 0);
    CHECK(!LMMessageTakeData(&buffer.message, &again));
    LMResponseBufferFree(&buffer);
    CHECK_INT(LMConnectionSendTwoWay(&server, ECHO, payload, 90000, &next), 0);
    CHECK(is_filled(view.data, 100000));
    again = view;
    LMViewRelease(&view);
    CHECK(view.data == NULL);
    LMViewRelease(&view);
    LMViewRelease(&again);
    CHECK(is_filled(LMMessageGetData(&next.message), 90000));
    LMResponseBufferFree(&next);
    CHECK_INT(LMConnectionSendTwoWay(&server, ECHO, payload, 10, &buffer), 0);
    CHECK(!LMMessageTakeData(&buffer.message, &view));
    CHECK_INT(LMMessageGetDataLength(&buffer.message), 10);
    lm_view_release(NULL);
}

static void a_reply_may_be_read_in_place(void) {
    size_t i;
    for
        EACH(i, lengths) {
            LMView view, copy;
            CHECK_INT(LMConnectionSendTwoWayInPlace(&server, ECHO, payload, lengths[i], &view), 0);
            CHECK_INT(view.length, lengths[i]);
            CHECK(is_filled(view.data, lengths[i]));
            copy = view;
            LMViewRelease(&view);
            LMViewRelease(&copy);
        }
    {
        LMView view;
        LMConnection nobody = {MACH_PORT_NULL, "nobody"};
        CHECK_INT(LMConnectionSendTwoWayInPlace(&server, NOTHING, NULL, 0, &view), 0);
        CHECK(view.data == NULL && view.length == 0);
        CHECK_INT(LMConnectionSendTwoWayInPlace(&server, ECHO, payload, 5000, NULL), 0);
        CHECK_INT(LMConnectionSendTwoWayInPlace(&nobody, ECHO, NULL, 0, &view),
                  BOOTSTRAP_UNKNOWN_SERVICE);
        CHECK(view.data == NULL && view.length == 0);
    }
}

static void messages_are_filled_where_they_are_read(void) {
    size_t i;
    for
        EACH(i, lengths) {
            LMResponseBuffer buffer;
            LMView view;
            int32_t length = (int32_t)lengths[i];
            CHECK_INT(LMConnectionAllocate(&server, lengths[i], &view), 0);
            CHECK_INT(view.length, lengths[i]);
            memcpy(LMViewGetBytes(&view), payload, lengths[i]);
            CHECK_INT(LMConnectionSendTwoWayView(&server, ECHO, &view, &buffer), 0);
            CHECK(view.data == NULL && view.length == 0);
            CHECK_INT(LMMessageGetDataLength(&buffer.message), lengths[i]);
            CHECK(is_filled(LMMessageGetData(&buffer.message), lengths[i]));
            LMResponseBufferFree(&buffer);
            CHECK_INT(LMConnectionSendTwoWay(&server, FILL_IN, &length, 4, &buffer), 0);
            CHECK_INT(LMMessageGetDataLength(&buffer.message), lengths[i]);
            CHECK(is_filled(LMMessageGetData(&buffer.message), lengths[i]));
            LMResponseBufferFree(&buffer);
        }
    for (i = 0; i < 3; i++) {
        LMResponseBuffer buffer;
        LMView view;
        CHECK_INT(LMConnectionAllocate(&server, 0, &view), 0);
        CHECK_INT(LMConnectionSendTwoWayView(&server, ECHO, &view, &buffer), 0);
        CHECK(LMMessageGetData(&buffer.message) == NULL);
        CHECK_INT(LMConnectionAllocate(&server, 100000, &view), 0);
        memcpy(LMViewGetBytes(&view), payload, 5);
        view.length = 5;
        CHECK_INT(LMConnectionSendOneWayView(&server, ECHO, &view), 0);
        CHECK(view.data == NULL);
    }
}

static void memory_that_was_allocated_is_sent_or_released_once(void) {
    LMConnection nobody = {MACH_PORT_NULL, "nobody"};
    LMResponseBuffer buffer;
    LMView view, copy, views[32];
    int i;
    for (i = 0; i < 100; i++) {
        CHECK_INT(LMConnectionAllocate(&server, 100000, &view), 0);
        copy = view;
        LMViewRelease(&view);
        CHECK(view.data == NULL);
        LMViewRelease(&view);
        LMViewRelease(&copy);
    }
    CHECK_INT(LMConnectionAllocate(&server, 100000, &view), 0);
    copy = view;
    CHECK_INT(LMConnectionSendOneWayView(&server, NOTHING, &view), 0);
    CHECK_INT(LMConnectionSendOneWayView(&server, NOTHING, &view), KERN_INVALID_ARGUMENT);
    CHECK_INT(LMConnectionSendOneWayView(&server, NOTHING, &copy), KERN_INVALID_ARGUMENT);
    CHECK_INT(LMConnectionSendTwoWayView(&server, NOTHING, &copy, &buffer), KERN_INVALID_ARGUMENT);
    CHECK_INT(LMMessageGetDataLength(&buffer.message), 0);
    LMViewRelease(&copy);
    CHECK_INT(LMConnectionSendOneWayView(&server, NOTHING, NULL), KERN_INVALID_ARGUMENT);
    CHECK_INT(LMConnectionAllocate(&server, 1, NULL), KERN_INVALID_ARGUMENT);
    CHECK_INT(LMConnectionAllocate(NULL, 1, &view), KERN_INVALID_ARGUMENT);
    CHECK_INT(LMConnectionAllocate(&nobody, 1, &view), BOOTSTRAP_UNKNOWN_SERVICE);
    CHECK(view.data == NULL);
    CHECK_INT(LMReplyAllocate(MACH_PORT_NULL, 1, &view), MACH_SEND_INVALID_DEST);
    CHECK_INT(LMReplyAllocate(12345, 1, &view), MACH_SEND_INVALID_DEST);
    CHECK(view.data == NULL);
    /* No more than was allocated, and nothing else that a view shows. */
    CHECK_INT(LMConnectionAllocate(&server, 100000, &view), 0);
    view.length++;
    CHECK_INT(LMConnectionSendOneWayView(&server, NOTHING, &view), KERN_INVALID_ARGUMENT);
    LMViewRelease(&view);
    CHECK(lm_memory_make(100, &view));
    CHECK_INT(LMConnectionSendOneWayView(&server, NOTHING, &view), KERN_INVALID_ARGUMENT);
    LMViewRelease(&view);
    /* What is sent to nobody is given back all the same. */
    for (i = 0; i < 40; i++) {
        CHECK_INT(LMConnectionAllocate(&server, 100000, &view), 0);
        CHECK_INT(LMConnectionSendOneWayView(&nobody, 1, &view), BOOTSTRAP_UNKNOWN_SERVICE);
        CHECK(view.data == NULL);
        CHECK_INT(LMConnectionAllocate(&server, 100000, &view), 0);
        CHECK_INT(LMSendReplyView(i % 2 ? MACH_PORT_NULL : 12345, &view),
                  i % 2 ? 0 : MACH_SEND_INVALID_DEST);
        CHECK(view.data == NULL);
    }
    for (i = 0; i < 32; i++) {
        CHECK_INT(LMConnectionAllocate(&server, 5000, &views[i]), 0);
    }
    CHECK_INT(lm_allocate(&server, 5000, 20 | LM_TIMEOUT_EXACT, &view), MACH_SEND_TIMED_OUT);
    for (i = 0; i < 32; i++) {
        LMViewRelease(&views[i]);
    }
}

static void a_forked_child_has_none_of_its_parents_memory(void) {
    LMResponseBuffer buffer;
    LMView view;
    int status = 0;
    pid_t child;
    CHECK_INT(LMConnectionAllocate(&server, 100000, &view), 0);
    memcpy(LMViewGetBytes(&view), payload, 100000);
    child = fork();
    if (child == 0) {
        CHECK_INT(LMConnectionSendTwoWayView(&server, ECHO, &view, &buffer), KERN_INVALID_ARGUMENT);
        LMViewRelease(&view);
        CHECK_INT(LMConnectionAllocate(&server, 100000, &view), 0);
        memset(LMViewGetBytes(&view), 0, 100000);
        CHECK_INT(LMConnectionSendTwoWayView(&server, ECHO, &view, &buffer), 0);
        CHECK_INT(LMMessageGetDataLength(&buffer.message), 100000);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_INT(status, 0);
    CHECK_INT(LMConnectionSendTwoWayView(&server, ECHO, &view, &buffer), 0);
    CHECK(is_filled(LMMessageGetData(&buffer.message), 100000));
    LMResponseBufferFree(&buffer);
}

static void after_an_error_the_response_is_empty(void) {
    LMConnection nobody = {MACH_PORT_NULL, "nobody"};
    static const uint32_t sizes[] = {4, 100, 100000};
    size_t i;
    for
        EACH(i, sizes) {
            LMResponseBuffer buffer;
            memset(&buffer, 0x5a, sizeof(buffer));
            CHECK_INT(LMConnectionSendTwoWay(&nobody, ECHO, payload, sizes[i], &buffer),
                      BOOTSTRAP_UNKNOWN_SERVICE);
            CHECK(LMMessageGetData(&buffer.message) == NULL);
            CHECK_INT(LMMessageGetDataLength(&buffer.message), 0);
            CHECK_INT(LMResponseConsumeInteger(&buffer), 0);
            LMResponseBufferFree(&buffer);
            LMResponseBufferFree(&buffer);
        }
    CHECK_INT(nobody.serverPort, MACH_PORT_NULL);
}

/* --- connections --- */

static void one_way_messages_arrive_in_order_and_are_counted(void) {
    LMResponseBuffer buffer;
    int32_t before, after;
    int i;
    CFDataRef data = CFDataCreate(kCFAllocatorDefault, payload, 5000);
    CHECK_INT(LMConnectionSendTwoWay(&server, COUNT, NULL, 0, &buffer), 0);
    before = LMResponseConsumeInteger(&buffer);
    for (i = 0; i < 100; i++) {
        CHECK_INT(LMConnectionSendOneWay(&server, LOG, payload, (uint32_t)i * 60), 0);
        CHECK_INT(LMConnectionSendEmptyOneWay(&server, LOG), 0);
        CHECK(LMConnectionSendOneWayData(&server, LOG, data) == true);
        CHECK(LMConnectionSendOneWayData(&server, LOG, NULL));
    }
    CFRelease(data);
    CHECK_INT(LMConnectionSendOneWayWithTimeout(&server, LOG, payload, 10, 60000), 0);
    CHECK_INT(LMConnectionSendTwoWayWithTimeout(&server, COUNT, NULL, 0, 60000, &buffer), 0);
    after = LMResponseConsumeInteger(&buffer);
    CHECK_INT(after - before, 401);
}

static void the_return_values_differ_as_they_did(void) {
    LMConnection nobody = {MACH_PORT_NULL, "nobody"};
    LMResponseBuffer buffer;
    CHECK(LMConnectionSendOneWayData(&server, LOG, NULL) == true);
    CHECK(LMConnectionSendOneWayData(&nobody, LOG, NULL) == false);
    CHECK_INT(LMConnectionSendOneWay(&nobody, LOG, NULL, 0), BOOTSTRAP_UNKNOWN_SERVICE);
    CHECK_INT(LMConnectionSendEmptyOneWay(&nobody, LOG), BOOTSTRAP_UNKNOWN_SERVICE);
    CHECK_INT(LMConnectionSendTwoWayData(&nobody, LOG, NULL, &buffer), BOOTSTRAP_UNKNOWN_SERVICE);
}

static void nothing_is_sent_as_an_empty_message(void) {
    LMResponseBuffer buffer;
    CFDataRef data = CFDataCreate(kCFAllocatorDefault, payload, 5000);
    CHECK_INT(LMConnectionSendTwoWayData(&server, ECHO, NULL, &buffer), 0);
    CHECK_INT(LMMessageGetDataLength(&buffer.message), 0);
    CHECK_INT(LMConnectionSendTwoWayData(&server, DATA, data, &buffer), 0);
    CHECK_INT(LMMessageGetDataLength(&buffer.message), 5000);
    CHECK(is_filled(LMMessageGetData(&buffer.message), 5000));
    LMResponseBufferFree(&buffer);
    CHECK_INT(LMConnectionSendTwoWay(&server, DATA, NULL, 0, &buffer), 0);
    CHECK_INT(LMMessageGetDataLength(&buffer.message), 0);
    CFRelease(data);
}

static void garbage_in_a_connection_means_look_it_up(void) {
    LMConnectionRef heap = (LMConnectionRef)malloc(sizeof(LMConnection));
    LMConnection copy, other = {MACH_PORT_NULL, "nobody"};
    LMResponseBuffer buffer;
    uint32_t garbage;
    int32_t number = 21;
    /* One that was made on the heap, and whose port nobody has set. */
    memset(heap, 0xa5, sizeof(*heap));
    strcpy(heap->serverName, "server");
    CHECK_INT(LMConnectionSendTwoWay(heap, DOUBLE, &number, 4, &buffer), 0);
    CHECK_INT(LMResponseConsumeInteger(&buffer), 42);
    CHECK(MACH_PORT_VALID(heap->serverPort));
    /* A copy, and the same after the original was freed. */
    copy = *heap;
    free(heap);
    CHECK_INT(LMConnectionSendTwoWay(&copy, DOUBLE, &number, 4, &buffer), 0);
    CHECK_INT(LMResponseConsumeInteger(&buffer), 42);
    /* The port of another name is not that name's. */
    other.serverPort = copy.serverPort;
    CHECK_INT(LMConnectionSendEmptyOneWay(&other, LOG), BOOTSTRAP_UNKNOWN_SERVICE);
    for (garbage = 1; garbage < 2000; garbage++) {
        copy.serverPort = garbage * 2654435761u;
        CHECK_INT(LMConnectionSendTwoWay(&copy, DOUBLE, &number, 4, &buffer), 0);
        CHECK_INT(LMResponseConsumeInteger(&buffer), 42);
    }
    copy.serverPort = MACH_PORT_DEAD;
    CHECK_INT(LMConnectionSendTwoWay(&copy, DOUBLE, &number, 4, &buffer), 0);
    /* Any number may be a port's; releasing what is none is an error and no more. */
    CHECK_INT(mach_port_deallocate(mach_task_self(), 12345), KERN_INVALID_NAME);
    CHECK_INT(mach_port_deallocate(mach_task_self(), MACH_PORT_NULL), 0);
    CHECK_INT(LMConnectionSendEmptyOneWay(&server, LOG), 0);
    CHECK(MACH_PORT_VALID(server.serverPort));
    while (mach_port_deallocate(mach_task_self(), server.serverPort) == 0) {
    }
    CHECK_INT(LMConnectionSendTwoWay(&server, DOUBLE, &number, 4, &buffer), 0);
    CHECK_INT(LMResponseConsumeInteger(&buffer), 42);
}

static void a_bad_name_is_an_error(void) {
    LMConnection connection;
    LMResponseBuffer buffer;
    memset(&connection, 'x', sizeof(connection));
    CHECK_INT(LMConnectionSendTwoWay(&connection, 1, NULL, 0, &buffer), KERN_INVALID_NAME);
    CHECK_INT(LMConnectionSendEmptyOneWay(&connection, 1), KERN_INVALID_NAME);
    memset(&connection, 0, sizeof(connection));
    CHECK_INT(LMConnectionSendEmptyOneWay(&connection, 1), KERN_INVALID_NAME);
    CHECK_INT(LMConnectionSendEmptyOneWay(NULL, 1), KERN_INVALID_ARGUMENT);
    CHECK_INT(lm_call(&server, 1, NULL, 0, 0, NULL), KERN_INVALID_ARGUMENT);
    CHECK_INT(LMStopService("never started"), BOOTSTRAP_UNKNOWN_SERVICE);
    CHECK(strlen(LMLastError()) > 10);
}

static void *call_often(void *connection) {
    int32_t i;
    for (i = 0; i < 300; i++) {
        LMResponseBuffer buffer;
        CHECK_INT(LMConnectionSendTwoWay((LMConnectionRef)connection, DOUBLE, &i, 4, &buffer), 0);
        CHECK_INT(LMResponseConsumeInteger(&buffer), i * 2);
    }
    return NULL;
}

static void a_connection_is_shared_by_threads(void) {
    LMConnection shared = {MACH_PORT_NULL, "server"};
    pthread_t threads[6];
    int i;
    for (i = 0; i < 6; i++) {
        CHECK_INT(pthread_create(&threads[i], NULL, call_often, &shared), 0);
    }
    for (i = 0; i < 6; i++) {
        pthread_join(threads[i], NULL);
    }
}

static void a_fresh_connection_for_every_call_leaks_nothing(void) {
    int i, before = 0;
    for (i = 0; i < 60; i++) {
        LMConnection fresh = {MACH_PORT_NULL, "server"};
        LMResponseBuffer buffer;
        int32_t number = i;
        CHECK_INT(LMConnectionSendTwoWay(&fresh, DOUBLE, &number, 4, &buffer), 0);
        CHECK_INT(LMResponseConsumeInteger(&buffer), i * 2);
        CHECK_INT(mach_port_deallocate(mach_task_self(), fresh.serverPort), 0);
        if (i == 10) {
            before = descriptors();
        }
    }
    CHECK_INT(descriptors(), before);
}

static void a_name_is_looked_up_without_sending(void) {
    mach_port_t bootstrap = MACH_PORT_NULL, port = MACH_PORT_NULL;
    LMConnection given = {MACH_PORT_NULL, "server"};
    LMResponseBuffer buffer;
    CHECK_INT(task_get_bootstrap_port(mach_task_self(), &bootstrap), 0);
    CHECK_INT(rocketbootstrap_look_up(bootstrap, "server", &port), 0);
    CHECK(MACH_PORT_VALID(port));
    given.serverPort = port;
    CHECK_INT(LMConnectionSendTwoWay(&given, ECHO, "x", 1, &buffer), 0);
    CHECK_INT(given.serverPort, port);
    CHECK_INT(mach_port_deallocate(mach_task_self(), port), 0);
    CHECK_INT(bootstrap_look_up(bootstrap, "nobody", &port), BOOTSTRAP_UNKNOWN_SERVICE);
    CHECK_INT(port, MACH_PORT_NULL);
    CHECK_INT(rocketbootstrap_unlock("server"), 0);
    CHECK_INT(rocketbootstrap_unlock(NULL), KERN_INVALID_ARGUMENT);
    CHECK_INT(rocketbootstrap_unlock(""), KERN_INVALID_NAME);
    CHECK_INT(rocketbootstrap_register(bootstrap, "server", 1), 0);
    CHECK_INT(rocketbootstrap_register(bootstrap, NULL, 1), KERN_INVALID_ARGUMENT);
    CHECK_INT(rocketbootstrap_register(bootstrap, "server", MACH_PORT_NULL), KERN_INVALID_ARGUMENT);
}

/* --- replies --- */

static void a_look_up_says_why_it_failed(void) {
    char folder[] = "/tmp/lm-open-XXXXXX", old[4096];
    LMConnection denied = {MACH_PORT_NULL, "denied"};
    mach_port_t port = 1;
    CHECK(mkdtemp(folder) != NULL);
    CHECK_INT(chmod(folder, 0777), 0);
    CHECK(strlen(getenv("LIGHTMESSAGING_DIR")) < sizeof(old));
    strcpy(old, getenv("LIGHTMESSAGING_DIR"));
    setenv("LIGHTMESSAGING_DIR", folder, 1);
    CHECK_INT(rocketbootstrap_look_up(0, "denied", &port), BOOTSTRAP_NOT_PRIVILEGED);
    CHECK_INT(port, MACH_PORT_NULL);
    CHECK_INT(bootstrap_look_up(0, "denied", NULL), BOOTSTRAP_NOT_PRIVILEGED);
    CHECK_INT(LMConnectionSendEmptyOneWay(&denied, 1), BOOTSTRAP_NOT_PRIVILEGED);
    CHECK(strstr(LMLastError(), "chmod") != NULL);
    CHECK(!LMConnectionIsAlive(&denied));
    CHECK_INT(denied.serverPort, MACH_PORT_NULL);
    setenv("LIGHTMESSAGING_DIR", old, 1);
    CHECK_INT(rmdir(folder), 0);
    strcpy(denied.serverName, "nobody");
    CHECK(!LMConnectionIsAlive(&denied));
    CHECK_INT(denied.serverPort, MACH_PORT_NULL);
}

static void a_reply_to_nobody_does_nothing(void) {
    CHECK_INT(LMSendReply(MACH_PORT_NULL, "x", 1), 0);
    CHECK_INT(LMSendIntegerReply(MACH_PORT_NULL, 1), 0);
    CHECK_INT(LMSendCFDataReply(MACH_PORT_NULL, NULL), 0);
    CHECK_INT(LMConnectionSendOneWay(&server, ECHO, "servers reply to everything", 28), 0);
}

static void a_reply_may_come_later_from_another_thread(void) {
    LMResponseBuffer buffer;
    CHECK_INT(LMConnectionSendTwoWay(&server, LATER, payload, 100000, &buffer), 0);
    CHECK(strcmp((char *)LMMessageGetData(&buffer.message), "late") == 0);
}

static void a_second_reply_is_an_error(void) {
    LMResponseBuffer buffer;
    uint32_t port;
    CHECK_INT(LMConnectionSendTwoWay(&server, TWICE, NULL, 0, &buffer), 0);
    CHECK(strcmp((char *)LMMessageGetData(&buffer.message), "once") == 0);
    CHECK_INT(LMConnectionSendTwoWay(&server, CODE, NULL, 0, &buffer), 0);
    CHECK_INT(LMResponseConsumeInteger(&buffer), MACH_SEND_INVALID_DEST);
    for (port = 1; port < 3000; port++) {
        CHECK_INT(LMSendReply(port * 2654435761u, "x", 1), MACH_SEND_INVALID_DEST);
        CHECK(!LMReplyIsWanted(port * 2654435761u));
    }
    /* The port of a connection is nobody's to reply to. */
    CHECK_INT(LMSendReply(server.serverPort, "x", 1), MACH_SEND_INVALID_DEST);
}

static void of_two_threads_that_reply_one_wins(void) {
    LMResponseBuffer buffer;
    int i;
    for (i = 0; i < 50; i++) {
        CHECK_INT(LMConnectionSendTwoWay(&server, RACE, NULL, 0, &buffer), 0);
        CHECK(strcmp((char *)LMMessageGetData(&buffer.message), "won") == 0);
        CHECK_INT(LMConnectionSendTwoWay(&server, WINS, NULL, 0, &buffer), 0);
        CHECK_INT(LMResponseConsumeInteger(&buffer), 1);
    }
}

static void a_request_that_is_dropped_is_an_error(void) {
    LMResponseBuffer buffer;
    CHECK_INT(LMConnectionSendTwoWay(&server, DROP, payload, 100, &buffer), LM_NO_REPLY);
    CHECK_INT(LMMessageGetDataLength(&buffer.message), 0);
    CHECK(strstr(LMErrorString(LM_NO_REPLY), "did not reply") != NULL);
    CHECK(strstr(LMLastError(), "\"server\"") != NULL);
}

static void integers_are_exactly_four_bytes(void) {
    LMResponseBuffer buffer;
    uint32_t length;
    int32_t number = -7;
    for (length = 0; length < 20; length++) {
        CHECK_INT(LMConnectionSendTwoWay(&server, ECHO, payload, length, &buffer), 0);
        CHECK_INT(LMResponseConsumeInteger(&buffer) != 0, length == 4);
    }
    CHECK_INT(LMConnectionSendTwoWay(&server, DOUBLE, &number, 4, &buffer), 0);
    CHECK_INT(LMResponseConsumeInteger(&buffer), -14);
}

/* --- who is it --- */

static void a_request_says_who_sent_it(void) {
    static const uint32_t sizes[] = {0, 1, 4095, 4096, 4097};
    size_t i;
    for
        EACH(i, sizes) {
            LMResponseBuffer buffer;
            char text[64], full[200];
            CHECK_INT(LMConnectionSendTwoWay(&server, DESCRIBE, payload, sizes[i], &buffer), 0);
            snprintf(full, sizeof(full), "%s", (char *)LMMessageGetData(&buffer.message));
            snprintf(text, sizeof(text), "trailer 52 pid %d uid %u gid %u euid %u", (int)getpid(),
                     geteuid(), getegid(), geteuid());
            CHECK(strstr(full, text) != NULL);
            snprintf(text, sizeof(text), "size %u msgh_size %u descriptors %d length %u data %d",
                     LMBufferSizeForLength(sizes[i]), LMBufferSizeForLength(sizes[i]),
                     sizes[i] > 4096, sizes[i], sizes[i] > 0);
            CHECK(strstr(full, text) != NULL);
            CHECK(strstr(full, "info info two-way 1") != NULL);
            CHECK_INT(LMConnectionSendTwoWay(&server, PEER, payload, sizes[i], &buffer), 0);
            snprintf(text, sizeof(text), "%d %u %u ", (int)getpid(), geteuid(), getegid());
            CHECK(strncmp((char *)LMMessageGetData(&buffer.message), text, strlen(text)) == 0);
        }
    {
        LMPeer peer;
        LMMessage message;
        memset(&message, 0, sizeof(message));
        CHECK(!LMRequestGetPeer(&message, &peer));
    }
}

/* --- a program's own services --- */

static int calls;
static void count_calls(CFMachPortRef port, void *message, CFIndex size, void *info) {
    (void)size;
    (void)info;
    calls++;
    LMSendReply(((LMMessage *)message)->head.msgh_remote_port, "ok", 3);
    if (((LMMessage *)message)->head.msgh_id == 99) {
        CFRunLoopStop(CFRunLoopGetCurrent());
    }
    if (((LMMessage *)message)->head.msgh_id == 98) {
        CFMachPortInvalidate(port);
    }
}

static int next_id;
static void *call_own(void *name) {
    LMConnection connection = {MACH_PORT_NULL, ""};
    LMResponseBuffer buffer;
    strcpy(connection.serverName, (const char *)name);
    CHECK_INT(LMConnectionSendTwoWay(&connection, next_id, NULL, 0, &buffer), 0);
    CHECK(strcmp((char *)LMMessageGetData(&buffer.message), "ok") == 0);
    return NULL;
}

static void a_run_loop_without_services_returns_at_once(void) {
    CFRunLoopRun();
    CHECK_INT(CFRunLoopRunInMode(kCFRunLoopDefaultMode, 60, false), kCFRunLoopRunFinished);
    CFRunLoopStop(CFRunLoopGetCurrent());
    CFRunLoopStop(NULL);
    CFRunLoopStop((CFRunLoopRef)(uintptr_t)0x1234);
}

static void a_service_is_started_stopped_and_started_again(void) {
    pthread_t thread;
    void *data = NULL;
    char own[64];
    int i, before = 0;
    snprintf(own, sizeof(own), "own-%d", (int)getpid());
    for (i = 0; i < 20; i++) {
        CHECK_INT(LMStartService(own, CFRunLoopGetCurrent(), count_calls), 0);
        CHECK_INT(LMStartService(own, CFRunLoopGetCurrent(), count_calls), BOOTSTRAP_NAME_IN_USE);
        CHECK_INT(CFRunLoopRunInMode(kCFRunLoopDefaultMode, 0.001, false), kCFRunLoopRunTimedOut);
        next_id = 1;
        CHECK_INT(pthread_create(&thread, NULL, call_own, own), 0);
        CHECK_INT(CFRunLoopRunInMode(kCFRunLoopDefaultMode, 60, true), kCFRunLoopRunHandledSource);
        pthread_join(thread, &data);
        next_id = 99;
        CHECK_INT(pthread_create(&thread, NULL, call_own, own), 0);
        CHECK_INT(CFRunLoopRunInMode(kCFRunLoopCommonModes, 60, false), kCFRunLoopRunStopped);
        pthread_join(thread, &data);
        if (i % 2) {
            CHECK_INT(LMStopService(own), 0);
        } else {
            next_id = 98;
            CHECK_INT(pthread_create(&thread, NULL, call_own, own), 0);
            CFRunLoopRun();
            pthread_join(thread, &data);
        }
        CHECK_INT(LMStopService(own), BOOTSTRAP_UNKNOWN_SERVICE);
        CFRunLoopRun();
        {
            LMConnection gone = {MACH_PORT_NULL, ""};
            strcpy(gone.serverName, own);
            CHECK_INT(LMConnectionSendEmptyOneWay(&gone, 1), BOOTSTRAP_UNKNOWN_SERVICE);
        }
        if (i == 10) {
            before = descriptors();
        }
    }
    CHECK_INT(descriptors(), before);
}

static void keep_for_ever(CFMachPortRef port, void *message, CFIndex size, void *info) {
    (void)port;
    (void)message;
    (void)size;
    (void)info;
    CFRunLoopStop(CFRunLoopGetCurrent());
}

static void *call_in_vain(void *unused) {
    LMConnection connection = {MACH_PORT_NULL, "keeper"};
    LMResponseBuffer buffer;
    (void)unused;
    CHECK_INT(LMConnectionSendTwoWayWithTimeout(&connection, 1, NULL, 0, 200, &buffer),
              MACH_RCV_TIMED_OUT);
    return NULL;
}

static void replies_that_a_stopped_service_owes_to_nobody_are_forgotten(void) {
    pthread_t thread;
    int i, before = 0;
    for (i = 0; i < 20; i++) {
        CHECK_INT(LMStartService("keeper", CFRunLoopGetCurrent(), keep_for_ever), 0);
        CHECK_INT(pthread_create(&thread, NULL, call_in_vain, NULL), 0);
        CHECK_INT(CFRunLoopRunInMode(kCFRunLoopDefaultMode, 60, false), kCFRunLoopRunStopped);
        pthread_join(thread, NULL);
        CHECK_INT(LMStopService("keeper"), 0);
        if (i == 10) {
            before = descriptors();
        }
    }
    CHECK_INT(descriptors(), before);
}

static void a_failed_start_leaves_nothing(void) {
    int i, before = 0;
    for (i = 0; i < 30; i++) {
        CHECK_INT(LMStartService("server", CFRunLoopGetCurrent(), count_calls), BOOTSTRAP_NAME_IN_USE);
        CHECK_INT(LMStartService("", CFRunLoopGetCurrent(), count_calls), KERN_INVALID_NAME);
        CHECK_INT(LMStartService("mine", CFRunLoopGetCurrent(), NULL), KERN_INVALID_ARGUMENT);
        CHECK_INT(LMStartService("mine", (CFRunLoopRef)(uintptr_t)0x123456, count_calls),
                  KERN_INVALID_ARGUMENT);
        if (i == 10) {
            before = descriptors();
        }
    }
    CHECK_INT(descriptors(), before);
    CHECK_INT(LMConnectionIsAlive(&server), true);
    CHECK(strstr(LMErrorString(BOOTSTRAP_NAME_IN_USE), "in use") != NULL);
    CHECK_INT(LMStartService("mine", CFRunLoopGetCurrent(), count_calls), 0);
    CHECK_INT(LMStopService("mine"), 0);
    CFRunLoopRun();
}

static void calling_ones_own_service_is_an_error_and_no_deadlock(void) {
    LMConnection own = {MACH_PORT_NULL, "to-myself"};
    LMResponseBuffer buffer;
    CHECK_INT(LMStartService("to-myself", CFRunLoopGetCurrent(), count_calls), 0);
    CHECK_INT(LMConnectionSendTwoWay(&own, 1, NULL, 0, &buffer), LM_WOULD_DEADLOCK);
    CHECK_INT(CFRunLoopRunInMode(kCFRunLoopDefaultMode, 0, false), kCFRunLoopRunTimedOut);
    CHECK_INT(LMConnectionSendTwoWay(&own, 1, NULL, 0, &buffer), LM_WOULD_DEADLOCK);
    calls = 0;
    CHECK_INT(LMConnectionSendEmptyOneWay(&own, 1), 0);
    CHECK_INT(CFRunLoopRunInMode(kCFRunLoopDefaultMode, 60, true), kCFRunLoopRunHandledSource);
    CHECK_INT(calls, 1);
    CHECK_INT(LMStopService("to-myself"), 0);
    CFRunLoopRun();
}

static void echo_in_place(CFMachPortRef port, void *message, CFIndex size, void *info) {
    LMMessage *request = (LMMessage *)message;
    uint32_t length = LMMessageGetDataLength(request);
    (void)port;
    CHECK(info == payload && LMDataWithSizeIsValidMessage(message, size));
    CHECK(is_filled(LMMessageGetData(request), length));
    CHECK_INT(LMSendReply(request->head.msgh_remote_port, LMMessageGetData(request), length), 0);
    if (length % 2) {
        LMResponseBufferFree((LMResponseBuffer *)message);
        CHECK_INT(LMMessageGetDataLength(request), length > LM_INLINE_MAX ? 0 : length);
    }
}

static void *call_in_place(void *unused) {
    LMConnection connection = {MACH_PORT_NULL, "in-place"};
    size_t i;
    (void)unused;
    for
        EACH(i, lengths) {
            LMView view;
            CHECK_INT(LMConnectionSendTwoWayInPlace(&connection, 1, payload, lengths[i], &view), 0);
            CHECK_INT(view.length, lengths[i]);
            CHECK(is_filled(view.data, lengths[i]));
            LMViewRelease(&view);
        }
    CFRunLoopStop(CFRunLoopGetMain());
    return NULL;
}

static void requests_may_be_read_in_place(void) {
    pthread_t thread;
    CHECK_INT(LMStartServiceInPlace("in-place", CFRunLoopGetCurrent(), echo_in_place, payload), 0);
    CHECK_INT(pthread_create(&thread, NULL, call_in_place, NULL), 0);
    CFRunLoopRun();
    pthread_join(thread, NULL);
    CHECK_INT(LMStopService("in-place"), 0);
}

static void *expect_that_it_stops(void *unused) {
    LMConnection connection = {MACH_PORT_NULL, "to-be-stopped"};
    LMResponseBuffer buffer;
    (void)unused;
    CHECK_INT(LMConnectionSendTwoWay(&connection, 1, NULL, 0, &buffer), BOOTSTRAP_UNKNOWN_SERVICE);
    return NULL;
}

static void callers_are_told_when_a_service_stops_that_nobody_runs(void) {
    pthread_t thread;
    struct pollfd it;
    CHECK_INT(LMStartService("to-be-stopped", CFRunLoopGetCurrent(), count_calls), 0);
    CHECK_INT(CFRunLoopRunInMode(kCFRunLoopDefaultMode, 0, false), kCFRunLoopRunTimedOut);
    CHECK_INT(pthread_create(&thread, NULL, expect_that_it_stops, NULL), 0);
    it.fd = LMRunLoopGetDescriptor(CFRunLoopGetCurrent());
    it.events = POLLIN;
    CHECK_INT(poll(&it, 1, 60000), 1);
    CHECK_INT(LMStopService("to-be-stopped"), 0);
    pthread_join(thread, NULL);
    CFRunLoopRun();
}

static void *call_polled(void *name) {
    next_id = 1;
    call_own(name);
    call_own(name);
    return NULL;
}

static void services_are_guests_on_a_loop_that_polls(void) {
    char name[] = "polled";
    pthread_t thread;
    struct pollfd it;
    int handled = 0;
    CHECK_INT(LMRunLoopGetDescriptor((CFRunLoopRef)(uintptr_t)0x123456), -1);
    it.fd = LMRunLoopGetDescriptor(CFRunLoopGetCurrent());
    it.events = POLLIN;
    CHECK(it.fd >= 0);
    CHECK_INT(LMStartService(name, CFRunLoopGetCurrent(), count_calls), 0);
    CHECK_INT(LMRunLoopDispatch(), 0);
    CHECK_INT(poll(&it, 1, 0), 0);
    CHECK_INT(pthread_create(&thread, NULL, call_polled, name), 0);
    while (handled < 2) {
        int some;
        CHECK_INT(poll(&it, 1, 60000), 1);
        some = LMRunLoopDispatch();
        CHECK(some >= 0);
        handled += some;
    }
    pthread_join(thread, NULL);
    CHECK_INT(LMStopService(name), 0);
}

static void *add_to_main(void *name) {
    CHECK_INT(LMStartService((const char *)name, CFRunLoopGetMain(), count_calls), 0);
    next_id = 99;
    call_own(name);
    return NULL;
}

static void another_thread_adds_a_service_to_the_main_threads_loop(void) {
    pthread_t thread;
    char first[] = "main-first", second[] = "main-second";
    CHECK_INT(LMStartService(first, CFRunLoopGetMain(), count_calls), 0);
    CHECK(CFRunLoopGetMain() == CFRunLoopGetCurrent());
    CHECK_INT(pthread_create(&thread, NULL, add_to_main, second), 0);
    CHECK_INT(CFRunLoopRunInMode(kCFRunLoopDefaultMode, 60, false), kCFRunLoopRunStopped);
    pthread_join(thread, NULL);
    CHECK_INT(LMStopService(first), 0);
    CHECK_INT(LMStopService(second), 0);
    CFRunLoopRun();
}

static void *serve_for_a_while(void *name) {
    CHECK_INT(LMStartService((const char *)name, CFRunLoopGetCurrent(), count_calls), 0);
    CHECK(CFRunLoopGetCurrent() != CFRunLoopGetMain());
    CFRunLoopRun();
    return CFRunLoopGetCurrent();
}

static void a_thread_that_ends_takes_its_services_along(void) {
    pthread_t thread;
    void *loop = NULL;
    char name[] = "of-a-thread";
    LMConnection connection = {MACH_PORT_NULL, "of-a-thread"};
    int before = 0, i;
    for (i = 0; i < 10; i++) {
        CHECK_INT(pthread_create(&thread, NULL, serve_for_a_while, name), 0);
        while (!LMConnectionIsAlive(&connection)) {
            usleep(1000);
        }
        next_id = 99;
        call_own(name);
        pthread_join(thread, &loop);
        CHECK_INT(LMConnectionSendEmptyOneWay(&connection, 1), BOOTSTRAP_UNKNOWN_SERVICE);
        /* Its loop is a number that leads nowhere now. */
        CFRunLoopStop((CFRunLoopRef)loop);
        CHECK_INT(LMStartService(name, (CFRunLoopRef)loop, count_calls), KERN_INVALID_ARGUMENT);
        if (i == 5) {
            before = descriptors();
        }
    }
    CHECK_INT(descriptors(), before);
}

static void a_forked_child_connects_anew(void) {
    LMResponseBuffer buffer;
    int32_t number = 4, status = 0;
    pid_t child;
    CHECK_INT(LMConnectionSendTwoWay(&server, DOUBLE, &number, 4, &buffer), 0);
    CHECK_INT(LMStartService("parents", CFRunLoopGetCurrent(), count_calls), 0);
    child = fork();
    if (child == 0) {
        CHECK_INT(LMConnectionSendTwoWay(&server, DOUBLE, &number, 4, &buffer), 0);
        CHECK_INT(LMResponseConsumeInteger(&buffer), 8);
        /* It has none of its parent's services, and can have its own. */
        CFRunLoopRun();
        CHECK_INT(LMStopService("parents"), BOOTSTRAP_UNKNOWN_SERVICE);
        CHECK_INT(LMStartService("childs", CFRunLoopGetMain(), count_calls), 0);
        CHECK_INT(CFRunLoopRunInMode(kCFRunLoopDefaultMode, 0.001, false), kCFRunLoopRunTimedOut);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_INT(status, 0);
    CHECK_INT(LMStartService("parents", CFRunLoopGetCurrent(), count_calls), BOOTSTRAP_NAME_IN_USE);
    CHECK_INT(LMStopService("parents"), 0);
    CFRunLoopRun();
}

/* --- data --- */

static void cf_data_is_counted_and_a_release_too_many_is_harmless(void) {
    unsigned char *own = (unsigned char *)malloc(10);
    CFDataRef data = CFDataCreate(kCFAllocatorDefault, payload, 100);
    CHECK_INT(CFDataGetLength(data), 100);
    CHECK(is_filled(CFDataGetBytePtr(data), 100));
    CHECK(CFDataGetBytePtr(data) != payload);
    CFRetain(data);
    CFRelease(data);
    CHECK_INT(CFDataGetLength(data), 100);
    CFRelease(data);
    CHECK_INT(CFDataGetLength(data), 0);
    CFRelease(data);
    data = CFDataCreateWithBytesNoCopy(kCFAllocatorDefault, payload, 100, kCFAllocatorNull);
    CHECK(CFDataGetBytePtr(data) == payload);
    CFRelease(data);
    memset(own, 1, 10);
    data = CFDataCreateWithBytesNoCopy(kCFAllocatorDefault, own, 10, kCFAllocatorDefault);
    CHECK(CFDataGetBytePtr(data) == own);
    CFRelease(data);
    data = CFDataCreate(kCFAllocatorDefault, NULL, 0);
    CHECK_INT(CFDataGetLength(data), 0);
    CFRelease(data);
    CFRelease(CFRunLoopGetCurrent());
    CHECK(CFRunLoopGetCurrent() == CFRunLoopGetCurrent());
}

/* --- images --- */

static void images_go_there_and_back(void) {
    static const uint32_t sides[] = {1, 2, 30, 31, 200};
    size_t i;
    for
        EACH(i, sides) {
            LMResponseBuffer buffer;
            LMImage image;
            uint32_t side = sides[i], length = 64 + side * (side * 4 + 4);
            unsigned char *bytes = (unsigned char *)calloc(1, length);
            LMImageHeader header;
            memset(&header, 0, sizeof(header));
            header.width = header.height = side;
            header.bitsPerComponent = 8;
            header.bitsPerPixel = 32;
            header.bytesPerRow = side * 4 + 4;
            header.bitmapInfo = LM_ALPHA_LAST | LM_ORDER_32_BIG;
            header.scale = 2;
            header.orientation = 3;
            memcpy(bytes, &header, sizeof(header));
            fill(bytes + 64, length - 64);
            CHECK_INT(LMConnectionSendTwoWay(&server, ECHO, bytes, length, &buffer), 0);
            CHECK(LMResponseTakeImage(&buffer, &image));
            CHECK_INT(image.width, side);
            CHECK_INT(image.height, side);
            CHECK_INT(image.bytesPerRow, side * 4 + 4);
            CHECK_INT(image.orientation, 3);
            CHECK_INT((int)image.scale, 2);
            CHECK(is_filled(image.pixels, length - 64));
            LMResponseBufferFree(&buffer);
            memset(image.pixels, 0, length - 64);
            LMImageFree(&image);
            CHECK(image.pixels == NULL);
            LMImageFree(&image);
            free(bytes);
        }
}

static void garbage_is_no_image(void) {
    unsigned char bytes[400];
    uint32_t length;
    LMImageHeader header;
    LMImage image;
    size_t field;
    static const uint32_t wrong[][2] = {{0, 0},  {0, 9},    {4, 0},  {4, 9},  {8, 0},
                                        {8, 33}, {12, 0},   {12, 7}, {12, 129}, {16, 31},
                                        {16, 33}, {16, 0xffffffff}, {24, 0}, {24, 0x7f800000},
                                        {24, 0x7fc00000}, {24, 0xbf800000}, {28, 8}};
    fill(bytes, sizeof(bytes));
    for (length = 0; length <= 400; length++) {
        LMResponseBuffer buffer;
        CHECK_INT(LMConnectionSendTwoWay(&server, ECHO, bytes, length, &buffer), 0);
        CHECK(!LMResponseTakeImage(&buffer, &image));
        CHECK(image.pixels == NULL && image.width == 0);
    }
    memset(&header, 0, sizeof(header));
    header.width = header.height = 8;
    header.bitsPerComponent = 8;
    header.bitsPerPixel = 32;
    header.bytesPerRow = 32;
    header.scale = 1;
    memset(bytes, 0, sizeof(bytes));
    memcpy(bytes, &header, sizeof(header));
    CHECK(lm_image_parse(bytes, 64 + 256, &image));
    for
        EACH(field, wrong) {
            memcpy(bytes, &header, sizeof(header));
            memcpy(bytes + wrong[field][0], &wrong[field][1], 4);
            CHECK(!lm_image_parse(bytes, 64 + 256, &image));
        }
    /* Every length but the right one. */
    memcpy(bytes, &header, sizeof(header));
    for (length = 0; length <= 400; length++) {
        CHECK_INT(lm_image_parse(bytes, length, &image), length == 64 + 256);
    }
}

static void pixels_become_what_cairo_shows(void) {
    /* One pixel in each form: red 200, green 100, blue 50, alpha 128 (or opaque). */
    static const struct {
        uint32_t bits, info;
        unsigned char bytes[4];
        uint32_t unit;
    } forms[] = {
        {32, LM_ALPHA_LAST | LM_ORDER_32_BIG, {200, 100, 50, 128}, 0x80643219},
        {32, LM_ALPHA_LAST, {200, 100, 50, 128}, 0x80643219},
        {32, LM_ALPHA_FIRST, {128, 200, 100, 50}, 0x80643219},
        {32, LM_ALPHA_FIRST | LM_ORDER_32_LITTLE, {50, 100, 200, 128}, 0x80643219},
        {32, LM_ALPHA_LAST | LM_ORDER_32_LITTLE, {128, 50, 100, 200}, 0x80643219},
        {32, LM_ALPHA_PREMULTIPLIED_LAST, {100, 50, 25, 128}, 0x80643219},
        {32, LM_ALPHA_PREMULTIPLIED_FIRST | LM_ORDER_32_LITTLE, {25, 50, 100, 128}, 0x80643219},
        {32, LM_ALPHA_NONE_SKIP_LAST, {200, 100, 50, 1}, 0xffc86432},
        {32, LM_ALPHA_NONE_SKIP_FIRST | LM_ORDER_32_LITTLE, {50, 100, 200, 1}, 0xffc86432},
        {24, LM_ALPHA_NONE, {200, 100, 50, 0}, 0xffc86432},
        {8, LM_ALPHA_NONE, {77, 0, 0, 0}, 0xff4d4d4d},
    };
    size_t i;
    for
        EACH(i, forms) {
            LMImage image;
            uint32_t unit;
            memset(&image, 0, sizeof(image));
            CHECK(lm_memory_make(68, &image.memory));
            image.width = image.height = 1;
            image.bitsPerComponent = 8;
            image.bitsPerPixel = forms[i].bits;
            image.bytesPerRow = 4;
            image.bitmapInfo = forms[i].info;
            image.pixels = (unsigned char *)(uintptr_t)image.memory.data + 64;
            memcpy(image.pixels, forms[i].bytes, 4);
            CHECK(lm_image_convert(&image));
            memcpy(&unit, image.pixels, 4);
            CHECK_INT(unit, forms[i].unit);
            CHECK_INT(image.bitsPerPixel, 32);
            LMImageFree(&image);
        }
}

/* --- in bulk --- */

static void ten_thousand_large_requests_leave_memory_and_descriptors_as_they_were(void) {
    long memory = 0;
    int i, before = 0;
    for (i = 0; i < 10000; i++) {
        LMResponseBuffer buffer;
        uint32_t length = 4097 + (uint32_t)(i % 100) * 600;
        CHECK_INT(LMConnectionSendTwoWay(&server, ECHO, payload, length, &buffer), 0);
        CHECK_INT(LMMessageGetDataLength(&buffer.message), length);
        LMResponseBufferFree(&buffer);
        if (i == 1000) {
            memory = memory_in_use();
            before = descriptors();
        }
    }
    CHECK_INT(descriptors(), before);
    /* Not a page a message; an allocator may still keep a little. */
    CHECK(memory_in_use() - memory < 2 << 20);
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
#define CASE(name) {#name, name}
    CASE(up_to_4096_bytes_travel_inline_and_more_out_of_line),
    CASE(an_empty_message_is_a_whole_message),
    CASE(any_message_id_arrives),
    CASE(a_message_is_built_by_hand),
    CASE(only_whole_messages_are_valid),
    CASE(the_memory_of_a_response_is_private_and_may_be_written),
    CASE(a_string_is_terminated_in_place),
    CASE(nothing_but_the_payload_leaves_the_process),
    CASE(a_response_may_be_freed_twice_and_as_a_copy),
    CASE(a_request_may_be_freed_or_not),
    CASE(data_may_be_taken_over),
    CASE(a_reply_may_be_read_in_place),
    CASE(messages_are_filled_where_they_are_read),
    CASE(memory_that_was_allocated_is_sent_or_released_once),
    CASE(a_forked_child_has_none_of_its_parents_memory),
    CASE(after_an_error_the_response_is_empty),
    CASE(one_way_messages_arrive_in_order_and_are_counted),
    CASE(the_return_values_differ_as_they_did),
    CASE(nothing_is_sent_as_an_empty_message),
    CASE(garbage_in_a_connection_means_look_it_up),
    CASE(a_bad_name_is_an_error),
    CASE(a_connection_is_shared_by_threads),
    CASE(a_fresh_connection_for_every_call_leaks_nothing),
    CASE(a_name_is_looked_up_without_sending),
    CASE(a_look_up_says_why_it_failed),
    CASE(a_reply_to_nobody_does_nothing),
    CASE(a_reply_may_come_later_from_another_thread),
    CASE(a_second_reply_is_an_error),
    CASE(of_two_threads_that_reply_one_wins),
    CASE(a_request_that_is_dropped_is_an_error),
    CASE(integers_are_exactly_four_bytes),
    CASE(a_request_says_who_sent_it),
    CASE(a_run_loop_without_services_returns_at_once),
    CASE(a_service_is_started_stopped_and_started_again),
    CASE(replies_that_a_stopped_service_owes_to_nobody_are_forgotten),
    CASE(a_failed_start_leaves_nothing),
    CASE(calling_ones_own_service_is_an_error_and_no_deadlock),
    CASE(requests_may_be_read_in_place),
    CASE(callers_are_told_when_a_service_stops_that_nobody_runs),
    CASE(services_are_guests_on_a_loop_that_polls),
    CASE(another_thread_adds_a_service_to_the_main_threads_loop),
    CASE(a_thread_that_ends_takes_its_services_along),
    CASE(a_forked_child_connects_anew),
    CASE(cf_data_is_counted_and_a_release_too_many_is_harmless),
    CASE(images_go_there_and_back),
    CASE(garbage_is_no_image),
    CASE(pixels_become_what_cairo_shows),
    CASE(ten_thousand_large_requests_leave_memory_and_descriptors_as_they_were),
};

int main(int argc, char **argv) {
    size_t i;
    int ran = 0, at;
    bool all = argc > 1 && strcmp(argv[1], "all") == 0;
    fill(payload, sizeof(payload));
    for (at = 1; at < argc; at++) {
        for
            EACH(i, cases) {
                if (all || strcmp(argv[at], cases[i].name) == 0) {
                    cases[i].run();
                    printf("ok %s\n", cases[i].name);
                    fflush(stdout);
                    ran++;
                }
            }
    }
    return ran ? 0 : 2;
}
