// A table whose functions are null.

#include <bheval.h>

const BhevalBackend bheval_backend = {
    .size = sizeof(BhevalBackend),
    .major = BHEVAL_MAJOR,
    .minor = BHEVAL_MINOR,
    .name = {.ptr = (const uint8_t *)"null", .len = 4},
    .version = {.ptr = (const uint8_t *)"1", .len = 1},
};
