/* A service in a loop that is the program's own: poll(2), here with the standard input besides. The
 * service answers with the last line that was typed.
 *
 *     cc poll_server.c $(pkg-config --cflags --libs lightmessaging) -o poll_server
 *     ./poll_server
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <LightMessaging/LightMessaging.h>

static char last[256] = "nothing yet", line[256];
static size_t line_length;
static int asked;

static void answer(CFMachPortRef port, void *message, CFIndex size, void *info) {
    LMMessage *request = (LMMessage *)message;
    (void)port;
    (void)size;
    (void)info;
    asked++;
    LMSendReply(LMMessageGetReplyPort(request), last, (uint32_t)strlen(last) + 1);
}

/* Takes what there is of the input; false at its end. */
static int read_input(void) {
    char bytes[256];
    ssize_t length = read(STDIN_FILENO, bytes, sizeof(bytes)), i;
    for (i = 0; i < length; i++) {
        if (bytes[i] == '\n') {
            line[line_length] = 0;
            line_length = 0;
            memcpy(last, line, sizeof(last));
            printf("typed: %s\n", last);
            fflush(stdout);
        } else if (line_length < sizeof(line) - 1) {
            line[line_length++] = bytes[i];
        }
    }
    return length > 0;
}

int main(void) {
    struct pollfd ready[2];
    CFRunLoopRef loop = CFRunLoopGetCurrent();
    kern_return_t code = LMStartService("net.example.typed", loop, answer);
    if (code) {
        fprintf(stderr, "%s\n", LMLastError());
        return 1;
    }
    /* One descriptor for all services of this thread. It stays the library's. */
    ready[0].fd = LMRunLoopGetDescriptor(loop);
    ready[0].events = POLLIN;
    ready[1].fd = STDIN_FILENO;
    ready[1].events = POLLIN;
    for (;;) {
        if (poll(ready, 2, -1) < 0) {
            if (errno == EINTR) {
                continue;
            }
            perror("poll");
            return 1;
        }
        if (ready[0].revents) {
            /* Never blocks; what is left after many messages makes poll() return at once. */
            if (LMRunLoopDispatch() < 0) {
                fprintf(stderr, "%s\n", LMLastError());
                return 1;
            }
        }
        if (ready[1].revents && !read_input()) {
            break;
        }
    }
    LMStopService("net.example.typed");
    printf("asked %d times\n", asked);
    return 0;
}
