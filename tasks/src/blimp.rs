//! BLiMP (Warstadt et al. 2020), the BabyLM challenge's filtered and fast forms of it, and its supplement.

use crate::Info;
use crate::pairs::PairTask;

const BLIMP: Info = Info {
    name: "blimp",
    title: "BLiMP: linguistic minimal pairs of English",
    version: 1,
    subset_noun: "paradigm",
    subsets: 67,
    items: 67_000,
    chance: 0.5,
    licence: "CC-BY-4.0",
    source: "https://github.com/alexwarstadt/blimp",
    dataset: Some("blimp"),
};

pub(crate) static FULL: PairTask = PairTask { info: BLIMP };

pub(crate) static FILTERED: PairTask = PairTask {
    info: Info {
        name: "blimp_filtered",
        title: "BLiMP without words that BabyLM's small corpus lacks (BabyLM 2024 and 2025)",
        items: 59_875,
        dataset: Some("blimp_filtered"),
        source: "https://osf.io/ryjfm",
        ..BLIMP
    },
};

pub(crate) static FAST: PairTask = PairTask {
    info: Info {
        name: "blimp_fast",
        title: "200 filtered pairs for each paradigm of BLiMP (BabyLM 2025, for checkpoints)",
        items: 13_400,
        dataset: Some("blimp_fast"),
        source: "https://osf.io/ryjfm",
        ..BLIMP
    },
};

pub(crate) static SUPPLEMENT: PairTask = PairTask {
    info: Info {
        name: "blimp_supplement",
        title: "BabyLM's supplement to BLiMP, filtered: dialogue, questions, hypernyms",
        subset_noun: "subtask",
        subsets: 5,
        items: 5_218,
        licence: "Apache-2.0",
        source: "https://osf.io/ryjfm",
        dataset: Some("blimp_supplement"),
        ..BLIMP
    },
};

pub(crate) static SUPPLEMENT_FAST: PairTask = PairTask {
    info: Info {
        name: "supplement_fast",
        title: "50 pairs for each subtask of the supplement (BabyLM 2025, for checkpoints)",
        items: 250,
        dataset: Some("supplement_fast"),
        ..SUPPLEMENT.info
    },
};
