/* A property list of every type, with libplist. */
#ifndef EVERYTHING_H
#define EVERYTHING_H

#include "check.h"
#include "plists.h"

static inline plist_t everything(uint32_t letters) {
    plist_t all = plist_new_dict(), list = plist_new_array(), inner = plist_new_dict();
    char *note = (char *)malloc(letters + 1);
    memset(note, 'n', letters);
    note[letters] = 0;
    plist_dict_set_item(all, "note", plist_new_string(note));
    free(note);
    plist_dict_set_item(all, "text", plist_new_string(TEXT));
    plist_dict_set_item(all, "wide", plist_new_string(WIDE));
    plist_dict_set_item(all, "latin", plist_new_string(LATIN));
    plist_dict_set_item(all, "data", plist_new_data(DATA, 4));
    plist_dict_set_item(all, "number", plist_new_uint(NUMBER));
    plist_dict_set_item(all, "negative", plist_new_uint((uint64_t)NEGATIVE));
    plist_dict_set_item(all, "real", plist_new_real(REAL));
    plist_dict_set_item(all, "yes", plist_new_bool(1));
    plist_dict_set_item(all, "no", plist_new_bool(0));
    plist_dict_set_item(all, "date", plist_new_date(DATE, 0));
    plist_array_append_item(list, plist_new_uint(1));
    plist_array_append_item(list, plist_new_uint(2));
    plist_dict_set_item(inner, "empty", plist_new_array());
    plist_array_append_item(list, inner);
    plist_dict_set_item(all, "list", list);
    return all;
}

/* Whether two plists are the same, which have no dictionary of several keys in them. */
static inline bool are_equal(plist_t one, plist_t other) {
    char *texts[2] = {NULL, NULL};
    uint32_t lengths[2] = {0, 0};
    bool equal;
    plist_to_xml(one, &texts[0], &lengths[0]);
    plist_to_xml(other, &texts[1], &lengths[1]);
    equal = texts[0] && lengths[0] == lengths[1] && memcmp(texts[0], texts[1], lengths[0]) == 0;
    free(texts[0]);
    free(texts[1]);
    return equal;
}

/* How many letters a plist's note has; -1 if it is not everything(). */
static inline int64_t letters_of(plist_t is) {
    static const char *const keys[] = {"note",   "text",     "wide", "latin", "data", "number",
                                       "negative", "real", "yes",  "no",    "date", "list"};
    const size_t count = sizeof(keys) / sizeof(keys[0]);
    plist_t note = plist_dict_get_item(is, "note"), should;
    uint64_t length = 0;
    size_t i, equal = 0;
    if (!note || !plist_get_string_ptr(note, &length)) {
        return -1;
    }
    should = everything((uint32_t)length);
    CHECK_INT(plist_dict_get_size(should), count);
    for (i = 0; i < count; i++) {
        equal += are_equal(plist_dict_get_item(is, keys[i]), plist_dict_get_item(should, keys[i]));
    }
    plist_free(should);
    return equal == count && plist_dict_get_size(is) == count ? (int64_t)length : -1;
}

#endif
