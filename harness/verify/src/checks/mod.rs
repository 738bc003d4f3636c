//! The list of checks: what each asks, and what to try where it fails.

mod answers;
mod arguments;
mod concurrency;
mod hostile;
mod invariance;
mod lifetime;
mod limits;
mod opening;

use crate::Outcome;
use crate::subject::Subject;
use crate::verdict::{Finding, Stop, Verdict};

/// One question about a backend.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// Name as a user types it after `--only`.
    pub name: &'static str,
    /// What it asks.
    pub about: &'static str,
    /// What to try where it fails.
    pub advice: &'static str,
    run: fn(&Subject) -> Finding,
}

/// The check that every other one needs.
pub const OPENS: &str = "opens";
/// The check whose process must end in order.
pub const EXIT: &str = "exit";
/// The check that runs without the host: see [`crate::unload`].
pub const UNLOAD: &str = "unload";

impl Check {
    /// Runs the check in this process. A backend that crashes takes the process with it.
    #[must_use]
    pub fn run(&self, subject: &Subject) -> Verdict {
        match (self.run)(subject) {
            Ok(evidence) => Verdict { outcome: Outcome::Passed, evidence },
            Err(Stop::Skipped(reason)) => Verdict::skipped(reason),
            Err(Stop::Failed(evidence)) => Verdict::failed(format!("{evidence}. {}", self.advice)),
        }
    }

    /// The check of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Check> {
        CHECKS.iter().find(|check| check.name == name)
    }
}

macro_rules! checks {
    ($($name:expr, $run:path: $about:literal, $advice:literal;)*) => {
        /// All checks, in the order in which they run.
        pub const CHECKS: &[Check] =
            &[$(Check { name: $name, about: $about, advice: $advice, run: $run }),*];
    };
}

