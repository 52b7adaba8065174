/* Bytes that are no property list, or an evil one, for a reader that frees what it made of them. */
#ifndef GARBAGE_H
#define GARBAGE_H

#include "check.h"

/* Reads a property list; whether it was one. */
typedef int (*reader)(const void *bytes, uint32_t length);

/* In memory that ends where the bytes do, so that a checker sees who reads on. */
static inline int read_copy(reader read, const void *bytes, uint32_t length) {
    unsigned char *copy = (unsigned char *)malloc(length ? length : 1);
    int is_list;
    memcpy(copy, bytes, length);
    is_list = read(copy, length);
    free(copy);
    return is_list;
}

static inline uint64_t noise(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state >> 32;
}

/* Garbage of every length from 0 to 300, with the magic in front and without it. */
static inline void read_garbage(reader read) {
    unsigned char bytes[308];
    uint32_t length, i;
    for (length = 0; length <= 300; length++) {
        uint64_t state = (length + 1) * UINT64_C(0x9e3779b97f4a7c15);
        static const unsigned char same[] = {0, 1, 0xff};
        memcpy(bytes, "bplist00", 8);
        for (i = 0; i < length; i++) {
            bytes[8 + i] = (unsigned char)noise(&state);
        }
        CHECK(!read_copy(read, bytes + 8, length));
        CHECK(!read_copy(read, bytes, 8 + length));
        for (i = 0; i < sizeof(same); i++) {
            memset(bytes + 8, same[i], length);
            CHECK(!read_copy(read, bytes + 8, length));
            CHECK(!read_copy(read, bytes, 8 + length));
        }
    }
}

/* Every prefix of a list, and the list with every byte changed to every other value; or, for a reader
 * that is slow, with every bit changed. */
static inline void read_damaged(reader read, const void *list, uint32_t length, int is_slow) {
    unsigned char *bytes = (unsigned char *)malloc(length);
    uint32_t at, change, lists = 0;
    memcpy(bytes, list, length);
    CHECK(read_copy(read, bytes, length));
    for (at = 0; at < length; at++) {
        CHECK(!read_copy(read, bytes, at));
    }
    for (at = 0; at < length; at++) {
        for (change = 1; change < 256; change = is_slow ? change * 2 : change + 1) {
            bytes[at] ^= (unsigned char)change;
            lists += (uint32_t)read_copy(read, bytes, length);
            bytes[at] ^= (unsigned char)change;
        }
    }
    /* Most of a list is text and numbers, where anything goes. */
    CHECK(lists > length);
    free(bytes);
}

/* A list of objects that are given byte by byte, the first of which is the root; a reference has one
 * byte, an offset two. */
static inline int read_objects(reader read, const char *const *objects, const uint32_t *lengths,
                               uint32_t count) {
    unsigned char *bytes = (unsigned char *)calloc(1, 70000);
    uint32_t at = 8, i, table;
    int is_list;
    memcpy(bytes, "bplist00", 8);
    for (i = 0; i < count; i++) {
        memcpy(bytes + at, objects[i], lengths[i]);
        at += lengths[i];
    }
    table = at;
    for (i = 0, at = 8; i < count; i++) {
        bytes[table + i * 2] = (unsigned char)(at >> 8);
        bytes[table + i * 2 + 1] = (unsigned char)at;
        at += lengths[i];
    }
    at = table + count * 2;
    bytes[at + 6] = 2;
    bytes[at + 7] = 1;
    bytes[at + 14] = (unsigned char)(count >> 8);
    bytes[at + 15] = (unsigned char)count;
    bytes[at + 30] = (unsigned char)(table >> 8);
    bytes[at + 31] = (unsigned char)table;
    is_list = read_copy(read, bytes, at + 32);
    free(bytes);
    return is_list;
}

static inline int read_object(reader read, const char *object, uint32_t length) {
    return read_objects(read, &object, &length, 1);
}

/* So many arrays, each of so many references to the next one, around an empty one. */
static inline int read_nested(reader read, uint32_t deep, uint32_t wide) {
    static char arrays[256][16];
    const char *objects[256];
    uint32_t lengths[256], i;
    for (i = 0; i < deep; i++) {
        bool is_last = i + 1 == deep;
        objects[i] = arrays[i];
        lengths[i] = is_last ? 1 : 1 + wide;
        memset(arrays[i], (int)i + 1, sizeof(arrays[i]));
        arrays[i][0] = (char)(0xa0 | (is_last ? 0 : wide));
    }
    return read_objects(read, objects, lengths, deep);
}

