//! Masked models in whole runs: batches, faults, resuming, and what the results say.

use std::path::Path;

use bheval_abi::{
    Backend, Failure, ForestView, Info, Kind, LanguageModel, LogitsTable, MaskedTable, MaskedView, Opening,
    Status, masked_table,
};
use bheval_data::locate::Folders;
use bheval_data::masked::{MaskedCopy, MaskedRequest, Pll};
use bheval_data::protocol::Protocol;
use bheval_eval::{
    BatchSize, Error, Finished, Order, PlanRequest, Planned, Store, results_json, run, score_all,
};
use bheval_host::{Dtype, Library, Model, ModelOptions, Route};
use bheval_tests::peers::BACKENDS;
use bheval_tests::{data, golden};
use proptest::prelude::*;

/// A masked model of 32 tokens whose answers mix everything that they may depend on, so that an answer that went astray
/// shows. It takes 40 tokens at once, of which it then refuses more than 20, and token 31 nowhere.
struct Mixing(Info);

const VOCAB: u32 = 32;
const AT_ONCE: u32 = 40;
const ENOUGH: usize = 20;
const MASK: u32 = 4;

impl LanguageModel for Mixing {
    const NAME: &'static str = "mixing";
    const VERSION: &'static str = "1";
    const FOREST: bool = false;
    const LOGITS: Option<&'static LogitsTable> = None;
    const MASKED: Option<&'static MaskedTable> = Some(&masked_table::<Self>());

    fn open(_: &Opening) -> Result<Self, Failure> {
        Ok(Self(Info {
            vocab: VOCAB,
            context: 0,
            nodes: AT_ONCE,
            kind: Kind::MASKED,
            parameters: 0,
            architecture: "mixing".into(),
            dtype: "f32".into(),
        }))
    }

    fn info(&self) -> &Info {
        &self.0
    }

    fn score(&mut self, _: ForestView<'_>, _: &mut [f32]) -> Result<u64, Failure> {
        Err(Failure::input("a masked model is not read left to right"))
    }

    fn masked(&mut self, batch: MaskedView<'_>, out: &mut [f32]) -> Result<u64, Failure> {
        batch.check_tokens(VOCAB)?;
        if batch.sequences() > 1 && batch.token.len() > AT_ONCE as usize {
            return Err(Failure::new(Status::PANIC, "more tokens than it said it takes"));
        }
        if batch.sequences() > 1 && batch.token.len() > ENOUGH {
            return Err(Failure::new(Status::EXHAUSTED, "that is more than it can take today"));
        }
        if batch.token.contains(&31) {
            return Err(Failure::new(Status::NOT_FINITE, "token 31 gives NaN"));
        }
        for (value, (&position, &target)) in out.iter_mut().zip(batch.position.iter().zip(batch.target)) {
            let sequence = (0..batch.sequences()).find(|&s| batch.range(s).contains(&(position as usize)));
            let range = batch.range(sequence.expect("a position lies in a sequence"));
            *value = mixed(&batch.token[range.clone()], position as usize - range.start, target);
        }
        Ok(batch.token.len() as u64)
    }
}

static MIXING: Backend = bheval_abi::backend::<Mixing>();

/// A number below 0 that depends on all of this.
fn mixed(ids: &[u32], position: usize, target: u32) -> f32 {
    let mix = |seed: u32, x: u32| (seed ^ x).wrapping_mul(0x9e37_79b1).rotate_left(13);
    let all = ids.iter().fold(mix(position as u32, target), |seed, &id| mix(seed, id));
    -((all >> 8) as f32) / 1e6 - 0.1
}

fn mixing() -> Model {
    let library = Library::linked(&MIXING).expect("a linked table");
    let options = ModelOptions { path: "x".into(), threads: 1, dtype: Dtype::F32, memory: 1 << 20 };
    Model::open(&library, &options).expect("it opens")
}

