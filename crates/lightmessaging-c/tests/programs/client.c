/* A client that does as it is told, a line at a time:
 *   call NAME ID LENGTH TIMEOUT  prints the code and what came back
 *   within NAME ID LENGTH TIMEOUT  the same, with the timeout for this call only
 *   send NAME ID LENGTH          prints the code
 *   text NAME ID                 prints the reply as text
 *   alive NAME | peer NAME       prints whether, or who
 *   busy NAME                    calls on eight threads for a while; prints how many calls failed
 */
#include <LightMessaging/LightMessaging.h>

#include "check.h"

#include <pthread.h>
#include <string.h>

static LMConnection connections[8];
static unsigned char payload[1 << 22];

/* One connection per name, kept. */
static LMConnectionRef connect_to(const char *name) {
    int i;
    for (i = 0; i < 8; i++) {
        if (!connections[i].serverName[0]) {
            memcpy(connections[i].serverName, name, strlen(name) + 1);
        }
        if (strcmp(connections[i].serverName, name) == 0) {
            return &connections[i];
        }
    }
    abort();
}

static void *be_busy(void *connection) {
    intptr_t failed = 0;
    int i;
    for (i = 0; i < 500; i++) {
        LMResponseBuffer buffer;
        int32_t number = i;
        failed += LMConnectionSendTwoWay((LMConnectionRef)connection, DOUBLE, &number, 4, &buffer) ||
                  LMResponseConsumeInteger(&buffer) != i * 2;
    }
    return (void *)failed;
}

int main(void) {
    char line[256], verb[16], name[160];
    fill(payload, sizeof(payload));
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin)) {
        int id = 0;
        unsigned length = 0, timeout = 0;
        LMConnectionRef connection;
        LMResponseBuffer buffer;
        int fields = sscanf(line, "%15s %159s %d %u %u", verb, name, &id, &length, &timeout);
        CHECK(fields >= 2);
        connection = connect_to(name);
        if (strcmp(verb, "call") == 0) {
            kern_return_t code;
            if (fields == 5) {
                CHECK_INT(LMConnectionSetTimeout(connection, timeout), 0);
            }
            memset(&buffer, 0xa5, sizeof(buffer));
            code = LMConnectionSendTwoWay(connection, id, payload, length, &buffer);
            printf("%#x %u\n", (unsigned)code, LMMessageGetDataLength(&buffer.message));
            LMResponseBufferFree(&buffer);
        } else if (strcmp(verb, "within") == 0) {
            kern_return_t code = LMConnectionSendTwoWayWithTimeout(connection, id, payload, length,
                                                                   timeout, &buffer);
            printf("%#x %u\n", (unsigned)code, LMMessageGetDataLength(&buffer.message));
            LMResponseBufferFree(&buffer);
        } else if (strcmp(verb, "send") == 0) {
            printf("%#x\n", (unsigned)LMConnectionSendOneWay(connection, id, payload, length));
        } else if (strcmp(verb, "text") == 0) {
            kern_return_t code = LMConnectionSendTwoWay(connection, id, payload, length, &buffer);
            char *text = (char *)LMMessageGetData(&buffer.message);
            printf("%s\n", code ? LMErrorString(code) : text ? text : "nothing");
            LMResponseBufferFree(&buffer);
        } else if (strcmp(verb, "alive") == 0) {
            printf("%s\n", LMConnectionIsAlive(connection) ? "alive" : "dead");
        } else if (strcmp(verb, "peer") == 0) {
            LMPeer peer;
            kern_return_t code = LMConnectionGetPeer(connection, &peer);
            printf("%#x %d %u\n", (unsigned)code, code ? 0 : peer.pid, code ? 0 : peer.uid);
        } else if (strcmp(verb, "busy") == 0) {
            pthread_t threads[8];
            long failed = 0;
            for (id = 0; id < 8; id++) {
                pthread_create(&threads[id], NULL, be_busy, connection);
            }
            for (id = 0; id < 8; id++) {
                void *one;
                pthread_join(threads[id], &one);
                failed += (long)(intptr_t)one;
            }
            printf("%ld failed\n", failed);
        }
        fflush(stdout);
    }
    return 0;
}
