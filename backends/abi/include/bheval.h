// SPDX-License-Identifier: MIT OR Apache-2.0
// Made from backends/abi/src by cbindgen: change that, and write this file anew as tests/tests/header.rs says.
//
// The contract between bheval and a backend: plain C tables and nothing else.
//
// A backend is a library that exports one data symbol, `BHEVAL_SYMBOL`, holding a `BhevalBackend` table. The table is led by
// its size and its version, so that a host can refuse it before it calls anything. The unit of scoring is a
// `BhevalForest` of token prefixes: ids cross this boundary, text does not.
//
// Rules that hold everywhere, unless a function says otherwise:
//
// * **Ownership.** Whoever allocates frees. Every pointer that is passed in stays the caller's and is valid only
//   during the call. Text handed out by a backend lives as long as what it describes (the library, or the model).
// * **Threads.** Functions of the table may be called from any thread. For one model there is one call at a time;
//   different models may be called at the same time.
// * **Failure.** Every function that can fail returns a `BhevalStatus` and writes a sentence into the caller's
//   `BhevalMessage`. No panic or exception leaves a backend; in Rust `guard` sees to that.
// * **Growth.** A struct is led by its size in bytes as the side that filled it knew it. A reader reads no field that
//   lies beyond that size. Fields are only ever appended, with a new minor version; anything else is a new major one.
//   `BhevalText` alone has no size: it is a plain pair and will not change within a major version.

#ifndef BHEVAL_H
#define BHEVAL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Makes the loader find a symbol, whatever the compiler's default is.
#if defined(_WIN32)
#define BHEVAL_EXPORT __declspec(dllexport)
#elif defined(__GNUC__)
#define BHEVAL_EXPORT __attribute__((visibility("default")))
#else
#define BHEVAL_EXPORT
#endif

// Name of the data symbol that a backend exports: a `const` `BhevalBackend`.
#define BHEVAL_SYMBOL "bheval_backend"

// Id of the extension whose table is a `BhevalLogitsTable`.
#define BHEVAL_LOGITS_EXTENSION "bheval.logits.1"

// Id of the extension whose table is a `BhevalHiddenTable`.
#define BHEVAL_HIDDEN_EXTENSION "bheval.hidden.1"

// Id of the extension whose table is a `BhevalMaskedTable`.
#define BHEVAL_MASKED_EXTENSION "bheval.masked.1"

// Id of the extension whose table is a `BhevalTrainTable`.
#define BHEVAL_TRAIN_EXTENSION "bheval.train.1"

// A model in training; only its backend knows what is inside.
typedef struct BhevalTrainer BhevalTrainer;

// An opened model; only its backend knows what is inside.
typedef struct BhevalModel BhevalModel;

// The parent of a root.
#define BHEVAL_NO_PARENT UINT32_MAX

// Major version of the contract. Host and backend must agree.
#define BHEVAL_MAJOR 1

// Minor version of the contract. A host reads what both sides know.
#define BHEVAL_MINOR 0

// Feature bit: any forest is evaluated natively, each node once. Without it the host sends flat chains only, one for each
// sequence that is asked for: sequences that begin alike are not merged, so each value comes from its own chain.
#define BHEVAL_FEATURE_FOREST 1

// Borrowed UTF-8 text, not terminated by a zero byte. Empty text may have a null pointer.
typedef struct BhevalText {
    // First byte, or null if `len` is 0.
    const uint8_t *ptr;
    // Length in bytes.
    size_t len;
} BhevalText;

// What became of a call. 0 is success; codes that a reader does not know count as `BHEVAL_STATUS_INTERNAL`.
typedef int32_t BhevalStatus;
// Done.
#define BHEVAL_STATUS_OK 0
// The caller's arguments are wrong: a token beyond the vocabulary, a parent that comes after its child.
#define BHEVAL_STATUS_BAD_INPUT 1
// The files of the model are missing, damaged or contradict each other.
#define BHEVAL_STATUS_BAD_MODEL 2
// Understood, but this backend can't do it.
#define BHEVAL_STATUS_UNSUPPORTED 3
// A result was NaN or infinite. No score was returned for it.
#define BHEVAL_STATUS_NOT_FINITE 4
// Memory or another resource ran out.
#define BHEVAL_STATUS_EXHAUSTED 5
// The backend panicked. The model must not be used again, except to close it.
#define BHEVAL_STATUS_PANIC 6
// A fault of the backend itself.
#define BHEVAL_STATUS_INTERNAL 7