#define OBJECT(bytes) read_object(read, bytes, sizeof(bytes) - 1)

static inline void read_evil(reader read) {
    /* Right ones first: what is refused below is refused for its reason. */
    CHECK(OBJECT("\x09"));
    CHECK(OBJECT("\x53" "abc"));
    CHECK(OBJECT("\x5f\x10\x03" "abc"));
    CHECK(OBJECT("\x62\xd8\x3c\xdf\x88"));
    CHECK(OBJECT("\x33\x41\xc4\xdc\x93\x80\x00\x00\x00"));
    CHECK(read_nested(read, 128, 1));
    CHECK(read_nested(read, 10, 2));
    /* Nested too deep, without end, and so that a few bytes stand for 14^20 objects. */
    CHECK(!read_nested(read, 129, 1));
    CHECK(!OBJECT("\xa1\x00"));
    CHECK(!OBJECT("\xae\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"));
    CHECK(!read_nested(read, 20, 14));
    CHECK(!read_nested(read, 128, 2));
    /* Counts that nothing is behind, of every size, and references to nowhere. */
    CHECK(!OBJECT("\x54" "abc"));
    CHECK(!OBJECT("\x5f\x10\x04" "abc"));
    CHECK(!OBJECT("\x5f\x11\x01\x00" "abc"));
    CHECK(!OBJECT("\x4f\x12\x7f\xff\xff\xff" "abc"));
    CHECK(!OBJECT("\xaf\x13\x7f\xff\xff\xff\xff\xff\xff\xff\x00"));
    CHECK(!OBJECT("\xdf\x13\x80\x00\x00\x00\x00\x00\x00\x00\x00"));
    CHECK(!OBJECT("\x6f\x13\x80\x00\x00\x00\x00\x00\x00\x01" "ab"));
    CHECK(!OBJECT("\x5f\x14" "aaaaaaaaaaaaaaaa"));
    CHECK(!OBJECT("\x5f"));
    CHECK(!OBJECT("\x13" "aaaaaaa"));
    CHECK(!OBJECT("\xa1\x01"));
    CHECK(!OBJECT("\xd1\x00"));
    /* What is no text, no key, no date, no object. */
    CHECK(!OBJECT("\x51\x80"));
    CHECK(!OBJECT("\x61\xd8\x3c"));
    CHECK(!OBJECT("\x61\xdc\x00"));
    CHECK(!OBJECT("\x62\xd8\x3c\x00\x41"));
    CHECK(!OBJECT("\x33\x7f\xf8\x00\x00\x00\x00\x00\x00"));
    CHECK(!OBJECT("\x33\x7f\x00\x00\x00\x00\x00\x00\x00"));
    CHECK(!OBJECT("\x00"));
    CHECK(!OBJECT("\x0f"));
    CHECK(!OBJECT("\x70"));
    CHECK(!OBJECT("\xc0"));
    CHECK(!OBJECT("\xf0"));
    {
        static const char *const objects[] = {"\xd1\x01\x01", "\x10\x01"};
        static const uint32_t lengths[] = {3, 2};
        CHECK(!read_objects(read, objects, lengths, 2));
    }
    {
        static const char *const objects[] = {"\xd1\x01\x02", ("\x51" "k"), "\x10\x01"};
        static const uint32_t lengths[] = {3, 2, 2};
        CHECK(read_objects(read, objects, lengths, 3));
    }
    /* Other forms. */
    {
        static const char xml[] = "<?xml version=\"1.0\"?><plist version=\"1.0\"><true/></plist>";
        static const char open_step[] = "{ a = b; }";
        static const char json[] = "{\"a\": \"b\"}";
        CHECK(!read_copy(read, xml, sizeof(xml) - 1));
        CHECK(!read_copy(read, open_step, sizeof(open_step) - 1));
        CHECK(!read_copy(read, json, sizeof(json) - 1));
    }
    CHECK(!read(NULL, 0));
}

#endif
