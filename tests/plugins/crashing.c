// A backend in C that goes wrong in the way that the variable CRASHING names, at the token that stands behind it:
//   segv 123   abort 123   exit 123   hang 123   print 123   once 123 FILE (a segmentation fault unless FILE is there)
// or, without a token: load, open, close, leak. Else a score depends on a token and the one before it, exactly.

#include <bheval.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 768, NODES = 4096 };

struct BhevalModel {
    char fault[16];
    unsigned token;
    char file[4096];
};

static BhevalText text(const char *string) {
    return (BhevalText){.ptr = (const uint8_t *)string, .len = strlen(string)};
}

static void segmentation_fault(void) {
    volatile uintptr_t nowhere = 8;
    *(volatile int *)nowhere = 1;
}

static struct BhevalModel asked_for(void) {
    struct BhevalModel model = {0};
    const char *asked = getenv("CRASHING");
    if (asked != NULL) {
        sscanf(asked, "%15s %u %4095s", model.fault, &model.token, model.file);
    }
    return model;
}

__attribute__((constructor)) static void load(void) {
    if (strcmp(asked_for().fault, "load") == 0) {
        segmentation_fault();
    }
}

static BhevalStatus open_model(const BhevalOpenOptions *options, BhevalModel **model, BhevalMessage *message) {
    (void)options;
    (void)message;
    struct BhevalModel asked = asked_for();
    if (strcmp(asked.fault, "open") == 0) {
        fprintf(stderr, "crashing: nothing to open here\n");
        segmentation_fault();
    }
    *model = malloc(sizeof asked);
    if (*model == NULL) {
        return BHEVAL_STATUS_EXHAUSTED;
    }
    **model = asked;
    return BHEVAL_STATUS_OK;
}

static void close_model(BhevalModel *model) {
    if (model != NULL && strcmp(model->fault, "close") == 0) {
        segmentation_fault();
    }
    free(model);
}

static BhevalStatus describe(BhevalModel *model, BhevalModelInfo *info, BhevalMessage *message) {
    (void)model;
    (void)message;
    info->vocab = VOCAB;
    info->context = 0;
    info->nodes = NODES;
    info->kind = BHEVAL_KIND_CAUSAL;
    info->parameters = 0;
    info->architecture = text("crashing");
    info->dtype = text("f32");
    return BHEVAL_STATUS_OK;
}

static void go_wrong(const BhevalModel *model) {
    if (strcmp(model->fault, "segv") == 0) {
        segmentation_fault();
    } else if (strcmp(model->fault, "abort") == 0) {
        fprintf(stderr, "crashing: token %u is too much\n", model->token);
        abort();
    } else if (strcmp(model->fault, "exit") == 0) {
        exit(0);
    } else if (strcmp(model->fault, "hang") == 0) {
        for (volatile int forever = 1; forever;) {
        }
    } else if (strcmp(model->fault, "print") == 0) {
        printf("garbage\n");
        fwrite("bhw1\3\0\0\0\10\0\0\0\0\0\0\0garbage!", 1, 24, stdout);
        fflush(stdout);
    } else if (strcmp(model->fault, "once") == 0) {
        FILE *file = fopen(model->file, "wx");
        if (file != NULL) {
            fclose(file);
            segmentation_fault();
        }
    }
}

static BhevalStatus score(BhevalModel *model, const BhevalForest *forest, BhevalScores *scores,
                          BhevalMessage *message) {
    (void)message;
    if (strcmp(model->fault, "leak") == 0 && malloc((size_t)512 << 20) == NULL) {
        fprintf(stderr, "crashing: out of memory\n");
        abort();
    }
    for (size_t i = 0; i < forest->len; i++) {
        uint32_t above = forest->parent[i] == BHEVAL_NO_PARENT ? 0 : forest->token[forest->parent[i]];
        if (forest->token[i] == model->token) {
            go_wrong(model);
        }
        if (forest->wanted[i]) {
            scores->log_prob[i] = -(float)((forest->token[i] * 31 + above * 17) % 97 + 1) / 8.0F;
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
    .features = BHEVAL_FEATURE_FOREST,
    .name = TEXT("crashing"),
    .version = TEXT("1"),
    .open = open_model,
    .close = close_model,
    .describe = describe,
    .score = score,
    .extension = extension,
};
