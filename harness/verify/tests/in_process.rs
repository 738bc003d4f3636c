//! The checks on linked backends, in this process: what is right passes, a chain-only backend may round by length but no
//! more, and what moves with the batch is found.

use std::collections::BTreeSet;

use bheval_abi::{
    Backend, Dtype, Failure, ForestView, Info, Kind, LanguageModel, LogitsTable, Opening, Status,
};
use bheval_host::Library;
use bheval_verify::{CHECKS, Outcome, Subject};

const VOCAB: u32 = 50;

/// What a chain's length adds to the place in the list of weights, or to the score, of [`Rotation`].
type Fault = fn(&mut Rotation, chain: usize) -> (u32, f32);

struct Rotation {
    info: Info,
    calls: u32,
}

impl Rotation {
    /// Opens any file, with calls of up to `nodes` nodes.
    fn open(options: &Opening, nodes: u32) -> Result<Self, Failure> {
        if options.dtype != Dtype::F32 || !options.path.is_file() {
            return Err(Failure::new(Status::BAD_MODEL, "only f32, and only a file"));
        }
        let info = Info {
            vocab: VOCAB,
            context: 100,
            nodes,
            kind: Kind::CAUSAL,
            parameters: 0,
            architecture: "rotation".to_owned(),
            dtype: "f32".to_owned(),
        };
        Ok(Self { info, calls: 0 })
    }

    /// Scores chains only; another shape of a forest is a fault of the suite.
    fn score(&mut self, forest: ForestView<'_>, out: &mut [f32], fault: Fault) -> Result<u64, Failure> {
        forest.check_tokens(VOCAB)?;
        forest.check_causal()?;
        if forest.len() > self.info.nodes as usize {
            return Err(Failure::new(Status::EXHAUSTED, "more nodes than a call may have"));
        }
        self.calls += 1;
        let mut first = 0;
        for i in 0..forest.len() {
            match forest.parent_of(i) {
                None => first = i,
                Some(parent) => assert_eq!(parent + 1, i, "a chain, in consecutive nodes"),
            }
            if i - first >= 100 {
                return Err(Failure::input("a chain beyond the context"));
            }
        }
        for i in (0..forest.len()).filter(|&i| forest.is_wanted(i)) {
            let end = (i + 1..forest.len()).find(|&k| forest.parent_of(k).is_none()).unwrap_or(forest.len());
            let begin = (0..=i).rev().find(|&k| forest.parent_of(k).is_none()).unwrap_or(0);
            let (turn, error) = fault(self, end - begin);
            let place = (forest.token[i] + forest.token[i - 1] + turn) % VOCAB;
            out[i] = ((place + 1) as f32 / (VOCAB * (VOCAB + 1) / 2) as f32).ln() + error;
        }
        Ok(forest.len() as u64)
    }
}

macro_rules! backend {
    ($name:ident, $fault:expr) => {
        backend!($name, $fault, 120)
    };
    ($name:ident, $fault:expr, $nodes:expr) => {{
        struct $name(Rotation);
        impl LanguageModel for $name {
            const NAME: &'static str = "rotation";
            const VERSION: &'static str = "1";
            const FOREST: bool = false;
            const LOGITS: Option<&'static LogitsTable> = None;
            fn open(options: &Opening) -> Result<Self, Failure> {
                Rotation::open(options, $nodes).map(Self)
            }
            fn info(&self) -> &Info {
                &self.0.info
            }
            fn score(&mut self, forest: ForestView<'_>, out: &mut [f32]) -> Result<u64, Failure> {
                self.0.score(forest, out, $fault)
            }
        }
        static TABLE: Backend = bheval_abi::backend::<$name>();
        &TABLE
    }};
}

/// The names of the checks that ended in a way.
fn ended(table: &'static Backend, how: Outcome) -> BTreeSet<&'static str> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let library = Library::linked(table).expect("a whole table");
    let path = file.path().to_str().expect("UTF-8").to_owned();
    let subject = Subject { library, path, threads: 2, dtype: Dtype::F32, memory: 1 << 20 };
    CHECKS.iter().filter(|check| check.run(&subject).outcome == how).map(|check| check.name).collect()
}

#[test]
fn a_backend_that_takes_chains_only_is_sent_nothing_else_and_passes() {
    let table = backend!(Right, |_, _| (0, 0.0));
    assert_eq!(ended(table, Outcome::Failed), BTreeSet::new());
    let skipped = ["batches", "causal-refused", "logits", "unload"];
    assert_eq!(ended(table, Outcome::Skipped), BTreeSet::from(skipped));
}

#[test]
fn a_context_longer_than_a_call_is_no_fault() {
    let table = backend!(ShortCalls, |_, _| (0, 0.0), 64);
    assert_eq!(ended(table, Outcome::Failed), BTreeSet::new());
    let skipped = ["batches", "causal-refused", "context-limit", "logits", "unload"];
    assert_eq!(ended(table, Outcome::Skipped), BTreeSet::from(skipped));
}

#[test]
fn rounding_may_follow_a_chains_length_where_nothing_is_shared() {
    let table = backend!(Rounding, |_, chain| (0, -1e-6 * chain as f32));
    assert_eq!(ended(table, Outcome::Failed), BTreeSet::new());
}

#[test]
fn more_than_rounding_is_found() {
    let table = backend!(ByLength, |_, chain| (chain as u32, 0.0));
    assert_eq!(ended(table, Outcome::Failed), BTreeSet::from(["forest"]));
}

#[test]
fn what_was_asked_before_must_not_matter() {
    let table = backend!(Drifting, |model, _| (model.calls, 0.0));
    let failed = ended(table, Outcome::Failed);
    for name in
        ["repeat", "batch", "order", "subset", "empty", "several-models", "other-thread", "token-range"]
    {
        assert!(failed.contains(name), "{name} is not in {failed:?}");
    }
    for name in ["opens", "finite", "unwanted", "fed", "full-call", "memory-calls"] {
        assert!(!failed.contains(name), "{name} is in {failed:?}");
    }
}
