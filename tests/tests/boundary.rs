//! Whatever is sent over the boundary that is readable memory at all: a status and a sentence, never a crash, and the next
//! call is as right as if nothing had been.
#![allow(unsafe_code)] // Calls over the boundary as a C host would make them; each block states what it relies on.

use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, Ordering};

use bheval_abi::{
    Backend, Dtype, Failure, Forest, ForestView, Info, Kind, LOGITS_EXTENSION, LanguageModel, Logits,
    LogitsTable, Message, ModelInfo, NO_PARENT, OpenOptions, Opening, RawModel, Scores, Status, Text,
};
use bheval_candle::HGRN2 as BACKEND;
use bheval_tests::golden;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;

const VOCAB: u32 = 768;
const UNTOUCHED: f32 = 42.0;

/// A model opened through the table; closed when dropped.
struct Opened {
    table: &'static Backend,
    model: *mut RawModel,
}

impl Opened {
    fn new(table: &'static Backend) -> Self {
        let path = golden().join("hgrn2");
        let mut model = null_mut();
        let options = options(path.to_str().expect("UTF-8"));
        let open = table.open.expect("a whole table");
        // SAFETY: valid pointers for the length of the call.
        let answer = said(|message| unsafe { open(&raw const options, &raw mut model, message) });
        assert_eq!(answer, (Status::OK, String::new()));
        Self { table, model }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // SAFETY: opened by this table, and closed once.
        unsafe { self.table.close.expect("a whole table")(self.model) }
    }
}

fn options(path: &str) -> OpenOptions<'_> {
    let size = size_of::<OpenOptions<'_>>();
    OpenOptions { size, path: Text::new(path), threads: 1, dtype: Dtype::F32, memory: 1 << 28 }
}

/// The status of a call, and its sentence.
fn said(call: impl FnOnce(*mut Message) -> Status) -> (Status, String) {
    let mut buffer = [0_u8; 512];
    let mut message = Message::over(&mut buffer);
    let status = call(&raw mut message);
    let len = message.len;
    (status, String::from_utf8(buffer[..len].to_vec()).expect("the sentence is UTF-8"))
}

/// What is wrong with a call. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Flaw {
    Parent(usize, u32),
    Token(usize, u32),
    WantedRoot,
    Wanted(usize, u8),
    ForestSize(usize),
    ForestLen(usize),
    ScoresSize(usize),
    ScoresLen(usize),
    NullArray(usize),
    NullForest,
    NullScores,
    NullLogProb,
    NullModel,
}

fn flaw() -> impl Strategy<Value = Flaw> {
    let number = || prop_oneof![0..50_u32, select(vec![VOCAB - 1, VOCAB, NO_PARENT - 1]), any::<u32>()];
    let size = || prop_oneof![0..100_usize, select(vec![usize::MAX, usize::MAX / 2])];
    let huge = || select(vec![NO_PARENT as usize, NO_PARENT as usize + 1, usize::MAX / 4, usize::MAX]);
    prop_oneof![
        (any::<usize>(), number()).prop_map(|(at, p)| Flaw::Parent(at, p)),
        (any::<usize>(), number()).prop_map(|(at, t)| Flaw::Token(at, t)),
        (any::<usize>(), any::<u8>()).prop_map(|(at, w)| Flaw::Wanted(at, w)),
        Just(Flaw::WantedRoot),
        size().prop_map(Flaw::ForestSize),
        huge().prop_map(Flaw::ForestLen),
        size().prop_map(Flaw::ScoresSize),
        prop_oneof![size(), huge()].prop_map(Flaw::ScoresLen),
        (0..3_usize).prop_map(Flaw::NullArray),
        select(vec![Flaw::NullForest, Flaw::NullScores, Flaw::NullLogProb, Flaw::NullModel]),
    ]
}

/// A scoring call as raw structs, and the memory behind them.
#[derive(Clone, Debug)]
struct Call {
    token: Vec<u32>,
    parent: Vec<u32>,
    wanted: Vec<u8>,
    log_prob: Vec<f32>,
    forest_size: usize,
    forest_len: usize,
    scores_size: usize,
    scores_len: usize,
    null_arrays: [bool; 3],
    null_forest: bool,
    null_scores: bool,
    null_log_prob: bool,
    null_model: bool,
}

