//! One opened graph: tokens in, rows of logits out.

use std::path::Path;

use bheval_abi::{Failure, Status};
use half::{bf16, f16};
use ndarray::{Array2, ArrayView2, Axis, Ix3, s};
use ort::ErrorCode;
use ort::logging::LogLevel;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session, SessionInputValue};
use ort::value::{DynValue, PrimitiveTensorElementType, Tensor};

use crate::runtime::Runtime;
use crate::signature::{Float, Integer, LOGITS, Role, Signature};

/// An opened graph, for one thread.
pub(crate) struct Graph {
    session: Session,
    options: RunOptions<HasSelectedOutputs>,
    pub(crate) signature: Signature,
}

impl Graph {
    /// Opens the ONNX file `path` with one thread: a sum that is split over threads may round otherwise than a whole one.
    pub(crate) fn open(runtime: &Runtime, path: &Path) -> Result<Self, Failure> {
        let session = session(runtime, path).map_err(|e| {
            let status = match e.code() {
                ErrorCode::NotImplemented => Status::UNSUPPORTED,
                _ => Status::BAD_MODEL,
            };
            Failure::new(status, format!("onnxruntime {} refuses the model: {e}", runtime.version))
        })?;
        let signature = Signature::of(&session)?;
        let options = RunOptions::new().map_err(|e| Failure::new(Status::INTERNAL, e.to_string()))?;
        // States that a later call could go on from may be outputs too; nobody asks for them.
        let options = options.with_outputs(OutputSelector::no_default().with(LOGITS));
        Ok(Self { session, options, signature })
    }

    /// Runs the graph on one sequence and gives its logits to `read`, one row a token.
    ///
    /// # Errors
    /// What onnxruntime reports, and an output of another shape.
    pub(crate) fn run<T>(
        &mut self,
        tokens: &[u32],
        read: impl FnOnce(Rows<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let length = self.signature.length.unwrap_or(tokens.len());
        let inputs: Result<Vec<_>, _> = self
            .signature
            .inputs
            .iter()
            .map(|(name, role, integer)| Ok((name.as_str(), input(tokens, length, *role, *integer)?)))
            .collect();
        let outputs = inputs.and_then(|inputs| self.session.run_with_options(inputs, &self.options));
        let outputs = outputs.map_err(|e| failed(&e, tokens.len()))?;
        let logits = outputs.get(LOGITS).ok_or_else(|| internal("it gave no logits"))?;
        let shape = (length, tokens.len());
        match self.signature.logits {
            Float::F32 => read(Rows::F32(rows(logits, shape)?)),
            Float::F16 => read(Rows::F16(rows(logits, shape)?)),
            Float::Bf16 => read(Rows::Bf16(rows(logits, shape)?)),
        }
    }
}

fn session(runtime: &Runtime, path: &Path) -> ort::Result<Session> {
    // A graph that claims another format, by its name or its first bytes, is not what was checked.
    Session::builder(&runtime.environment)?
        .with_config_entry("session.load_model_format", "ONNX")?
        .with_log_level(LogLevel::Fatal)?
        .with_no_environment_execution_providers()?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_deterministic_compute(true)?
        // Sentences differ in length, and a plan of memory is kept for each.
        .with_memory_pattern(false)?
        .with_intra_threads(1)?
        .with_inter_threads(1)?
        .commit_from_file(path)
}

/// The tensor of an input: `[1, length]`, with what stands beyond the tokens masked.
fn input(
    tokens: &[u32],
    length: usize,
    role: Role,
    integer: Integer,
) -> ort::Result<SessionInputValue<'static>> {
    let value = |i: usize| match role {
        Role::Ids => tokens.get(i).copied().unwrap_or(0),
        Role::Mask => u32::from(i < tokens.len()),
        Role::Positions => i as u32,
    };
    let array = |to: &dyn Fn(u32) -> i64| Array2::from_shape_fn((1, length), |(_, i)| to(value(i)));
    Ok(match integer {
        Integer::I64 => Tensor::from_array(array(&i64::from))?.into(),
        // Ids are below 2^31: the vocabulary of a graph with 32-bit ids can't have more.
        Integer::I32 => Tensor::from_array(array(&i64::from).mapv(|v| v as i32))?.into(),
        Integer::Bool => Tensor::from_array(array(&i64::from).mapv(|v| v != 0))?.into(),
    })
}

/// Logits of one sequence, one row a token, in the graph's number format.
pub(crate) enum Rows<'a> {
    F32(ArrayView2<'a, f32>),
    F16(ArrayView2<'a, f16>),
    Bf16(ArrayView2<'a, bf16>),
}

impl Rows<'_> {
    /// Number of logits in a row.
    pub(crate) fn vocab(&self) -> usize {
        match self {
            Rows::F32(rows) => rows.ncols(),
            Rows::F16(rows) => rows.ncols(),
            Rows::Bf16(rows) => rows.ncols(),
        }
    }

    /// The row after token `t`, widened.
    pub(crate) fn row(&self, t: usize) -> Vec<f32> {
        match self {
            Rows::F32(rows) => rows.row(t).to_vec(),
            Rows::F16(rows) => rows.row(t).iter().map(|x| x.to_f32()).collect(),
            Rows::Bf16(rows) => rows.row(t).iter().map(|x| x.to_f32()).collect(),
        }
    }
}

/// The rows of `tokens` tokens in an output of shape `[1, length, vocabulary]`.
fn rows<T: PrimitiveTensorElementType>(
    logits: &DynValue,
    (length, tokens): (usize, usize),
) -> Result<ArrayView2<'_, T>, Failure> {
    let array = logits.try_extract_array::<T>().map_err(|e| internal(&e.to_string()))?;
    let found = array.shape().to_vec();
    let wrong = || {
        Failure::model(format!(
            "the graph gave logits of shape {found:?} for {length} tokens, where [1, {length}, vocabulary] was expected"
        ))
    };
    let array = array.into_dimensionality::<Ix3>().map_err(|_| wrong())?;
    if array.len_of(Axis(0)) != 1 || array.len_of(Axis(1)) != length || array.len_of(Axis(2)) == 0 {
        return Err(wrong());
    }
    // What is left stands for padding.
    Ok(array.index_axis_move(Axis(0), 0).slice_move(s![..tokens, ..]))
}

fn failed(error: &ort::Error, tokens: usize) -> Failure {
    let text = error.message();
    let status = match error.code() {
        _ if text.contains("allocat") => Status::EXHAUSTED,
        ErrorCode::InvalidArgument => Status::BAD_INPUT,
        _ => Status::INTERNAL,
    };
    Failure::new(status, format!("onnxruntime could not run the graph on {tokens} tokens: {text}"))
}

fn internal(text: &str) -> Failure {
    Failure::new(Status::INTERNAL, format!("onnxruntime: {text}"))
}
