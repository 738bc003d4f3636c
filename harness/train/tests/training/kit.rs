//! A corpus, a plan over it, and runs.

use std::path::{Path, PathBuf};

use bheval_corpus::{Corpus, record::*};
use bheval_data::digest::sha256_hex;
use bheval_data::tokenizer::Tokenizer;
use bheval_train::folder::Folder;
use bheval_train::observer::{Event, Observer};
use bheval_train::plan::{Draft, Identity, Plan, Sources};
use bheval_train::scores::Examiner;
use bheval_train::trainer::{Finished, Job, train};
use bheval_train::{DevLoss, Error};
use tempfile::TempDir;

use crate::bigram::Bigram;

pub(crate) const VOCAB: u32 = 12;

/// A corpus in a folder of its own, and room for runs.
pub(crate) struct Bench {
    pub(crate) folder: TempDir,
    pub(crate) corpus: Corpus,
    pub(crate) tokenizer: Tokenizer,
}

/// What was told during a run.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) losses: Vec<f64>,
    pub(crate) dev: Vec<DevLoss>,
    pub(crate) saved: Vec<String>,
    pub(crate) warnings: Vec<String>,
    pub(crate) started_at: u64,
}

impl Observer for Told {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Started { step, .. } => self.started_at = step,
            Event::Step(row) => self.losses.push(row.loss),
            Event::DevLoss(found, _) => self.dev.push(found),
            Event::Saved(path) => self.saved.push(name(path)),
            Event::Warning(text) => self.warnings.push(text.to_owned()),
            _ => (),
        }
    }
}

pub(crate) fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

/// Tokens in which each tends to follow from the one before, ended by token 0 about every 20.
fn tokens(count: usize, mut state: u64) -> Vec<u16> {
    let mut last = 1;
    (0..count)
        .map(|i| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let noise = (state >> 33) % 3;
            last = if i % 20 == 19 { 0 } else { ((last * 5 + 3 + noise) % 11 + 1) as u16 as u64 };
            last as u16
        })
        .collect()
}

fn split(folder: &Path, name: &str, tokens: &[u16]) -> SplitRecord {
    let write = |file: String, bytes: Vec<u8>| {
        std::fs::write(folder.join(&file), &bytes).expect("written");
        (file, sha256_hex(&bytes))
    };
    let shard: Vec<u8> = tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
    let (file, sha256) = write(format!("{name}-00000.bin"), shard);
    let shards = vec![ShardRecord { file, tokens: tokens.len() as u64, sha256 }];
    let documents = tokens.len().div_ceil(20);
    let entry = |d: usize| {
        [(20 * d as u64).to_le_bytes().to_vec(), 15_u32.to_le_bytes().to_vec(), vec![0; 4]].concat()
    };
    let (file, sha256) = write(format!("{name}.index"), (0..documents).flat_map(entry).collect());
    let total =
        Amount { documents: documents as u64, words: 15 * documents as u64, tokens: tokens.len() as u64 };
    SplitRecord { total, shards, index: FileRecord { file, sha256 } }
}

const TOKENIZER: &str = r#"{"version": "1.0", "pre_tokenizer": {"type": "Whitespace"},
    "added_tokens": [{"id": 0, "content": "<eos>", "special": true, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false}],
    "model": {"type": "WordLevel", "unk_token": "l", "vocab": {"<eos>": 0, "a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6,
        "g": 7, "h": 8, "i": 9, "k": 10, "l": 11}}}"#;

