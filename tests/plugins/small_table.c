// A table that ends after its features, as if its author had forgotten the rest.

#define bheval_backend declared
#include <bheval.h>
#undef bheval_backend

struct Head {
    size_t size;
    uint32_t major;
    uint32_t minor;
    uint64_t features;
};

extern const struct Head bheval_backend;
const struct Head bheval_backend = {.size = sizeof(struct Head), .major = BHEVAL_MAJOR, .minor = BHEVAL_MINOR};
