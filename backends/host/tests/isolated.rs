//! An isolated backend: the answers of one in this process, bit for bit, and whatever ends its process is an error.
#![cfg(unix)]

mod fake;

use std::io::Write;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use bheval_host::{
    Dtype, Error, Forest, Kind, Launch, Library, MaskedBatch, Model, ModelOptions, Origin, Route, Source,
    Status,
};
use proptest::prelude::*;

/// The worker with the fake backend, which `cargo test` builds as an example.
fn worker() -> PathBuf {
    let exe = std::env::current_exe().expect("the test knows where it lies");
    let profile = exe.parent().and_then(Path::parent).expect("a test lies in target/<profile>/deps");
    let file = profile.join("examples/worker");
    assert!(file.is_file(), "{}: build it with `cargo build -p bheval-host --examples`", file.display());
    file
}

fn isolated() -> Library {
    Library::isolated(&Launch::new(worker(), &[]), &Source::Linked("fake".into())).expect("a worker")
}

fn open(library: &Library, path: &str) -> Result<Model, Error> {
    let options = ModelOptions { path: path.into(), threads: 2, dtype: Dtype::F32, memory: 1 << 20 };
    Model::open(library, &options)
}

/// The same model in a worker and in this process.
fn both(path: &str) -> (Model, Model) {
    let here = Library::linked(&fake::TABLE).expect("a whole table");
    (open(&isolated(), path).expect("opens"), open(&here, path).expect("opens"))
}

