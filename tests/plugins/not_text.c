// A table whose name is not UTF-8.

#include <bheval.h>

static BhevalStatus open_model(const BhevalOpenOptions *options, BhevalModel **model, BhevalMessage *message) {
    (void)options, (void)model, (void)message;
    return BHEVAL_STATUS_INTERNAL;
}

static void close_model(BhevalModel *model) { (void)model; }

static BhevalStatus describe(BhevalModel *model, BhevalModelInfo *info, BhevalMessage *message) {
    (void)model, (void)info, (void)message;
    return BHEVAL_STATUS_INTERNAL;
}

static BhevalStatus score(BhevalModel *model, const BhevalForest *forest, BhevalScores *scores,
                          BhevalMessage *message) {
    (void)model, (void)forest, (void)scores, (void)message;
    return BHEVAL_STATUS_INTERNAL;
}

const BhevalBackend bheval_backend = {
    .size = sizeof(BhevalBackend),
    .major = BHEVAL_MAJOR,
    .minor = BHEVAL_MINOR,
    .name = {.ptr = (const uint8_t *)"\xff\xfe", .len = 2},
    .version = {.ptr = (const uint8_t *)"1", .len = 1},
    .open = open_model,
    .close = close_model,
    .describe = describe,
    .score = score,
};
