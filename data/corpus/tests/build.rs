//! Building corpora: the same bytes whatever the threads, budgets, duplicates, held-out text, and tokens back to text.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bheval_corpus::build::{Stage, build, is_corpus_file};
use bheval_corpus::mixture::{Asked, Mixture, PRESETS};
use bheval_corpus::sources::{Reading, Sources};
use bheval_corpus::{Corpus, Error, Target};
use bheval_data::tokenizer::Tokenizer;
use support::{
    Folder, bpe_options, built, contents, data, decoded, effort, options, packed, source, sources, tokenizer,
};

/// Documents of `count` different texts; their lengths differ.
fn text(name: &str, count: usize) -> String {
    let words = ["red", "green", "blue", "seven", "eight", "walks", "sings", "quietly", "the", "of"];
    let document = |i: usize| {
        let length = 3 + i * 7 % 11;
        let more: Vec<_> = (0..length).map(|j| words[(i * 31 + j * j * 7) % words.len()]).collect();
        format!("{name} {i}\n{}\n", more.join(" "))
    };
    (0..count).map(document).collect::<Vec<_>>().join("\n")
}

/// Two domains, a tokenizer of their text, and the words of each.
struct Ready {
    folder: Folder,
    sources: Sources,
    tokenizer: PathBuf,
}

fn ready() -> Ready {
    let folder = Folder::new();
    let a = folder.write("a.txt.zst", packed(".zst", text("alpha", 300).as_bytes()));
    let b = folder.write("b.txt", text("beta", 200));
    let tokenizer = tokenizer(&folder.path("tokenizer"), &[&a, &b], &bpe_options(400));
    Ready { sources: sources(&[("a", &a), ("b", &b)]), folder, tokenizer }
}

fn shares(text: &[(&str, &str)]) -> Mixture {
    Mixture::Shares(
        text.iter().map(|(name, share)| ((*name).to_owned(), share.parse().expect("a share"))).collect(),
    )
}

#[test]
fn every_document_comes_back_as_text() {
    let ready = ready();
    let out = ready.folder.path("out");
    let record = built(&ready.sources, &ready.tokenizer, &options(Mixture::Natural), 2, &out).unwrap();
    let corpus = Corpus::open(&out).unwrap();
    assert_eq!(corpus.record(), &record);
    corpus.verify().unwrap();
    assert!(
        record.train.shards.len() > 5 && record.train.shards.iter().rev().skip(1).all(|s| s.tokens == 1000)
    );
    let found: BTreeSet<_> = decoded(&corpus, corpus.train()).into_iter().collect();
    let expected =
        [("a", text("alpha", 300)), ("b", text("beta", 200))].into_iter().flat_map(|(domain, text)| {
            let one =
                |t: &str| (domain.to_owned(), format!("<s>{t}</s>"), t.split_whitespace().count() as u32);
            text.trim_end().split("\n\n").map(|t| one(t.trim_end())).collect::<Vec<_>>()
        });
    assert_eq!(found, expected.collect());
    let total: u64 = found.iter().map(|(_, _, words)| u64::from(*words)).sum();
    assert_eq!(record.train.total.words, total);
    assert_eq!((record.train.total.documents, record.dev), (500, None));
    let by_domain: u64 = record.domains.iter().map(|d| d.train.tokens).sum();
    assert_eq!((by_domain, corpus.train().len()), (record.train.total.tokens, record.train.total.tokens));
    // Documents of both domains are mixed, and not in the order of the files.
    let order: Vec<_> = corpus.train().documents().iter().map(|d| d.domain).collect();
    assert!(order.windows(2).filter(|pair| pair[0] != pair[1]).count() > 150, "{order:?}");
}

