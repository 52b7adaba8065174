/* What property list programs ask each other, in C, Objective-C and Rust. */
#ifndef PLISTS_H
#define PLISTS_H

enum {
    SAME = 1,    /* the property list of the request, read and written again */
    IS_IT = 2,   /* the integer 1 if the request is everything(), with whatever note */
    MAKE = 3,    /* everything(), with a note of as many letters as the integer says */
    NIL = 4,     /* no property list */
    IS_NIL = 5,  /* the integer 1 if the request has no property list */
    RAW = 6,     /* the bytes of the request */
    AS_DATA = 7  /* the bytes of the request, through an object that holds data */
};

/* Every type that there is. Seconds are counted from the beginning of 2001. */
#define TEXT "plain"
#define WIDE "gr\xc3\xb6\xc3\x9f" "er \xe2\x98\x85 \xf0\x9f\x8e\x88"
#define LATIN "caf\xc3\xa9"
#define DATA "\x00\x01\x02\xff"
#define NUMBER 1234567890123LL
#define NEGATIVE (-42LL)
#define REAL (-1.5)
#define DATE 700000000

#endif
