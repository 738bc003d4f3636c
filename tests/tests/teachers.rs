//! Teachers on the fly and from a cache: golden losses, equal words by every way, and what is refused.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use bheval_candle::BACKENDS;
use bheval_corpus::Corpus;
use bheval_data::digest::sha256_hex;
use bheval_data::tokenizer::Tokenizer;
use bheval_eval::model_sha256;
use bheval_host::{Dtype, Forest, Library, Model, ModelOptions, Teacher, TeacherKind};
use bheval_tests::golden;
use bheval_tests::reference::distillation::{Rule, Said, log_softmax, loss};
use bheval_train::distill::cache::{Maker, Text, make};
use bheval_train::distill::{Asked, Cache, DistillPlan, Distiller, Error, Event, Key, Lectern, TeacherFiles};
use serde_json::{Value, json};

fn open(name: &str) -> Model {
    let folder = golden().join(name);
    let config = fs::read_to_string(folder.join("config.json")).expect("config.json");
    let known =
        |opens: &[&str]| opens.iter().any(|name| config.contains(&format!("\"model_type\": \"{name}\"")));
    let (table, _) = BACKENDS.iter().find(|(_, opens)| known(opens)).expect("a backend for it");
    let library = Library::linked(table).expect("a linked table");
    // So little memory that a call takes a few windows only.
    let options = ModelOptions { path: folder, threads: 2, dtype: Dtype::F32, memory: 1 << 10 };
    Model::open(&library, &options).expect("the model opens")
}

fn files(name: &str) -> TeacherFiles {
    let path = golden().join(name);
    TeacherFiles {
        sha256: model_sha256(&path).expect("a digest"),
        backend: "native f32".to_owned(),
        tokenizer: tokenizer(name),
        path,
    }
}

fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::load(&golden().join(name)).expect("a tokenizer")
}

fn plan(more: Value) -> DistillPlan {
    let mut table = json!({"teachers": ["as given"]});
    table.as_object_mut().expect("a table").extend(more.as_object().expect("a table").clone());
    DistillPlan::read(table.as_object().expect("a table")).expect("a plan")
}

/// Teachers and the student's tokenizer, with windows of so many inputs.
struct School {
    teachers: Vec<&'static str>,
    tokenizer: Tokenizer,
    vocab: usize,
    steps: usize,
}

impl School {
    fn new(teachers: &[&'static str], student: &str, steps: usize) -> Self {
        let vocab = open(student).info().vocab as usize;
        Self { teachers: teachers.to_vec(), tokenizer: tokenizer(student), vocab, steps }
    }

    fn lectern(&self) -> Lectern<'_> {
        Lectern { tokenizer: &self.tokenizer, vocab: self.vocab, steps: self.steps }
    }

    fn files(&self) -> Vec<TeacherFiles> {
        self.teachers.iter().map(|name| files(name)).collect()
    }

    fn models(&self) -> Vec<Model> {
        self.teachers.iter().map(|name| open(name)).collect()
    }

    fn live(&self, plan: DistillPlan) -> Result<Distiller, Error> {
        Distiller::live(plan, &self.files(), self.models(), self.lectern())
    }
}

/// A teacher's word in f64, row by row.
fn said(teacher: &Teacher<'_>, vocab: usize) -> Vec<Said> {
    let wide = |row: &[f32]| row.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
    match teacher.kind {
        TeacherKind::Logits(rows) => rows.chunks(vocab).map(|row| Said::Logits(wide(row))).collect(),
        TeacherKind::Hidden { width, hidden, head, bias } => {
            let head: Vec<Vec<f64>> = head.chunks(width).map(wide).collect();
            let bias = bias.map_or(vec![0.0; vocab], wide);
            // As logits: the reference's own product would copy the head for every row.
            let logit = |state: &[f64], token: usize| -> f64 {
                head[token].iter().zip(state).map(|(w, x)| w * x).sum::<f64>() + bias[token]
            };
            let row = |state: &[f32]| {
                let state = wide(state);
                Said::Logits((0..vocab).map(|token| logit(&state, token)).collect())
            };
            hidden.chunks(width).map(row).collect()
        }
        TeacherKind::Top { k, ids, log_probs, rest } => {
            let named = |(ids, log_probs): (&[u32], &[f32])| {
                ids.iter().map(|id| *id as usize).zip(wide(log_probs)).collect::<Vec<_>>()
            };
            let rows = ids.chunks(k).zip(log_probs.chunks(k)).map(named);
            rows.zip(rest).map(|(named, rest)| Said::Top(named, f64::from(*rest))).collect()
        }
    }
}

