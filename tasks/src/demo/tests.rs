use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::*;

/// Every sentence with where it stands.
fn sentences() -> Vec<(String, String)> {
    let named = |pair: DemoPair| [(pair.uid, pair.good), (pair.uid, pair.bad)];
    let of_scene =
        |s: DemoScene| [s.context_1, s.context_2, s.target_1, s.target_2].map(|text| (s.domain, text));
    let all = pairs().into_iter().flat_map(named).chain(scenes().into_iter().flat_map(of_scene));
    all.map(|(place, text)| (place.to_owned(), text)).collect()
}

fn counts<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<String, usize> {
    names.fold(BTreeMap::new(), |mut counts, name| {
        *counts.entry(name.to_owned()).or_default() += 1;
        counts
    })
}

#[test]
fn there_are_20_pairs_of_each_of_15_phenomena() {
    let pairs = pairs();
    let counts = counts(pairs.iter().map(|p| p.uid));
    assert_eq!(counts.len(), 15);
    assert!(counts.iter().all(|(uid, &n)| uid.starts_with("demo_") && n == 20), "{counts:?}");
}

#[test]
fn there_are_10_scenes_of_each_of_6_domains() {
    let scenes = scenes();
    let counts = counts(scenes.iter().map(|s| s.domain));
    assert_eq!(counts.len(), 6);
    assert!(counts.values().all(|&n| n == 10), "{counts:?}");
    assert!(scenes.iter().all(|s| ["direct", "indirect"].contains(&s.context_type)));
}

#[test]
fn every_pair_is_distinct_and_differs_within() {
    let pairs = pairs();
    let sentences: BTreeSet<&str> = pairs.iter().flat_map(|p| [p.good.as_str(), p.bad.as_str()]).collect();
    assert_eq!(sentences.len(), 2 * pairs.len());
}

#[test]
fn both_sentences_of_a_pair_have_as_many_words() {
    for pair in pairs() {
        let words = |text: &str| text.split(' ').count();
        assert_eq!(words(&pair.good), words(&pair.bad), "{} / {}", pair.good, pair.bad);
    }
}

#[test]
fn every_scene_is_distinct_and_differs_within() {
    let scenes = scenes();
    let contexts: BTreeSet<&str> = scenes.iter().flat_map(|s| [s.context_1.as_str(), &s.context_2]).collect();
    assert_eq!(contexts.len(), 2 * scenes.len());
    for scene in &scenes {
        assert_ne!(scene.target_1, scene.target_2);
        assert_ne!(scene.concept_a, scene.concept_b);
    }
}

#[test]
fn every_sentence_is_written_cleanly() {
    for (place, text) in sentences() {
        assert!(text.starts_with(|c: char| c.is_ascii_uppercase()), "{place}: {text}");
        assert!(text.ends_with(['.', '?']), "{place}: {text}");
        let plain = |c: char| c.is_ascii_alphabetic() || " ,.?'".contains(c);
        assert!(text.chars().all(plain), "{place}: {text}");
        let marks = ["  ", " .", " ,", " ?", "..", ".?", ",,"];
        assert!(marks.iter().all(|mark| !text.contains(mark)), "{place}: {text}");
    }
}

#[test]
fn a_and_an_go_with_the_next_word() {
    for (place, text) in sentences() {
        let words: Vec<&str> = text.split(' ').collect();
        for pair in words.windows(2) {
            let article = pair[0].to_ascii_lowercase();
            if article == "a" || article == "an" {
                assert_eq!(article == "an", begins_with_a_vowel(pair[1]), "{place}: {text}");
            }
        }
    }
}

/// By sound, as far as these items need it.
fn begins_with_a_vowel(word: &str) -> bool {
    let consonant = ["one", "use", "uni"].iter().any(|start| word.starts_with(start));
    let silent = ["hour", "honest", "heir"].iter().any(|start| word.starts_with(start));
    silent || (!consonant && word.starts_with(['a', 'e', 'i', 'o', 'u']))
}

#[test]
fn no_sentence_is_one_of_blimps() {
    let blimp = blimp();
    for (place, text) in sentences() {
        assert!(!blimp.contains(&text), "{place}: {text}");
    }
}

/// The phenomena are described in BLiMP's own words.
#[test]
fn fields_and_terms_are_blimps() {
    let mut known = BTreeSet::new();
    for row in rows() {
        known.insert((column(&row, "field"), column(&row, "linguistics_term")));
    }
    for pair in pairs() {
        assert!(known.contains(&(pair.field.to_owned(), pair.linguistics_term.to_owned())), "{}", pair.uid);
    }
}

fn blimp() -> BTreeSet<String> {
    let sentences: BTreeSet<_> =
        rows().flat_map(|row| ["sentence_good", "sentence_bad"].map(|name| column(&row, name))).collect();
    assert!(sentences.len() > 100_000, "BLiMP has only {} sentences", sentences.len());
    sentences
}

fn column(row: &serde_json::Value, name: &str) -> String {
    row[name].as_str().expect("BLiMP's columns are texts").to_owned()
}

fn rows() -> impl Iterator<Item = serde_json::Value> {
    let folder = std::env::var_os("BHEVAL_DATA").map(PathBuf::from).expect("BHEVAL_DATA is set by cargo");
    let folder = folder.join("blimp/data");
    let entries = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("BHEVAL_DATA must hold BLiMP: can't read {}: {e}", folder.display()));
    let paths: Vec<PathBuf> = entries.map(|entry| entry.expect("the folder is readable").path()).collect();
    assert_eq!(paths.len(), 67, "BLiMP has 67 files");
    paths.into_iter().flat_map(|path| {
        let text = std::fs::read_to_string(&path).expect("BLiMP's files are readable");
        text.lines().map(|line| serde_json::from_str(line).expect("BLiMP is JSON lines")).collect::<Vec<_>>()
    })
}

/// If this fails because an item was changed: results differ, so raise [`VERSION`] and put the new number here.
#[test]
fn the_items_of_this_version_are_frozen() {
    let texts: Vec<String> =
        sentences().into_iter().map(|(place, text)| format!("{place}\t{text}\n")).collect();
    assert_eq!((VERSION, fingerprint(&texts.concat())), (1, 0xe531_4d95_ba1d_829a));
}

/// 64-bit FNV-1a.
fn fingerprint(text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}