checks! {
    OPENS, opening::opens: "the model opens and says what it is",
        "Open the folder you gave with --model, and set every field of `BhevalModelInfo`; the sentence above is the backend's own";
    "info", opening::info: "what backend and model say of themselves is whole, and the same at each asking",
        "Set every field of `BhevalModelInfo` from the model's files, and keep its texts in the model until `close`";
    "extensions", opening::extensions: "unknown extensions are null",
        "Compare the whole id, with its length, and return null for any other";
    "open-refusals", opening::open_refusals: "what is no model, and options that can't be, are refused when opening",
        "`open` checks its pointers, `size`, the path and the number format first, returns a status and a sentence, and leaves `*model` alone";
    "finite", answers::finite: "log-probabilities are finite and at most 0",
        "Take the log-softmax as x - max - ln sum exp(x - max) in f32 or better, bound it by 0, write every wanted node, and answer `not finite` where a logit is";
    "sums-to-one", answers::sums_to_one: "the probabilities of all tokens after a context add up to 1",
        "Normalise over exactly the `vocab` tokens that the model has, padding rows left out, with sums in f32 or better";
    "logits", answers::logits: "the log-softmax of the logits is the score",
        "A row of logits belongs to the path including the node: it says what follows. Rows stand in the order of the wanted nodes";
    "unwanted", answers::unwanted: "nodes that are not asked for are left alone",
        "Write `log_prob[i]` only where `wanted[i]` is not 0";
    "fed", answers::fed: "the number of nodes run is told, and can be",
        "Set `scores->fed` to the nodes that were run through the network: above 0, and at most the nodes of the call";
    "full-call", answers::full_call: "a call of as many nodes as promised works, and keeps to its memory",
        "Derive `nodes` from `OpenOptions.memory` and what one node takes, and work in blocks where more is needed";
    "empty", answers::empty: "a call of no nodes is answered",
        "Return ok for `len` 0 before anything is read: the arrays may be null then";
    "repeat", invariance::repeat: "asked again, or opened again, the same bits",
        "Keep no state between calls, draw no random numbers, leave dropout out, and add up in a fixed order";
    "batch", invariance::batch: "alone or among others, the same bits",
        "Libraries choose their arithmetic by the number of rows: feed rows of a fixed number, padded if need be, or use products of your own with a fixed order of sums";
    "order", invariance::order: "in any order, the same bits",
        "A node's value may depend on the tokens of its path alone, never on its index or its neighbours";
    "threads", invariance::threads: "with any number of threads, the same bits",
        "Split the work by rows, never the terms of one sum; the number of threads must choose no arithmetic";
    "forest", invariance::forest: "beginnings that are shared score as if they were not",
        "Take state from the parent, never from the node before; or leave BHEVAL_FEATURE_FOREST out, and the host sends chains";
    "causal", invariance::causal: "what comes later changes nothing before it",
        "Mask attention to the right, and let convolutions, norms and pools look at earlier tokens only";
    "subset", invariance::subset: "which nodes are asked for changes no value",
        "Compute as if all nodes were wanted, and leave out only work that no sum of a wanted node has part in";
    "several-models", concurrency::several_models: "models live side by side and are closed in any order",
        "Keep everything of a model in what `open` returns; share nothing that can be written";
    "other-thread", concurrency::other_thread: "a model works from threads that did not open it",
        "Use no thread-local state for a model; bind devices or contexts anew in each call";
    "at-once", concurrency::at_once: "two models answer at the same time",
        "Guard whatever models share, scratch buffers too, or give each its own";
    "token-range", limits::token_range: "token ids beyond the vocabulary are refused",
        "Compare every id with `vocab` before it is used as an index, and answer `bad input` with the id in the sentence";
    "wanted-root", limits::wanted_root: "a score for a token without context is refused",
        "Answer `bad input` where a root is wanted: a causal model says nothing about a first token";
    "context-limit", limits::context_limit: "paths up to the context are scored, longer ones refused",
        "Compare the depth of every node with `context` and answer `bad input`: never cut, never wrap positions around";
    "parents", limits::parents: "forests whose parents do not come first are refused",
        "Check parent[i] < i, or BHEVAL_NO_PARENT, before you follow it, and answer `bad input`";
    "nulls", arguments::nulls: "null pointers are refused, and closing null is allowed",
        "Check each pointer of a call, and each array of a struct whose length is not 0, and answer `bad input`";
    "sizes", arguments::sizes: "structs smaller than their version are refused",
        "Compare the `size` that leads each struct with `sizeof` before any other field is touched, and answer `bad input`";
    "lengths", arguments::lengths: "lengths that contradict each other, or can't be, are refused",
        "Answer `bad input` where `scores->len` is not `forest->len`, and where `len` is UINT32_MAX or more";
    "messages", arguments::messages: "sentences keep to the room they are given",
        "Write at most `capacity` bytes, set `len` to what was written, and nothing where the message is null or its `size` too small";
    "batches", limits::batches: "batches of a masked model that contradict themselves are refused",
        "Check that `begin` rises from 0 to `len`, and that each position is below `len`, and answer `bad input`";
    "causal-refused", limits::causal_refused: "a masked model gives no scores from left to right",
        "`score` of a masked model answers `unsupported`: only `bheval.masked.1` is its own";
    "hostile", hostile::hostile: "calls at random are answered as they deserve",
        "Check the whole call before the first token is run: arrays, tokens, parents, roots, depth";
    EXIT, lifetime::exit: "the process ends in order, a model left open",
        "Join the backend's threads in `close`, and let destructors and atexit handlers touch nothing that may be gone";
    UNLOAD, lifetime::unload: "the library can be unloaded",
        "End every thread before `close` returns, and leave nothing behind that calls into the library: exit handlers, timers, destructors of thread-local state";
    "memory-calls", lifetime::memory_calls: "a thousand calls take no more memory than a hundred",
        "Free what a call allocated, on its error paths too; caches need a bound";
    "memory-models", lifetime::memory_models: "models that are closed give their memory back",
        "`close` frees all that `open` took, its texts, buffers and threads too";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_texts_are_there() {
        for (i, check) in CHECKS.iter().enumerate() {
            assert!(CHECKS[..i].iter().all(|other| other.name != check.name), "{}", check.name);
            assert!(!check.about.is_empty() && !check.advice.is_empty());
            assert!(check.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", check.name);
        }
    }
}
