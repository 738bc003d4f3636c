// A backend that keeps the contract, but for one fault: the model's folder holds a file `fault` that names it. With the
// fault `none` it keeps all of it. Each distribution is a rotation of one list of weights, so that most faults, which turn
// it by a place, leave every sum at 1: what is wrong is only what the fault is about.

#define _POSIX_C_SOURCE 200809L
#include <bheval.h>

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { VOCAB = 40, CONTEXT = 64, NODES = 512 };

struct BhevalModel {
    char fault[64];
    bool masked;
    uint32_t threads;
    uint32_t opening; // how many models were opened before this one
    uint32_t calls;
    bool erred;
    pthread_t opener;
    void *ballast;
};

static atomic_uint openings;
static atomic_uint alive;    // models that are open
static atomic_uint inside;   // calls that are being answered
static BhevalModel *_Atomic latest;
static bool crash_at_the_end;
static bool stop_never;

static bool is(const BhevalModel *model, const char *fault) { return strcmp(model->fault, fault) == 0; }

static BhevalStatus failed(BhevalMessage *message, BhevalStatus status, const char *why) {
    if (message != NULL && message->size >= sizeof(BhevalMessage) && message->ptr != NULL) {
        size_t len = strlen(why) < message->capacity ? strlen(why) : message->capacity;
        memcpy(message->ptr, why, len);
        message->len = len;
    }
    return status;
}

#define BAD_INPUT(why) failed(message, BHEVAL_STATUS_BAD_INPUT, why)

static void *linger(void *nothing) {
    while (!*(volatile bool *)&stop_never) {
        struct timespec pause = {.tv_nsec = 1000000};
        nanosleep(&pause, NULL);
    }
    return nothing;
}

// A wrong write, and no raise(): the host's runtime has a handler for SIGSEGV, which returns from a raised one.
static void crash(void) {
    int *volatile nowhere = NULL;
    *nowhere = 1;
}

__attribute__((destructor)) static void at_the_end(void) {
    if (crash_at_the_end) crash();
}

static BhevalStatus open_model(const BhevalOpenOptions *options, BhevalModel **out, BhevalMessage *message) {
    if (options == NULL || out == NULL) return BAD_INPUT("a null argument");
    if (options->size < sizeof *options) return BAD_INPUT("small options");
    if (options->path.len > 0 && options->path.ptr == NULL) return BAD_INPUT("a null path");
    char path[4096];
    if (options->path.len > 4000) return BAD_INPUT("a long path");
    snprintf(path, sizeof path, "%.*s/fault", (int)options->path.len, (const char *)options->path.ptr);
    FILE *file = fopen(path, "r");
    BhevalModel *model = calloc(1, sizeof *model);
    if (model == NULL) return failed(message, BHEVAL_STATUS_EXHAUSTED, "no memory");
    if (file == NULL || fscanf(file, "%63s", model->fault) != 1) {
        if (file != NULL) fclose(file);
        if (getenv("FAULTY_OPENS_ANYTHING") != NULL) {
            *out = model;
            return BHEVAL_STATUS_OK;
        }
        free(model);
        return failed(message, BHEVAL_STATUS_BAD_MODEL, "no file `fault`");
    }
    fclose(file);
    if (options->dtype != BHEVAL_DTYPE_F32 && !is(model, "any-dtype")) {
        free(model);
        return failed(message, BHEVAL_STATUS_UNSUPPORTED, "f32 only");
    }
    if (is(model, "no-opening")) abort();
    if (strncmp(model->fault, "masked-", 7) == 0) {
        model->masked = true;
        memmove(model->fault, model->fault + 7, strlen(model->fault) - 6);
    }
    model->threads = options->threads;
    model->opening = atomic_fetch_add(&openings, 1);
    model->opener = pthread_self();
    atomic_fetch_add(&alive, 1);
    atomic_store(&latest, model);
    if (is(model, "leak-models")) memset(malloc(1 << 20), 1, 1 << 20);
    if (is(model, "crash-at-the-end")) crash_at_the_end = true;
    pthread_t thread;
    if (is(model, "thread-stays") && pthread_create(&thread, NULL, linger, NULL) == 0) pthread_detach(thread);
    *out = model;
    return BHEVAL_STATUS_OK;
}

