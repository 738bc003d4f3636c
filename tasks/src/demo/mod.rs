//! Items written for bheval, so that a first run needs no data: minimal pairs in BLiMP's schema, and scenes in EWoK's.
//!
//! They show that a model and the harness work together. They are few and easy, and no stand-in for either benchmark.
//! No sentence is taken from BLiMP or EWoK.

mod morphology;
mod notation;
mod physical;
mod scene;
mod semantics;
mod social;
mod syntax;

pub use scene::{DemoScene, scenes};

/// Version of the items. A changed item is a new version, since results of the two can't be compared.
pub const VERSION: u32 = 1;

/// A grammatical sentence beside an ungrammatical one that differs from it in one respect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DemoPair {
    /// The phenomenon, `demo_` and a name like those of BLiMP's paradigms.
    pub uid: &'static str,
    /// Field of linguistics, as BLiMP spells it.
    pub field: &'static str,
    /// One of BLiMP's terms.
    pub linguistics_term: &'static str,
    /// The grammatical sentence.
    pub good: String,
    /// The ungrammatical sentence.
    pub bad: String,
}

/// One phenomenon and its pairs, each written once in the notation `[good|bad]`.
struct Phenomenon {
    uid: &'static str,
    field: &'static str,
    linguistics_term: &'static str,
    pairs: [&'static str; 20],
}

impl Phenomenon {
    fn pairs(&self) -> impl Iterator<Item = DemoPair> {
        self.pairs.iter().map(|pattern| {
            let [good, bad] = notation::sides(pattern);
            DemoPair { uid: self.uid, field: self.field, linguistics_term: self.linguistics_term, good, bad }
        })
    }
}

const PHENOMENA: [Phenomenon; 15] = [
    morphology::SUBJECT_VERB,
    morphology::SUBJECT_VERB_PREPOSITION,
    morphology::SUBJECT_VERB_RELATIVE,
    morphology::DETERMINER_NOUN,
    morphology::ANAPHOR,
    morphology::IRREGULAR_PAST,
    syntax::TRANSITIVITY,
    syntax::PASSIVE,
    syntax::WH_OR_THAT,
    syntax::ADJUNCT_ISLAND,
    syntax::COMPLEX_NP_ISLAND,
    semantics::NPI_LICENSOR,
    semantics::NPI_SCOPE,
    semantics::EXISTENTIAL_THERE,
    semantics::PRINCIPLE_A,
];

/// All minimal pairs, always the same and in the same order: 20 of each of 15 phenomena.
#[must_use]
pub fn pairs() -> Vec<DemoPair> {
    PHENOMENA.iter().flat_map(Phenomenon::pairs).collect()
}

#[cfg(test)]
mod tests;
