// A backend of bheval to start from, in plain C: a bigram model read from `counts.txt`.
//
// p(t | s) = (c(s, t) + K p(t)) / (c(s) + K), with p(t) = (c(t) + 1) / (N + V): counts smoothed towards the unigram, and
// that towards a uniform distribution (MacKay and Peto 1995, "A hierarchical Dirichlet language model").
//
// To make it yours, change the struct, `read_counts` and `log_prob`. `bheval verify` says whether it keeps the contract.

#include <bheval.h>

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define K 4.0           // weight of the unigram, as a number of tokens
#define VOCAB 4096      // largest vocabulary: the counts are a table of its square
#define NODES 65536     // nodes that one call should have at most

struct BhevalModel {
    uint32_t vocab;
    uint32_t *pair;     // pair[s * vocab + t]: how often t followed s
    uint64_t *before;   // how often anything followed s
    uint64_t *after;    // how often t followed anything
    uint64_t total;
    uint64_t parameters;
};

// Writes a sentence into the caller's room, and hands back the status.
static BhevalStatus failed(BhevalMessage *message, BhevalStatus status, const char *format, ...) {
    if (message == NULL || message->size < sizeof(BhevalMessage) || message->ptr == NULL) return status;
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    int written = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    size_t len = written < 0 ? 0 : (size_t)written < sizeof text ? (size_t)written : sizeof text - 1;
    if (len > message->capacity) len = message->capacity;
    while (len > 0 && ((unsigned char)text[len] & 0xc0) == 0x80) len--; // no half character
    memcpy(message->ptr, text, len);
    message->len = len;
    return status;
}

#define BAD_INPUT(...) failed(message, BHEVAL_STATUS_BAD_INPUT, __VA_ARGS__)

static void close_model(BhevalModel *model) {
    if (model == NULL) return;
    free(model->pair);
    free(model->before);
    free(model->after);
    free(model);
}

// Reads `vocab N`, then lines `previous token count`; lines that begin with # are passed over.
static BhevalStatus read_counts(FILE *file, BhevalModel *model, BhevalMessage *message) {
    char line[256];
    for (unsigned number = 1; fgets(line, sizeof line, file) != NULL; number++) {
        uint32_t previous, token, count;
        char rest;
        if (line[0] == '#' || line[strspn(line, " \r\n")] == '\0') continue;
        if (model->vocab == 0) {
            uint32_t vocab;
            if (sscanf(line, "vocab %" SCNu32 " %c", &vocab, &rest) != 1 || vocab < 2 || vocab > VOCAB)
                return failed(message, BHEVAL_STATUS_BAD_MODEL, "counts.txt: the first line is `vocab N`, N from 2 to %d", VOCAB);
            model->vocab = vocab;
            model->pair = calloc((size_t)vocab * vocab, sizeof *model->pair);
            model->before = calloc(vocab, sizeof *model->before);
            model->after = calloc(vocab, sizeof *model->after);
            if (model->pair == NULL || model->before == NULL || model->after == NULL)
                return failed(message, BHEVAL_STATUS_EXHAUSTED, "no memory for the counts of %" PRIu32 " tokens", vocab);
            continue;
        }
        if (sscanf(line, "%" SCNu32 " %" SCNu32 " %" SCNu32 " %c", &previous, &token, &count, &rest) != 3 ||
            previous >= model->vocab || token >= model->vocab)
            return failed(message, BHEVAL_STATUS_BAD_MODEL, "counts.txt: line %u is not `previous token count`, ids below %" PRIu32,
                          number, model->vocab);
        uint32_t *pair = &model->pair[(size_t)previous * model->vocab + token];
        if (count > UINT32_MAX - *pair)
            return failed(message, BHEVAL_STATUS_BAD_MODEL, "counts.txt: line %u: the counts of a pair reach 2^32", number);
        model->parameters += *pair == 0 && count > 0;
        *pair += count;
        model->before[previous] += count;
        model->after[token] += count;
        model->total += count;
    }
    if (ferror(file)) return failed(message, BHEVAL_STATUS_BAD_MODEL, "counts.txt can't be read: %s", strerror(errno));
    if (model->vocab == 0) return failed(message, BHEVAL_STATUS_BAD_MODEL, "counts.txt is empty; it begins with `vocab N`");
    return BHEVAL_STATUS_OK;
}

static BhevalStatus open_model(const BhevalOpenOptions *options, BhevalModel **out, BhevalMessage *message) {
    if (options == NULL || out == NULL) return BAD_INPUT("no options were given, or no room for the model");
    if (options->size < sizeof *options) return BAD_INPUT("the options are smaller than this version knows");
    if (options->path.len > 0 && options->path.ptr == NULL) return BAD_INPUT("the model's path is null");
    if (options->dtype != BHEVAL_DTYPE_F32)
        return failed(message, BHEVAL_STATUS_UNSUPPORTED, "counts have one number format; ask for f32");
    char path[4096];
    int len = snprintf(path, sizeof path, "%.*s/counts.txt", (int)(options->path.len < 4000 ? options->path.len : 4000),
                       options->path.ptr == NULL ? "" : (const char *)options->path.ptr);
    if (options->path.len >= 4000 || len < 0) return BAD_INPUT("the model's path is too long");
    FILE *file = fopen(path, "r");
    if (file == NULL) // the path is not repeated: it need not be UTF-8, and a sentence must be
        return failed(message, BHEVAL_STATUS_BAD_MODEL, "counts.txt in the model's folder can't be opened: %s", strerror(errno));
    BhevalModel *model = calloc(1, sizeof *model);
    BhevalStatus status = model != NULL ? read_counts(file, model, message)
                                        : failed(message, BHEVAL_STATUS_EXHAUSTED, "no memory for a model");
    fclose(file);
    if (status == BHEVAL_STATUS_OK) *out = model;
    else close_model(model);
    return status;
}

