//! The loaded form of a backend: the same bits as the linked one, and no way to harm the host that is not a C crash.

use std::fs;
use std::path::{Path, PathBuf};

use bheval_abi::{Backend, Failure, ForestView, Info, LanguageModel, LogitsTable, Opening};
use bheval_candle::HGRN2 as BACKEND;
use bheval_host::{
    Dtype, Error, Forest, Kind, Library, Model, ModelInfo, ModelOptions, Origin, Route, Status,
};
use bheval_tests::golden;
use bheval_tests::plugins::{compiled, example};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Forest and flat route of HGRN2 may differ by this. The backend promises equal bits; other backends need not.
const ROUTE_TOLERANCE: f32 = 1e-5;

fn hgrn2_file() -> PathBuf {
    example("bheval-candle", "hgrn2")
}

fn opened(file: &Path) -> Library {
    Library::open(file, None).expect("the plugin opens")
}

fn refused(file: &Path) -> Error {
    Library::open(file, None).expect_err("the plugin should be refused")
}

/// Fails unless the sentence of an error holds all parts.
fn says(error: &Error, parts: &[&str]) {
    let text = error.to_string();
    parts.iter().for_each(|part| assert!(text.contains(part), "{text:?} does not say {part:?}"));
}

fn model(library: &Library, path: impl Into<PathBuf>) -> Result<Model, Error> {
    let options = ModelOptions { path: path.into(), threads: 2, dtype: Dtype::F32, memory: 256 << 20 };
    Model::open(library, &options)
}

/// A forest of 384 sentences: the golden ones whole, and with their tokens moved to others that share beginnings.
fn forest() -> Forest {
    let text = fs::read_to_string(golden().join("hgrn2/golden.json")).expect("golden.json is there");
    let value: Value = serde_json::from_str(&text).expect("golden.json is understood");
    let mut forest = Forest::new();
    for sentence in value["sentences"].as_array().expect("sentences") {
        let ids = sentence["ids"].as_array().expect("ids").iter().filter_map(Value::as_u64);
        let ids: Vec<_> = ids.map(|id| id as u32).collect();
        for variant in 0..12 {
            insert(&mut forest, &varied(&ids, variant));
        }
    }
    forest
}

/// The sentence with another token at a place that depends on the variant.
fn varied(ids: &[u32], variant: usize) -> Vec<u32> {
    let mut ids = ids.to_vec();
    if variant > 0 {
        let at = 1 + variant * (ids.len() - 1) / 12;
        ids[at] = (ids[at] + 37 * variant as u32) % 768;
    }
    ids
}

/// Adds a sentence with every token wanted but the first.
fn insert(forest: &mut Forest, ids: &[u32]) {
    let wanted: Vec<_> = (0..ids.len()).map(|t| t > 0).collect();
    forest.insert(ids, &wanted);
}

fn sentence(ids: &[u32]) -> Forest {
    let mut forest = Forest::new();
    insert(&mut forest, ids);
    forest
}