static void close_model(BhevalModel *model) {
    if (model == NULL) return;
    atomic_fetch_sub(&alive, 1);
    BhevalModel *self = model;
    atomic_compare_exchange_strong(&latest, &self, NULL);
    free(model);
}

static BhevalText text(const char *string) {
    return (BhevalText){.ptr = (const uint8_t *)string, .len = strlen(string)};
}

static BhevalStatus describe(BhevalModel *model, BhevalModelInfo *info, BhevalMessage *message) {
    if (model == NULL || info == NULL) return BAD_INPUT("a null argument");
    if (info->size < sizeof *info && !is(model, "sizes")) return BAD_INPUT("a small info");
    info->vocab = VOCAB;
    info->context = CONTEXT;
    info->nodes = NODES;
    info->kind = model->masked ? BHEVAL_KIND_MASKED : BHEVAL_KIND_CAUSAL;
    info->parameters = is(model, "changing-info") ? model->calls : VOCAB;
    info->architecture = text("rotation");
    info->dtype = text("f32");
    return BHEVAL_STATUS_OK;
}

// ln of the weight at `place`, of VOCAB weights 1, 2, 3...
static float log_weight(uint32_t place) {
    return (float)log((place % VOCAB + 1.0) / (VOCAB * (VOCAB + 1) / 2.0));
}

static BhevalStatus check(BhevalModel *model, const BhevalForest *forest, BhevalMessage *message) {
    if (model == NULL || forest == NULL) return BAD_INPUT("a null argument");
    if (forest->size < sizeof *forest) return BAD_INPUT("a small forest");
    if (is(model, "hangs-at-nothing") && forest->len == 0) for (;;) pause();
    if (is(model, "leaves-at-nothing") && forest->len == 0) exit(0);
    if (forest->len >= UINT32_MAX) return BAD_INPUT("a long forest");
    if (is(model, "null-arrays") && forest->len > 0 && forest->token == NULL) crash();
    if (forest->len > 0 && (forest->token == NULL || forest->parent == NULL || forest->wanted == NULL))
        return BAD_INPUT("a null array");
    return BHEVAL_STATUS_OK;
}

// What a check of all tokens and paths finds, before anything is computed.
static BhevalStatus check_nodes(BhevalModel *model, const BhevalForest *forest, BhevalMessage *message) {
    uint32_t *depth = calloc(forest->len + 1, sizeof *depth);
    const char *why = depth == NULL ? "no memory" : NULL;
    for (size_t i = 0; i < forest->len && why == NULL; i++) {
        uint32_t parent = forest->parent[i];
        if (parent != BHEVAL_NO_PARENT && parent >= i) {
            if (!is(model, "parents")) why = "a parent that comes late";
            depth[i] = 1;
        } else {
            depth[i] = parent == BHEVAL_NO_PARENT ? 1 : depth[parent] + 1;
        }
        if (forest->token[i] >= VOCAB) {
            if (is(model, "token-crash")) crash();
            why = is(model, "token-silent") && forest->token[i] == VOCAB ? "" : "a token beyond the vocabulary";
            model->erred = true;
        }
        if (depth[i] > CONTEXT) {
            if (is(model, "long-path-abort")) abort();
            if (!is(model, "long-path-taken")) why = "a path beyond the context";
        }
        if (parent == BHEVAL_NO_PARENT && forest->wanted[i] && !is(model, "wanted-root")) why = "a wanted root";
    }
    free(depth);
    return why == NULL ? BHEVAL_STATUS_OK : BAD_INPUT(why);
}

// By how many places the fault turns every distribution of a call.
static uint32_t turn_of_call(BhevalModel *model, const BhevalForest *forest) {
    bool some_left_out = false, sorted = true;
    uint32_t root = 0;
    for (size_t i = 0; i < forest->len; i++) {
        bool is_root = forest->parent[i] == BHEVAL_NO_PARENT;
        some_left_out |= !is_root && !forest->wanted[i];
        sorted &= !is_root || forest->token[i] >= root;
        if (is_root) root = forest->token[i];
    }
    if (is(model, "batch")) return forest->len > 100;
    if (is(model, "order")) return !sorted;
    if (is(model, "subset")) return some_left_out;
    if (is(model, "threads")) return model->threads == 1;
    if (is(model, "state-of-process")) return model->opening;
    if (is(model, "latest-model")) return atomic_load(&latest) != model;
    if (is(model, "after-error")) return model->erred;
    return 0;
}

