/*
 * The Mach names that programs written for LightMessaging use, for systems without Mach.
 *
 * A port is a number that the library gave out. There is one task, this process, and the ports of
 * bootstrap servers and of tasks are only there to be passed on. The sizes and offsets of the
 * message structures are those of 64-bit Darwin. Facts from mach/message.h, mach/kern_return.h and
 * servers/bootstrap.h.
 */
#ifndef LIGHTMESSAGING_COMPAT_MACH_H
#define LIGHTMESSAGING_COMPAT_MACH_H

#ifdef __APPLE__
#error "LightMessaging's compatibility headers are for systems without Mach"
#endif

#if defined(__GNUC__)
#pragma GCC system_header
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <LightMessaging/lm.h>

typedef uint32_t natural_t;
typedef int32_t integer_t;
typedef int boolean_t;
typedef natural_t mach_port_name_t;
typedef mach_port_name_t mach_port_t;
typedef mach_port_t task_t;
typedef mach_port_t ipc_space_t;
typedef natural_t mach_port_right_t;
typedef natural_t mach_port_type_t;
typedef integer_t mach_port_delta_t;
typedef int kern_return_t;
typedef kern_return_t mach_error_t;
typedef kern_return_t mach_msg_return_t;
typedef unsigned int mach_msg_bits_t;
typedef natural_t mach_msg_size_t;
typedef integer_t mach_msg_id_t;
typedef integer_t mach_msg_option_t;
typedef natural_t mach_msg_timeout_t;
typedef unsigned int mach_msg_type_name_t;
typedef unsigned int mach_msg_copy_options_t;
typedef unsigned int mach_msg_descriptor_type_t;
typedef unsigned int mach_msg_trailer_type_t;
typedef natural_t mach_msg_trailer_size_t;
typedef natural_t mach_port_seqno_t;
typedef uintptr_t vm_address_t;
typedef uintptr_t vm_size_t;
typedef char name_t[128];

#ifndef TRUE
#define TRUE 1
#endif
#ifndef FALSE
#define FALSE 0
#endif

#define MACH_PORT_NULL ((mach_port_t)0)
#define MACH_PORT_DEAD ((mach_port_t)~0u)
#define MACH_PORT_VALID(port) ((port) != MACH_PORT_NULL && (port) != MACH_PORT_DEAD)
#define TASK_NULL ((task_t)0)

#define MACH_PORT_RIGHT_SEND ((mach_port_right_t)0)
#define MACH_PORT_RIGHT_RECEIVE ((mach_port_right_t)1)
#define MACH_PORT_RIGHT_SEND_ONCE ((mach_port_right_t)2)

/* kern_return_t */
#define KERN_SUCCESS 0
#define KERN_INVALID_ADDRESS 1
#define KERN_PROTECTION_FAILURE 2
#define KERN_NO_SPACE 3
#define KERN_INVALID_ARGUMENT 4
#define KERN_FAILURE 5
#define KERN_RESOURCE_SHORTAGE 6
#define KERN_NO_ACCESS 8
#define KERN_INVALID_NAME 15
#define KERN_INVALID_TASK 16
#define KERN_INVALID_RIGHT 17
#define KERN_INVALID_VALUE 18

/* mach_msg_return_t: MACH_SEND_* was not delivered, MACH_RCV_* was */
#define MACH_MSG_SUCCESS 0x00000000
#define MACH_SEND_INVALID_DATA 0x10000002
#define MACH_SEND_INVALID_DEST 0x10000003
#define MACH_SEND_TIMED_OUT 0x10000004
#define MACH_SEND_INTERRUPTED 0x10000007
#define MACH_SEND_MSG_TOO_SMALL 0x10000008
#define MACH_SEND_INVALID_REPLY 0x10000009
#define MACH_SEND_INVALID_RIGHT 0x1000000a
#define MACH_SEND_NO_BUFFER 0x1000000d
#define MACH_SEND_TOO_LARGE 0x1000000e
#define MACH_RCV_INVALID_NAME 0x10004002
#define MACH_RCV_TIMED_OUT 0x10004003
#define MACH_RCV_TOO_LARGE 0x10004004
#define MACH_RCV_INTERRUPTED 0x10004005
#define MACH_RCV_PORT_CHANGED 0x10004006
#define MACH_RCV_INVALID_DATA 0x10004008
#define MACH_RCV_PORT_DIED 0x10004009

/* servers/bootstrap.h */
#define BOOTSTRAP_SUCCESS 0
#define BOOTSTRAP_NOT_PRIVILEGED 1100
#define BOOTSTRAP_NAME_IN_USE 1101
#define BOOTSTRAP_UNKNOWN_SERVICE 1102
#define BOOTSTRAP_SERVICE_ACTIVE 1103
#define BOOTSTRAP_BAD_COUNT 1104
#define BOOTSTRAP_NO_MEMORY 1105
#define BOOTSTRAP_MAX_NAME_LEN 128

#define MACH_MSG_TIMEOUT_NONE ((mach_msg_timeout_t)0)