fn bits(model: &mut Model, forest: &Forest, route: Route) -> Vec<u32> {
    let scored = model.score(forest, route).expect("the forest is scored");
    scored.log_prob.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn linked_and_loaded_give_the_same_bits() {
    let linked = Library::linked(&BACKEND).expect("the linked backend is whole");
    let loaded = opened(&hgrn2_file());
    assert_eq!((linked.name(), linked.version()), (loaded.name(), loaded.version()));
    let forest = forest();
    for checkpoint in ["hgrn2", "hgrn2_conv"] {
        let mut a = model(&linked, golden().join(checkpoint)).expect("the linked model opens");
        let mut b = model(&loaded, golden().join(checkpoint)).expect("the loaded model opens");
        assert_eq!(a.info(), b.info());
        assert_eq!(bits(&mut a, &forest, Route::Forest), bits(&mut b, &forest, Route::Forest));
        let one = sentence(&[1, 5, 6]);
        assert_eq!(a.logits(&one).expect("logits"), b.logits(&one).expect("logits"));
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "the figure is worth seeing when the test passes, too")]
fn forest_and_flat_routes_agree() {
    let mut hgrn2 = model(&opened(&hgrn2_file()), golden().join("hgrn2")).expect("the model opens");
    let forest = forest();
    let shared = hgrn2.score(&forest, Route::Forest).expect("scores");
    let flat = hgrn2.score(&forest, Route::Flat).expect("scores");
    let apart = |i: usize| (shared.log_prob[i] - flat.log_prob[i]).abs();
    let largest = forest.wanted().map(apart).fold(0.0, f32::max);
    assert!(largest <= ROUTE_TOLERANCE, "forest and flat differ by {largest}");
    assert!(shared.fed < flat.fed, "a forest feeds shared tokens once");
    eprintln!(
        "{} nodes, {} wanted, {} fed as a forest, {} flat; largest difference {largest}",
        forest.len(),
        forest.wanted().count(),
        shared.fed,
        flat.fed
    );
}

#[test]
fn a_panic_is_contained_and_ends_its_model_only() {
    let library = opened(&example("bheval-tests", "panicking"));
    let (mut one, mut other) = (model(&library, "a").expect("opens"), model(&library, "b").expect("opens"));
    let (good, bad) = (sentence(&[1, 2, 3]), sentence(&[1, 13]));
    let error = one.score(&bad, Route::Forest).expect_err("token 13");
    assert!(matches!(error, Error::Refused { status: Status::PANIC, .. }), "{error}");
    says(&error, &["panicking", "the backend panicked: token 13 at node 1"]);
    let error = one.score(&good, Route::Forest).expect_err("it panicked before");
    assert!(matches!(error, Error::Refused { status: Status::PANIC, .. }), "{error}");
    says(&error, &["panicked in an earlier call", "open"]);
    let scored = other.score(&good, Route::Forest).expect("the other model works");
    assert_eq!(scored.log_prob[1..], [-(32_f32.ln()); 2]);
    drop(one);
    model(&library, "a").expect("opens anew").score(&good, Route::Flat).expect("works");
}

#[test]
fn a_panic_while_opening_is_an_error() {
    let library = opened(&example("bheval-tests", "panicking"));
    let error = model(&library, "folder/panic").expect_err("it panics");
    assert!(matches!(error, Error::Refused { status: Status::PANIC, .. }), "{error}");
    says(&error, &["open the model", "asked to panic at folder/panic"]);
}

#[test]
fn no_call_follows_a_panic_whatever_the_backend_would_say() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut uniform = model(&opened(&compiled(folder.path(), "uniform")), "any").expect("opens");
    says(&uniform.score(&sentence(&[1, 13]), Route::Flat).expect_err("token 13"), &["panic", "token 13"]);
    let error = uniform.score(&sentence(&[1, 2]), Route::Flat).expect_err("it panicked before");
    says(&error, &["panicked in an earlier call", "open the model again"]);
}

#[test]
fn a_backend_in_c_works_through_the_header() {
    let folder = tempfile::tempdir().expect("a folder");
    let library = opened(&compiled(folder.path(), "uniform"));
    assert_eq!((library.name(), library.version(), library.takes_forests()), ("uniform", "1", false));
    let mut uniform = model(&library, "any").expect("opens");
    let expected = ModelInfo {
        vocab: 32,
        context: None,
        nodes: 8,
        kind: Kind::CAUSAL,
        parameters: 0,
        architecture: "uniform".to_owned(),
        dtype: "f32".to_owned(),
    };
    assert_eq!(uniform.info(), &expected);
    let mut forest = sentence(&[1, 2, 3, 4]);
    insert(&mut forest, &[1, 2, 5]);
    let scored = uniform.score(&forest, Route::Forest).expect("branches are cut into chains");
    assert!(forest.wanted().all(|i| (scored.log_prob[i] + 32_f32.ln()).abs() < 1e-6));
    let error = uniform.score(&sentence(&[1, 32]), Route::Forest).expect_err("beyond the vocabulary");
    says(&error, &["uniform", "bad input", "beyond the vocabulary"]);
    says(&uniform.logits(&forest).expect_err("it has none"), &["unsupported", "does not offer them"]);
}

