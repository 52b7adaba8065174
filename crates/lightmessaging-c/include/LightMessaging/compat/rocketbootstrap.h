/*
 * RocketBootstrap's names. A service is found by all processes of its user, unlocked or not, so
 * unlocking succeeds and changes nothing, and a look-up is a look-up.
 */
#ifndef LIGHTMESSAGING_COMPAT_ROCKETBOOTSTRAP_H
#define LIGHTMESSAGING_COMPAT_ROCKETBOOTSTRAP_H

#if defined(__GNUC__)
#pragma GCC system_header
#endif

#include <LightMessaging/compat/mach.h>

/* Looks a service up and gives a port for it; mach_port_deallocate() it when done. */
static inline kern_return_t rocketbootstrap_look_up(mach_port_t bootstrap, const char *name,
                                                    mach_port_t *port) {
    (void)bootstrap;
    return lm_look_up(name, port);
}

/* Lets processes reach a name that may not look services up. */
static inline kern_return_t rocketbootstrap_unlock(const char *name) {
    return name ? KERN_SUCCESS : KERN_INVALID_ARGUMENT;
}

/* A service has its name since it was started: there is nothing to register. */
static inline kern_return_t rocketbootstrap_register(mach_port_t bootstrap, const char *name,
                                                     mach_port_t port) {
    (void)bootstrap;
    return name && MACH_PORT_VALID(port) ? KERN_SUCCESS : KERN_INVALID_ARGUMENT;
}

#endif
