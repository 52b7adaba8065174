/* The same work through the C header. */
#include <LightMessaging/LightMessaging.h>

#include <stdlib.h>

static LMConnection connection = {MACH_PORT_NULL, "bench"};

/* The registry folder from now on; what was connected before is forgotten. */
void bench_c_use(const char *folder) {
    setenv("LIGHTMESSAGING_DIR", folder, 1);
    mach_port_deallocate(mach_task_self(), connection.serverPort);
    connection.serverPort = MACH_PORT_NULL;
}

/* One call of 64 bytes; what the reply's last byte is, or -1. */
int bench_c_echo(int32_t id, const unsigned char *payload) {
    LMResponseBuffer buffer;
    int last = -1;
    if (LMConnectionSendTwoWay(&connection, id, payload, 64, &buffer) == 0 &&
        LMMessageGetDataLength(&buffer.message) == 64) {
        last = ((unsigned char *)LMMessageGetData(&buffer.message))[63];
    }
    LMResponseBufferFree(&buffer);
    return last;
}

static void echo(CFMachPortRef port, void *message, CFIndex size, void *info) {
    LMMessage *request = (LMMessage *)message;
    (void)port;
    (void)size;
    (void)info;
    LMSendReply(request->head.msgh_remote_port, LMMessageGetData(request),
                LMMessageGetDataLength(request));
}

/* Starts the service; 0 is success. */
int bench_c_start(void) {
    return LMStartService("bench", CFRunLoopGetCurrent(), echo);
}

void bench_c_run(void) {
    CFRunLoopRun();
}
