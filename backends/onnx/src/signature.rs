//! What a graph takes and gives, held against what a decoder takes and gives.

use bheval_abi::{Failure, Status};
use ort::session::Session;
use ort::value::{Outlet, TensorElementType, ValueType};

/// Number format of the ids, or of the mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Integer {
    I64,
    I32,
    /// A mask only.
    Bool,
}

/// What an input means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// `input_ids`: the tokens.
    Ids,
    /// `attention_mask`: 1 for a token, 0 for padding.
    Mask,
    /// `position_ids`: 0, 1, 2, ...
    Positions,
}

/// Number format of the logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Float {
    F32,
    F16,
    Bf16,
}

impl Float {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Float::F32 => "f32",
            Float::F16 => "f16",
            Float::Bf16 => "bf16",
        }
    }
}

/// The inputs and the output of a decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    pub(crate) inputs: Vec<(String, Role, Integer)>,
    pub(crate) logits: Float,
    /// The one length that the graph takes, where it was exported for one.
    pub(crate) length: Option<usize>,
}

/// Name of the output.
pub(crate) const LOGITS: &str = "logits";

impl Signature {
    /// The signature of an opened graph.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`] for inputs and outputs that are not a decoder's, naming them.
    pub(crate) fn of(session: &Session) -> Result<Self, Failure> {
        let mut lengths = Vec::new();
        let mut inputs = Vec::new();
        for outlet in session.inputs() {
            let (role, integer, length) = input(outlet)?;
            inputs.push((outlet.name().to_owned(), role, integer));
            lengths.extend(length);
        }
        if !inputs.iter().any(|(_, role, _)| *role == Role::Ids) {
            return Err(unsupported(format!(
                "it has no input `input_ids`; its inputs are: {}",
                list(session.inputs())
            )));
        }
        let (logits, length) = output(session)?;
        lengths.extend(length);
        lengths.dedup();
        match lengths[..] {
            [] => Ok(Self { inputs, logits, length: None }),
            [length] => Ok(Self { inputs, logits, length: Some(length) }),
            _ => {
                Err(unsupported(format!("its inputs and outputs have different fixed lengths: {lengths:?}")))
            }
        }
    }
}

fn input(outlet: &Outlet) -> Result<(Role, Integer, Option<usize>), Failure> {
    let name = outlet.name();
    let role = match name {
        "input_ids" => Role::Ids,
        "attention_mask" => Role::Mask,
        "position_ids" => Role::Positions,
        _ => return Err(unsupported(unknown_input(name))),
    };
    let wrong = |why: &str| unsupported(format!("its input `{name}` is {}, {why}", outlet.dtype()));
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        return Err(wrong("not a tensor"));
    };
    let integer = match ty {
        TensorElementType::Int64 => Integer::I64,
        TensorElementType::Int32 => Integer::I32,
        TensorElementType::Bool if role == Role::Mask => Integer::Bool,
        _ => return Err(wrong("where int64 or int32 was expected")),
    };
    let &[batch, length] = &shape[..] else {
        return Err(wrong("where [batch, sequence] was expected"));
    };
    if !takes_one(batch) {
        return Err(wrong(
            "a batch of a fixed size: sentences are fed one by one, so export it with a dynamic batch",
        ));
    }
    Ok((role, integer, fixed(length)))
}

fn unknown_input(name: &str) -> String {
    let past = name.contains("past") || name.contains("cache");
    let hint = if past {
        "it continues an earlier call, which scoring never does: export it without past keys (Optimum: `--task \
         text-generation`, not `text-generation-with-past`)"
    } else {
        "a decoder takes input_ids, and may take attention_mask and position_ids"
    };
    format!("it wants the input `{name}`, which can't be given: {hint}")
}

fn output(session: &Session) -> Result<(Float, Option<usize>), Failure> {
    let outlet = session.outputs().iter().find(|o| o.name() == LOGITS).ok_or_else(|| {
        let outputs = list(session.outputs());
        unsupported(format!(
            "it has no output `{LOGITS}`; its outputs are: {outputs}. Export the causal language model class"
        ))
    })?;
    let wrong = |why: &str| unsupported(format!("its output `{LOGITS}` is {}, {why}", outlet.dtype()));
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        return Err(wrong("not a tensor"));
    };
    let float = match ty {
        TensorElementType::Float32 => Float::F32,
        TensorElementType::Float16 => Float::F16,
        TensorElementType::Bfloat16 => Float::Bf16,
        _ => return Err(wrong("where f32, f16 or bf16 was expected")),
    };
    match &shape[..] {
        // A graph may leave the shape of its output open; each result is checked anyway.
        [] => Ok((float, None)),
        &[batch, length, _] if takes_one(batch) => Ok((float, fixed(length))),
        _ => Err(wrong("where [batch, sequence, vocabulary] was expected: one row of logits for each token")),
    }
}

fn takes_one(batch: i64) -> bool {
    batch == 1 || batch < 0
}

fn fixed(length: i64) -> Option<usize> {
    usize::try_from(length).ok()
}

fn list(outlets: &[Outlet]) -> String {
    outlets.iter().map(Outlet::name).collect::<Vec<_>>().join(", ")
}

fn unsupported(text: String) -> Failure {
    Failure::new(Status::UNSUPPORTED, text)
}
