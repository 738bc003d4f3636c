//! Opening, scoring and closing a loaded backend for ever takes no more memory than once. Alone in its process, since it
//! reads the size of it.

use bheval_host::{Dtype, Forest, Library, Model, ModelOptions, Route};
use bheval_tests::golden;
use bheval_tests::plugins::example;

/// Allocators keep some of what they were given back, more with threads that come and go.
const MAY_GROW: u64 = 16 << 20;

#[test]
fn a_thousand_models_and_calls_leave_memory_as_it_was() {
    let library = Library::open(&example("bheval-candle", "hgrn2"), None).expect("the plugin opens");
    let mut forest = Forest::new();
    for i in 0..20 {
        forest.insert(&[1, 5, 6 + i, 7, 8, 9], &[false, true, true, true, true, true]);
    }
    let mut model = open(&library);
    grows_little("scoring", || drop(model.score(&forest, Route::Forest).expect("scores")));
    grows_little("scoring flat chains", || drop(model.score(&forest, Route::Flat).expect("scores")));
    grows_little("a refusal", || {
        drop(model.score(&Forest::from_parts(vec![9999], vec![None], vec![false]), Route::Forest))
    });
    grows_little("opening", || drop(open(&library)));
    let missing = ModelOptions { path: "no/such/model".into(), ..options() };
    grows_little("a failure to open", || drop(Model::open(&library, &missing).expect_err("there is none")));
}

fn options() -> ModelOptions {
    ModelOptions { path: golden().join("hgrn2"), threads: 2, dtype: Dtype::F32, memory: 64 << 20 }
}

fn open(library: &Library) -> Model {
    Model::open(library, &options()).expect("the model opens")
}

/// Fails if a thousand times of something take much more memory than the first hundred.
#[expect(clippy::print_stderr, reason = "the figure is worth seeing when the test passes, too")]
fn grows_little(what: &str, mut once: impl FnMut()) {
    (0..100).for_each(|_| once());
    let before = resident();
    (0..1000).for_each(|_| once());
    let grown = resident().saturating_sub(before);
    eprintln!("{what} a thousand times: {grown} bytes more");
    assert!(grown < MAY_GROW, "{what} a thousand times took {grown} bytes that it did not give back");
}

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = pages.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok()).expect("a number of pages");
    pages * 4096
}
