/*
 * The functions of the shared library. Programs use the names of <LightMessaging/LightMessaging.h>,
 * which are inline functions over these; they are here for other languages and for the compatibility
 * headers.
 *
 * Every function may be called from any thread. A `code` is a kern_return_t: 0 is success, and
 * lm_error_string() gives the others in words. A `port` is a number that this process was given; it
 * is checked on every use, so that a wrong one gives an error and nothing else. A payload is at most
 * 4 GiB - 1 bytes; one of more than 4096 bytes travels out of line. A timeout is in milliseconds and
 * covers all that a call does; 0 is none. What was set for a connection goes before it, unless it has
 * LM_TIMEOUT_EXACT besides.
 */
#ifndef LIGHTMESSAGING_LM_H
#define LIGHTMESSAGING_LM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LM_TIMEOUT_EXACT 0x80000000u

struct LMConnection;
struct LMMessage;
struct LMResponseBuffer;

/* Bytes that the library holds for the program until lm_view_release(). */
typedef struct LMView {
    const void *data;
    uint32_t length;
    uint32_t token; /* the library's; 0 in a view of nothing */
} LMView;

/* The process at the other end, in the kernel's word. */
typedef struct LMPeer {
    int32_t pid;  /* 0 if it lives in a process namespace that this one cannot see */
    uint32_t uid; /* its effective user */
    uint32_t gid; /* its effective group */
    int32_t pidfd; /* a handle that stays this process's own (pidfd_open(2)), or -1 */
} LMPeer;

/* What rocketd says of a client that came through it. NULL is what it does not know. */
typedef struct LMIntroduction {
    const char *application; /* the id of its Flatpak application (flatpak-metadata(5)) */
    const char *cgroup;      /* its control group, a path below the root (cgroups(7)) */
    const char *label;       /* its security label (proc_pid_attr(5)) */
} LMIntroduction;

/* What a service calls for each request: CFMachPortCallBack. It must return: not throw, not longjmp(3)
 * out of itself, not end its thread. */
typedef void (*lm_callback)(void *port, void *message, long size, void *info);

/* --- clients --- */

/* Sends a one-way message: it is in the service's queue when this returns. Blocks while the service
 * is looked up or its queue is full, until the timeout. `data` may be NULL for an empty message. */
int32_t lm_send(struct LMConnection *connection, int32_t id, const void *data, size_t length,
                uint32_t timeout);

/* Sends a two-way message and waits for the reply, for the service's death or for the timeout. The
 * buffer need not be initialised; after an error it holds an empty message. */
int32_t lm_call(struct LMConnection *connection, int32_t id, const void *data, size_t length,
                uint32_t timeout, struct LMResponseBuffer *buffer);

/* lm_call(), and a large reply is not copied: the view shows the service's own memory. The service
 * may change it meanwhile, so use it only with services that you trust, and do not write to it.
 * `view` may be NULL. After an error it shows nothing. */
int32_t lm_call_in_place(struct LMConnection *connection, int32_t id, const void *data,
                         size_t length, uint32_t timeout, LMView *view);

/* Memory for a message of so many bytes, to be filled and sent by one of the next two without a copy; or
 * to be given back by lm_view_release(). Its bytes are what an earlier message of this connection left
 * there, or zeroes. Looks the service up if need be, and blocks while 32 large payloads of this process
 * to it are out, until the timeout. After an error the view shows nothing. */
int32_t lm_allocate(struct LMConnection *connection, size_t length, uint32_t timeout, LMView *view);

/* lm_send() and lm_call() of what lm_allocate() or lm_reply_allocate() gave, on whichever connection.
 * `view->length` may have been made less. The view shows nothing then, whatever came of it, and its
 * memory must not be touched any more. KERN_INVALID_ARGUMENT for any other view, one that was sent or
 * released before, copied or not, and one with a greater length: then nothing happens to it. A forked
 * child has none of its parent's. */
int32_t lm_send_view(struct LMConnection *connection, int32_t id, LMView *view, uint32_t timeout);
int32_t lm_call_view(struct LMConnection *connection, int32_t id, LMView *view, uint32_t timeout,
                     struct LMResponseBuffer *buffer);

/* Gives back the bytes of a view, which shows nothing then. A view that was released before, copied
 * or not, is left alone. */
void lm_view_release(LMView *view);

/* Sets the timeout of a connection, whatever its calls say; 0xffffffff undoes that. */
int32_t lm_connection_set_timeout(struct LMConnection *connection, uint32_t milliseconds);

/* Whether a living process runs the service now. Looks it up if need be, for a second at most, and
 * sends nothing. A process that is stopped (SIGSTOP) lives; a call with a timeout tells whether it
 * answers. */
bool lm_connection_is_alive(struct LMConnection *connection);

/* Who runs the service. Blocks until the service has met this client, or until the timeout. The
 * pidfd is -1. */
int32_t lm_connection_peer(struct LMConnection *connection, uint32_t timeout, LMPeer *peer);

/* Looks a service up, without sending anything, and gives a port for it; lm_port_release() when done.
 * `port` may be NULL. */
int32_t lm_look_up(const char *name, uint32_t *port);

/* Lets go of a port: a connection's closes with its last one; a reply's tells the caller that there
 * is no reply. Nothing for 0; KERN_INVALID_NAME for what is no such port, or not any more. */
int32_t lm_port_release(uint32_t port);

/* --- the memory of messages --- */

/* Frees the out-of-line payload of a received message, which is empty then. Nothing for an inline
 * message, for a message or a copy of one that was freed before, or NULL. */
void lm_message_free(struct LMMessage *message);

