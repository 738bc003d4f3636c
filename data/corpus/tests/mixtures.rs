//! From shares to words.

use std::collections::BTreeMap;

use bheval_corpus::mixture::{Asked, Budget, Budgets, Mixture, PRESETS, Share, words};
use proptest::prelude::*;

fn domains(all: &[(&str, u64)]) -> Vec<(String, u64)> {
    all.iter().map(|(name, words)| ((*name).to_owned(), *words)).collect()
}

fn asked(words: Option<u64>) -> Asked {
    Asked { words, ..Asked::default() }
}

fn shares(text: &str) -> Mixture {
    let one = |one: &str| {
        let (name, share) = one.split_once('=').expect("NAME=SHARE");
        (name.to_owned(), share.parse().expect("a share"))
    };
    Mixture::Shares(text.split(',').map(one).collect())
}

fn given(budgets: &Budgets) -> Vec<u64> {
    let one = |budget: &Option<Budget>| match budget {
        None => 0,
        Some(Budget::All) => u64::MAX,
        Some(Budget::Words(words)) => *words,
    };
    budgets.of.iter().map(one).collect()
}

const ALL: u64 = u64::MAX;

#[test]
fn natural_is_all_or_in_proportion() {
    let domains = domains(&[("a", 600), ("b", 300), ("c", 100)]);
    let natural = |words| given(&Mixture::Natural.budgets(&domains, &asked(words)).unwrap());
    assert_eq!(natural(None), [ALL, ALL, ALL]);
    assert_eq!(natural(Some(100)), [60, 30, 10]);
    // Exactly 0.6, 0.3 and 0.1 of a word: the largest remainder has it.
    assert_eq!(natural(Some(1)), [1, 0, 0]);
}

#[test]
fn shares_of_every_kind() {
    let domains = domains(&[("a", 600), ("b", 300), ("c", 100)]);
    let of = |text: &str, words| shares(text).budgets(&domains, &asked(words)).map(|b| given(&b));
    assert_eq!(of("a=0.5,b=25%,c=0.25", Some(400)).unwrap(), [200, 100, 100]);
    assert_eq!(of("a=100w,*=all", None).unwrap(), [100, ALL, ALL]);
    assert_eq!(of("*=all,a=rest", Some(450)).unwrap(), [50, ALL, ALL]);
    assert_eq!(of("a=0.5,b=all,c=rest", Some(700)).unwrap(), [350, ALL, 50]);
    assert_eq!(of("a=0,*=all", None).unwrap(), [0, ALL, ALL]);
    let told = |text: &str, words| of(text, words).unwrap_err().to_string();
    assert!(told("a=0.5,b=0.5", Some(10)).contains("no share for c"));
    assert!(told("a=1,d=0,*=0", Some(10)).contains("\"d\"") && told("d=1,*=0", None).contains("a, b, c"));
    assert!(
        told("a=0.5,b=0.3,c=0.1", Some(10)).contains("0.9")
            && told("*=0.5", Some(9)).contains("--renormalize")
    );
    assert!(told("a=0.5,b=0.25,c=0.25", None).contains("--words"));
    assert!(told("a=rest,*=all", None).contains("--words"));
    assert!(told("a=rest,*=all", Some(399)).contains("more than the 399"));
    assert!(told("*=rest", Some(1000)).contains("only one"));
    assert!(told("*=all", Some(900)).contains("gives 1000 words and --words asks for 900"));
}

#[test]
fn shares_are_scaled_only_when_asked_to() {
    let domains = domains(&[("a", 600), ("b", 300)]);
    let asked = Asked { renormalise: true, ..asked(Some(90)) };
    let scaled = shares("a=0.6,b=0.3").budgets(&domains, &asked).unwrap();
    assert_eq!((given(&scaled), scaled.renormalised), (vec![60, 30], true));
    let whole = shares("a=0.6,b=0.4").budgets(&domains, &asked).unwrap();
    assert_eq!((given(&whole), whole.renormalised), (vec![54, 36], false));
    assert!(shares("*=0").budgets(&domains, &asked).unwrap_err().to_string().contains("every share is 0"));
}

/// The paper's own counts (Table 1): its shares of 9,999,894 and 99,999,861 words are those words.
#[test]
fn the_piles_presets_are_the_papers_counts() {
    let names = [
        "Pile-CC",
        "OpenWebText2",
        "FreeLaw",
        "USPTO Backgrounds",
        "Wikipedia (en)",
        "PubMed Central",
        "PubMed Abstracts",
        "Others",
    ];
    let tables = [
        (9_999_894, [4_900_155, 3_078_791, 946_382, 261_159, 187_094, 142_698, 118_427, 365_188]),
        (
            99_999_861,
            [49_214_555, 30_344_790, 9_471_436, 2_519_390, 1_855_709, 1_449_273, 1_175_838, 3_968_870],
        ),
    ];
    let domains: Vec<_> = names.iter().map(|name| ((*name).to_owned(), 1)).collect();
    for (preset, (total, table)) in PRESETS.iter().zip(tables) {
        let found = Mixture::Preset(preset).budgets(&domains, &asked(Some(total))).unwrap();
        assert_eq!(given(&found), table);
    }
}

