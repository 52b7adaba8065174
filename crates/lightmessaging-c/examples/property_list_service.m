/* A service that answers a dictionary with a dictionary, and its client, in Objective-C on GNUstep.
 *
 *     gcc property_list_service.m $(gnustep-config --objc-flags) \
 *         $(pkg-config --cflags --libs lightmessaging) $(gnustep-config --base-libs) \
 *         -o property_list_service
 *     ./property_list_service serve &
 *     ./property_list_service ask Ada
 *
 * property_list_service.c is the same in C: each understands the other.
 */
#include <stdio.h>

/* Before LightMessaging.h, which then speaks of objects. */
#import <Foundation/Foundation.h>
#import <LightMessaging/LightMessaging.h>

#define SERVICE "net.example.greeter"
#define GREET 1 /* a message id, of the program's choice */

static int visitors;

/* Asked {name: "Ada"}, it answers {greeting: "Hello, Ada!", visitor: 1}. */
static void answer(CFMachPortRef port, void *message, CFIndex size, void *info) {
    LMMessage *request = (LMMessage *)message;
    NSData *data = [NSData dataWithBytes:LMMessageGetData(request)
                                  length:LMMessageGetDataLength(request)];
    NSDictionary *question = LMPropertyListForData(data), *answered = nil;
    NSString *name = nil;
    (void)port;
    (void)size;
    (void)info;
    /* It comes from another process: it may be anything. */
    if ([question isKindOfClass:[NSDictionary class]]) {
        name = [question objectForKey:@"name"];
    }
    if (request->head.msgh_id == GREET && [name isKindOfClass:[NSString class]]) {
        visitors++;
        answered = [NSDictionary
            dictionaryWithObjectsAndKeys:[NSString stringWithFormat:@"Hello, %@!", name], @"greeting",
                                         [NSNumber numberWithInt:visitors], @"visitor", nil];
    }
    /* Always answer: nil is an empty message. */
    LMSendPropertyListReply(LMMessageGetReplyPort(request), answered);
}

static int serve(void) {
    kern_return_t code = LMStartService(SERVICE, CFRunLoopGetCurrent(), answer);
    if (code) {
        fprintf(stderr, "%s\n", LMLastError());
        return 1;
    }
    /* Foundation's loop: it serves timers and the program's other sources, too. */
    [[NSRunLoop currentRunLoop] run];
    return 0;
}

static int ask(const char *name) {
    LMConnection connection = {MACH_PORT_NULL, SERVICE};
    LMResponseBuffer buffer;
    NSDictionary *question = [NSDictionary dictionaryWithObject:[NSString stringWithUTF8String:name]
                                                         forKey:@"name"];
    NSDictionary *answered;
    kern_return_t code = LMConnectionSendTwoWayPropertyList(&connection, GREET, question, &buffer);
    if (code) {
        fprintf(stderr, "%s\n", LMLastError());
        return 1;
    }
    /* This frees the buffer, too. */
    answered = LMResponseConsumePropertyList(&buffer);
    if (![answered isKindOfClass:[NSDictionary class]]) {
        fprintf(stderr, "the service did not understand\n");
        return 1;
    }
    printf("%s You are visitor %d.\n", [[[answered objectForKey:@"greeting"] description] UTF8String],
           [[[answered objectForKey:@"visitor"] description] intValue]);
    return 0;
}

int main(int argc, char **argv) {
    NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
    int status = 2;
    if (argc == 2 && strcmp(argv[1], "serve") == 0) {
        status = serve();
    } else if (argc == 3 && strcmp(argv[1], "ask") == 0) {
        status = ask(argv[2]);
    } else {
        fprintf(stderr, "usage: %s serve | ask NAME\n", argv[0]);
    }
    [pool release];
    return status;
}
