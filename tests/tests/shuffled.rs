//! Real sentences in any order, in batches of any size, with any number of threads: the same bits.

use bheval_data::encode::{Encoder, Request};
use bheval_data::locate::Folders;
use bheval_data::protocol::Protocol;
use bheval_data::tokenizer::Tokenizer;
use bheval_eval::{BatchSize, Order, Record, score_all};
use bheval_host::{Dtype, Library, Model, ModelOptions, Route};
use bheval_tests::{data, golden};

/// Requests of some pairs of each BLiMP paradigm.
fn requests(tokenizer: &Tokenizer) -> Vec<Request> {
    let folders = Folders::from_env(Some(data()), true).expect("folders");
    let task = bheval_tasks::select("blimp").expect("known").remove(0).task;
    let items = task.load(&folders).expect("BLiMP loads").narrowed(|_| true, Some(8)).items;
    let encoder = Encoder::new(tokenizer, Protocol::Bheval);
    let queries = items.iter().flat_map(|item| &item.queries);
    queries.map(|query| encoder.request(query).expect("tokens")).collect()
}

/// A permutation without a generator: steps of a number that shares no factor with the length.
fn shuffled(len: usize) -> Vec<usize> {
    // 7919 is a prime, and no multiple of it is a length of ours.
    assert!(!len.is_multiple_of(7919));
    (0..len).map(|i| (i * 7919 + 5) % len).collect()
}

#[test]
fn order_batches_and_threads_change_no_bit() {
    let folder = golden().join("hgrn2");
    let requests = requests(&Tokenizer::load(&folder).expect("a tokenizer"));
    assert_eq!(requests.len(), 67 * 8 * 2);
    let library = Library::linked(&bheval_candle::HGRN2).expect("a linked table");
    let score = |threads: u32, requests: &[Request], order: Order, size: BatchSize| -> Vec<Record> {
        let options = ModelOptions { path: folder.clone(), threads, dtype: Dtype::F32, memory: 1 << 28 };
        let mut model = Model::open(&library, &options).expect("the model opens");
        score_all(&mut model, requests, order, size, Route::Forest).expect("scores")
    };
    let reference = score(2, &requests, Order::Sorted, BatchSize::Auto);
    let order = shuffled(requests.len());
    let mixed: Vec<Request> = order.iter().map(|&i| requests[i].clone()).collect();
    for (threads, size) in [(1, 1), (2, 7), (1, 64), (2, usize::MAX)] {
        let scored = score(threads, &mixed, Order::AsGiven, BatchSize::Requests(size));
        for (&place, record) in order.iter().zip(&scored) {
            let expected = reference[place];
            assert_eq!(record.log_prob.to_bits(), expected.log_prob.to_bits(), "{:?}", requests[place]);
            assert_eq!(record.tokens, expected.tokens);
        }
    }
}