fn sentence(ids: &[u32]) -> Forest {
    let mut forest = Forest::new();
    forest.insert(ids, &ids.iter().enumerate().map(|(i, _)| i > 0).collect::<Vec<_>>());
    forest
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn an_isolated_backend_describes_itself_as_a_linked_one() {
    let (there, here) = both("some/model");
    assert!(there.library().is_isolated() && !here.library().is_isolated());
    assert_eq!(there.info(), here.info());
    let of = |m: &Model| {
        let library = m.library();
        (
            library.name().to_owned(),
            library.version().to_owned(),
            library.takes_forests(),
            library.reads_masked(),
            library.origin().clone(),
        )
    };
    assert_eq!(of(&there), of(&here));
    assert_eq!(of(&there), ("fake".to_owned(), "3".to_owned(), true, true, Origin::Linked));
}

#[test]
fn scores_and_logits_are_the_same_bits_on_both_routes() {
    let (mut there, mut here) = both("model");
    let mut forest = Forest::new();
    for i in 0..20_000_u32 {
        let ids = [i % 7, i % 600, i * 31 % 600, i / 40];
        forest.insert(&ids, &[false, true, i % 3 > 0, true]);
    }
    assert!(forest.len() > 20_000, "more than one chunk of the wire: {}", forest.len());
    for route in [Route::Forest, Route::Flat] {
        let (a, b) =
            (there.score(&forest, route).expect("scores"), here.score(&forest, route).expect("scores"));
        assert_eq!(bits(&a.log_prob), bits(&b.log_prob));
        assert_eq!(a.fed, b.fed);
    }
    let small = sentence(&(0..60).collect::<Vec<_>>());
    let (a, b) = (there.logits(&small).expect("logits"), here.logits(&small).expect("logits"));
    assert_eq!((a.len(), bits(&a)), (59 * fake::VOCAB as usize, bits(&b)));
    assert_eq!(a[7], fake::value(1, 7));
    assert_eq!(there.crashes(), 0);
}

#[test]
fn masked_questions_are_the_same_bits() {
    let (mut there, mut here) = both("masked");
    assert_eq!(there.info().kind, Kind::MASKED);
    let mut batch = MaskedBatch::new();
    for i in 0..3000_u32 {
        batch.push(&[1, i % 600, 4, 2], &[(1, i % 900), (2, 5)]);
    }
    let (a, b) = (there.score_masked(&batch).expect("scores"), here.score_masked(&batch).expect("scores"));
    assert_eq!((bits(&a.log_prob), a.fed), (bits(&b.log_prob), b.fed));
    assert_eq!(a.log_prob[..2], [fake::value(0, 0), fake::value(4, 5)]);
    let nothing = there.score_masked(&MaskedBatch::new()).expect("nothing was asked");
    assert!(nothing.log_prob.is_empty());
}

#[test]
fn refusals_are_the_same_words_and_cost_no_worker() {
    let (mut there, mut here) = both("model");
    for ids in [[1, 5000], [1, 672]] {
        let errors =
            [&mut there, &mut here].map(|m| m.score(&sentence(&ids), Route::Forest).expect_err("no score"));
        assert_eq!(errors[0].to_string(), errors[1].to_string());
        assert_eq!(errors[0].is_about_input(), errors[1].is_about_input());
    }
    let panic = there.score(&sentence(&[1, 671]), Route::Forest).expect_err("a panic");
    assert!(matches!(panic, Error::Refused { status: Status::PANIC, .. }), "{panic}");
    let after = there.score(&sentence(&[1, 2]), Route::Forest).expect_err("it panicked before");
    assert!(after.to_string().contains("open the model again"), "{after}");
    assert_eq!(there.crashes(), 0);
    let refused = open(&isolated(), "no").expect_err("no model").to_string();
    assert!(
        refused.contains("fake could not open the model") && refused.contains("no model here"),
        "{refused}"
    );
}

#[test]
fn more_that_is_fed_than_was_sent_is_no_answer() {
    let (there, here) = both("model");
    for mut model in [there, here] {
        let mut forest = sentence(&[1, 2, 3]);
        forest.insert(&[1, 674], &[false, true]);
        for route in [Route::Forest, Route::Flat] {
            let error = model.score(&sentence(&[1, 673]), route).expect_err("one too many");
            assert!(matches!(error, Error::BadAnswer { .. }) && error.is_about_input(), "{error}");
            assert!(error.to_string().contains("`fed` is 3 after a call of 2 nodes"), "{error}");
            let error = model.score(&forest, route).expect_err("more than there are in the world");
            assert!(matches!(error, Error::BadAnswer { .. }), "{error}");
            assert_eq!(model.score(&sentence(&[1, 2, 3]), route).expect("scores").fed, 3);
        }
    }
    let (there, here) = both("masked");
    for mut model in [there, here] {
        let mut batch = MaskedBatch::new();
        batch.push(&[1, 673, 4], &[(2, 5)]);
        let error = model.score_masked(&batch).expect_err("one too many");
        assert!(error.to_string().contains("`fed` is 4 after a call of 3 tokens"), "{error}");
    }
}

/// A model that opens once and faults whenever it is opened again: every attempt is a death that counts.
#[test]
fn attempts_to_open_a_model_again_are_counted_to_the_last_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("opens-once");
    let mut model = open(&isolated(), path.to_str().expect("UTF-8")).expect("opens");
    assert!(model.score(&sentence(&[1, 666]), Route::Forest).expect_err("it dies").is_crash());
    assert_eq!((model.crashes(), model.reopened()), (1, 0));
    let error = model.score(&sentence(&[1, 2]), Route::Forest).expect_err("no new worker").to_string();
    assert!(error.contains("could not be started anew"), "{error}");
    assert_eq!((model.crashes(), model.reopened()), (4, 0));
}

#[test]
fn what_ends_the_worker_is_an_error_and_the_next_call_finds_a_new_one() {
    let mut model = open(&isolated(), "model").expect("opens");
    let good = sentence(&[1, 2, 3]);
    let expected = [fake::value(2, 1), fake::value(3, 2)];
    for (count, (token, how)) in
        (1..).zip([(666, "was killed by SIGSEGV"), (667, "was killed by SIGABRT"), (668, "exit code 0")])
    {
        let error = model.score(&sentence(&[1, token]), Route::Forest).expect_err("it dies");
        let text = error.to_string();
        assert!(text.contains("fake: its worker") && text.contains(how) && text.contains("score"), "{text}");
        assert!(error.is_crash() && error.may_pass_in_part());
        assert_eq!(model.crashes(), count);
        assert_eq!(model.score(&good, Route::Forest).expect("a new worker").log_prob[1..], expected);
    }
    let mut batch = MaskedBatch::new();
    batch.push(&[1, 666], &[(1, 0)]);
    assert!(model.score_masked(&batch).expect_err("it dies").is_crash());
    assert!(model.logits(&sentence(&[1, 667])).expect_err("it dies").is_crash());
    assert_eq!(model.score(&good, Route::Flat).expect("a new worker").log_prob[1..], expected);
    assert_eq!(model.crashes(), 5);
}

