/* A service whose name existed before: check_in NAME DESCRIPTOR. It finishes its starter's work, which cannot
 * know its process id. */
#include <LightMessaging/LightMessaging.h>

#include "check.h"

#include <unistd.h>

static int count;
static const char *name;

static void callback(CFMachPortRef port, LMMessage *request, CFIndex size, void *info) {
    mach_port_t reply = request->head.msgh_remote_port;
    (void)port;
    (void)size;
    CHECK(info == &count);
    if (request->head.msgh_id == LOG) {
        count++;
    } else if (request->head.msgh_id == COUNT) {
        LMSendIntegerReply(reply, count);
    } else if (request->head.msgh_id == STOP) {
        CHECK_INT(LMStopService(name), 0);
        LMSendReply(reply, "stopped", 8);
    } else {
        LMSendReply(reply, LMMessageGetData(request), LMMessageGetDataLength(request));
    }
}

int main(int argc, char **argv) {
    char pid[32];
    CHECK(argc > 2);
    CHECK_INT(dup2(atoi(argv[2]), 3), 3);
    snprintf(pid, sizeof(pid), "%d", (int)getpid());
    setenv("LISTEN_PID", pid, 1);
    name = argv[1];
    for (;;) {
        CHECK_INT(LMCheckInService(name, CFRunLoopGetCurrent(), (CFMachPortCallBack)callback, &count),
                  0);
        CHECK_INT(LMCheckInService(name, CFRunLoopGetCurrent(), (CFMachPortCallBack)callback, NULL),
                  BOOTSTRAP_NAME_IN_USE);
        puts("ready");
        fflush(stdout);
        CFRunLoopRun();
        puts("stopped");
        fflush(stdout);
    }
}