impl Call {
    /// A right call; `nodes` holds a token, how far above the parent is, and whether the value is wanted.
    fn new(nodes: &[(u32, usize, bool)]) -> Self {
        let parent = |i: usize, back: usize| i.checked_sub(back).map_or(NO_PARENT, |p| p as u32);
        let parent: Vec<_> = nodes.iter().enumerate().map(|(i, n)| parent(i, 1 + n.1)).collect();
        let wanted = nodes.iter().zip(&parent).map(|(n, &p)| u8::from(n.2 && p != NO_PARENT));
        Self {
            token: nodes.iter().map(|n| n.0).collect(),
            wanted: wanted.collect(),
            parent,
            log_prob: vec![UNTOUCHED; nodes.len()],
            forest_size: size_of::<Forest>(),
            forest_len: nodes.len(),
            scores_size: size_of::<Scores>(),
            scores_len: nodes.len(),
            null_arrays: [false; 3],
            null_forest: false,
            null_scores: false,
            null_log_prob: false,
            null_model: false,
        }
    }

    fn spoil(&mut self, flaw: &Flaw) {
        let len = self.token.len().max(1);
        let set =
            |array: &mut Vec<u32>, at: usize, x| array.iter_mut().skip(at % len).take(1).for_each(|a| *a = x);
        match *flaw {
            Flaw::Parent(at, parent) => set(&mut self.parent, at, parent),
            Flaw::Token(at, token) => set(&mut self.token, at, token),
            Flaw::Wanted(at, w) => self.wanted.iter_mut().skip(at % len).take(1).for_each(|a| *a = w),
            Flaw::WantedRoot => self.wanted.iter_mut().take(1).for_each(|w| *w = 1),
            Flaw::ForestSize(size) => self.forest_size = size,
            Flaw::ForestLen(len) => self.forest_len = len,
            Flaw::ScoresSize(size) => self.scores_size = size,
            Flaw::ScoresLen(len) => self.scores_len = len,
            Flaw::NullArray(which) => self.null_arrays[which] = true,
            Flaw::NullForest => self.null_forest = true,
            Flaw::NullScores => self.null_scores = true,
            Flaw::NullLogProb => self.null_log_prob = true,
            Flaw::NullModel => self.null_model = true,
        }
    }

    /// Whether the contract allows this call.
    fn is_right(&self) -> bool {
        let len = self.token.len();
        let structs = !self.null_forest && !self.null_scores && !self.null_model;
        let sizes = self.forest_size >= size_of::<Forest>() && self.scores_size >= size_of::<Scores>();
        let lengths = self.forest_len == len && self.scores_len == len;
        let arrays = len == 0 || self.null_arrays == [false; 3] && !self.null_log_prob;
        structs && sizes && lengths && arrays && (0..len).all(|i| self.is_right_node(i))
    }

    fn is_right_node(&self, i: usize) -> bool {
        let (parent, root) = (self.parent[i] as usize, self.parent[i] == NO_PARENT);
        self.token[i] < VOCAB && (root || parent < i) && !(root && self.wanted[i] != 0)
    }

    fn send(&mut self, opened: &Opened) -> (Status, String) {
        let array = |which: usize, ptr: *const u32| if self.null_arrays[which] { null() } else { ptr };
        let forest = Forest {
            size: self.forest_size,
            len: self.forest_len,
            token: array(0, self.token.as_ptr()),
            parent: array(1, self.parent.as_ptr()),
            wanted: if self.null_arrays[2] { null() } else { self.wanted.as_ptr() },
        };
        let log_prob = if self.null_log_prob { null_mut() } else { self.log_prob.as_mut_ptr() };
        let mut scores = Scores { size: self.scores_size, log_prob, len: self.scores_len, fed: 0 };
        let forest = if self.null_forest { null() } else { &raw const forest };
        let scores = if self.null_scores { null_mut() } else { &raw mut scores };
        let model = if self.null_model { null_mut() } else { opened.model };
        let score = opened.table.score.expect("a whole table");
        // SAFETY: null or valid pointers. Arrays are shorter than a length only where that length alone is a reason to
        // refuse: it differs from the other one, or no forest may be so long.
        said(|message| unsafe { score(model, forest, scores, message) })
    }
}

fn call() -> impl Strategy<Value = Call> {
    let nodes = vec((0..VOCAB, 0..4_usize, any::<bool>()), 0..40);
    (nodes, vec(flaw(), 0..3)).prop_map(|(nodes, flaws)| {
        let mut call = Call::new(&nodes);
        flaws.iter().for_each(|flaw| call.spoil(flaw));
        call
    })
}

/// A forest whose arrays hold anything.
fn noise() -> impl Strategy<Value = Call> {
    let small = || prop_oneof![0..40_u32, Just(NO_PARENT), any::<u32>()];
    vec((small(), small(), any::<u8>()), 1..40).prop_map(|nodes| {
        let mut call = Call::new(&vec![(0, 0, false); nodes.len()]);
        call.token = nodes.iter().map(|n| n.0).collect();
        call.parent = nodes.iter().map(|n| n.1).collect();
        call.wanted = nodes.iter().map(|n| n.2).collect();
        call
    })
}