#[test]
fn a_backend_that_dies_on_everything_is_not_asked_for_ever() {
    let mut model = open(&isolated(), "model").expect("opens");
    let bad = sentence(&[1, 668]);
    let deaths = (1..1000).take_while(|_| model.score(&bad, Route::Forest).expect_err("it dies").is_crash());
    assert_eq!(deaths.count(), 127);
    let error = model.score(&bad, Route::Forest).expect_err("it dies").to_string();
    assert!(error.contains("129 calls in a row"), "{error}");
    model.score(&sentence(&[1, 2]), Route::Forest).expect("what can be scored is, even so");
    assert!(model.score(&bad, Route::Forest).expect_err("it dies").is_crash(), "and the count begins anew");
}

#[test]
fn a_backend_that_prints_and_reads_harms_no_answer() {
    let mut model = open(&isolated(), "model").expect("opens");
    let scored = model.score(&sentence(&[1, 669, 2]), Route::Forest).expect("scores");
    assert_eq!(scored.log_prob[1..], [fake::value(669, 1), fake::value(2, 669)]);
    let error = model.score(&sentence(&[1, 669, 667]), Route::Forest).expect_err("it dies").to_string();
    assert!(error.contains("the last it said: not an answer | not an answer"), "{error}");
}

#[test]
fn a_crash_while_opening_is_final() {
    let error = open(&isolated(), "crash").expect_err("it dies");
    let text = error.to_string();
    assert!(text.contains("was killed by SIGSEGV when it was asked to open the model"), "{text}");
    assert!(!error.may_pass_in_part());
}

#[test]
fn two_models_of_one_library_have_a_worker_each() {
    let library = isolated();
    let (mut one, mut two) = (open(&library, "one").expect("opens"), open(&library, "two").expect("opens"));
    assert_eq!((one.info().architecture.as_str(), two.info().architecture.as_str()), ("one", "two"));
    assert!(one.score(&sentence(&[1, 666]), Route::Forest).is_err());
    two.score(&sentence(&[1, 2]), Route::Forest).expect("the other worker lives");
    assert_eq!((one.crashes(), two.crashes()), (1, 0));
}

#[test]
fn files_are_checked_before_a_worker_is_started() {
    let never = Launch::new("/no/such/program".into(), &[]);
    let file = |path: &Path, pin: Option<&str>| {
        let source = Source::File { path: path.into(), pin: pin.map(str::to_owned) };
        Library::isolated(&never, &source).expect_err("refused")
    };
    assert!(matches!(file(Path::new("no/such/libx.so"), None), Error::Missing { .. }));
    assert!(matches!(file(&worker(), Some("00ff")), Error::OtherDigest { .. }));
    assert!(matches!(file(&worker(), None), Error::Worker { .. }));
    let text = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(text.path(), "hello").expect("written");
    let source = Source::File { path: text.path().into(), pin: None };
    let error = Library::isolated(&Launch::new(worker(), &[]), &source).expect_err("a text");
    assert!(matches!(error, Error::NotAPlugin { .. }), "{error}");
}