/// Golden `kd.json`: KL of native f32 teachers and students, each on the fly as hidden states or logits.
#[test]
fn teachers_on_the_fly_say_what_the_golden_runs_say() {
    let cases: Value =
        serde_json::from_slice(&fs::read(golden().join("kd/kd.json")).expect("kd.json")).expect("JSON");
    let teachers: [(&str, &[&'static str]); 3] =
        [("hgrn2", &["llama"]), ("mamba", &["gpt_neox"]), ("gpt_neox", &["mamba", "mamba2"])];
    for (case, (student, teachers)) in cases.as_array().expect("cases").iter().zip(teachers) {
        assert_eq!((&case["student"], &case["teachers"]), (&json!(student), &json!(teachers)));
        let ids: Vec<Vec<u32>> = serde_json::from_value(case["input_ids"].clone()).expect("ids");
        let labels: Vec<Vec<i64>> = serde_json::from_value(case["labels"].clone()).expect("labels");
        // The golden HGRN2's tokenizer differs from the golden Llama's in two pieces, which the golden run passed over.
        let school =
            School { tokenizer: tokenizer(teachers[0]), ..School::new(teachers, student, ids[0].len()) };
        let tokens = ids.concat();
        let targets: Vec<Option<usize>> = labels
            .iter()
            .flat_map(|row| row[1..].iter().chain([&-100]).map(|&label| usize::try_from(label).ok()))
            .collect();
        let count = targets.iter().flatten().count() as u64;
        let logits = student_logits(student, &tokens, school.steps);
        // Probabilities of one teacher are its logits' own, but are asked for as logits.
        for average in ["logits", "probabilities"].into_iter().take(if teachers.len() == 1 { 2 } else { 1 }) {
            let mut distiller = school.live(plan(json!({"average": average}))).expect("teachers");
            let asked = Asked { starts: &[], tokens: &tokens, targets_of_step: count, windows_of_step: 7 };
            let teacher = distiller.teach(&asked).expect("their word");
            assert!(
                (f64::from(teacher.weight) - 0.5 * 4.0 / count as f64).abs() < 1e-9
                    && !teacher.every_position
            );
            let rule = Rule { ce: 0.5, kl: 0.5, temperature: 2.0, t2: true, batchmean: None };
            let found = loss(&logits, &targets, &said(&teacher, school.vocab), &rule);
            for (ours, key) in [(found.loss, "loss"), (found.ce, "ce"), (found.kl, "kl")] {
                let theirs = case["float32"][key].as_f64().expect("a number");
                assert!((ours - theirs).abs() < 1e-5, "{student}, {key}: {ours}, not {theirs}");
            }
        }
    }
}

fn student_logits(name: &str, tokens: &[u32], steps: usize) -> Vec<Vec<f64>> {
    let mut model = open(name);
    let mut forest = Forest::new();
    tokens.chunks(steps).for_each(|window| drop(forest.insert_alone(window, &vec![true; steps])));
    let rows = model.logits(&forest).expect("logits");
    rows.chunks(model.info().vocab as usize).map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect()
}

/// A corpus of so many tokens, the ids of which are spread over the vocabulary.
fn corpus(folder: &Path, vocab: u32, tokens: u64) -> Corpus {
    let ids: Vec<u16> = (0..tokens).map(|i| (i * 7919 % u64::from(vocab)) as u16).collect();
    let shard: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let mut index = 0_u64.to_le_bytes().to_vec();
    index.extend([tokens as u32, 0].iter().flat_map(|n| n.to_le_bytes()));
    let amount = json!({"documents": 1, "words": tokens, "tokens": tokens});
    let record = json!({
        "format": "bheval-corpus", "version": 1, "program": "test", "seed": 1,
        "tokenizer": {"json_sha256": "", "sha256": "", "vocab": vocab, "bos": null, "eos": 0},
        "token_bytes": 2, "bos": false,
        "mixture": {"name": "all", "source": null, "words": null, "renormalised": false, "allow_short": false},
        "rules": [], "duplicates": {"train": 0, "dev": 0, "train_in_dev": 0},
        "domains": [{"name": "d", "licence": null, "available_documents": 1, "available_words": tokens, "budget": null,
            "train": amount, "dev": {"documents": 0, "words": 0, "tokens": 0}}],
        "sources": [],
        "train": {"total": amount, "shards": [{"file": "t.bin", "tokens": tokens, "sha256": sha256_hex(&shard)}],
            "index": {"file": "t.index", "sha256": sha256_hex(&index)}},
        "dev": null,
    });
    fs::write(folder.join("t.bin"), shard).expect("written");
    fs::write(folder.join("t.index"), index).expect("written");
    fs::write(folder.join("corpus.json"), record.to_string()).expect("written");
    Corpus::open(folder).expect("a corpus")
}

/// A school with a text of 61 windows, and a folder for caches.
struct Desk {
    school: School,
    corpus: Corpus,
    folder: tempfile::TempDir,
}

impl Desk {
    fn new(teachers: &[&'static str], student: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let school = School::new(teachers, student, 9);
        let corpus = corpus(folder.path(), school.tokenizer.vocab(), 61 * 9 + 5);
        Self { school, corpus, folder }
    }

    fn text(&self) -> Text<'_> {
        Text {
            split: self.corpus.train(),
            sha256: self.corpus.sha256(),
            steps: self.school.steps,
            fixed: true,
        }
    }

    fn key(&self, plan: &DistillPlan) -> Key {
        Key::new(plan, &self.school.files(), &self.text(), self.school.vocab).expect("a key")
    }

    /// Makes the cache, asked to stop when so many windows are done. Returns what was told.
    fn make(&self, plan: &DistillPlan, stop: u64) -> (Result<Cache, Error>, Vec<String>) {
        let (files, done) = (self.school.files(), Cell::new(0));
        let mut told = Vec::new();
        let mut tell = |event: Event<'_>| {
            if let Event::Done { done: now, .. } = event {
                done.set(now);
            }
            told.push(format!("{event:?}"));
        };
        let (lectern, stop) = (self.school.lectern(), || done.get() >= stop);
        let maker = Maker { plan, files: &files, text: self.text(), lectern, tell: &mut tell, stop: &stop };
        let made = make(self.folder.path(), &self.key(plan), self.school.models(), maker);
        (made, told)
    }

    fn made(&self, plan: &DistillPlan) -> Cache {
        self.make(plan, u64::MAX).0.expect("a cache")
    }

    fn path(&self, plan: &DistillPlan) -> PathBuf {
        self.folder.path().join(self.key(plan).file_name())
    }
}

/// Windows out of order, one twice.
const STARTS: [u64; 5] = [9 * 60, 0, 9 * 7, 9 * 7, 9];

fn tokens(desk: &Desk) -> Vec<u32> {
    STARTS.iter().flat_map(|&start| desk.corpus.train().tokens(start..start + 9).expect("tokens")).collect()
}

/// What a distiller says of [`STARTS`], handed to `look`.
fn teach<T>(desk: &Desk, mut distiller: Distiller, look: impl FnOnce(&Teacher<'_>) -> T) -> T {
    let tokens = tokens(desk);
    let asked = Asked { starts: &STARTS, tokens: &tokens, targets_of_step: 45, windows_of_step: 5 };
    look(&distiller.teach(&asked).expect("their word"))
}

fn numbers(teacher: &Teacher<'_>) -> Vec<f32> {
    match teacher.kind {
        TeacherKind::Logits(values) | TeacherKind::Hidden { hidden: values, .. } => values.to_vec(),
        TeacherKind::Top { log_probs, .. } => log_probs.to_vec(),
    }
}

#[test]
fn a_cache_says_what_its_teachers_say_in_any_order() {
    // Mamba's vocabulary is padded as GPT-NeoX's is; HGRN2 as a student has another padding than none at all.
    let desk = Desk::new(&["mamba", "mamba2"], "gpt_neox");
    for cache in ["full", "hidden"] {
        let kept = plan(json!({"cache": cache, "temperature": 3.0, "alpha_of": "kl", "alpha": 0.25}));
        // Hidden states on the fly, or, where probabilities are averaged and alike, logits.
        let live = match cache {
            "full" => plan(json!({"cache": "top-k", "temperature": 3.0})),
            _ => plan(json!({"temperature": 3.0})),
        };
        let on_the_fly = teach(&desk, desk.school.live(live).expect("teachers"), numbers);
        let distiller = Distiller::cached(kept.clone(), desk.made(&kept));
        assert_eq!(distiller.left_to_targets(), 0.75);
        teach(&desk, distiller, |teacher| {
            assert_eq!(numbers(teacher), on_the_fly, "{cache}");
            assert_eq!(teacher.temperature, 3.0);
        });
        desk.made(&kept).verify().expect("whole");
    }
}

#[test]
fn halves_are_near_and_take_half() {
    let desk = Desk::new(&["gpt_neox"], "mamba");
    for cache in ["full", "hidden"] {
        let of = |dtype: &str| {
            let kept = plan(json!({"cache": cache, "cache_dtype": dtype}));
            let made = desk.made(&kept);
            (made.size(), teach(&desk, Distiller::cached(kept, made), numbers))
        };
        let ((size, whole), (small, halves)) = (of("f32"), of("f16"));
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= a.abs() / 2048.0 + 1e-7;
        assert!(whole.len() == halves.len() && whole.iter().zip(&halves).all(near));
        assert!(cache == "hidden" || small < size / 2 + 500, "{small} {size}");
    }
}

/// The named tokens and the rest are the whole distribution: KL of them is at most that of all tokens (the log sum
/// inequality), and nearer the more are named.
#[test]
fn the_most_probable_tokens_stand_for_the_whole() {
    let desk = Desk::new(&["mamba", "mamba2"], "gpt_neox");
    let (vocab, temperature) = (desk.school.vocab, 2.0);
    let student = student_logits("gpt_neox", &tokens(&desk), 9);
    let targets = vec![Some(0); student.len()];
    let rule = Rule { ce: 0.0, kl: 1.0, temperature, t2: true, batchmean: None };
    let kl = |teacher: &Teacher<'_>| loss(&student, &targets, &said(teacher, vocab), &rule).kl;
    let whole = teach(&desk, desk.school.live(plan(json!({}))).expect("teachers"), kl);
    let mut before = 0.0;
    for k in [1, 8, 64, 400, 639] {
        let kept = plan(json!({"cache": "top-k", "k": k}));
        let found = teach(&desk, Distiller::cached(kept.clone(), desk.made(&kept)), |teacher| {
            let TeacherKind::Top { ids, log_probs, rest, .. } = teacher.kind else { panic!("not top-k") };
            let rows = ids.chunks(k).zip(log_probs.chunks(k)).zip(rest);
            for ((ids, log_probs), rest) in rows {
                assert!(ids.is_sorted_by(|a, b| a < b));
                let sum: f64 = log_probs.iter().chain([rest]).map(|l| f64::from(*l).exp()).sum();
                assert!((sum - 1.0).abs() < 1e-6, "{sum}");
            }
            kl(teacher)
        });
        assert!(before < found && found <= whole + 1e-6, "{k}: {before} {found} {whole}");
        before = found;
    }
    // With all but one named, the rest is that one.
    assert!(whole - before < 1e-6, "{before} {whole}");
}

#[test]
fn the_mean_of_probabilities_is_taken_at_the_temperature() {
    let desk = Desk::new(&["mamba", "mamba2"], "gpt_neox");
    let average = plan(json!({"average": "probabilities", "temperature": 1.5}));
    let vocab = desk.school.vocab;
    let both = teach(&desk, desk.school.live(average).expect("teachers"), |t| said(t, vocab));
    let alone = |name: &'static str| student_logits(name, &tokens(&desk), 9);
    let (a, b) = (alone("mamba"), alone("mamba2"));
    for (row, both) in both.iter().enumerate() {
        let of = |rows: &[Vec<f64>]| log_softmax(&rows[row][..640], 1.5);
        let Said::Logits(both) = both else { panic!("not logits") };
        for (token, both) in log_softmax(both, 1.5).iter().enumerate() {
            let mean = (of(&a)[token].exp() + of(&b)[token].exp()) / 2.0;
            assert!((both.exp() - mean).abs() < 1e-6);
        }
    }
}

#[test]
fn what_was_interrupted_goes_on_to_the_same_bytes() {
    let desk = Desk::new(&["gpt_neox"], "mamba");
    let whole = plan(json!({"cache": "top-k", "k": 5}));
    let (made, told) = desk.make(&whole, 1);
    let Err(Error::Interrupted { done, windows: 61 }) = made else { panic!("{made:?}") };
    assert!(done < 61 && told[0].contains("Size"), "{told:?}");
    // What a killed process leaves behind a whole record.
    let part = desk.path(&whole).with_extension("part");
    let mut left = fs::read(&part).expect("the part");
    left.extend([7; 100]);
    fs::write(&part, left).expect("written");
    let (made, told) = desk.make(&whole, u64::MAX);
    made.expect("the rest");
    assert!(told[0].contains(&format!("done: {done}, windows: 61")), "{told:?}");
    let resumed = fs::read(desk.path(&whole)).expect("the cache");
    fs::remove_file(desk.path(&whole)).expect("removed");
    desk.made(&whole);
    assert!(resumed == fs::read(desk.path(&whole)).expect("the cache"));
    assert!(!part.exists());
}

#[test]
fn damage_is_found_wherever_it_is() {
    let desk = Desk::new(&["gpt_neox"], "mamba");
    let kept = plan(json!({"cache": "hidden"}));
    desk.made(&kept);
    let (path, key) = (desk.path(&kept), desk.key(&kept));
    let good = fs::read(&path).expect("the cache");
    let found = |bytes: &[u8]| -> Result<(), Error> {
        fs::write(&path, bytes).expect("written");
        Cache::find(desk.folder.path(), &key)?.expect("there").verify()
    };
    found(&good).expect("whole");
    for at in (0..good.len()).step_by(997).chain([0, 9, 17, good.len() - 1]) {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        let told = found(&bytes).expect_err("damaged").to_string();
        assert!(told.contains("delete it"), "{at}: {told}");
    }
    for length in [0, 5, 16, 40, good.len() / 2, good.len() - 1] {
        assert!(found(&good[..length]).is_err(), "{length}");
    }
    let longer = [good.as_slice(), &[0]].concat();
    assert!(found(&longer).expect_err("too long").to_string().contains("should have"));
    let mut absurd = good.clone();
    absurd[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(found(&absurd).is_err());
}

#[test]
fn a_cache_of_something_else_is_named() {
    let desk = Desk::new(&["gpt_neox"], "mamba");
    let (one, other) = (plan(json!({"cache": "top-k", "k": 5})), plan(json!({"cache": "top-k", "k": 6})));
    desk.made(&one);
    assert!(Cache::find(desk.folder.path(), &desk.key(&other)).expect("none").is_none());
    fs::rename(desk.path(&one), desk.path(&other)).expect("renamed");
    let told = Cache::find(desk.folder.path(), &desk.key(&other)).expect_err("another").to_string();
    assert!(told.contains("\"k\":5") && told.contains("\"k\":6"), "{told}");
    // A window that training with another cutting would ask for.
    let mut cached = Distiller::cached(one.clone(), desk.made(&one));
    let asked = Asked { starts: &[4], tokens: &[0; 9], targets_of_step: 9, windows_of_step: 1 };
    let told = cached.teach(&asked).expect_err("no such window").to_string();
    assert!(told.contains("begins at token 4"), "{told}");
    let text = Text { fixed: false, ..desk.text() };
    let told = Key::new(&one, &desk.school.files(), &text, 800).expect_err("random offsets").to_string();
    assert!(told.contains("data.offset"), "{told}");
}

#[test]
fn teachers_that_do_not_fit_are_refused() {
    let told = |school: &School, plan: DistillPlan| school.live(plan).expect_err("refused").to_string();
    let other = told(&School::new(&["llama"], "gpt_neox", 9), plan(json!({})));
    assert!(other.contains("token 0 is") && other.contains("one tokenizer"), "{other}");
    // The same vocabulary in a file of other bytes will do.
    School::new(&["mamba2"], "gpt_neox", 9).live(plan(json!({}))).expect("equal vocabularies");
    let long = told(&School::new(&["gpt_neox"], "mamba", 129), plan(json!({})));
    assert!(long.contains("128 tokens at most") && long.contains("data.sequence_length"), "{long}");
    let masked =
        told(&School { teachers: vec!["bert"], ..School::new(&["bert"], "bert", 9) }, plan(json!({})));
    assert!(masked.contains("masked"), "{masked}");
    let desk = Desk::new(&["gpt_neox"], "mamba");
    let (made, _) = desk.make(&plan(json!({"cache": "top-k", "k": 5000})), u64::MAX);
    let told = made.expect_err("more than there are").to_string();
    assert!(told.contains("k is 5000"), "{told}");
    let capped = Desk::new(&["xlstm"], "mamba2");
    let (made, _) = capped.make(&plan(json!({"cache": "hidden"})), u64::MAX);
    let told = made.expect_err("capped").to_string();
    assert!(told.contains("capped") && told.contains("another cache"), "{told}");
}