#[test]
fn answers_that_cannot_be_right_are_refused() {
    let library = opened(&example("bheval-tests", "lying"));
    let mut lying = model(&library, "honest").expect("opens");
    lying.score(&sentence(&[1, 2]), Route::Forest).expect("an honest answer");
    for (token, lie) in [(7, "NaN"), (8, "0.5"), (9, "-inf"), (10, "NaN")] {
        for route in [Route::Forest, Route::Flat] {
            let error = lying.score(&sentence(&[1, 2, token]), route).expect_err("a lie");
            assert!(matches!(error, Error::BadAnswer { .. }), "{error}");
            says(&error, &["lying", lie, &format!("token {token} at node 2"), "nothing of it was used"]);
        }
    }
    says(&lying.logits(&sentence(&[1, 7])).expect_err("NaN"), &["lying", "logit 0 is NaN"]);
    says(&lying.logits(&sentence(&[1, 11])).expect_err("no reason"), &["gave no reason (status 5)"]);
    assert_eq!(lying.logits(&sentence(&[1, 2])).expect("honest logits"), [0.0; 32]);
    says(&model(&library, "vocabulary").expect_err("none"), &["lying", "no vocabulary"]);
    says(&model(&library, "nodes").expect_err("none"), &["takes no nodes"]);
    says(&model(&library, "kind").expect_err("unknown"), &["unknown kind 77"]);
}

#[test]
fn bad_tables_are_refused_before_a_call() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, reason, advice) in [
        ("other_major", "speaks version 2.7", "rebuild the plugin"),
        ("small_table", "its table is smaller", "bheval.h"),
        ("null_functions", "a function of its table is missing", "bheval.h"),
        ("not_text", "its name or version is not UTF-8", "bheval.h"),
        ("no_symbol", "it exports no symbol `bheval_backend`", "bheval.h"),
        ("unaligned", "lies at an odd address", "bheval.h"),
    ] {
        let file = compiled(folder.path(), name);
        let shown = file.canonicalize().expect("a path");
        says(&refused(&file), &[&shown.display().to_string(), reason, advice]);
    }
}

#[test]
fn what_was_loaded_stays_mapped_even_without_a_table() {
    let folder = tempfile::tempdir().expect("a folder");
    refused(&compiled(folder.path(), "no_symbol"));
    let maps = fs::read_to_string("/proc/self/maps").expect("Linux");
    assert!(maps.contains(&folder.path().display().to_string()));
}

#[test]
fn files_that_are_no_library_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("written");
        path
    };
    let library = fs::read(hgrn2_file()).expect("a library");
    let mut cases = vec![
        (file("text.so", b"hello, this is a letter and no library"), "no bheval plugin"),
        (file("empty.so", b""), "no bheval plugin"),
        (folder.path().to_path_buf(), "it is a folder or a device"),
        (PathBuf::from("/dev/zero"), "it is a folder or a device"),
        (folder.path().join("missing.so"), "no backend library at"),
        (folder.path().join("text.so/below.so"), "it can't be reached"),
    ];
    for part in [64, 4096, library.len() / 10, library.len() / 2, library.len() - 1] {
        cases.push((file(&format!("cut_{part}.so"), &library[..part]), "cut short"));
    }
    for (path, reason) in cases {
        let error = refused(&path);
        says(&error, &[&path.display().to_string(), reason]);
        assert!(["bheval.h", "bheval backends"].iter().any(|a| error.to_string().contains(a)), "{error}");
    }
}

#[test]
fn a_pin_lets_in_one_file_only() {
    let file = hgrn2_file();
    let digest = Sha256::digest(fs::read(&file).expect("a library"));
    let sha256: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    let library = Library::open(&file, Some(&sha256.to_uppercase())).expect("the right pin, in any case");
    let path = file.canonicalize().expect("a path");
    assert_eq!(library.origin(), &Origin::File { path: path.clone(), sha256: sha256.clone() });
    for wrong in ["", "00", &sha256[1..], &sha256.replace(&sha256[..1], "x")] {
        let error = Library::open(&file, Some(wrong)).expect_err("a wrong pin");
        says(&error, &[&path.display().to_string(), &sha256, wrong, "not loaded", "--backend-sha256"]);
    }
}

#[test]
fn a_library_may_be_opened_twice_and_dropped_in_any_order() {
    let forest = sentence(&[1, 5, 6, 7]);
    let open = || {
        let library = opened(&hgrn2_file());
        let model = model(&library, golden().join("hgrn2")).expect("opens");
        (library, model)
    };
    let ((one, mut a), (two, mut b)) = (open(), open());
    let expected = bits(&mut a, &forest, Route::Forest);
    drop(one);
    assert_eq!(bits(&mut a, &forest, Route::Forest), expected);
    drop(a);
    assert_eq!(bits(&mut b, &forest, Route::Forest), expected);
    drop((b, two));
    let (library, mut c) = open();
    assert_eq!(bits(&mut c, &forest, Route::Forest), expected);
    drop((library, c));
}

