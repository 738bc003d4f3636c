//! Mixtures that were published.

/// A published mixture.
#[derive(Debug, PartialEq)]
pub struct Preset {
    /// What it is called.
    pub name: &'static str,
    /// Where it was published.
    pub source: &'static str,
    /// Its parts.
    pub parts: &'static [Part],
}

/// A part of a published mixture.
#[derive(Debug, PartialEq)]
pub struct Part {
    /// Its name as published.
    pub name: &'static str,
    /// Its words, in any unit: only the proportions count.
    pub words: u64,
    /// Beginnings of domain names that stand for it, without anything but letters and digits; none: every domain that stands
    /// for no other.
    pub labels: &'static [&'static str],
}

const fn part(name: &'static str, words: u64, labels: &'static [&'static str]) -> Part {
    Part { name, words, labels }
}

const PILE_SOURCE: &str = "Haller, Golde and Akbik 2024 (BabyHGRN), Table 1";
const OWT: &[&str] = &["openwebtext"];

/// Mixtures that are known by name.
pub static PRESETS: [Preset; 3] = [
    Preset {
        name: "pile",
        source: PILE_SOURCE,
        parts: &[
            part("Pile-CC", 4_900_155, &["pilecc"]),
            part("OpenWebText2", 3_078_791, OWT),
            part("FreeLaw", 946_382, &["freelaw"]),
            part("USPTO Backgrounds", 261_159, &["uspto"]),
            part("Wikipedia (en)", 187_094, &["wikipedia"]),
            part("PubMed Central", 142_698, &["pubmedcentral"]),
            part("PubMed Abstracts", 118_427, &["pubmedabstracts"]),
            part("Others", 365_188, &[]),
        ],
    },
    Preset {
        name: "pile-100m",
        source: PILE_SOURCE,
        parts: &[
            part("Pile-CC", 49_214_555, &["pilecc"]),
            part("OpenWebText2", 30_344_790, OWT),
            part("FreeLaw", 9_471_436, &["freelaw"]),
            part("USPTO Backgrounds", 2_519_390, &["uspto"]),
            part("Wikipedia (en)", 1_855_709, &["wikipedia"]),
            part("PubMed Central", 1_449_273, &["pubmedcentral"]),
            part("PubMed Abstracts", 1_175_838, &["pubmedabstracts"]),
            part("Others", 3_968_870, &[]),
        ],
    },
    Preset {
        name: "babylm",
        source: "README of the BabyLM 2024 data (babylm_10M and babylm_100M): weights in percent, which add up to 99",
        parts: &[
            part("CHILDES", 29, &["childes"]),
            part("British National Corpus, dialogue", 8, &["bnc"]),
            part("Project Gutenberg", 26, &["gutenberg"]),
            part("OpenSubtitles", 20, &["opensubtitles"]),
            part("Simple English Wikipedia", 15, &["simplewiki"]),
            part("Switchboard", 1, &["switchboard"]),
        ],
    },
];