#[test]
fn presets_find_domains_by_name_by_hand_or_not() {
    let pile = Mixture::Preset(&PRESETS[0]);
    let here = domains(&[
        ("freelaw_scotus_oral_arguments", 5),
        ("wikipedia_topics", 5),
        ("books_novels", 30),
        ("code", 10),
    ]);
    let told = pile.budgets(&here, &asked(Some(1000))).unwrap_err().to_string();
    let missing = "Pile-CC, OpenWebText2, USPTO Backgrounds, PubMed Central, PubMed Abstracts;";
    assert!(told.contains(missing) && told.contains("--renormalize") && told.contains("--map"), "{told}");
    assert!(pile.budgets(&here, &asked(None)).unwrap_err().to_string().contains("--words"));
    let scaled = Asked { renormalise: true, ..asked(Some(1000)) };
    let found = pile.budgets(&here, &scaled).unwrap();
    // 946,382 : 187,094 : 365,188, the last divided 3 to 1.
    assert_eq!((given(&found), found.renormalised), (vec![631, 125, 183, 61], true));
    let map = BTreeMap::from([("Pile-CC".to_owned(), vec!["books_novels".to_owned(), "code".to_owned()])]);
    let found = pile.budgets(&here, &Asked { map, ..scaled.clone() }).unwrap();
    // 946,382 : 187,094 : 4,900,155.
    assert_eq!(given(&found), [157, 31, 609, 203]);
    let wrong = |part: &str, label: &str| {
        let map = BTreeMap::from([(part.to_owned(), vec![label.to_owned()])]);
        pile.budgets(&here, &Asked { map, ..scaled.clone() }).unwrap_err().to_string()
    };
    assert!(wrong("Books", "code").contains("no part \"Books\""));
    assert!(wrong("Pile-CC", "cod").contains("no such domain"));
    let told = Mixture::Preset(&PRESETS[2]).budgets(&here, &scaled).unwrap_err().to_string();
    assert!(
        told.contains("freelaw_scotus_oral_arguments stands for no part of the mixture babylm"),
        "{told}"
    );
}

/// The six sources of the 2024 data by the names of its files, 8 : 29 : 26 : 20 : 15 : 1.
#[test]
fn the_babylm_preset_knows_the_official_files() {
    let names = ["bnc_spoken", "childes", "gutenberg", "open_subtitles", "simple_wiki", "switchboard"];
    let here: Vec<_> = names.iter().map(|name| ((*name).to_owned(), 1)).collect();
    let found = Mixture::Preset(&PRESETS[2]).budgets(&here, &asked(Some(99_000))).unwrap();
    assert_eq!(given(&found), [8000, 29000, 26000, 20000, 15000, 1000]);
}

#[test]
fn numbers_of_words() {
    assert_eq!(words("10M"), Ok(10_000_000));
    assert_eq!((words("2.5k"), words("1G"), words("12345")), (Ok(2500), Ok(1_000_000_000), Ok(12_345)));
    assert_eq!(words("8.9M"), Ok(8_900_000));
    for wrong in ["", "0", "M", "1.5", "-3", "1e6", "10T", "1.2345K", "999999999G", "nan", "１0"] {
        assert!(words(wrong).is_err(), "{wrong}");
    }
}

proptest! {
    /// Whatever the weights, the words asked for are given out to the last one, each within one of its exact share.
    #[test]
    fn words_are_divided_to_the_last(has in proptest::collection::vec(1_u64..1_000_000, 1..12), words in 1_u64..50_000_000) {
        let names: Vec<_> = has.iter().enumerate().map(|(i, words)| (format!("d{i}"), *words)).collect();
        let found = given(&Mixture::Natural.budgets(&names, &asked(Some(words))).unwrap());
        prop_assert_eq!(found.iter().sum::<u64>(), words);
        let total: u64 = has.iter().sum();
        for (given, has) in found.iter().zip(&has) {
            prop_assert!((*given as f64 - words as f64 * *has as f64 / total as f64).abs() <= 1.0 + 1e-6);
        }
    }
}

#[test]
fn shares_are_spelt_in_several_ways() {
    let parse = |text: &str| text.parse::<Share>();
    assert_eq!(parse("25%"), Ok(Share::Part(0.25)));
    assert_eq!(parse("0.5"), Ok(Share::Part(0.5)));
    assert_eq!(parse("1"), Ok(Share::Part(1.0)));
    assert_eq!(parse("4.2M"), Ok(Share::Words(4_200_000)));
    assert_eq!(parse("900w"), Ok(Share::Words(900)));
    assert_eq!((parse("all"), parse("rest")), (Ok(Share::All), Ok(Share::Rest)));
    for wrong in ["", "2", "-0.1", "110%", "x", "1e3", "0.5x", "M", "0.0001K", "nan", "inf", "99999999G"] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}
