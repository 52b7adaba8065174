/* Asks a service that speaks property lists: plist_client NAME. */
#include <plist/plist.h>

#include <LightMessaging/LightMessaging.h>

#include "everything.h"

static LMConnection server;

static void a_list_of_every_type_arrives(uint32_t letters) {
    LMResponseBuffer buffer;
    plist_t sent = everything(letters), back;
    CHECK_INT(LMConnectionSendTwoWayPropertyList(&server, IS_IT, sent, &buffer), 0);
    CHECK_INT(LMResponseConsumeInteger(&buffer), 1);
    CHECK_INT(LMConnectionSendTwoWayPropertyList(&server, SAME, sent, &buffer), 0);
    CHECK_INT(buffer.message.body.msgh_descriptor_count, letters > LM_INLINE_MAX);
    back = LMResponseConsumePropertyList(&buffer);
    CHECK(back);
    CHECK_INT(letters_of(back), letters);
    CHECK_INT(LMMessageGetDataLength(&buffer.message) > LM_INLINE_MAX, 0);
    plist_free(back);
    plist_free(sent);
}

static void a_list_of_every_type_comes_back(uint32_t letters) {
    LMResponseBuffer buffer;
    plist_t back;
    CHECK_INT(LMConnectionSendTwoWay(&server, MAKE, &letters, sizeof(letters), &buffer), 0);
    back = LMResponseConsumePropertyList(&buffer);
    CHECK(back);
    CHECK_INT(letters_of(back), letters);
    plist_free(back);
}

/* Any type may be the whole list. */
static void each_type_travels_alone(void) {
    plist_t lists[9];
    size_t i;
    lists[0] = plist_new_string(TEXT);
    lists[1] = plist_new_string(WIDE);
    lists[2] = plist_new_data(DATA, 4);
    lists[3] = plist_new_uint(NUMBER);
    lists[4] = plist_new_uint((uint64_t)NEGATIVE);
    lists[5] = plist_new_real(REAL);
    lists[6] = plist_new_bool(1);
    lists[7] = plist_new_date(DATE, 0);
    lists[8] = plist_new_array();
    for (i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
        LMResponseBuffer buffer;
        plist_t back;
        CHECK_INT(LMConnectionSendTwoWayPropertyList(&server, SAME, lists[i], &buffer), 0);
        back = LMResponseConsumePropertyList(&buffer);
        CHECK(back);
        CHECK_INT(plist_get_node_type(back), plist_get_node_type(lists[i]));
        CHECK(plist_get_node_type(back) == PLIST_ARRAY ? plist_array_get_size(back) == 0
                                                       : plist_compare_node_value(back, lists[i]));
        plist_free(back);
        plist_free(lists[i]);
    }
}

static void nothing_is_an_empty_message(void) {
    LMResponseBuffer buffer;
    CHECK_INT(LMConnectionSendTwoWayPropertyList(&server, IS_NIL, NULL, &buffer), 0);
    CHECK_INT(LMResponseConsumeInteger(&buffer), 1);
    CHECK_INT(LMConnectionSendTwoWayPropertyList(&server, RAW, NULL, &buffer), 0);
    CHECK_INT(LMMessageGetDataLength(&buffer.message), 0);
    CHECK_INT(LMConnectionSendTwoWay(&server, NIL, NULL, 0, &buffer), 0);
    CHECK_INT(LMMessageGetDataLength(&buffer.message), 0);
    CHECK(LMResponseConsumePropertyList(&buffer) == NULL);
    CHECK(LMResponseConsumePropertyList(&buffer) == NULL);
    CHECK(LMDataForPropertyList(NULL) == NULL);
    CHECK(LMPropertyListForData(NULL) == NULL);
}

static void what_is_no_list_is_nothing(void) {
    static const char xml[] = "<?xml version=\"1.0\"?><plist version=\"1.0\"><true/></plist>";
    static char large[5000];
    LMResponseBuffer buffer;
    CHECK_INT(LMConnectionSendTwoWay(&server, RAW, xml, sizeof(xml), &buffer), 0);
    CHECK(LMResponseConsumePropertyList(&buffer) == NULL);
    CHECK_INT(LMConnectionSendTwoWay(&server, IS_NIL, xml, sizeof(xml), &buffer), 0);
    CHECK_INT(LMResponseConsumeInteger(&buffer), 1);
    /* Out of line, too. */
    memcpy(large, "bplist00", 8);
    CHECK_INT(LMConnectionSendTwoWay(&server, RAW, large, sizeof(large), &buffer), 0);
    CHECK_INT(LMMessageGetDataLength(&buffer.message), sizeof(large));
    CHECK(LMResponseConsumePropertyList(&buffer) == NULL);
    CHECK_INT(LMMessageGetDataLength(&buffer.message), 0);
    /* And after an error. */
    {
        LMConnection nobody = {MACH_PORT_NULL, "nobody"};
        CHECK(LMConnectionSendTwoWayPropertyList(&nobody, SAME, NULL, &buffer) != 0);
        CHECK(LMResponseConsumePropertyList(&buffer) == NULL);
    }
}

static long memory_in_use(void) {
    long pages = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file && fscanf(file, "%ld %ld", &pages, &resident) == 2);
    fclose(file);
    return resident * 4096;
}

static void nothing_leaks(void) {
    long before = 0;
    int round;
    for (round = 0; round < 1000; round++) {
        a_list_of_every_type_arrives(20000);
        if (round == 200) {
            before = memory_in_use();
        }
    }
    CHECK(memory_in_use() - before < 2 << 20);
}

int main(int argc, char **argv) {
    static const uint32_t sizes[] = {0, 1, 14, 15, 16, 255, 256, 3000, 4097, 70000, 1 << 20};
    size_t i;
    CHECK(argc > 1);
    memcpy(server.serverName, argv[1], strlen(argv[1]) + 1);
    for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        a_list_of_every_type_arrives(sizes[i]);
        a_list_of_every_type_comes_back(sizes[i]);
    }
    each_type_travels_alone();
    nothing_is_an_empty_message();
    what_is_no_list_is_nothing();
    if (argc > 2) {
        nothing_leaks();
    }
    puts("ok");
    return 0;
}
