/* A service that answers a dictionary with a dictionary, and its client, with libplist.
 *
 *     cc property_list_service.c $(pkg-config --cflags --libs lightmessaging libplist-2.0) \
 *         -o property_list_service
 *     ./property_list_service serve &
 *     ./property_list_service ask Ada
 *
 * property_list_service.m is the same in Objective-C: each understands the other.
 */
#include <stdio.h>
#include <stdlib.h>

/* Before LightMessaging.h, which then speaks of plist_t. */
#include <plist/plist.h>

#include <LightMessaging/LightMessaging.h>

#define SERVICE "net.example.greeter"
#define GREET 1 /* a message id, of the program's choice */

static uint64_t visitors;

/* Asked {name: "Ada"}, it answers {greeting: "Hello, Ada!", visitor: 1}. */
static void answer(CFMachPortRef port, void *message, CFIndex size, void *info) {
    LMMessage *request = (LMMessage *)message;
    mach_port_t reply = LMMessageGetReplyPort(request);
    /* The bytes stay the message's. */
    CFDataRef data = CFDataCreateWithBytesNoCopy(kCFAllocatorDefault,
                                                 (const UInt8 *)LMMessageGetData(request),
                                                 LMMessageGetDataLength(request), kCFAllocatorNull);
    plist_t question = LMPropertyListForData(data), answered = NULL;
    /* NULL if it is no dictionary, or has no name in it. */
    plist_t name = plist_dict_get_item(question, "name");
    const char *text = name ? plist_get_string_ptr(name, NULL) : NULL;
    (void)port;
    (void)size;
    (void)info;
    if (request->head.msgh_id == GREET && text) {
        char greeting[256];
        snprintf(greeting, sizeof(greeting), "Hello, %.200s!", text);
        answered = plist_new_dict();
        plist_dict_set_item(answered, "greeting", plist_new_string(greeting));
        plist_dict_set_item(answered, "visitor", plist_new_uint(++visitors));
    }
    /* Always answer: NULL is an empty message. */
    LMSendPropertyListReply(reply, answered);
    plist_free(answered);
    plist_free(question);
    CFRelease(data);
}

static int serve(void) {
    kern_return_t code = LMStartService(SERVICE, CFRunLoopGetCurrent(), answer);
    if (code) {
        fprintf(stderr, "%s\n", LMLastError());
        return 1;
    }
    CFRunLoopRun();
    return 0;
}

static int ask(const char *name) {
    LMConnection connection = {MACH_PORT_NULL, SERVICE};
    LMResponseBuffer buffer;
    kern_return_t code;
    plist_t question = plist_new_dict(), answered, greeting, visitor;
    uint64_t number = 0;
    plist_dict_set_item(question, "name", plist_new_string(name));
    code = LMConnectionSendTwoWayPropertyList(&connection, GREET, question, &buffer);
    plist_free(question);
    if (code) {
        fprintf(stderr, "%s\n", LMLastError());
        return 1;
    }
    /* This frees the buffer, too. */
    answered = LMResponseConsumePropertyList(&buffer);
    greeting = plist_dict_get_item(answered, "greeting");
    visitor = plist_dict_get_item(answered, "visitor");
    if (!greeting || !visitor || !plist_get_string_ptr(greeting, NULL)) {
        fprintf(stderr, "the service did not understand\n");
        plist_free(answered);
        return 1;
    }
    plist_get_uint_val(visitor, &number);
    printf("%s You are visitor %llu.\n", plist_get_string_ptr(greeting, NULL),
           (unsigned long long)number);
    plist_free(answered);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "serve") == 0) {
        return serve();
    }
    if (argc == 3 && strcmp(argv[1], "ask") == 0) {
        return ask(argv[2]);
    }
    fprintf(stderr, "usage: %s serve | ask NAME\n", argv[0]);
    return 2;
}