// Number format of weights and products. Sums and log-probabilities are f32 or better in each of them.
typedef uint32_t BhevalDtype;
// 32-bit floating point, whatever the file stores.
#define BHEVAL_DTYPE_F32 1
// Brain floating point for weights and products.
#define BHEVAL_DTYPE_BF16 2

// How to open a model.
typedef struct BhevalOpenOptions {
    // `sizeof(BhevalOpenOptions)` as the caller knows it.
    size_t size;
    // Folder with `config.json` and weights, or a file, in UTF-8.
    struct BhevalText path;
    // Threads to use, at least 1. Scores must not depend on it.
    uint32_t threads;
    // Wanted number format.
    BhevalDtype dtype;
    // Bytes that scoring may take beside the weights. A bound to plan by, not a hard limit.
    uint64_t memory;
} BhevalOpenOptions;

// Room for one sentence of UTF-8, owned by the caller.
typedef struct BhevalMessage {
    // `sizeof(BhevalMessage)` as the caller knows it.
    size_t size;
    // Where the backend writes; never null.
    uint8_t *ptr;
    // Bytes that may be written.
    size_t capacity;
    // Bytes that were written. A longer sentence is cut at a character's boundary.
    size_t len;
} BhevalMessage;

// What a model's scores mean.
typedef uint32_t BhevalKind;
// Left to right: `log p(token | what stands before it)`.
#define BHEVAL_KIND_CAUSAL 1
// A masked model, read by pseudo-log-likelihood.
#define BHEVAL_KIND_MASKED 2

// What a backend says of an opened model. Its texts live until the model is closed.
typedef struct BhevalModelInfo {
    // `sizeof(BhevalModelInfo)`: set by the caller before the call.
    size_t size;
    // Number of tokens that have a probability; ids are below it.
    uint32_t vocab;
    // Longest path, in tokens, or 0 where the architecture sets no limit.
    uint32_t context;
    // Nodes that one scoring call may have under the memory given, at least 1.
    uint32_t nodes;
    // Causal or masked.
    BhevalKind kind;
    // Number of parameters, a tied one counted once.
    uint64_t parameters;
    // Architecture as `config.json` spells it: `hgrn2`.
    struct BhevalText architecture;
    // Number format in use: `f32`.
    struct BhevalText dtype;
} BhevalModelInfo;

// A forest of token prefixes, as three arrays of `len` elements. Node `i` stands for the token sequence on the path
// from its root down to itself, so sentences that begin alike share nodes.
//
// A node's parent comes before it (`parent[i] < i`) or is `BHEVAL_NO_PARENT`. A flat batch of sequences is the special case
// of a forest of chains. A backend without `BHEVAL_FEATURE_FOREST` is only ever given chains, each in consecutive
// nodes and each a whole sequence, also where another one begins alike.
typedef struct BhevalForest {
    // `sizeof(BhevalForest)` as the caller knows it.
    size_t size;
    // Number of nodes.
    size_t len;
    // Token id of each node.
    const uint32_t *token;
    // Index of each node's parent, or `BHEVAL_NO_PARENT` for a root.
    const uint32_t *parent;
    // 1 for a node whose value is asked for, else 0.
    const uint8_t *wanted;
} BhevalForest;

// The answer to a scoring call.
typedef struct BhevalScores {
    // `sizeof(BhevalScores)` as the caller knows it.
    size_t size;
    // `len` elements, owned by the caller. The backend writes `log_prob[i] = ln p(token_i | the path above node i)`, in
    // nats and at least f32 precision, for every wanted node and leaves the others alone.
    float *log_prob;
    // Elements of `log_prob`: the forest's `len`.
    size_t len;
    // Written by the backend: how many nodes it ran through the network.
    uint64_t fed;
} BhevalScores;

