/*
 * RocketBootstrap's names. rocketd is a daemon that may run or not; it is asked for names, and no
 * message goes through it. Processes that see the registry's folder need none of this: they find every
 * service of their user. Those that do not, as in a sandbox, are connected by rocketd to services whose
 * names are unlocked, as far as its policy lets them.
 *
 * LMStartService() and its kin unlock their names, unless LIGHTMESSAGING_USE_ROCKETBOOTSTRAP is 0.
 *
 * Out of scope are RocketBootstrap's helpers for CFMessagePort, CPDistributedMessagingCenter and XPC:
 * those are other ways to send messages, which are not here.
 */
#ifndef LIGHTMESSAGING_COMPAT_ROCKETBOOTSTRAP_H
#define LIGHTMESSAGING_COMPAT_ROCKETBOOTSTRAP_H

#if defined(__GNUC__)
#pragma GCC system_header
#endif

#include <LightMessaging/compat/mach.h>

/* Looks a service up, in the registry and then through rocketd, for a second at most, and gives a port
 * for it; mach_port_deallocate() it when done. */
static inline kern_return_t rocketbootstrap_look_up(mach_port_t bootstrap, const char *name,
                                                    mach_port_t *port) {
    (void)bootstrap;
    return lm_look_up(name, port);
}

/* Lets processes reach a service through rocketd that cannot look it up. It is for the service's own
 * process, before or after the start; or for another one of the same user, while the service runs. 0,
 * whether there is a rocketd or not; KERN_INVALID_ARGUMENT for NULL; KERN_INVALID_NAME for what is no
 * name; BOOTSTRAP_NOT_PRIVILEGED for somebody else's service. See lm_unlock(). */
static inline kern_return_t rocketbootstrap_unlock(const char *name) {
    return lm_unlock(name);
}

/* A service has its name since it was started, so there is nothing to register: the service of this port
 * is unlocked, if it was started in this process. KERN_INVALID_NAME if it was under another name. */
static inline kern_return_t rocketbootstrap_register(mach_port_t bootstrap, const char *name,
                                                     mach_port_t port) {
    (void)bootstrap;
    return lm_register(name, port);
}

#endif
