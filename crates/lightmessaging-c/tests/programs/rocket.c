/* A service that starts and unlocks its names as it is told, a line at a time, and prints the code:
 *   start NAME | check-in NAME | in-place NAME | info NAME | take-over NAME | stop NAME
 *   port NAME                    starts it with lm_start(), and keeps its port
 *   unlock NAME | unlock nothing | unlock none
 *   register NAME                with the port that was kept
 *   look-up NAME
 *   flood COUNT                  unlocks so many names; prints how many that worked for
 * It serves between two lines only, so that what it does to itself it does before its loop hears of it.
 */
#include <LightMessaging/LightMessaging.h>
#include <LightMessaging/compat/rocketbootstrap.h>

#include "check.h"

#include <poll.h>
#include <string.h>
#include <unistd.h>

static mach_port_t port;

static const char *or_none(const char *text) {
    return text ? text : "none";
}

static void callback(CFMachPortRef its, LMMessage *request, CFIndex size, void *info) {
    mach_port_t reply = LMMessageGetReplyPort(request);
    (void)its;
    (void)size;
    (void)info;
    if (request->head.msgh_id == INTRODUCTION) {
        LMIntroduction said, again, other;
        LMMessage copy = *request;
        char text[1200];
        bool introduced = LMRequestGetIntroduction(request, &said);
        CHECK(LMRequestGetIntroduction(request, &again) == introduced);
        CHECK(memcmp(&said, &again, sizeof(said)) == 0);
        CHECK(LMRequestGetIntroduction(request, NULL) == introduced);
        /* Only the request itself tells. */
        memset(&other, 0x55, sizeof(other));
        CHECK(!LMRequestGetIntroduction(&copy, &other));
        CHECK(!other.application && !other.cgroup && !other.label);
        snprintf(text, sizeof(text), "%s %s %s %s", introduced ? "introduced" : "direct",
                 or_none(said.application), or_none(said.cgroup), or_none(said.label));
        LMSendReply(reply, text, strlen(text) + 1);
    } else {
        LMSendReply(reply, LMMessageGetData(request), LMMessageGetDataLength(request));
    }
}

static int flood(int count) {
    int i, unlocked = 0;
    for (i = 0; i < count; i++) {
        char name[32];
        snprintf(name, sizeof(name), "flood-%d", i);
        unlocked += rocketbootstrap_unlock(name) == 0;
    }
    return unlocked;
}

static int act(const char *verb, const char *name) {
    CFRunLoopRef loop = CFRunLoopGetCurrent();
    CFMachPortCallBack call = (CFMachPortCallBack)callback;
    if (strcmp(verb, "start") == 0) {
        return LMStartService(name, loop, call);
    } else if (strcmp(verb, "info") == 0) {
        return LMStartServiceWithUserInfo(name, loop, call, &port);
    } else if (strcmp(verb, "in-place") == 0) {
        return LMStartServiceInPlace(name, loop, call, NULL);
    } else if (strcmp(verb, "check-in") == 0) {
        return LMCheckInService(name, loop, call, NULL);
    } else if (strcmp(verb, "take-over") == 0) {
        return LMTakeOverService(name, loop, call, NULL);
    } else if (strcmp(verb, "stop") == 0) {
        return LMStopService(name);
    } else if (strcmp(verb, "port") == 0) {
        return lm_start(name, NULL, (lm_callback)call, NULL, 0, &port);
    } else if (strcmp(verb, "unlock") == 0) {
        return rocketbootstrap_unlock(strcmp(name, "nothing") == 0 ? NULL
                                      : strcmp(name, "none") == 0  ? ""
                                                                   : name);
    } else if (strcmp(verb, "register") == 0) {
        return rocketbootstrap_register(MACH_PORT_NULL, name, port);
    } else if (strcmp(verb, "look-up") == 0) {
        mach_port_t found = MACH_PORT_NULL;
        kern_return_t code = rocketbootstrap_look_up(MACH_PORT_NULL, name, &found);
        CHECK(MACH_PORT_VALID(found) == (code == 0));
        CHECK_INT(mach_port_deallocate(mach_task_self(), found), 0);
        return code;
    } else {
        CHECK(strcmp(verb, "flood") == 0);
        return flood(atoi(name));
    }
}

int main(void) {
    char line[256], verb[16], name[160];
    struct pollfd ready[2];
    ready[0].fd = LMRunLoopGetDescriptor(CFRunLoopGetCurrent());
    ready[0].events = POLLIN;
    ready[1].fd = STDIN_FILENO;
    ready[1].events = POLLIN;
    puts("ready");
    fflush(stdout);
    while (poll(ready, 2, -1) > 0) {
        if (ready[0].revents) {
            CHECK(LMRunLoopDispatch() >= 0);
        }
        if (ready[1].revents) {
            if (!fgets(line, sizeof(line), stdin)) {
                return 0;
            }
            CHECK_INT(sscanf(line, "%15s %159s", verb, name), 2);
            printf("%#x\n", (unsigned)act(verb, name));
            fflush(stdout);
        }
    }
    return 1;
}