// What a backend exports under `BHEVAL_SYMBOL`. Lives as long as the library.
typedef struct BhevalBackend {
    // `sizeof(BhevalBackend)` as the backend knows it.
    size_t size;
    // Major version of the contract the backend was built for.
    uint32_t major;
    // Minor version of the contract the backend was built for.
    uint32_t minor;
    // Feature bits: `BHEVAL_FEATURE_FOREST` or none.
    uint64_t features;
    // Name as a user types it after `--backend`.
    struct BhevalText name;
    // Version of the backend; part of every result's key.
    struct BhevalText version;
    // Opens a model and stores it in `model`. On failure `*model` is left alone.
    // The caller closes what it opened. [any thread, several at a time]
    BhevalStatus (*open)(const struct BhevalOpenOptions *options,
                         BhevalModel **model,
                         struct BhevalMessage *message);
    // Frees a model. It must not be used again; null is allowed. [any thread; no other call on this model]
    void (*close)(BhevalModel *model);
    // Fills `info`. Its texts live until `close`. [any thread; one call at a time per model]
    BhevalStatus (*describe)(BhevalModel *model, struct BhevalModelInfo *info, struct BhevalMessage *message);
    // Scores the wanted nodes of a forest. The answer for a node depends on its path alone: not on other nodes, their
    // order, earlier calls or threads, bit for bit. Without `BHEVAL_FEATURE_FOREST` it may also depend on the tokens that
    // follow in its chain, whose number decides how a library rounds. [any thread; one call at a time per model]
    BhevalStatus (*score)(BhevalModel *model,
                          const struct BhevalForest *forest,
                          struct BhevalScores *scores,
                          struct BhevalMessage *message);
    // The table of an optional ability by its id, or null. The table lives as long as the library; its type is the
    // one that the id names, for example `bheval.logits.1`. [any thread, several at a time]
    const void *(*extension)(struct BhevalText id);
} BhevalBackend;

// The head of a model: `logits = hidden · weightᵀ + bias`. First asked with null pointers, for its sizes.
typedef struct BhevalHead {
    // `sizeof(BhevalHead)`: set by the caller before the call.
    size_t size;
    // Values of a hidden state. Set by the backend.
    uint32_t width;
    // 1 where the head has a bias. Set by the backend.
    uint32_t has_bias;
    // Null, or room for `[vocab, width]` values.
    float *weight;
    // Null, or room for `[vocab]` values.
    float *bias;
} BhevalHead;

// Room for hidden states, owned by the caller.
typedef struct BhevalHidden {
    // `sizeof(BhevalHidden)` as the caller knows it.
    size_t size;
    // `len` elements: one row of `width` for each wanted node, in the order of the nodes.
    float *data;
    // Number of wanted nodes times the width.
    size_t len;
} BhevalHidden;

// Hidden states and the head that turns them into logits. Lives as long as the library.
typedef struct BhevalHiddenTable {
    // `sizeof(BhevalHiddenTable)` as the backend knows it.
    size_t size;
    // Writes the head's sizes and, where there is room, its values. A model whose logits are more than a product and a
    // bias, because something bounds them, refuses with `BHEVAL_STATUS_UNSUPPORTED`.
    // [any thread; one call at a time per model]
    BhevalStatus (*head)(BhevalModel *model, struct BhevalHead *head, struct BhevalMessage *message);
    // Writes, for each wanted node, the hidden state that the head reads. It belongs to the path *including* the node.
    // [any thread; one call at a time per model]
    BhevalStatus (*hidden)(BhevalModel *model,
                           const struct BhevalForest *forest,
                           struct BhevalHidden *out,
                           struct BhevalMessage *message);
} BhevalHiddenTable;

// Room for rows of logits, owned by the caller.
typedef struct BhevalLogits {
    // `sizeof(BhevalLogits)` as the caller knows it.
    size_t size;
    // `len` elements: one row of `vocab` for each wanted node, in the order of the nodes.
    float *data;
    // Number of wanted nodes times the vocabulary.
    size_t len;
} BhevalLogits;

// Logits of the next token. Lives as long as the library.
typedef struct BhevalLogitsTable {
    // `sizeof(BhevalLogitsTable)` as the backend knows it.
    size_t size;
    // Writes, for each wanted node, the unnormalised log-probabilities of the token that follows it: the row belongs to
    // the path *including* the node. [any thread; one call at a time per model]
    BhevalStatus (*logits)(BhevalModel *model,
                           const struct BhevalForest *forest,
                           struct BhevalLogits *out,
                           struct BhevalMessage *message);
} BhevalLogitsTable;

// Token sequences as a masked model reads them, and what is asked about their positions.
//
// A sequence holds its special tokens and, where something is hidden, the tokenizer's mask token: which tokens are
// hidden, and how, is the harness's business. There is no padding: each sequence is read as if it were alone.
typedef struct BhevalMasked {
    // `sizeof(BhevalMasked)` as the caller knows it.
    size_t size;
    // Number of tokens in all sequences.
    size_t len;
    // `len` token ids, sequence after sequence.
    const uint32_t *token;
    // Number of sequences.
    size_t sequences;
    // `sequences + 1` elements, rising from 0 to `len`: sequence `s` is `token[begin[s]..begin[s + 1]]`.
    const uint32_t *begin;
    // Number of questions.
    size_t queries;
    // `queries` elements: the index into `token` where the model's distribution is read.
    const uint32_t *position;
    // `queries` elements: the token whose log-probability is asked for there.
    const uint32_t *target;
} BhevalMasked;