// Whether a node does not follow its parent at once: none of a chain's does.
static bool is_branch(const BhevalForest *forest, size_t i) {
    return i > 0 && forest->parent[i] != BHEVAL_NO_PARENT && forest->parent[i] + 1 != i;
}

static void fill(BhevalModel *model, const BhevalForest *forest, BhevalScores *scores) {
    uint32_t turn = turn_of_call(model, forest);
    if (is(model, "at-once") && atomic_load(&alive) > 1) {
        struct timespec pause = {.tv_nsec = 20000000};
        turn = atomic_fetch_add(&inside, 1) > 0;
        nanosleep(&pause, NULL);
        turn |= atomic_load(&inside) > 1;
        atomic_fetch_sub(&inside, 1);
    }
    for (size_t i = 0; i < forest->len; i++) {
        uint32_t parent = forest->parent[i], token = forest->token[i];
        if (!forest->wanted[i]) {
            if (is(model, "unwanted")) scores->log_prob[i] = -1.0f;
            continue;
        }
        if (parent == BHEVAL_NO_PARENT || parent >= i) parent = (uint32_t)i;
        uint32_t own = turn;
        if (is(model, "sees-ahead") && i + 1 < forest->len && forest->parent[i + 1] == i) own = forest->token[i + 1] % 2;
        if (is(model, "branches") && is_branch(forest, i)) own = 1;
        float value = log_weight(forest->token[parent] + token + own);
        if (is(model, "sum")) value += logf(0.9f);
        if (is(model, "positive") && token == 3) value = 1.0f;
        if (is(model, "nan") && token == 3) value = NAN;
        if (is(model, "left-out") && token == 3) continue;
        scores->log_prob[i] = value;
    }
}

static BhevalStatus score(BhevalModel *model, const BhevalForest *forest, BhevalScores *scores, BhevalMessage *message) {
    if (model != NULL && is(model, "message") && forest == NULL && message != NULL && message->size >= sizeof *message) {
        memset(message->ptr, 'x', message->len = 41);
        return BHEVAL_STATUS_BAD_INPUT;
    }
    BhevalStatus status = check(model, forest, message);
    if (status != BHEVAL_STATUS_OK) return status;
    if (scores == NULL || scores->size < sizeof *scores) return BAD_INPUT("no room");
    if (scores->len != forest->len && !is(model, "lengths")) return BAD_INPUT("room of another size");
    if (scores->len > 0 && scores->log_prob == NULL) return BAD_INPUT("null room");
    if (model->masked && !is(model, "causal")) return failed(message, BHEVAL_STATUS_UNSUPPORTED, "a masked model");
    status = check_nodes(model, forest, message);
    if (status != BHEVAL_STATUS_OK) return status;
    if (is(model, "own-thread") && !pthread_equal(pthread_self(), model->opener))
        return failed(message, BHEVAL_STATUS_INTERNAL, "another thread");
    if (is(model, "small-calls") && forest->len > NODES / 2 + 200)
        return failed(message, BHEVAL_STATUS_EXHAUSTED, "too many nodes");
    if (is(model, "hungry") && forest->len == NODES) {
        static char *hoard;
        hoard = realloc(hoard, 200 << 20);
        memset(hoard, 1, 200 << 20);
    }
    if (is(model, "leak-calls")) memset(malloc(1 << 15), 1, 1 << 15);
    model->calls++;
    fill(model, forest, scores);
    scores->fed = is(model, "fed-nothing") ? 0 : forest->len + is(model, "fed-more");
    return BHEVAL_STATUS_OK;
}