/* Takes the out-of-line payload over from a message, which is empty then: the view holds it until
 * lm_view_release(), and it may be written. False, and nothing happens, if there is none. */
bool lm_message_take(struct LMMessage *message, LMView *view);

/* Zeroed memory of the same kind; false if there is none left. */
bool lm_memory_make(uint32_t length, LMView *view);

/* --- services --- */

#define LM_START_CHECK_IN 1 /* the name existed before this process did, see LMCheckInService() */
#define LM_START_IN_PLACE 2 /* large requests are not copied, see LMStartServiceInPlace() */
#define LM_START_UNLOCKED 4 /* it may be looked up through rocketd, see lm_unlock() */
#define LM_START_TAKE_OVER 8 /* from a running instance, see LMTakeOverService() */

/* Starts a service on a run loop, or on the calling thread's for NULL, and gives its port, unless
 * `port` is NULL. A failed start leaves nothing behind. */
int32_t lm_start(const char *name, void *run_loop, lm_callback callback, void *info,
                 uint32_t options, uint32_t *port);

/* Stops the services that this process runs under a name: it is free when this returns. Waits for a
 * callback of theirs that runs on another thread. BOOTSTRAP_UNKNOWN_SERVICE if there is none. */
int32_t lm_stop(const char *name);

/* The same for the service of a port. */
int32_t lm_stop_port(uint32_t port);

/* Unlocks a name: programs that cannot see the registry, as in a sandbox, may reach its service through
 * rocketd, as far as rocketd's policy lets them, for as long as the service runs. A service that has no
 * rocketd yet tells it when one comes.
 *
 * Services of this process hear it on their run loops; those that it starts later know it from the
 * start, until the process ends. A service of another process is asked, for a second at most, which
 * MACH_RCV_TIMED_OUT says: it hears it later. BOOTSTRAP_NOT_PRIVILEGED if that is another user's, unless
 * this process is root's. KERN_RESOURCE_SHORTAGE if no process runs the service, and 1024 other names
 * were unlocked here before. */
int32_t lm_unlock(const char *name);

/* lm_unlock() for the service of a port, which was started in this process under this name;
 * KERN_INVALID_NAME if it was under another one. Nothing, and success, for a port that is no
 * service's. */
int32_t lm_register(const char *name, uint32_t port);

/* Answers a two-way request, once, from any thread. Nothing, and success, for the port 0, which a
 * one-way request has. MACH_SEND_INVALID_DEST if the port was replied to before or its client is gone.
 * Never blocks. */
int32_t lm_reply(uint32_t port, const void *data, size_t length);

/* Memory for a reply of so many bytes, as lm_allocate(). Never blocks: MACH_SEND_NO_BUFFER if the client
 * has not let go of 32 large ones. The request is to be answered all the same. */
int32_t lm_reply_allocate(uint32_t port, size_t length, LMView *view);

/* lm_reply() with what such a function gave, as lm_send_view(). */
int32_t lm_reply_view(uint32_t port, LMView *view);

/* Whether a client still waits for the reply: it has not given up, and lives. */
bool lm_reply_is_wanted(uint32_t port);

/* Who sent a request, while its callback runs, on that thread; false otherwise. The pidfd is closed
 * when the callback returns: dup(2) it to keep it. */
bool lm_request_peer(const void *request, LMPeer *peer);

/* What rocketd says of who sent a request, while its callback runs, on that thread. The texts end with
 * the callback. False, and all of it NULL, if the client did not come through rocketd: the rocketd of
 * the service's own user or root's, as nobody else's is believed. */
bool lm_request_introduction(const void *request, LMIntroduction *introduction);

/* --- run loops --- */

/* The calling thread's run loop, and the main thread's. NULL if there is no descriptor left. */
void *lm_loop_current(void);
void *lm_loop_main(void);

/* Serves the services of the calling thread's loop for so many seconds, or until one message was
 * handled. Returns 1 if there is no service, 2 if it was stopped, 3 after the time, 4 after the
 * message. */
int32_t lm_loop_run(double seconds, bool once);

/* Ends the innermost run of a loop, if it is being run. */
void lm_loop_stop(void *run_loop);
bool lm_loop_is_running(void *run_loop);

/* What somebody else's loop polls for reading; -1 if there is no such loop. It belongs to the run
 * loop: do not close it. */
int32_t lm_loop_descriptor(void *run_loop);

/* Handles what is ready on the calling thread's loop, a bounded number of messages, without
 * blocking. Returns how many, or -1. The descriptor stays readable if anything is left. */
int32_t lm_loop_dispatch(void);

/* Notes whether somebody else's loop polls this one's descriptor. Returns whether that is news. */
bool lm_loop_watch(void *run_loop, bool watched);

/* --- words --- */

/* What a code means, in a few words of English. */
const char *lm_error_string(int32_t code);

/* The last failure on this thread, in a whole sentence that names the service and says what to do.
 * Good until the next failure. */
const char *lm_last_error(void);

/* --- byte buffers, for programs without a CoreFoundation --- */

#define LM_DATA_COPY 0   /* the bytes are copied */
#define LM_DATA_BORROW 1 /* they stay the program's, and stay where they are */
#define LM_DATA_FREE 2   /* they come from malloc(3) and are freed with the data */

void *lm_data_create(const uint8_t *bytes, size_t length, int32_t owner);
const uint8_t *lm_data_bytes(const void *data);
size_t lm_data_length(const void *data);

/* One reference more or less. False, and nothing happens, if the object is none of the library's;
 * run loops and ports are, and need neither. */
bool lm_retain(const void *object);
bool lm_release(const void *object);

#ifdef __cplusplus
}
#endif

#endif