/// A bare worker, what is sent to it, and how it ends. The other end is closed behind the bytes.
fn sent(bytes: &[u8]) -> (ExitStatus, String) {
    let (mut ours, theirs) = UnixStream::pair().expect("a socket");
    let mut command = Command::new(worker());
    command.stdin(OwnedFd::from(theirs)).stderr(Stdio::piped()).stdout(Stdio::null());
    let child = command.spawn().expect("a worker");
    drop(command);
    // A worker that refused the beginning may be gone before the end was written.
    let _ = ours.write_all(bytes);
    ours.shutdown(Shutdown::Write).expect("shut");
    let output = child.wait_with_output().expect("it ends");
    drop(ours);
    (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_worker_ends_with_the_harness() {
    // In order, by itself, when nobody is there any more.
    let (status, text) = sent(b"");
    assert_eq!((status.code(), text.as_str()), (Some(0), ""));
    // While the backend hangs: load, open, then a forest with token 670.
    let frame = |tag: u32, body: &[u8]| {
        [b"bhw1".as_slice(), &tag.to_le_bytes(), &(body.len() as u64).to_le_bytes(), body].concat()
    };
    let (number, text) =
        (|n: u64| n.to_le_bytes().to_vec(), |t: &[u8]| [&(t.len() as u64).to_le_bytes()[..], t].concat());
    let load = frame(1, &text(b"fake"));
    let open = frame(3, &[text(b"m"), number(1), number(1), number(1 << 20)].concat());
    let words = |w: [u32; 2]| [number(2), w.iter().flat_map(|w| w.to_le_bytes()).collect()].concat();
    let score = frame(4, &[words([1, 670]), words([u32::MAX, 0]), text(&[0, 1])].concat());
    let (status, said) = sent(&[load, open, score].concat());
    assert_eq!((status.code(), said.as_str()), (Some(0), ""));
}

#[test]
fn a_stdin_that_is_no_socket_is_refused() {
    for stdin in [Stdio::null(), Stdio::piped()] {
        let mut child = Command::new(worker()).stdin(stdin).spawn().expect("a worker");
        assert_eq!(child.wait().expect("it ends").code(), Some(2));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn hostile_bytes_end_a_worker_in_order(
        tag in 0_u32..9,
        len in prop_oneof![0_u64..64, any::<u64>()],
        body in prop::collection::vec(any::<u8>(), 0..64),
        whole in any::<bool>(),
    ) {
        let head = [b"bhw1".as_slice(), &tag.to_le_bytes(), &len.to_le_bytes()].concat();
        let bytes = if whole { [head, body].concat() } else { body };
        let (status, text) = sent(&bytes);
        prop_assert!(matches!(status.code(), Some(0 | 2)), "{status}: {text}");
        prop_assert!(!text.contains("panicked"), "{text}");
    }
}

/// A peer that answers every request with these bytes.
fn liar(bytes: &[u8]) -> (tempfile::TempDir, Launch) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("answer");
    std::fs::File::create(&file).and_then(|mut f| f.write_all(bytes)).expect("written");
    let script = format!("cat '{}' >&0; sleep 1000", file.display());
    (folder, Launch::new("sh".into(), &["-c", &script]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn hostile_answers_are_errors(
        tag in 0_u32..9,
        len in 0_u64..64,
        body in prop::collection::vec(any::<u8>(), 64..65),
    ) {
        let bytes = [b"bhw1".as_slice(), &tag.to_le_bytes(), &len.to_le_bytes(), &body].concat();
        let (_folder, launch) = liar(&bytes);
        let result = Library::isolated(&launch, &Source::Linked("fake".into()));
        // Bytes by chance make no backend: an empty name and version alone take 16 zeros.
        prop_assert!(result.is_err());
    }
}

#[test]
fn memory_of_the_other_end_is_not_taken_at_its_word() {
    // A name of 2^60 bytes, in a frame of as many.
    let claims =
        [b"bhw1".as_slice(), &1_u32.to_le_bytes(), &u64::MAX.to_le_bytes(), &(1_u64 << 60).to_le_bytes()];
    let (_folder, launch) = liar(&claims.concat());
    let error = Library::isolated(&launch, &Source::Linked("fake".into())).expect_err("a lie").to_string();
    assert!(error.contains("1152921504606846976 elements where 65536 are the most"), "{error}");
}