/// Texts of few different tokens, so that copies coincide, with any hidden parts.
fn request() -> impl Strategy<Value = MaskedRequest> {
    let copies = |len: usize| prop::collection::vec((0..len, 0..len, 0..len), 1..6);
    let request = (2_usize..9).prop_flat_map(move |len| (prop::collection::vec(5_u32..8, len), copies(len)));
    request.prop_map(|(ids, copies)| {
        let copy = |(a, b, read): (usize, usize, usize)| MaskedCopy {
            target: a.min(b) as u32,
            end: a.max(b) as u32 + 1,
            read: read as u32,
        };
        MaskedRequest { ids, mask: MASK, copies: copies.into_iter().map(copy).collect() }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The slow twin asks for each copy on its own.
    #[test]
    fn batches_give_each_request_what_it_gets_alone(
        requests in prop::collection::vec(request(), 1..12),
        size in prop_oneof![Just(BatchSize::Auto), (1_usize..9).prop_map(BatchSize::Requests)],
        order in prop_oneof![Just(Order::Sorted), Just(Order::AsGiven)],
    ) {
        let records = score_all(&mut mixing(), &requests, order, size, Route::Forest).expect("scores");
        for (request, record) in requests.iter().zip(records) {
            let alone = |copy: &MaskedCopy| {
                let mut ids = request.ids.clone();
                (copy.target..copy.end).for_each(|t| ids[t as usize] = MASK);
                f64::from(mixed(&ids, copy.read as usize, request.ids[copy.target as usize]))
            };
            let expected = request.copies.iter().map(alone).fold(0.0, |sum, term| sum + term);
            prop_assert_eq!(record.log_prob.to_bits(), expected.to_bits());
            prop_assert_eq!(record.tokens as usize, request.copies.len());
        }
    }
}

#[test]
fn a_fault_ends_the_request_that_has_it_by_name() {
    let copy = MaskedCopy { target: 1, end: 2, read: 1 };
    let request = |last: u32| MaskedRequest { ids: vec![5, 6, last], mask: MASK, copies: vec![copy] };
    let error =
        score_all(&mut mixing(), &[request(7), request(31)], Order::Sorted, BatchSize::Auto, Route::Forest);
    assert!(error.is_err_and(|e| e.is_about_input() && e.to_string().contains("token 31")));
    let good = score_all(&mut mixing(), &[request(7)], Order::Sorted, BatchSize::Auto, Route::Forest);
    assert!(good.is_ok());
}

struct Asked<'a> {
    tasks: &'a str,
    protocol: Protocol,
    pll: Option<Pll>,
    route: Route,
}

impl Default for Asked<'_> {
    fn default() -> Self {
        Self { tasks: "demo", protocol: Protocol::Bheval, pll: None, route: Route::Forest }
    }
}

/// A plan for the golden BERT in the first backend that opens it.
fn planned(asked: &Asked<'_>) -> Result<Planned, Error> {
    let (name, table) = BACKENDS.iter().find(|(name, _)| *name == "bert").expect("a backend");
    let path = golden().join(name);
    let folders = Folders::from_env(Some(data()), true).expect("folders");
    Planned::resolve(PlanRequest {
        library: &Library::linked(table).expect("a linked table"),
        options: ModelOptions { path: path.clone(), threads: 2, dtype: Dtype::F32, memory: 1 << 28 },
        tokenizer: path,
        tasks: bheval_tasks::select(asked.tasks).expect("known tasks"),
        limit: Some(2),
        protocol: asked.protocol,
        pll: asked.pll,
        route: asked.route,
        folders: &folders,
    })
}

fn finish(folder: &Path, planned: &mut Planned, size: BatchSize) -> Finished {
    let mut store = Store::open(folder, &planned.plan, false).expect("a folder");
    run(planned, &mut store, size, &mut |_| ()).expect("it runs")
}