#[test]
fn the_same_seed_gives_the_same_bytes_whatever_the_threads_and_the_order_of_files() {
    let ready = ready();
    let mut options = options(shares(&[("a", "0.6"), ("*", "40%")]));
    options.asked.words = Some(2000);
    options.dev_share = 0.1;
    let build = |name: &str, sources: &Sources, seed: u64, threads: usize| {
        let out = ready.folder.path(name);
        let sources = sources.clone().checked().unwrap();
        built(
            &sources,
            &ready.tokenizer,
            &bheval_corpus::build::BuildOptions { seed, ..options.clone() },
            threads,
            &out,
        )
        .unwrap();
        contents(&out)
            .into_iter()
            .map(|(path, bytes)| (path.strip_prefix(&out).unwrap().to_owned(), bytes))
            .collect()
    };
    let first: Vec<(PathBuf, Vec<u8>)> = build("one", &ready.sources, 1, 1);
    let mut turned = ready.sources.clone();
    turned.train.reverse();
    assert!(first == build("many", &ready.sources, 1, 7), "threads");
    assert!(first == build("turned", &turned, 1, 3), "order");
    let other: Vec<(PathBuf, Vec<u8>)> = build("other", &ready.sources, 2, 2);
    let (first, other): (BTreeMap<_, _>, BTreeMap<_, _>) =
        (first.into_iter().collect(), other.into_iter().collect());
    let name = Path::new("train-00000.bin");
    assert!(first[name] != other[name]);
    // What is held out does not depend on the seed.
    assert!(first[Path::new("dev.bin")] == other[Path::new("dev.bin")]);
}

#[test]
fn budgets_are_met_and_never_exceeded() {
    let ready = ready();
    for (words, seed) in [(600, 1), (1234, 2), (2500, 3)] {
        let mut options = options(shares(&[("a", "0.75"), ("b", "0.25")]));
        (options.asked.words, options.seed) = (Some(words), seed);
        let out = ready.folder.path(&format!("out-{words}"));
        let record = built(&ready.sources, &ready.tokenizer, &options, 2, &out).unwrap();
        for domain in &record.domains {
            let (budget, got) = (domain.budget.unwrap(), domain.train.words);
            // The shortest document has five words, so five or more can't be left over.
            assert!(got <= budget && budget - got < 5, "{} of {budget}", got);
        }
        let found: Vec<_> = decoded(&Corpus::open(&out).unwrap(), Corpus::open(&out).unwrap().train());
        let distinct: BTreeSet<_> = found.iter().collect();
        assert_eq!(distinct.len(), found.len(), "without replacement");
    }
}

#[test]
fn duplicates_are_dropped_across_domains_and_from_training_if_held_out() {
    let folder = Folder::new();
    let a = folder.write("a.txt", "x y\n\nx\ty\n\nz one\n\nheld out\n");
    let b = folder.write("b.txt", "z  one\n\nw\n\n held\nout\n\nheld out\n");
    let dev = folder.write("dev.txt", "held out\n\nheld  out\n\nnew\n");
    let tokenizer = tokenizer(&folder.path("tokenizer"), &[&a, &b], &bpe_options(260));
    let mut sources = sources(&[("a", &a), ("b", &b)]);
    sources.dev.push(source("b", &dev));
    let out = folder.path("out");
    let record = built(&sources, &tokenizer, &options(Mixture::Natural), 2, &out).unwrap();
    let corpus = Corpus::open(&out).unwrap();
    let texts = |split| decoded(&corpus, split).into_iter().map(|(d, t, _)| (d, t)).collect::<BTreeSet<_>>();
    let pair = |domain: &str, text: &str| (domain.to_owned(), format!("<s>{text}</s>"));
    assert_eq!(texts(corpus.train()), BTreeSet::from([pair("a", "x y"), pair("a", "z one"), pair("b", "w")]));
    assert_eq!(texts(corpus.dev().unwrap()), BTreeSet::from([pair("b", "held out"), pair("b", "new")]));
    let dropped = record.duplicates;
    assert_eq!((dropped.train, dropped.train_in_dev, dropped.dev), (2, 3, 1));
    assert_eq!(record.domains[1].available_words, 1);
}

#[test]
fn a_share_is_held_out_by_content() {
    let ready = ready();
    let mut options = options(Mixture::Natural);
    options.dev_share = 0.2;
    let out = ready.folder.path("out");
    let record = built(&ready.sources, &ready.tokenizer, &options, 2, &out).unwrap();
    let corpus = Corpus::open(&out).unwrap();
    let all = |split| decoded(&corpus, split).into_iter().collect::<BTreeSet<_>>();
    let (train, dev) = (all(corpus.train()), all(corpus.dev().unwrap()));
    assert!(train.is_disjoint(&dev));
    assert_eq!(train.len() + dev.len(), 500);
    // 500 draws of 0.2: mean 100, standard deviation 9.
    assert!((60..=140).contains(&dev.len()), "{}", dev.len());
    assert_eq!(record.dev.unwrap().total.documents, dev.len() as u64);
}