/// The answer to a call that is right, as bits.
fn known_answer(opened: &Opened) -> Vec<u32> {
    let mut call = Call::new(&[(1, 0, false), (5, 0, true), (6, 0, true), (7, 1, true), (767, 0, true)]);
    assert!(call.is_right());
    assert_eq!(call.send(opened), (Status::OK, String::new()));
    call.log_prob.iter().map(|x| x.to_bits()).collect()
}

fn check(mut call: Call, opened: &Opened) -> Result<bool, TestCaseError> {
    let right = call.is_right();
    let (status, sentence) = call.send(opened);
    if !right {
        prop_assert_eq!(status, Status::BAD_INPUT, "{}", sentence);
        prop_assert!(!sentence.is_empty());
        prop_assert!(call.log_prob.iter().all(|&x| x == UNTOUCHED), "a refusal writes no score");
        return Ok(false);
    }
    prop_assert_eq!(status, Status::OK, "{}", sentence);
    for (i, &x) in call.log_prob.iter().enumerate() {
        prop_assert!(
            if call.wanted[i] == 0 { x == UNTOUCHED } else { x.is_finite() && x <= 0.0 },
            "node {i}"
        );
    }
    Ok(true)
}

#[test]
fn any_forest_gets_scores_or_a_reason_and_harms_no_later_call() {
    let opened = Opened::new(&BACKEND);
    let known = known_answer(&opened);
    let (mut right, mut wrong) = (0, 0);
    let config = ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() };
    let calls = prop_oneof![3 => call().boxed(), 1 => noise().boxed()];
    let counts = std::cell::RefCell::new((&mut right, &mut wrong));
    let result = TestRunner::new(config).run(&calls, |call| {
        let mut counts = counts.borrow_mut();
        *(if check(call, &opened)? { &mut *counts.0 } else { &mut *counts.1 }) += 1;
        prop_assert_eq!(known_answer(&opened), known.clone());
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
    assert!(right > 200 && wrong > 200, "{right} right and {wrong} wrong calls: too few of a kind");
}

#[test]
fn a_null_message_is_allowed() {
    let opened = Opened::new(&BACKEND);
    let score = opened.table.score.expect("a whole table");
    // SAFETY: null pointers, which the contract has answers for.
    let status = unsafe { score(opened.model, null(), null_mut(), null_mut()) };
    assert_eq!(status, Status::BAD_INPUT);
}

/// A struct of which there is only its size, too small.
fn lone_size() -> Box<usize> {
    Box::new(size_of::<usize>())
}

#[test]
fn a_struct_that_is_smaller_than_known_is_refused_by_its_size_alone() {
    let opened = Opened::new(&BACKEND);
    let (table, mut lone) = (opened.table, lone_size());
    let lone = &raw mut *lone;
    let mut model = null_mut();
    let open = table.open.expect("a whole table");
    let describe = table.describe.expect("a whole table");
    let score = table.score.expect("a whole table");
    let mut scores = Scores { size: size_of::<Scores>(), log_prob: null_mut(), len: 0, fed: 0 };
    // SAFETY: valid pointers; the size that leads each struct says how much of it may be read.
    let answers = unsafe {
        [
            said(|message| open(lone.cast(), &raw mut model, message)),
            said(|message| describe(opened.model, lone.cast::<ModelInfo<'_>>(), message)),
            said(|message| score(opened.model, lone.cast(), &raw mut scores, message)),
        ]
    };
    for (status, sentence) in answers {
        assert_eq!(status, Status::BAD_INPUT);
        assert!(sentence.contains("smaller than this version knows"), "{sentence}");
    }
    // SAFETY: as above; the message's size says that nothing can be written.
    assert_eq!(unsafe { score(opened.model, null(), null_mut(), lone.cast()) }, Status::BAD_INPUT);
    assert!(model.is_null());
}

#[test]
fn wrong_arguments_of_open_and_describe_are_refused() {
    let opened = Opened::new(&BACKEND);
    let open = opened.table.open.expect("a whole table");
    let describe = opened.table.describe.expect("a whole table");
    let mut model = null_mut();
    let path = [0xff_u8, 0xfe];
    let good = options("no/such/folder");
    let not_text = OpenOptions { path: Text { ptr: path.as_ptr(), len: 2, ..good.path }, ..options("") };
    let null_path = OpenOptions { path: Text { ptr: null(), len: 2, ..good.path }, ..options("") };
    let dtype = OpenOptions { dtype: Dtype(99), ..options("no/such/folder") };
    // SAFETY: null or valid pointers.
    let answers = unsafe {
        [
            said(|m| open(null(), &raw mut model, m)),
            said(|m| open(&raw const good, null_mut(), m)),
            said(|m| open(&raw const good, &raw mut model, m)),
            said(|m| open(&raw const not_text, &raw mut model, m)),
            said(|m| open(&raw const null_path, &raw mut model, m)),
            said(|m| open(&raw const dtype, &raw mut model, m)),
            said(|m| describe(opened.model, null_mut(), m)),
            said(|m| describe(null_mut(), null_mut(), m)),
        ]
    };
    for (status, sentence) in answers {
        assert!(status != Status::OK && status != Status::PANIC && !sentence.is_empty(), "{sentence}");
    }
    assert!(model.is_null());
    // SAFETY: null is allowed.
    unsafe { opened.table.close.expect("a whole table")(null_mut()) }
}

#[test]
fn logits_need_room_of_the_right_size() {
    let opened = Opened::new(&BACKEND);
    let extension = opened.table.extension.expect("a whole table");
    // SAFETY: readable text; the id names the type of the table.
    let logits = unsafe {
        assert!(extension(Text::new("bheval.other.1")).is_null());
        (*extension(Text::new(LOGITS_EXTENSION)).cast::<LogitsTable>()).logits.expect("a whole table")
    };
    let (token, parent, wanted) = ([1_u32, 5], [NO_PARENT, 0], [1_u8, 1]);
    let forest = Forest {
        size: size_of::<Forest>(),
        len: 2,
        token: token.as_ptr(),
        parent: parent.as_ptr(),
        wanted: wanted.as_ptr(),
    };
    let mut data = vec![f32::NAN; 2 * VOCAB as usize];
    let size = size_of::<Logits>();
    for (size, data, len, expected) in [
        (size, data.as_mut_ptr(), data.len(), Status::OK),
        (size, data.as_mut_ptr(), data.len() - 1, Status::BAD_INPUT),
        (size, data.as_mut_ptr(), usize::MAX, Status::BAD_INPUT),
        (size - 1, data.as_mut_ptr(), data.len(), Status::BAD_INPUT),
        (size, null_mut(), data.len(), Status::BAD_INPUT),
    ] {
        let mut out = Logits { size, data, len };
        // SAFETY: the forest's arrays are whole, and the room is as long as its right length.
        let (status, sentence) =
            said(|m| unsafe { logits(opened.model, &raw const forest, &raw mut out, m) });
        assert_eq!((status, sentence.is_empty()), (expected, expected == Status::OK), "{sentence}");
    }
    assert!(data.iter().all(|x| x.is_finite()));
}

/// A backend that panics when it is first described.
struct Shy {
    info: Info,
    asked: AtomicBool,
}

impl LanguageModel for Shy {
    const NAME: &'static str = "shy";
    const VERSION: &'static str = "1";
    const FOREST: bool = true;
    const LOGITS: Option<&'static LogitsTable> = None;

    fn open(_: &Opening) -> Result<Self, Failure> {
        let info = Info {
            vocab: 1,
            context: 0,
            nodes: 1,
            kind: Kind::CAUSAL,
            parameters: 0,
            architecture: String::new(),
            dtype: String::new(),
        };
        Ok(Self { info, asked: AtomicBool::new(false) })
    }

    fn info(&self) -> &Info {
        assert!(self.asked.swap(true, Ordering::Relaxed), "do not look at me");
        &self.info
    }

    fn score(&mut self, _: ForestView<'_>, _: &mut [f32]) -> Result<u64, Failure> {
        Ok(0)
    }
}

static SHY: Backend = bheval_abi::backend::<Shy>();

#[test]
fn a_panic_while_describing_ends_the_model() {
    let opened = Opened::new(&SHY);
    let (status, sentence) = Call::new(&[]).send(&opened);
    assert_eq!((status, sentence.as_str()), (Status::OK, ""));
    let describe = SHY.describe.expect("a whole table");
    let mut info = ModelInfo {
        size: size_of::<ModelInfo<'_>>(),
        vocab: 0,
        context: 0,
        nodes: 0,
        kind: Kind(0),
        parameters: 0,
        architecture: Text::new(""),
        dtype: Text::new(""),
    };
    // SAFETY: an opened model and a valid info.
    let (status, sentence) = said(|m| unsafe { describe(opened.model, &raw mut info, m) });
    assert_eq!((status, sentence.as_str()), (Status::PANIC, "the backend panicked: do not look at me"));
    let (status, sentence) = Call::new(&[]).send(&opened);
    assert_eq!(status, Status::PANIC);
    assert!(sentence.contains("panicked in an earlier call"), "{sentence}");
}
