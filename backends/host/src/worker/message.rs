//! What the harness asks of its worker, and what it answers.

use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use bheval_abi::{Dtype, Kind, MaskedView};

use super::refusal::Refusal;
use super::wire::{Fault, Field, Frame, send};
use crate::{Forest, MaskedBatch, ModelInfo, ModelOptions, Scored, Source};

/// Bytes of a text or path at most.
const TEXT: usize = 1 << 16;
/// Elements of an array at most: an id and an index have 32 bits.
const ELEMENTS: usize = u32::MAX as usize - 1;

/// What a worker is asked.
#[derive(Debug)]
pub(super) enum Request<'a> {
    /// To load a backend: the first request.
    Load(Cow<'a, Source>),
    /// To open a model: the second one.
    Open(Cow<'a, ModelOptions>),
    /// To score a forest.
    Score(Cow<'a, Forest>),
    /// To score masked tokens.
    Masked(Cow<'a, MaskedBatch>),
    /// To give the logits of a forest.
    Logits(Cow<'a, Forest>),
    /// To close the model and end.
    Close,
}

impl Request<'_> {
    /// Sends it.
    pub(super) fn send(&self, out: &mut impl Write) -> io::Result<()> {
        use Field::{Bytes, Number, Words};
        match self {
            Request::Load(source) => match &**source {
                Source::Linked(name) => send(out, 1, &[Bytes(name.as_bytes())]),
                Source::File { path, pin } => {
                    let pin = pin.as_deref().unwrap_or_default();
                    send(out, 2, &[Bytes(path.as_os_str().as_bytes()), Bytes(pin.as_bytes())])
                }
            },
            Request::Open(options) => {
                let ModelOptions { path, threads, dtype, memory } = &**options;
                let numbers = [u64::from(*threads), u64::from(dtype.0), *memory].map(Number);
                let [threads, dtype, memory] = numbers;
                send(out, 3, &[Bytes(path.as_os_str().as_bytes()), threads, dtype, memory])
            }
            Request::Score(forest) => send_forest(out, 4, forest),
            Request::Masked(batch) => {
                let MaskedBatch { token, end, position, target } = &**batch;
                send(out, 5, &[Words(token), Words(end), Words(position), Words(target)])
            }
            Request::Logits(forest) => send_forest(out, 6, forest),
            Request::Close => send(out, 7, &[]),
        }
    }

    /// Reads the next one.
    pub(super) fn read(source: &mut impl Read) -> Result<Request<'static>, Fault> {
        let mut frame = Frame::receive(source)?;
        let request = match frame.tag {
            1 => Request::Load(Cow::Owned(Source::Linked(frame.text(TEXT)?))),
            2 => {
                let path = OsString::from_vec(frame.bytes(TEXT)?).into();
                let pin = Some(frame.text(TEXT)?).filter(|pin| !pin.is_empty());
                Request::Load(Cow::Owned(Source::File { path, pin }))
            }
            3 => Request::Open(Cow::Owned(ModelOptions {
                path: OsString::from_vec(frame.bytes(TEXT)?).into(),
                threads: frame.number_u32()?,
                dtype: Dtype(frame.number_u32()?),
                memory: frame.number()?,
            })),
            4 => Request::Score(Cow::Owned(forest(&mut frame)?)),
            5 => Request::Masked(Cow::Owned(masked(&mut frame)?)),
            6 => Request::Logits(Cow::Owned(forest(&mut frame)?)),
            7 => Request::Close,
            tag => return Err(Fault::malformed(format!("request {tag}, which there is not"))),
        };
        frame.end()?;
        Ok(request)
    }
}

fn send_forest(out: &mut impl Write, tag: u32, forest: &Forest) -> io::Result<()> {
    let Forest { token, parent, wanted, .. } = forest;
    send(out, tag, &[Field::Words(token), Field::Words(parent), Field::Bytes(wanted)])
}

fn forest(frame: &mut Frame<'_, impl Read>) -> Result<Forest, Fault> {
    let (token, parent) = (frame.words(ELEMENTS)?, frame.words(ELEMENTS)?);
    Forest::from_arrays(token, parent, frame.bytes(ELEMENTS)?)
        .ok_or_else(|| Fault::malformed("a forest whose arrays differ in length"))
}

fn masked(frame: &mut Frame<'_, impl Read>) -> Result<MaskedBatch, Fault> {
    let batch = MaskedBatch {
        token: frame.words(ELEMENTS)?,
        end: frame.words(ELEMENTS)?,
        position: frame.words(ELEMENTS)?,
        target: frame.words(ELEMENTS)?,
    };
    MaskedView::new(&batch.token, &batch.begin(), &batch.position, &batch.target)
        .map_err(|failure| Fault::Malformed(failure.text))?;
    Ok(batch)
}

/// What a worker says of the backend that it loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// Name.
    pub(crate) name: String,
    /// Version.
    pub(crate) version: String,
    /// Feature bits.
    pub(crate) features: u64,
    /// Whether it scores masked models.
    pub(crate) masked: bool,
}

/// What a worker answers.
#[derive(Debug)]
pub(super) enum Reply {
    /// The backend is loaded.
    Loaded(Loaded),
    /// The model is open.
    Opened(ModelInfo),
    /// Scores of a forest, or of masked tokens.
    Scores(Scored),
    /// Logits.
    Logits(Vec<f32>),
    /// The model is closed.
    Closed,
    /// It can't.
    Refused(Refusal),
}

impl Reply {
    /// Sends it.
    pub(super) fn send(&self, out: &mut impl Write) -> io::Result<()> {
        use Field::{Bytes, Floats, Number};
        match self {
            Reply::Loaded(Loaded { name, version, features, masked }) => {
                let numbers = [Number(*features), Number(u64::from(*masked))];
                send(out, 1, &[Bytes(cut(name)), Bytes(cut(version)), numbers[0], numbers[1]])
            }
            Reply::Opened(info) => {
                let context = u64::from(info.context.unwrap_or(0));
                let (vocab, kind) = (u64::from(info.vocab), u64::from(info.kind.0));
                let numbers = [vocab, context, info.nodes as u64, kind, info.parameters].map(Number);
                let [vocab, context, nodes, kind, parameters] = numbers;
                let texts = [Bytes(cut(&info.architecture)), Bytes(cut(&info.dtype))];
                send(out, 2, &[vocab, context, nodes, kind, parameters, texts[0], texts[1]])
            }
            Reply::Scores(Scored { log_prob, fed }) => send(out, 3, &[Number(*fed), Floats(log_prob)]),
            Reply::Logits(data) => send(out, 4, &[Floats(data)]),
            Reply::Closed => send(out, 5, &[]),
            Reply::Refused(Refusal { kind, numbers: [a, b], text }) => {
                send(out, 6, &[Number(*kind), Number(*a), Number(*b), Bytes(cut(text))])
            }
        }
    }

    /// Reads the answer to a request for `expected` values.
    pub(super) fn read(source: &mut impl Read, expected: usize) -> Result<Self, Fault> {
        let mut frame = Frame::receive(source)?;
        let reply = match frame.tag {
            1 => Reply::Loaded(Loaded {
                name: frame.text(TEXT)?,
                version: frame.text(TEXT)?,
                features: frame.number()?,
                masked: flag(&mut frame)?,
            }),
            2 => Reply::Opened(info(&mut frame)?),
            3 => {
                let fed = frame.number()?;
                Reply::Scores(Scored { log_prob: frame.floats(expected)?, fed })
            }
            4 => Reply::Logits(frame.floats(expected)?),
            5 => Reply::Closed,
            6 => {
                let (kind, numbers) = (frame.number()?, [frame.number()?, frame.number()?]);
                Reply::Refused(Refusal { kind, numbers, text: frame.text(TEXT)? })
            }
            tag => return Err(Fault::malformed(format!("answer {tag}, which there is not"))),
        };
        frame.end()?;
        Ok(reply)
    }
}

/// Yes or no.
fn flag(frame: &mut Frame<'_, impl Read>) -> Result<bool, Fault> {
    match frame.number()? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(Fault::malformed(format!("{other} where a flag is 0 or 1"))),
    }
}

