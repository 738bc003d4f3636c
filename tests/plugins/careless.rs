//! A backend that forgets to check: with a model called `contained` it panics at a token beyond the vocabulary, inside the
//! guard; with any other it panics at a path beyond its context, outside of it, which ends the process.
#![allow(unsafe_code)] // An entry of its own, beside the guarded ones.

use bheval_abi::{
    Backend, Failure, Forest, ForestView, Info, Kind, LanguageModel, LogitsTable, Message, Opening, RawModel,
    Scores, Status,
};

const VOCAB: u32 = 32;
const CONTEXT: u32 = 48;

struct Careless {
    info: Info,
    contained: bool,
}

impl LanguageModel for Careless {
    const NAME: &'static str = "careless";
    const VERSION: &'static str = "1";
    const FOREST: bool = false;
    const LOGITS: Option<&'static LogitsTable> = None;

    fn open(options: &Opening) -> Result<Self, Failure> {
        if !options.path.join("model").is_file() || options.dtype != bheval_abi::Dtype::F32 {
            return Err(Failure::model("no file `model`, or another number format than f32"));
        }
        let info = Info {
            vocab: VOCAB,
            context: CONTEXT,
            nodes: 1000,
            kind: Kind::CAUSAL,
            parameters: 0,
            architecture: "uniform".to_owned(),
            dtype: "f32".to_owned(),
        };
        Ok(Self { info, contained: options.path.ends_with("contained") })
    }

    fn info(&self) -> &Info {
        &self.info
    }

    fn score(&mut self, forest: ForestView<'_>, log_prob: &mut [f32]) -> Result<u64, Failure> {
        let table = [-(VOCAB as f32).ln(); VOCAB as usize];
        if !self.contained {
            forest.check_tokens(VOCAB)?;
        }
        forest.check_causal()?;
        let mut depth = vec![1; forest.len()];
        for i in 0..forest.len() {
            depth[i] = forest.parent_of(i).map_or(1, |parent| depth[parent] + 1);
            let value = table[forest.token[i] as usize];
            if forest.is_wanted(i) {
                log_prob[i] = value;
            }
        }
        if self.contained && depth.iter().any(|&depth| depth > CONTEXT) {
            return Err(Failure::input("a path beyond the context"));
        }
        Ok(forest.len() as u64)
    }
}

const GUARDED: Backend = bheval_abi::backend::<Careless>();

/// Looks at the call before the guard does, as an author does who calls `extern "C"` functions of their own.
unsafe extern "C" fn score(
    model: *mut RawModel,
    forest: *const Forest,
    scores: *mut Scores,
    message: *mut Message,
) -> Status {
    // SAFETY: null is handled; `len` lies within any forest whose size is right, and chains are all this host sends.
    let len = unsafe { forest.as_ref() }.filter(|f| f.size >= size_of::<Forest>()).map_or(0, |f| f.len);
    // SAFETY: a forest of this length holds as many parents, unless it is refused for its arrays below.
    let parents = unsafe { forest.as_ref() }.map(|forest| forest.parent).filter(|p| !p.is_null());
    let long = |parents: *const u32| {
        // SAFETY: as above; the lengths that can't be are left to the guard.
        let parents = unsafe { std::slice::from_raw_parts(parents, len) };
        let mut depth = 0;
        parents.iter().any(|&parent| {
            depth = if parent == bheval_abi::NO_PARENT { 1 } else { depth + 1 };
            depth > CONTEXT
        })
    };
    let contained = len >= 1 << 20 || len == 0 || !parents.is_some_and(long);
    // SAFETY: the host's pointers, handed on.
    let status = unsafe { GUARDED.score.expect("a whole table")(model, forest, scores, message) };
    assert!(contained || status != Status::OK, "a path of more than {CONTEXT} tokens");
    status
}

/// The table that bheval looks up.
#[allow(non_upper_case_globals)]
// SAFETY: the one symbol of this name in the library.
#[unsafe(no_mangle)]
pub static bheval_backend: Backend = Backend { score: Some(score), ..GUARDED };