#define MACH_MSGH_BITS_REMOTE_MASK 0x0000001fu
#define MACH_MSGH_BITS_LOCAL_MASK 0x00001f00u
#define MACH_MSGH_BITS_COMPLEX 0x80000000u
#define MACH_MSGH_BITS(remote, local) ((mach_msg_bits_t)((remote) | ((local) << 8)))
#define MACH_MSGH_BITS_REMOTE(bits) ((bits) & MACH_MSGH_BITS_REMOTE_MASK)
#define MACH_MSGH_BITS_LOCAL(bits) (((bits) & MACH_MSGH_BITS_LOCAL_MASK) >> 8)

#define MACH_MSG_TYPE_MOVE_RECEIVE 16
#define MACH_MSG_TYPE_MOVE_SEND 17
#define MACH_MSG_TYPE_MOVE_SEND_ONCE 18
#define MACH_MSG_TYPE_COPY_SEND 19
#define MACH_MSG_TYPE_MAKE_SEND 20
#define MACH_MSG_TYPE_MAKE_SEND_ONCE 21

#define MACH_MSG_PHYSICAL_COPY 0
#define MACH_MSG_VIRTUAL_COPY 1
#define MACH_MSG_PORT_DESCRIPTOR 0
#define MACH_MSG_OOL_DESCRIPTOR 1

#pragma pack(push, 4)

typedef struct {
    mach_msg_bits_t msgh_bits;
    mach_msg_size_t msgh_size;
    mach_port_t msgh_remote_port;
    mach_port_t msgh_local_port;
    mach_port_name_t msgh_voucher_port; /* the library's token of an out-of-line payload */
    mach_msg_id_t msgh_id;
} mach_msg_header_t;
#define msgh_reserved msgh_voucher_port

typedef struct {
    mach_msg_size_t msgh_descriptor_count;
} mach_msg_body_t;

typedef struct {
    void *address;
#if UINTPTR_MAX == 0xffffffffu
    uint32_t pad_to_64_bit;
#endif
    boolean_t deallocate : 8;
    mach_msg_copy_options_t copy : 8;
    unsigned int pad1 : 8;
    mach_msg_descriptor_type_t type : 8;
    mach_msg_size_t size;
} mach_msg_ool_descriptor_t;

typedef struct {
    unsigned int val[2];
} security_token_t;

typedef struct {
    unsigned int val[8];
} audit_token_t;

typedef struct {
    mach_msg_trailer_type_t msgh_trailer_type;
    mach_msg_trailer_size_t msgh_trailer_size;
} mach_msg_trailer_t;

/* Behind every request, at round_msg(msgh_size): who sent it. Behind a reply there is only a
 * mach_msg_trailer_t. */
typedef struct {
    mach_msg_trailer_type_t msgh_trailer_type;
    mach_msg_trailer_size_t msgh_trailer_size;
    mach_port_seqno_t msgh_seqno;
    security_token_t msgh_sender; /* user, group */
    audit_token_t msgh_audit;
} mach_msg_audit_trailer_t;

typedef struct {
    mach_msg_trailer_type_t msgh_trailer_type;
    mach_msg_trailer_size_t msgh_trailer_size;
    mach_port_seqno_t msgh_seqno;
    security_token_t msgh_sender;
    audit_token_t msgh_audit;
    unsigned int msgh_reserved_for_context[4];
} mach_msg_max_trailer_t;

#pragma pack(pop)

#define MACH_MSG_TRAILER_FORMAT_0 0
#define MAX_TRAILER_SIZE ((mach_msg_size_t)sizeof(mach_msg_max_trailer_t))
#define round_msg(size) (((mach_msg_size_t)(size) + 3u) & ~3u)

/* The one task there is. */
static inline mach_port_t mach_task_self(void) {
    return (mach_port_t)0x103;
}

/* An error in words; every code of this library and of the tables above is known. */
static inline char *mach_error_string(mach_error_t error) {
    return (char *)lm_error_string(error);
}

static inline const char *bootstrap_strerror(kern_return_t error) {
    return lm_error_string(error);
}

/* Lets go of a connection's port (`serverPort`), or gives up the right to reply, which the caller is
 * told. */
static inline kern_return_t mach_port_deallocate(ipc_space_t task, mach_port_name_t port) {
    (void)task;
    return lm_port_release(port);
}

static inline kern_return_t task_get_bootstrap_port(task_t task, mach_port_t *port) {
    (void)task;
    *port = (mach_port_t)0x107;
    return KERN_SUCCESS;
}

static inline kern_return_t bootstrap_look_up(mach_port_t bootstrap, const char *name,
                                              mach_port_t *port) {
    (void)bootstrap;
    return lm_look_up(name, port);
}

static inline unsigned int lm_audit_value(audit_token_t token, unsigned int index) {
    return token.val[index];
}

/* bsm/libbsm.h: what an audit token says of the sender */
#define audit_token_to_auid(token) ((uid_t)lm_audit_value((token), 0))
#define audit_token_to_euid(token) ((uid_t)lm_audit_value((token), 1))
#define audit_token_to_egid(token) ((gid_t)lm_audit_value((token), 2))
#define audit_token_to_ruid(token) ((uid_t)lm_audit_value((token), 3))
#define audit_token_to_rgid(token) ((gid_t)lm_audit_value((token), 4))
#define audit_token_to_pid(token) ((pid_t)lm_audit_value((token), 5))

#endif
