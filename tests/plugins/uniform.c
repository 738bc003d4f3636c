// A backend in C: every token is equally probable. It takes chains only, and refuses what breaks that promise.
// Token 13 makes it report a panic, after which it would answer as before: a host may not ask.

#include <bheval.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 32 };

struct BhevalModel {
    int opened;
};

static BhevalText text(const char *string) {
    return (BhevalText){.ptr = (const uint8_t *)string, .len = strlen(string)};
}

static BhevalStatus failed(BhevalStatus status, const char *why, BhevalMessage *message) {
    if (message != NULL && message->size >= sizeof(BhevalMessage)) {
        size_t len = strlen(why);
        message->len = len < message->capacity ? len : message->capacity;
        memcpy(message->ptr, why, message->len);
    }
    return status;
}

static BhevalStatus open_model(const BhevalOpenOptions *options, BhevalModel **model, BhevalMessage *message) {
    if (options->size < sizeof(BhevalOpenOptions)) {
        return failed(BHEVAL_STATUS_BAD_INPUT, "the options are too small", message);
    }
    *model = calloc(1, sizeof(BhevalModel));
    return *model != NULL ? BHEVAL_STATUS_OK : failed(BHEVAL_STATUS_EXHAUSTED, "no memory", message);
}

static void close_model(BhevalModel *model) { free(model); }

static BhevalStatus describe(BhevalModel *model, BhevalModelInfo *info, BhevalMessage *message) {
    (void)model;
    if (info->size < sizeof(BhevalModelInfo)) {
        return failed(BHEVAL_STATUS_BAD_INPUT, "the info is too small", message);
    }
    info->vocab = VOCAB;
    info->context = 0;
    info->nodes = 8;
    info->kind = BHEVAL_KIND_CAUSAL;
    info->parameters = 0;
    info->architecture = text("uniform");
    info->dtype = text("f32");
    return BHEVAL_STATUS_OK;
}

static BhevalStatus score(BhevalModel *model, const BhevalForest *forest, BhevalScores *scores,
                          BhevalMessage *message) {
    (void)model;
    for (size_t i = 0; i < forest->len; i++) {
        if (forest->parent[i] != BHEVAL_NO_PARENT && (size_t)forest->parent[i] + 1 != i) {
            return failed(BHEVAL_STATUS_INTERNAL, "this host sent a branch", message);
        }
        if (forest->token[i] == 13) {
            return failed(BHEVAL_STATUS_PANIC, "token 13", message);
        }
        if (forest->token[i] >= VOCAB) {
            return failed(BHEVAL_STATUS_BAD_INPUT, "a token is beyond the vocabulary", message);
        }
        if (forest->wanted[i]) {
            scores->log_prob[i] = -logf(VOCAB);
        }
    }
    scores->fed = forest->len;
    return BHEVAL_STATUS_OK;
}

static const void *extension(BhevalText id) {
    (void)id;
    return NULL;
}

#define TEXT(string) {.ptr = (const uint8_t *)(string), .len = sizeof(string) - 1}

const BhevalBackend bheval_backend = {
    .size = sizeof(BhevalBackend),
    .major = BHEVAL_MAJOR,
    .minor = BHEVAL_MINOR,
    .features = 0,
    .name = TEXT("uniform"),
    .version = TEXT("1"),
    .open = open_model,
    .close = close_model,
    .describe = describe,
    .score = score,
    .extension = extension,
};