#[test]
fn short_domains_are_an_error_or_taken_as_they_are() {
    let ready = ready();
    let mut options = options(shares(&[("a", "500w"), ("b", "50K")]));
    let out = ready.folder.path("out");
    let error = built(&ready.sources, &ready.tokenizer, &options, 2, &out).unwrap_err();
    assert!(matches!(&error, Error::Short { domains } if domains.len() == 1 && domains[0].1 == 50_000));
    assert!(error.to_string().contains("b has ") && error.to_string().contains("--allow-short"), "{error}");
    assert!(!out.exists());
    options.allow_short = true;
    let record = built(&ready.sources, &ready.tokenizer, &options, 2, &out).unwrap();
    assert_eq!(record.domains[1].train.words, record.domains[1].available_words);
    assert!(record.mixture.allow_short);
}

#[test]
fn empty_text_is_an_error_and_nothing_is_left() {
    let ready = ready();
    let empty = ready.folder.write("c.txt", "\n \n");
    let out = ready.folder.path("out");
    let refused = |sources: &Sources, mixture: Mixture, part: &str| {
        let told = built(sources, &ready.tokenizer, &options(mixture), 2, &out).unwrap_err().to_string();
        assert!(told.contains(part), "{told}");
        assert!(!out.exists());
    };
    refused(&sources(&[("c", &empty)]), Mixture::Natural, "hold no documents");
    refused(&ready.sources, shares(&[("*", "2w")]), "no document of a fits");
    refused(&ready.sources, shares(&[("*", "0")]), "the shares add up to 0");
    let dev = ready.folder.write("dev.txt", text("alpha", 300));
    let mut all_held_out = sources(&[("a", &ready.folder.path("a.txt.zst"))]);
    all_held_out.dev.push(source("a", &dev));
    refused(&all_held_out, Mixture::Natural, "no document is left");
    let entries: Vec<_> = std::fs::read_dir(ready.folder.path("")).unwrap().collect();
    assert!(entries.iter().all(|e| !e.as_ref().unwrap().file_name().to_string_lossy().starts_with('.')));
}

#[test]
fn a_fault_in_the_text_names_its_place_and_leaves_nothing() {
    let ready = ready();
    let bad = ready.folder.write("c.txt", b"good\n\nb\xffd\n");
    let mut all = ready.sources.clone();
    all.train.push(source("c", &bad));
    let out = ready.folder.path("out");
    let told = built(&all, &ready.tokenizer, &options(Mixture::Natural), 3, &out).unwrap_err().to_string();
    assert!(told.contains("c.txt, line 3: not UTF-8 from byte 1"), "{told}");
    assert!(!out.exists());
}

#[test]
fn words_are_told_for_any_range_of_tokens() {
    let ready = ready();
    let out = ready.folder.path("out");
    let record = built(&ready.sources, &ready.tokenizer, &options(Mixture::Natural), 2, &out).unwrap();
    let corpus = Corpus::open(&out).unwrap();
    let train = corpus.train();
    let (documents, total) = (train.documents(), train.len());
    let starts: Vec<_> = documents.iter().map(|d| d.start).chain([total]).collect();
    let mut words = 0;
    for (document, bounds) in documents.iter().zip(starts.windows(2)) {
        // Exact at the borders of documents, in proportion within them.
        assert_eq!(train.words_before(bounds[0]), words);
        let half = (bounds[0] + bounds[1]) / 2;
        let share = u64::from(document.words) * (half - bounds[0]) / (bounds[1] - bounds[0]);
        assert_eq!(train.words_in(bounds[0]..half), share);
        assert_eq!(train.document_at(half), train.document_at(bounds[0]));
        words += u64::from(document.words);
    }
    assert_eq!(
        (words, train.words_before(total), train.words_before(u64::MAX)),
        (record.train.total.words, words, words)
    );
    // Ranges that follow each other add up, however they are cut.
    for step in [1, 7, 64, 1000] {
        let sum: u64 = (0..total).step_by(step).map(|i| train.words_in(i..i + step as u64)).sum();
        assert_eq!(sum, words, "{step}");
    }
    assert_eq!((train.words_in(9..9), train.document_at(total)), (0, None));
}

