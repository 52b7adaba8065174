/* For programs that check themselves. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                                         \
    do {                                                                                         \
        if (!(condition)) {                                                                      \
            fprintf(stderr, "%s:%d: not true: %s (%s)\n", __FILE__, __LINE__, #condition,        \
                    LMLastError());                                                              \
            exit(1);                                                                             \
        }                                                                                        \
    } while (0)

#define CHECK_INT(is, should)                                                                    \
    do {                                                                                         \
        long long is_ = (long long)(is), should_ = (long long)(should);                          \
        if (is_ != should_) {                                                                    \
            fprintf(stderr, "%s:%d: %s is %lld (%#llx), not %lld (%s)\n", __FILE__, __LINE__, #is, \
                    is_, (unsigned long long)is_, should_, LMLastError());                       \
            exit(1);                                                                             \
        }                                                                                        \
    } while (0)

/* A payload that tells its place from any other. */
static inline void fill(unsigned char *bytes, size_t length) {
    size_t i;
    for (i = 0; i < length; i++) {
        bytes[i] = (unsigned char)(i ^ (i >> 8) * 31 ^ (i >> 16));
    }
}

static inline int is_filled(const void *data, size_t length) {
    const unsigned char *bytes = (const unsigned char *)data;
    size_t i;
    for (i = 0; i < length; i++) {
        if (bytes[i] != (unsigned char)(i ^ (i >> 8) * 31 ^ (i >> 16))) {
            return 0;
        }
    }
    return 1;
}

enum {
    ECHO = 1,        /* the same bytes */
    DESCRIBE = 2,    /* a line about the message */
    DROP = 3,        /* gives the reply port up */
    LATER = 4,       /* answered by a thread, after a moment */
    KEEP = 5,        /* answered when ANSWER comes, which gets the code */
    ANSWER = 6,
    TWICE = 7,       /* answered twice; CODE gets the second code */
    CODE = 8,
    DOUBLE = 9,      /* an integer, twice as large */
    SIZED = 10,      /* as many bytes as the integer says */
    HANG = 11,       /* says `took` and never answers */
    LOG = 12,        /* counted */
    COUNT = 13,      /* answered with the count */
    SCRIBBLE = 14,   /* writes over the request, then answers with it */
    RACE = 15,       /* two threads answer at once; WINS gets how many could */
    WINS = 16,
    DIE = 17,        /* says `took` and exits */
    FREE_FIRST = 18, /* frees the request, twice, then answers */
    STRING = 19,     /* terminates the payload in place, answers with its length as text */
    DATA = 20,       /* answered through LMSendCFDataReply */
    STOP = 21,       /* stops its own service, then answers */
    NOTHING = 22,    /* an empty reply */
    PEER = 23,       /* "pid uid gid has-pidfd wanted" */
    INTRODUCTION = 24, /* "direct" or "introduced", and "application cgroup label" */
    FILL_IN = 25     /* as many bytes as the integer says, filled where the client reads them */
};

#endif