// Masked scoring. Lives as long as the library.
typedef struct BhevalMaskedTable {
    // `sizeof(BhevalMaskedTable)` as the backend knows it.
    size_t size;
    // Writes, for each question, `ln p(target | the whole sequence, read at position)` into `scores`, whose `len` is
    // the number of questions. The answer depends on the question's sequence alone, bit for bit.
    // [any thread; one call at a time per model]
    BhevalStatus (*score)(BhevalModel *model,
                          const struct BhevalMasked *masked,
                          struct BhevalScores *scores,
                          struct BhevalMessage *message);
} BhevalMaskedTable;

// How to start.
typedef struct BhevalTrainOptions {
    // `sizeof(BhevalTrainOptions)` as the caller knows it.
    size_t size;
    // Folder with `config.json` and, where `draw` is 0, weights, in UTF-8.
    struct BhevalText path;
    // 1: draw the weights from `seed`, as the architecture's authors do; 0: read them from the folder.
    uint32_t draw;
    // Threads to use, at least 1. Results must not depend on it.
    uint32_t threads;
    // Number format of the operands of large products. Weights, sums, gradients and state are f32 or better.
    BhevalDtype dtype;
    // Where weights are drawn from.
    uint64_t seed;
} BhevalTrainOptions;

// What a backend says of a model in training. Its texts live until the trainer is closed.
typedef struct BhevalTrainInfo {
    // `sizeof(BhevalTrainInfo)`: set by the caller before the call.
    size_t size;
    // Number of tokens that have a probability; ids are below it.
    uint32_t vocab;
    // Longest sequence, in tokens, or 0 where the architecture sets no limit.
    uint32_t context;
    // Number of tensors.
    uint32_t tensors;
    // Columns of the hidden states that the head reads.
    uint32_t width;
    // Number of trained values.
    uint64_t parameters;
    // Architecture as `config.json` spells it.
    struct BhevalText architecture;
    // Number format in use.
    struct BhevalText dtype;
    // What computes, for people: `cpu, 2 threads`.
    struct BhevalText device;
} BhevalTrainInfo;

// One tensor. Its name lives until the trainer is closed.
typedef struct BhevalTrainTensor {
    // `sizeof(BhevalTrainTensor)`: set by the caller before the call.
    size_t size;
    // Name in the checkpoint.
    struct BhevalText name;
    // Number of dimensions, at most 4.
    uint32_t dimensions;
    // Whether weight decay applies where norms, biases and the like are left out of it.
    uint32_t decay;
    // The dimensions, the rest 0.
    uint64_t shape[4];
} BhevalTrainTensor;

// What a teacher says of a batch. `kind` 1: `values [rows, vocab]` are logits. `kind` 2: for each row `k` tokens `ids`,
// their log-probabilities at the temperature in `values`, and in `rest [rows]` the logarithm of the mass of all others,
// which count as one event for teacher and student alike. `kind` 3: `values [rows, width]` are hidden states, and
// `head [vocab, width]` with `bias [vocab]` or null makes logits of them.
typedef struct BhevalTeacher {
    // `sizeof(BhevalTeacher)` as the caller knows it.
    size_t size;
    // 1, 2 or 3, as above.
    uint32_t kind;
    // `k`, or `width`.
    uint32_t columns;
    // Both distributions are softmax(logits / temperature).
    float temperature;
    // What one row's Kullback-Leibler divergence counts for in the loss, everything included.
    float weight;
    // 1: rows whose target is ignored count too.
    uint32_t every_position;
    // As `kind` says.
    const float *values;
    // As `kind` says.
    const uint32_t *ids;
    // As `kind` says.
    const float *rest;
    // As `kind` says.
    const float *head;
    // As `kind` says.
    const float *bias;
} BhevalTeacher;

// Token sequences of one length, and what follows each token.
typedef struct BhevalTrainBatch {
    // `sizeof(BhevalTrainBatch)` as the caller knows it.
    size_t size;
    // Sequences.
    uint32_t batch;
    // Tokens of each.
    uint32_t steps;
    // `batch * steps` ids, sequence after sequence.
    const uint32_t *token;
    // As many: the token that is to be predicted there, or below 0 where none is.
    const int32_t *target;
    // What one target's cross-entropy counts for in the loss.
    float weight;
    // Names the pass: where dropout draws from.
    uint64_t pass;
    // What a teacher says of this batch, or null.
    const struct BhevalTeacher *teacher;
} BhevalTrainBatch;

