/* What an onnxruntime of 2023 answers when it is asked for its version; it has no other function. */
#include <stddef.h>
#include <stdint.h>

static const void *no_api(uint32_t version) {
    (void)version;
    return NULL;
}

static const char *version(void) { return "1.16.3"; }

static const struct {
    const void *(*get_api)(uint32_t);
    const char *(*get_version_string)(void);
} base = {no_api, version};

const void *OrtGetApiBase(void);
const void *OrtGetApiBase(void) { return &base; }