static BhevalText text(const char *string) {
    return (BhevalText){.ptr = (const uint8_t *)string, .len = strlen(string)};
}

static BhevalStatus describe(BhevalModel *model, BhevalModelInfo *info, BhevalMessage *message) {
    if (model == NULL || info == NULL) return BAD_INPUT("no model was given, or no info to fill");
    if (info->size < sizeof *info) return BAD_INPUT("the info is smaller than this version knows");
    info->vocab = model->vocab;
    info->context = 0; // no limit
    info->nodes = NODES;
    info->kind = BHEVAL_KIND_CAUSAL;
    info->parameters = model->parameters;
    info->architecture = text("bigram");
    info->dtype = text("f32");
    return BHEVAL_STATUS_OK;
}

// ln p(token | previous).
static float log_prob(const BhevalModel *model, uint32_t previous, uint32_t token) {
    double unigram = ((double)model->after[token] + 1.0) / ((double)model->total + model->vocab);
    double pair = model->pair[(size_t)previous * model->vocab + token];
    float value = (float)log((pair + K * unigram) / ((double)model->before[previous] + K));
    return value < 0.0f ? value : 0.0f;
}

// Checks all of a forest before anything is computed from it.
static BhevalStatus check(const BhevalModel *model, const BhevalForest *forest, BhevalMessage *message) {
    if (model == NULL || forest == NULL) return BAD_INPUT("no model or no forest was given");
    if (forest->size < sizeof *forest) return BAD_INPUT("the forest is smaller than this version knows");
    if (forest->len >= UINT32_MAX) return BAD_INPUT("the forest has 2^32 - 1 nodes or more");
    if (forest->len > 0 && (forest->token == NULL || forest->parent == NULL || forest->wanted == NULL))
        return BAD_INPUT("an array of the forest is null");
    for (size_t i = 0; i < forest->len; i++) {
        if (forest->parent[i] != BHEVAL_NO_PARENT && forest->parent[i] >= i)
            return BAD_INPUT("node %zu has parent %" PRIu32 ", which does not come before it", i, forest->parent[i]);
        if (forest->token[i] >= model->vocab)
            return BAD_INPUT("token id %" PRIu32 " is beyond the vocabulary of %" PRIu32, forest->token[i], model->vocab);
    }
    return BHEVAL_STATUS_OK;
}

static BhevalStatus score(BhevalModel *model, const BhevalForest *forest, BhevalScores *scores, BhevalMessage *message) {
    BhevalStatus status = check(model, forest, message);
    if (status != BHEVAL_STATUS_OK) return status;
    if (scores == NULL || scores->size < sizeof *scores) return BAD_INPUT("there is no room for scores");
    if (scores->len != forest->len) return BAD_INPUT("the scores are not as long as the forest");
    if (scores->len > 0 && scores->log_prob == NULL) return BAD_INPUT("the room for scores is null");
    for (size_t i = 0; i < forest->len; i++)
        if (forest->wanted[i] && forest->parent[i] == BHEVAL_NO_PARENT)
            return BAD_INPUT("node %zu is a root and wants a score, but nothing stands before it", i);
    for (size_t i = 0; i < forest->len; i++)
        if (forest->wanted[i]) scores->log_prob[i] = log_prob(model, forest->token[forest->parent[i]], forest->token[i]);
    scores->fed = forest->len;
    return BHEVAL_STATUS_OK;
}

// The optional extension: for each wanted node, a row over the tokens that may follow it.
static BhevalStatus logits(BhevalModel *model, const BhevalForest *forest, BhevalLogits *out, BhevalMessage *message) {
    BhevalStatus status = check(model, forest, message);
    if (status != BHEVAL_STATUS_OK) return status;
    size_t rows = 0;
    for (size_t i = 0; i < forest->len; i++) rows += forest->wanted[i] != 0;
    if (out == NULL || out->size < sizeof *out || out->len != rows * model->vocab || (out->len > 0 && out->data == NULL))
        return BAD_INPUT("the room for logits is not wanted nodes times vocabulary");
    float *next = out->data;
    for (size_t i = 0; i < forest->len; i++)
        for (uint32_t token = 0; forest->wanted[i] && token < model->vocab; token++)
            *next++ = log_prob(model, forest->token[i], token);
    return BHEVAL_STATUS_OK;
}

static const BhevalLogitsTable logits_table = {.size = sizeof(BhevalLogitsTable), .logits = logits};

static const void *extension(BhevalText id) {
    size_t len = sizeof BHEVAL_LOGITS_EXTENSION - 1;
    return id.len == len && memcmp(id.ptr, BHEVAL_LOGITS_EXTENSION, len) == 0 ? &logits_table : NULL;
}

#define TEXT(string) {.ptr = (const uint8_t *)(string), .len = sizeof(string) - 1}

const BhevalBackend bheval_backend = {
    .size = sizeof(BhevalBackend), .major = BHEVAL_MAJOR, .minor = BHEVAL_MINOR, .features = BHEVAL_FEATURE_FOREST,
    .name = TEXT("mine"), .version = TEXT("0.1.0"),
    .open = open_model, .close = close_model, .describe = describe, .score = score, .extension = extension,
};