fn record(folder: &Path, train: usize, dev: usize) -> Record {
    let train = split(folder, "train", &tokens(train, 1));
    let dev = (dev > 0).then(|| split(folder, "dev", &tokens(dev, 2)));
    let domain = DomainRecord {
        name: "all".into(),
        licence: None,
        available_documents: train.total.documents,
        available_words: train.total.words,
        budget: None,
        train: train.total,
        dev: Amount::default(),
    };
    Record {
        format: "bheval-corpus".into(),
        version: 1,
        program: "a test".into(),
        seed: 0,
        tokenizer: TokenizerRecord {
            json_sha256: sha256_hex(TOKENIZER.as_bytes()),
            sha256: String::new(),
            vocab: VOCAB,
            bos: None,
            eos: 0,
        },
        token_bytes: 2,
        bos: false,
        mixture: MixtureRecord {
            name: "all".into(),
            source: None,
            words: None,
            renormalised: false,
            allow_short: false,
        },
        rules: vec![],
        duplicates: Duplicates::default(),
        domains: vec![domain],
        sources: vec![],
        train,
        dev,
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::of(1601, 120)
    }

    /// A corpus of so many tokens, and so many of dev text.
    pub(crate) fn of(train: usize, dev: usize) -> Self {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("corpus");
        std::fs::create_dir_all(path.join("tokenizer")).expect("made");
        std::fs::write(path.join("tokenizer/tokenizer.json"), TOKENIZER).expect("written");
        std::fs::write(path.join("tokenizer/special_tokens_map.json"), r#"{"eos_token": "<eos>"}"#)
            .expect("written");
        let text = serde_json::to_string(&record(&path, train, dev)).expect("JSON");
        std::fs::write(path.join("corpus.json"), text).expect("written");
        let corpus = Corpus::open(&path).expect("a corpus");
        let tokenizer = Tokenizer::load(&corpus.tokenizer_folder()).expect("a tokenizer");
        Self { folder, corpus, tokenizer }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The plan of a text, with a model whose keys nobody reads here.
    pub(crate) fn try_plan(&self, text: &str) -> Result<Plan, Error> {
        let corpus = self.corpus.folder().display().to_string();
        let file = Some(("plan.toml".to_owned(), text.to_owned()));
        Draft::read(&Sources { file, corpus: Some(corpus), ..Sources::default() })?
            .resolve(&self.corpus, &self.tokenizer)
    }

    pub(crate) fn plan(&self, text: &str) -> Plan {
        self.try_plan(&format!("model.model_type = \"llama\"\n{text}")).expect("a plan")
    }

    pub(crate) fn learner(&self, plan: &Plan) -> Bigram {
        let mut learner = Bigram::new(VOCAB as usize, plan.train.seed + 1);
        learner.dropout = 0.1;
        learner
    }

    /// A run from wherever its folder stands, which ends well.
    #[track_caller]
    pub(crate) fn done(&self, run: Run<'_>) -> (Finished, Told, Bigram) {
        let (finished, told, learner) = self.run(run);
        (finished.unwrap_or_else(|error| panic!("{error}")), told, learner)
    }

    /// A run that is refused or stopped.
    #[track_caller]
    pub(crate) fn stopped(&self, run: Run<'_>) -> (Error, Told) {
        let (finished, told, _) = self.run(run);
        (finished.expect_err("it was to be stopped"), told)
    }

    fn run(&self, run: Run<'_>) -> (Result<Finished, Error>, Told, Bigram) {
        let mut told = Told::default();
        let mut learner = self.learner(run.plan);
        (run.prepare)(&mut learner);
        let done = self.go(run, &mut learner, &mut told);
        (done, told, learner)
    }

    fn go(&self, run: Run<'_>, learner: &mut Bigram, told: &mut Told) -> Result<Finished, Error> {
        let identity = Identity::of(run.plan);
        let folder = Folder::open(&self.path(run.folder), run.plan, &identity, run.fresh)?;
        train(Job {
            plan: run.plan,
            identity: &identity,
            corpus: &self.corpus,
            learner,
            folder: &folder,
            program: "a test",
            teaching: None,
            examiner: run.examiner.map(|examiner| examiner as &mut dyn Examiner),
            observer: told,
            stop: run.stop,
        })
    }
}

/// How a run is done.
pub(crate) struct Run<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) folder: &'a str,
    pub(crate) fresh: bool,
    pub(crate) stop: &'a dyn Fn() -> bool,
    pub(crate) prepare: &'a dyn Fn(&mut Bigram),
    pub(crate) examiner: Option<&'a mut dyn Examiner>,
}

impl<'a> Run<'a> {
    pub(crate) fn new(plan: &'a Plan, folder: &'a str) -> Self {
        Self { plan, folder, fresh: false, stop: &|| false, prepare: &|_| (), examiner: None }
    }
}

/// The columns of steps.csv but the times.
pub(crate) fn steps(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("steps.csv")).expect("steps.csv");
    text.lines().map(|line| line.rsplitn(3, ',').last().expect("columns").to_owned()).collect()
}

/// Names in a folder, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