// What a pass found, summed over the batch, unweighted.
typedef struct BhevalTrainSums {
    // `sizeof(BhevalTrainSums)`: set by the caller before the call.
    size_t size;
    // Cross-entropy, in nats.
    double nats;
    // Kullback-Leibler divergence from the teacher at its temperature, in nats.
    double divergence;
    // Number of targets.
    uint64_t targets;
} BhevalTrainSums;

// How to update: AdamW with decoupled weight decay.
typedef struct BhevalTrainRates {
    // `sizeof(BhevalTrainRates)` as the caller knows it.
    size_t size;
    // Learning rate.
    double learning_rate;
    // Decay of the first moment.
    double beta1;
    // Decay of the second moment.
    double beta2;
    // Added to the root of the second moment.
    double epsilon;
    // Weight decay, times the learning rate.
    double weight_decay;
    // Largest norm of the whole gradient, or 0 for no clipping.
    double clip;
    // Number of the update, from 1.
    uint64_t step;
    // 1: weight decay applies to every tensor.
    uint32_t decay_all;
} BhevalTrainRates;

// What is copied in and out.
typedef uint32_t BhevalKept;
// The trained values.
#define BHEVAL_KEPT_WEIGHT 0
// AdamW's first moment.
#define BHEVAL_KEPT_FIRST_MOMENT 1
// AdamW's second moment.
#define BHEVAL_KEPT_SECOND_MOMENT 2
// The gradient gathered since the last update; read only.
#define BHEVAL_KEPT_GRADIENT 3

// Training. Lives as long as the library. For one trainer there is one call at a time, from any thread.
typedef struct BhevalTrainTable {
    // `sizeof(BhevalTrainTable)` as the backend knows it.
    size_t size;
    // Makes a trainer and stores it in `trainer`. On failure `*trainer` is left alone.
    BhevalStatus (*create)(const struct BhevalTrainOptions *options,
                           BhevalTrainer **trainer,
                           struct BhevalMessage *message);
    // Frees a trainer; null is allowed.
    void (*close)(BhevalTrainer *trainer);
    // Fills `info`.
    BhevalStatus (*describe)(BhevalTrainer *trainer,
                             struct BhevalTrainInfo *info,
                             struct BhevalMessage *message);
    // Fills `tensor` with what tensor number `index` is.
    BhevalStatus (*tensor)(BhevalTrainer *trainer,
                           uint32_t index,
                           struct BhevalTrainTensor *tensor,
                           struct BhevalMessage *message);
    // Floating-point operations of one token's forward pass in a sequence of `steps` tokens.
    double (*flops)(BhevalTrainer *trainer, uint32_t steps);
    // Bytes that the trainer holds: weights, gradients, moments, and the buffers that passes have needed so far.
    uint64_t (*bytes)(BhevalTrainer *trainer);
    // Runs a batch forward and backward and adds to the gradient.
    BhevalStatus (*accumulate)(BhevalTrainer *trainer,
                               const struct BhevalTrainBatch *batch,
                               struct BhevalTrainSums *sums,
                               struct BhevalMessage *message);
    // Runs a batch forward, without dropout.
    BhevalStatus (*evaluate)(BhevalTrainer *trainer,
                             const struct BhevalTrainBatch *batch,
                             struct BhevalTrainSums *sums,
                             struct BhevalMessage *message);
    // Writes the hidden states that the head reads, `[batch * steps, width]`, `len` values.
    BhevalStatus (*hidden)(BhevalTrainer *trainer,
                           const struct BhevalTrainBatch *batch,
                           float *out,
                           size_t len,
                           struct BhevalMessage *message);
    // Clips the gradient, updates all tensors, forgets the gradient, and writes the norm that it had. Where that norm is
    // not finite, nothing is updated.
    BhevalStatus (*update)(BhevalTrainer *trainer,
                           const struct BhevalTrainRates *rates,
                           double *norm,
                           struct BhevalMessage *message);
    // Copies tensor number `index` out, `len` values.
    BhevalStatus (*read)(BhevalTrainer *trainer,
                         uint32_t index,
                         BhevalKept kept,
                         float *out,
                         size_t len,
                         struct BhevalMessage *message);
    // Copies tensor number `index` in, `len` values.
    BhevalStatus (*write)(BhevalTrainer *trainer,
                          uint32_t index,
                          BhevalKept kept,
                          const float *values,
                          size_t len,
                          struct BhevalMessage *message);
} BhevalTrainTable;

// The table that a backend defines. Lives as long as the library.
BHEVAL_EXPORT extern const BhevalBackend bheval_backend;

#ifdef __cplusplus
} // extern "C"
#endif

#endif // BHEVAL_H