#[test]
fn models_on_two_threads_at_once_give_the_same_bits() {
    let library = opened(&hgrn2_file());
    let forest = forest();
    let run = || {
        let mut model = model(&library, golden().join("hgrn2")).expect("opens");
        (0..3).map(|_| bits(&mut model, &forest, Route::Forest)).collect::<Vec<_>>()
    };
    let alone = run().swap_remove(0);
    std::thread::scope(|scope| {
        let threads = [scope.spawn(run), scope.spawn(run)];
        for answers in threads.into_iter().flat_map(|t| t.join().expect("no panic")) {
            assert_eq!(answers, alone);
        }
    });
}

/// A backend that takes chains only and panics at anything else. A node's value names its whole path.
struct Chains {
    info: Info,
}

/// What [`Chains`] says of the last token of a path.
fn of_path(path: &[u32]) -> f32 {
    let mixed = path.iter().fold(7_u32, |sum, token| sum.wrapping_mul(31).wrapping_add(*token) % 65_521);
    -(1.0 + mixed as f32)
}

impl LanguageModel for Chains {
    const NAME: &'static str = "chains";
    const VERSION: &'static str = "1";
    const FOREST: bool = false;
    const LOGITS: Option<&'static LogitsTable> = None;

    fn open(_: &Opening) -> Result<Self, Failure> {
        let info = Info {
            vocab: 1000,
            context: 0,
            nodes: 50,
            kind: Kind::CAUSAL,
            parameters: 0,
            architecture: "chains".to_owned(),
            dtype: "f32".to_owned(),
        };
        Ok(Self { info })
    }

    fn info(&self) -> &Info {
        &self.info
    }

    fn score(&mut self, forest: ForestView<'_>, log_prob: &mut [f32]) -> Result<u64, Failure> {
        let mut first = 0;
        for (i, out) in log_prob.iter_mut().enumerate() {
            match forest.parent_of(i) {
                Some(parent) => assert_eq!(parent + 1, i, "a node that does not follow its parent"),
                None => first = i,
            }
            if forest.is_wanted(i) {
                *out = of_path(&forest.token[first..=i]);
            }
        }
        assert!(forest.len() <= 50 || first == 0, "more nodes than a call may have, and not one long chain");
        Ok(forest.len() as u64)
    }
}

static CHAINS: Backend = bheval_abi::backend::<Chains>();

#[test]
fn a_backend_without_forests_sees_only_chains() {
    let mut chains = model(&Library::linked(&CHAINS).expect("whole"), "any").expect("opens");
    let (mut forest, mut expected) = (Forest::new(), Vec::new());
    for i in 0..300_u32 {
        let ids: Vec<_> = (0..2 + i % 60).map(|t| (i % 7 * 100 + t * (1 + i % 3)) % 1000).collect();
        let wanted: Vec<_> = (0..ids.len()).map(|t| t > 0 && (t + i as usize) % 5 != 2).collect();
        let nodes = forest.insert(&ids, &wanted);
        let of = |t: usize| (nodes[t] as usize, of_path(&ids[..=t]));
        expected.extend((0..ids.len()).filter(|&t| wanted[t]).map(of));
    }
    for route in [Route::Forest, Route::Flat] {
        let scored = chains.score(&forest, route).expect("chains only");
        expected.iter().for_each(|&(node, value)| assert_eq!(scored.log_prob[node], value));
        let unwanted = forest.len() - forest.wanted().count();
        assert_eq!(scored.log_prob.iter().filter(|x| x.is_nan()).count(), unwanted);
    }
}

#[test]
fn a_forest_with_bad_parents_is_refused_on_both_routes() {
    let hgrn2 = model(&Library::linked(&BACKEND).expect("whole"), golden().join("hgrn2")).expect("opens");
    let chains = model(&Library::linked(&CHAINS).expect("whole"), "any").expect("opens");
    for mut model in [hgrn2, chains] {
        for parent in [[None, Some(1)], [Some(1), Some(0)], [None, Some(900)]] {
            let forest = Forest::from_parts(vec![1, 2], parent.to_vec(), vec![false, true]);
            for route in [Route::Forest, Route::Flat] {
                let error = model.score(&forest, route).expect_err("a bad parent");
                assert!(matches!(error, Error::Refused { status: Status::BAD_INPUT, .. }), "{error}");
                says(&error, &["which does not come before it"]);
            }
        }
    }
}
