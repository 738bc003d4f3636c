// A backend for another major version of the contract. Whoever calls one of its functions crashes.

#include <bheval.h>

#define TRAP(type) ((type)(uintptr_t)1)

const BhevalBackend bheval_backend = {
    .size = sizeof(BhevalBackend),
    .major = BHEVAL_MAJOR + 1,
    .minor = 7,
    .name = {.ptr = (const uint8_t *)1, .len = 5},
    .version = {.ptr = (const uint8_t *)1, .len = 5},
    .open = TRAP(BhevalStatus(*)(const BhevalOpenOptions *, BhevalModel **, BhevalMessage *)),
    .close = TRAP(void (*)(BhevalModel *)),
    .describe = TRAP(BhevalStatus(*)(BhevalModel *, BhevalModelInfo *, BhevalMessage *)),
    .score = TRAP(BhevalStatus(*)(BhevalModel *, const BhevalForest *, BhevalScores *, BhevalMessage *)),
    .extension = TRAP(const void *(*)(BhevalText)),
};