/// The bytes of a text that are sent.
fn cut(text: &str) -> &[u8] {
    &text.as_bytes()[..text.floor_char_boundary(TEXT)]
}

fn info(frame: &mut Frame<'_, impl Read>) -> Result<ModelInfo, Fault> {
    let (vocab, context) = (frame.number_u32()?, frame.number_u32()?);
    let (nodes, kind, parameters) = (frame.number_u32()?, frame.number_u32()?, frame.number()?);
    let info = ModelInfo {
        vocab,
        context: (context != 0).then_some(context),
        nodes: nodes as usize,
        kind: Kind(kind),
        parameters,
        architecture: frame.text(TEXT)?,
        dtype: frame.text(TEXT)?,
    };
    info.check().map_err(Fault::Malformed)?;
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use bheval_abi::Status;
    use proptest::prelude::*;

    fn sent(request: &Request<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        request.send(&mut bytes).expect("memory takes everything");
        bytes
    }

    fn answered(reply: &Reply) -> Vec<u8> {
        let mut bytes = Vec::new();
        reply.send(&mut bytes).expect("memory takes everything");
        bytes
    }

    /// A request as it arrives, in words.
    fn arrived(request: &Request<'_>) -> String {
        let bytes = sent(request);
        let mut source = bytes.as_slice();
        let found = Request::read(&mut source).expect("what was sent is read");
        assert!(source.is_empty());
        format!("{found:?}")
    }

    fn info() -> ModelInfo {
        ModelInfo {
            vocab: 768,
            context: Some(128),
            nodes: 65536,
            kind: Kind::MASKED,
            parameters: 240_448,
            architecture: "hgrn2".into(),
            dtype: "f32".into(),
        }
    }

    fn batch() -> MaskedBatch {
        let mut batch = MaskedBatch::new();
        batch.push(&[1, 4, 2], &[(1, 9)]);
        batch.push(&[1, 2], &[(0, 3), (1, 5)]);
        batch
    }

    /// One of each, small.
    fn requests() -> Vec<Request<'static>> {
        let mut forest = Forest::new();
        forest.insert(&[1, 5, 6], &[false, true, true]);
        let forest = Forest::from_arrays(forest.token, forest.parent, forest.wanted).expect("alike");
        let options = ModelOptions { path: "a/b".into(), threads: 3, dtype: Dtype::BF16, memory: 1 << 40 };
        vec![
            Request::Load(Cow::Owned(Source::Linked("hgrn2".into()))),
            Request::Load(Cow::Owned(Source::File { path: "x.so".into(), pin: Some("00".into()) })),
            Request::Load(Cow::Owned(Source::File { path: "x.so".into(), pin: None })),
            Request::Open(Cow::Owned(options)),
            Request::Score(Cow::Owned(forest.clone())),
            Request::Masked(Cow::Owned(batch())),
            Request::Logits(Cow::Owned(forest)),
            Request::Close,
        ]
    }

    /// One of each that two values answer, small.
    fn replies() -> Vec<Reply> {
        let error = Error::Refused {
            backend: "b".into(),
            action: "give logits",
            status: Status(-7),
            text: "no".into(),
        };
        vec![
            Reply::Loaded(Loaded { name: "b".into(), version: "1".into(), features: 1 << 63, masked: false }),
            Reply::Loaded(Loaded { name: "c".into(), version: "2".into(), features: 0, masked: true }),
            Reply::Opened(info()),
            Reply::Scores(Scored { log_prob: vec![-0.5, f32::MIN], fed: 3 }),
            Reply::Logits(vec![0.25, -1e30]),
            Reply::Closed,
            Reply::Refused(Refusal::new(&error)),
        ]
    }

    #[test]
    fn every_request_arrives_as_it_was_sent() {
        for request in requests() {
            assert_eq!(arrived(&request), format!("{request:?}"));
        }
    }

    #[test]
    fn every_answer_arrives_as_it_was_sent() {
        for reply in replies() {
            let bytes = answered(&reply);
            let found = Reply::read(&mut bytes.as_slice(), 2).expect("what was sent is read");
            assert_eq!(format!("{found:?}"), format!("{reply:?}"));
        }
    }

    #[test]
    fn answers_of_another_length_are_refused() {
        let two = answered(&Reply::Scores(Scored { log_prob: vec![-0.5, -1.0], fed: 3 }));
        for expected in [0, 1, 3, usize::MAX] {
            let fault = Reply::read(&mut two.as_slice(), expected).expect_err("another length");
            assert!(matches!(fault, Fault::Malformed(_)), "{expected}: {fault}");
        }
        let mut nothing = info();
        nothing.vocab = 0;
        let fault = Reply::read(&mut answered(&Reply::Opened(nothing)).as_slice(), 0).expect_err("no model");
        assert!(fault.to_string().contains("no vocabulary"), "{fault}");
    }

    #[test]
    fn a_batch_that_breaks_its_rules_is_refused() {
        let mut broken = batch();
        broken.position[1] = 99;
        let fault =
            Request::read(&mut sent(&Request::Masked(Cow::Owned(broken))).as_slice()).expect_err("outside");
        assert!(fault.to_string().contains("question 1"), "{fault}");
        let uneven = [Field::Words(&[1, 2]), Field::Words(&[1]), Field::Bytes(&[1, 1])];
        let mut bytes = Vec::new();
        send(&mut bytes, 4, &uneven).expect("memory takes everything");
        let fault = Request::read(&mut bytes.as_slice()).expect_err("uneven");
        assert!(fault.to_string().contains("differ in length"), "{fault}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic_or_much_memory(
            tag in 0_u32..9,
            len in prop_oneof![0_u64..200, any::<u64>()],
            body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let head = [b"bhw1".as_slice(), &tag.to_le_bytes(), &len.to_le_bytes()].concat();
            let bytes = [head, body].concat();
            let _ = Request::read(&mut bytes.as_slice());
            let _ = Reply::read(&mut bytes.as_slice(), 5);
        }

        #[test]
        fn a_damaged_frame_is_an_error_or_another_whole_message(
            which in any::<prop::sample::Index>(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let requests = requests();
            let mut bytes = sent(which.get(&requests));
            let short = cut.index(bytes.len());
            prop_assert!(matches!(Request::read(&mut &bytes[..short]), Err(Fault::Gone(_))));
            let at_byte = at.index(bytes.len());
            bytes[at_byte] = byte;
            if let Ok(Request::Masked(batch)) = Request::read(&mut bytes.as_slice()) {
                let begin = batch.begin();
                let view = MaskedView::new(&batch.token, &begin, &batch.position, &batch.target);
                prop_assert!(view.is_ok());
            }
            let replies = replies();
            let mut bytes = answered(which.get(&replies));
            let short = cut.index(bytes.len());
            prop_assert!(matches!(Reply::read(&mut &bytes[..short], 2), Err(Fault::Gone(_))));
            let at_byte = at.index(bytes.len());
            bytes[at_byte] = byte;
            match Reply::read(&mut bytes.as_slice(), 2) {
                Ok(Reply::Scores(Scored { log_prob, .. }) | Reply::Logits(log_prob)) => {
                    prop_assert_eq!(log_prob.len(), 2);
                }
                Ok(Reply::Opened(info)) => prop_assert!(info.check().is_ok()),
                _ => {}
            }
        }
    }
}