#[test]
fn a_run_names_its_reading_everywhere_and_resumes_to_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut planned = planned(&Asked::default()).expect("a plan");
    assert_eq!(planned.plan.identity.pll.as_deref(), Some("within_word_l2r"));
    assert_eq!(planned.plan.identity.route, "copies");
    assert_eq!(planned.plan.prefix.as_deref(), Some("[CLS] (2)"));
    assert!(planned.plan.first_token_scored);
    assert!(planned.plan.folder_name().contains("-bheval-within_word_l2r-"));
    let whole = finish(folder.path(), &mut planned, BatchSize::Auto);
    assert_eq!(whole.summary.failed(), 0);
    let Finished { session, results, .. } = whole;
    assert!(session.tokens_fed < session.tokens_flat, "pairs share copies: {session:?}");
    let json: serde_json::Value = serde_json::from_str(&results).expect("JSON");
    for (name, entry) in json["results"].as_object().expect("results") {
        assert_eq!(entry["pll"], "within_word_l2r", "{name}");
    }
    assert_eq!(json["plan"]["identity"]["pll"], "within_word_l2r");
    let path = folder.path().join("records.jsonl");
    let records = std::fs::read_to_string(&path).expect("records");
    std::fs::write(&path, &records[..records.len() / 2]).expect("written");
    let again = finish(folder.path(), &mut planned, BatchSize::Requests(1));
    assert_eq!(again.results, results);
    assert!(again.session.found > 0 && again.session.found < again.session.requests, "{:?}", again.session);
}

#[test]
fn another_reading_is_another_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let plan = |pll| planned(&Asked { pll, ..Asked::default() }).expect("a plan").plan;
    let (first, other) = (plan(None), plan(Some(Pll::Original)));
    assert_eq!(first.key, plan(Some(Pll::WithinWordL2r)).key);
    assert_ne!(first.key, other.key);
    drop(Store::open(folder.path(), &first, false).expect("a folder"));
    let error = Store::open(folder.path(), &other, false).expect_err("another run").to_string();
    assert!(error.contains("the reading: within_word_l2r there, original asked for"), "{error}");
}

#[test]
fn the_route_is_nothing_to_a_masked_model() {
    let plan = |route| planned(&Asked { route, ..Asked::default() }).expect("a plan").plan;
    assert_eq!(plan(Route::Forest).key, plan(Route::Flat).key);
}

#[test]
fn tasks_without_answers_are_refused_before_anything_is_scored() {
    let asked = Asked { pll: Some(Pll::AnswerL2rWordL2r), ..Asked::default() };
    let error = planned(&asked).expect_err("refused").to_string();
    assert!(error.starts_with("demo_pairs/") && error.contains("which words are the answer"), "{error}");
}

/// A causal plan has no word of readings, so it is stored as it was before there were any.
#[test]
fn causal_plans_are_stored_as_before() {
    let path = golden().join("hgrn2");
    let folders = Folders::from_env(Some(data()), true).expect("folders");
    let planned = Planned::resolve(PlanRequest {
        library: &Library::linked(&bheval_candle::HGRN2).expect("a linked table"),
        options: ModelOptions { path: path.clone(), threads: 2, dtype: Dtype::F32, memory: 1 << 28 },
        tokenizer: path,
        tasks: bheval_tasks::select("demo").expect("known tasks"),
        limit: Some(1),
        protocol: Protocol::Bheval,
        pll: None,
        route: Route::Forest,
        folders: &folders,
    });
    let plan = planned.expect("a plan").plan;
    let stored = results_json(&plan, &bheval_eval::Summary { tasks: vec![] });
    assert!(!stored.contains("pll"), "{stored}");
    let fields = serde_json::to_value(&plan.identity).expect("JSON");
    let names: Vec<&str> = fields.as_object().expect("an object").keys().map(String::as_str).collect();
    let before = ["format", "bheval", "model", "tokenizer", "backend", "dtype", "route", "protocol", "tasks"];
    assert_eq!(names, before);
}