static BhevalStatus logits(BhevalModel *model, const BhevalForest *forest, BhevalLogits *out, BhevalMessage *message) {
    BhevalStatus status = check(model, forest, message);
    if (status != BHEVAL_STATUS_OK) return status;
    float *next = out->data;
    uint32_t turn = is(model, "logits") || (is(model, "batch") && turn_of_call(model, forest));
    for (size_t i = 0; i < forest->len; i++)
        for (uint32_t token = 0; forest->wanted[i] && token < VOCAB; token++)
            *next++ = log_weight(forest->token[i] + token + turn);
    return BHEVAL_STATUS_OK;
}

static BhevalStatus score_masked(BhevalModel *model, const BhevalMasked *masked, BhevalScores *scores, BhevalMessage *message) {
    if (model == NULL || masked == NULL || scores == NULL) return BAD_INPUT("a null argument");
    if (masked->size < sizeof *masked || scores->size < sizeof *scores) return BAD_INPUT("a small struct");
    if (scores->len != masked->queries) return BAD_INPUT("room of another size");
    if (masked->begin == NULL || (masked->len > 0 && masked->token == NULL)) return BAD_INPUT("a null array");
    if (masked->queries > 0 && (masked->position == NULL || masked->target == NULL || scores->log_prob == NULL))
        return BAD_INPUT("a null array");
    if (masked->begin[0] != 0 || masked->begin[masked->sequences] != masked->len) return BAD_INPUT("loose ends");
    for (size_t s = 0; s < masked->sequences; s++) {
        uint32_t begin = masked->begin[s], end = masked->begin[s + 1];
        if (begin >= end && !is(model, "batches")) return BAD_INPUT("an empty sequence");
        if (end > begin && end - begin > CONTEXT && !is(model, "long-path-taken")) return BAD_INPUT("a long sequence");
    }
    for (size_t i = 0; i < masked->len; i++)
        if (masked->token[i] >= VOCAB) return BAD_INPUT("a token beyond the vocabulary");
    for (size_t q = 0; q < masked->queries; q++)
        if (masked->position[q] >= masked->len || (masked->target[q] >= VOCAB && !is(model, "target")))
            return BAD_INPUT("a question beyond its batch");
    for (size_t q = 0; q < masked->queries; q++) {
        uint32_t s = 0, sum = masked->target[q];
        while (masked->begin[s + 1] <= masked->position[q]) s++;
        for (uint32_t i = masked->begin[s]; i < masked->begin[s + 1]; i++) sum += masked->token[i];
        if (is(model, "batch")) sum += masked->sequences > 1;
        if (is(model, "order")) sum += s > 0 && masked->token[masked->begin[s]] < masked->token[masked->begin[s - 1]];
        if (is(model, "threads")) sum += model->threads == 1;
        scores->log_prob[q] = log_weight(sum) + (is(model, "sum") ? logf(0.9f) : 0.0f);
    }
    scores->fed = masked->len;
    return BHEVAL_STATUS_OK;
}

static const BhevalLogitsTable logits_table = {.size = sizeof(BhevalLogitsTable), .logits = logits};
static const BhevalMaskedTable masked_table = {.size = sizeof(BhevalMaskedTable), .score = score_masked};

static const void *extension(BhevalText id) {
    if (getenv("FAULTY_EXTENDS_ANYTHING") != NULL) return &logits_table;
    size_t len = sizeof BHEVAL_LOGITS_EXTENSION - 1; // both ids are of this length
    if (id.len != len) return NULL;
    if (memcmp(id.ptr, BHEVAL_LOGITS_EXTENSION, len) == 0) return &logits_table;
    return memcmp(id.ptr, BHEVAL_MASKED_EXTENSION, len) == 0 ? &masked_table : NULL;
}

#define TEXT(string) {.ptr = (const uint8_t *)(string), .len = sizeof(string) - 1}

const BhevalBackend bheval_backend = {
    .size = sizeof(BhevalBackend), .major = BHEVAL_MAJOR, .minor = BHEVAL_MINOR, .features = BHEVAL_FEATURE_FOREST,
    .name = TEXT("faulty"), .version = TEXT("1"),
    .open = open_model, .close = close_model, .describe = describe, .score = score, .extension = extension,
};