#[test]
fn ranges_cross_shards_and_stop_at_the_end() {
    let ready = ready();
    let out = ready.folder.path("out");
    built(&ready.sources, &ready.tokenizer, &options(Mixture::Natural), 2, &out).unwrap();
    let corpus = Corpus::open(&out).unwrap();
    let train = corpus.train();
    let bytes: Vec<u8> =
        corpus.record().train.shards.iter().flat_map(|s| std::fs::read(out.join(&s.file)).unwrap()).collect();
    let all: Vec<u32> = bytes.chunks(2).map(|b| u32::from(b[0]) + 256 * u32::from(b[1])).collect();
    for range in [0..0, 0..1, 990..1010, 999..1000, 1000..1001, 500..3500, 0..train.len()] {
        assert_eq!(train.tokens(range.clone()).unwrap(), all[range.start as usize..range.end as usize]);
    }
    #[expect(clippy::reversed_empty_ranges, reason = "that is what is refused")]
    for range in [0..train.len() + 1, 5..4, u64::MAX..u64::MAX] {
        let told = train.tokens(range).unwrap_err().to_string();
        assert!(told.contains(&format!("there are {}", train.len())), "{told}");
    }
}

#[test]
fn special_tokens_in_the_text_are_text() {
    let folder = Folder::new();
    let path = folder.write("a.txt", "before </s> between <pad> after\n");
    let tokenizer = tokenizer(&folder.path("tokenizer"), &[&path], &bpe_options(300));
    let out = folder.path("out");
    let mut options = options(Mixture::Natural);
    options.bos = false;
    built(&sources(&[("a", &path)]), &tokenizer, &options, 1, &out).unwrap();
    let corpus = Corpus::open(&out).unwrap();
    let ids = corpus.train().tokens(0..corpus.train().len()).unwrap();
    let eos = corpus.record().tokenizer.eos;
    assert_eq!(ids.iter().filter(|id| **id < 4).collect::<Vec<_>>(), [&eos], "its own end alone");
    assert_eq!(decoded(&corpus, corpus.train())[0].1, "before </s> between <pad> after</s>");
}

#[test]
fn large_vocabularies_take_four_bytes_and_the_border_is_exact() {
    let folder = Folder::new();
    let path = folder.write("a.txt", "a b\n");
    for (largest, width) in [(65_535_u32, 2), (65_536, 4)] {
        let name = format!("tokenizer-{largest}");
        let json = serde_json::json!({
            "version": "1.0", "pre_tokenizer": {"type": "Whitespace"},
            "added_tokens": [{"id": 0, "content": "</s>", "special": true, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false}],
            "model": {"type": "WordLevel", "vocab": {"</s>": 0, "a": largest, "b": 2}, "unk_token": "b"},
        });
        folder.write(&format!("{name}/tokenizer.json"), json.to_string());
        folder.write(&format!("{name}/special_tokens_map.json"), "{\"eos_token\": \"</s>\"}");
        let out = folder.path(&format!("out-{largest}"));
        let record =
            built(&sources(&[("a", &path)]), &folder.path(&name), &options(Mixture::Natural), 1, &out)
                .unwrap();
        assert_eq!((record.token_bytes, record.tokenizer.vocab, record.bos), (width, largest + 1, false));
        let corpus = Corpus::open(&out).unwrap();
        assert_eq!(corpus.train().tokens(0..3).unwrap(), [largest, 2, 0]);
        let bytes = std::fs::metadata(out.join("train-00000.bin")).unwrap().len();
        assert_eq!(bytes, 3 * u64::from(width));
    }
}

#[test]
fn a_tokenizer_without_an_end_is_refused() {
    let folder = Folder::new();
    let path = folder.write("a.txt", "a b\n");
    let mut options_ = bpe_options(260);
    options_.special.eos = None;
    let tokenizer = tokenizer(&folder.path("tokenizer"), &[&path], &options_);
    let refused =
        built(&sources(&[("a", &path)]), &tokenizer, &options(Mixture::Natural), 1, &folder.path("out"));
    let told = refused.unwrap_err().to_string();
    assert!(told.contains("no eos token") && told.contains("tokenizer_config.json"), "{told}");
}

/// Rows of the Pile name their own domains, and its preset finds them.
#[test]
fn the_pile_by_its_own_labels() {
    let folder = Folder::new();
    let parts = PRESETS[0].parts;
    let others = ["Books3", "Github"];
    let names = parts.iter().map(|p| p.name).filter(|name| *name != "Others").chain(others);
    let mut rows = String::new();
    for name in names {
        for i in 0..400 {
            let text = format!("{name} number {i} in five");
            rows += &format!("{}\n", serde_json::json!({"text": text, "meta": {"pile_set_name": name}}));
        }
    }
    let path = folder.write("00.jsonl.zst", packed(".zst", rows.as_bytes()));
    let tokenizer = tokenizer(&folder.path("tokenizer"), &[&path], &bpe_options(300));
    let reading = Reading { label_field: Some("meta.pile_set_name".into()), ..Reading::default() };
    let sources = Sources { train: vec![reading.source(path, "00")], ..Sources::default() };
    let mut options = options(Mixture::Preset(&PRESETS[0]));
    options.asked = Asked { words: Some(3000), ..Asked::default() };
    let record = built(&sources, &tokenizer, &options, 2, &folder.path("out")).unwrap();
    let budget = |name: &str| record.domains.iter().find(|d| d.name == name).unwrap().budget.unwrap() as f64;
    // Table 1 of the paper, in percent of 3,000 words.
    let table = [
        ("Pile-CC", 49.00),
        ("OpenWebText2", 30.79),
        ("FreeLaw", 9.46),
        ("USPTO Backgrounds", 2.61),
        ("Wikipedia (en)", 1.87),
        ("PubMed Central", 1.43),
        ("PubMed Abstracts", 1.18),
    ];
    for (name, percent) in table {
        assert!((budget(name) - 30.0 * percent).abs() < 1.2, "{name}: {}", budget(name));
    }
    assert!((budget("Books3") + budget("Github") - 30.0 * 3.65).abs() < 1.2);
    assert_eq!(record.domains.iter().map(|d| d.budget.unwrap()).sum::<u64>(), 3000);
    assert_eq!(record.mixture.source.as_deref(), Some(PRESETS[0].source));
}

/// Real text: prose, articles, code and sums.
#[test]
fn real_text_is_cut_as_the_tokenizer_cuts_it_and_comes_back() {
    let here = Folder::new();
    let dev = |set: &str, name: &str| source(name, &data(set).join(format!("{name}.dev.txt.zst")));
    let prose = ["gutenberg", "simple_wiki"].map(|name| dev("babylm-text", name));
    let other = ["code_python_stdlib", "dm_mathematics"].map(|name| dev("pile-like", name));
    let train = prose.into_iter().chain(other).collect();
    let sources = Sources { train, ..Sources::default() }.checked().unwrap();
    let paths: Vec<_> = sources.train.iter().map(|s| s.file.path.as_path()).collect();
    let folder = tokenizer(&here.path("tokenizer"), &paths, &bpe_options(1000));
    let out = here.path("out");
    let record = built(&sources, &folder, &options(Mixture::Natural), 2, &out).unwrap();
    let corpus = Corpus::open(&out).unwrap();
    let tokenizer = Tokenizer::load(&folder).unwrap();
    let read: BTreeSet<_> = paths.iter().flat_map(|path| support::texts(path).unwrap()).collect();
    let found = decoded(&corpus, corpus.train());
    assert_eq!(
        found.len() as u64 + record.duplicates.train,
        record.sources.iter().map(|s| s.documents).sum::<u64>()
    );
    let ends = corpus.train().documents().iter().skip(1).map(|d| d.start).chain([corpus.train().len()]);
    for ((document, end), (_, text, _)) in corpus.train().documents().iter().zip(ends).zip(&found) {
        let text = text.strip_prefix("<s>").and_then(|t| t.strip_suffix("</s>")).unwrap();
        assert!(read.contains(text), "{text}");
        let ids = corpus.train().tokens(document.start + 1..end - 1).unwrap();
        assert_eq!(ids, tokenizer.ids(text).unwrap());
    }
}

#[test]
fn text_that_changes_while_it_is_built_is_refused() {
    let ready = ready();
    let out = ready.folder.path("out");
    let target = Target::new(&out, false, "corpus.json", is_corpus_file).unwrap();
    let path = ready.folder.path("b.txt");
    for change in [text("beta", 199), text("beta", 201), text("beta", 200).replace("beta 7", "beta 8")] {
        std::fs::write(&path, text("beta", 200)).unwrap();
        let stage = |stage| {
            if stage == Stage::Cutting {
                std::fs::write(&path, &change).unwrap();
            }
        };
        let options = options(Mixture::Natural);
        let built = build(&ready.sources, &ready.tokenizer, &options, &effort(2), &target, stage);
        let told = built.unwrap_err().to_string();
        assert!(told.contains("b.txt: the file was changed while"), "{told}");
        assert!(!out.exists());
    }
}
