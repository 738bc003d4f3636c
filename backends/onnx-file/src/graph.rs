//! The tensors of a model, wherever in the graph they lie. Field numbers are those of `onnx.proto3` (ONNX 1.19).

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use crate::Fault;
use crate::wire::{Field, Wire};

/// A protocol buffer has lengths of 31 bits.
const LARGEST: u64 = (1 << 31) - 1;
/// More tensors than any real model has; each is kept, so that memory is bounded.
const TENSORS: usize = 1 << 20;

/// A tensor without its values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// `TensorProto.DataType`.
    pub(crate) kind: u64,
    /// Product of the dimensions, or none if it is beyond 64 bits or a dimension is negative.
    pub(crate) elements: Option<u64>,
    /// Key and value of each `external_data` entry.
    pub(crate) external: Vec<(String, String)>,
    /// `data_location` is `EXTERNAL`.
    pub(crate) is_external: bool,
}

impl Tensor {
    fn new() -> Self {
        Self { elements: Some(1), ..Self::default() }
    }

    fn dimension(&mut self, size: u64) {
        let size = i64::try_from(size).ok().map(i64::cast_unsigned);
        self.elements = self.elements.zip(size).and_then(|(all, one)| all.checked_mul(one));
    }

    /// Bytes of its values, or none for texts, whose size no shape tells.
    pub(crate) fn bytes(&self) -> Result<Option<u64>, String> {
        let Some(bits) = bits(self.kind) else { return Ok(None) };
        let bytes = self.elements.and_then(|n| n.checked_mul(bits)).map(|b| b.div_ceil(8));
        bytes.map(Some).ok_or_else(|| "has a shape that no memory holds".to_owned())
    }

    /// Number of weights: its elements, if they are floating point or small whole numbers of a quantised model. A single
    /// one is a constant of the arithmetic, such as an epsilon.
    pub(crate) fn weights(&self) -> u64 {
        let is_weight = matches!(self.kind, 1..=3 | 10 | 11 | 16..=23);
        self.elements.filter(|&n| is_weight && n > 1).unwrap_or(0)
    }
}

/// Bits of an element of a `TensorProto.DataType`.
fn bits(kind: u64) -> Option<u64> {
    match kind {
        25 | 26 => Some(2),
        21..=23 => Some(4),
        2 | 3 | 9 | 17..=20 | 24 => Some(8),
        4 | 5 | 10 | 16 => Some(16),
        1 | 6 | 12 => Some(32),
        7 | 11 | 13 | 14 => Some(64),
        15 => Some(128),
        _ => None,
    }
}

/// All tensors of the ONNX file `path`.
pub(crate) fn tensors(path: &Path) -> Result<Vec<Tensor>, Fault> {
    let fault = |reason: String| Fault { path: path.to_path_buf(), reason };
    let unreadable = |e: std::io::Error| fault(format!("can't be read: {e}"));
    let file = File::open(path).map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    if !meta.is_file() {
        return Err(fault("is no file; give the path of an .onnx file".to_owned()));
    }
    if meta.len() > LARGEST {
        return Err(fault(
            "is larger than 2 GiB, which no ONNX file can be: weights beyond that lie in an external data file"
                .to_owned(),
        ));
    }
    read(file, meta.len()).map_err(|reason| fault(format!("is no ONNX model: {reason}")))
}

/// All tensors of a model of `len` bytes.
pub(crate) fn read(input: impl Read + Seek, len: u64) -> Result<Vec<Tensor>, String> {
    let mut found = Found { tensors: Vec::new(), graph: false };
    found.message(Message::Model, &mut Wire::new(input, len), len)?;
    if found.graph { Ok(found.tensors) } else { Err("it has no graph; was it exported as ONNX?".to_owned()) }
}

struct Found {
    tensors: Vec<Tensor>,
    graph: bool,
}

/// The messages that hold tensors, or messages that do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Message {
    Model,
    Graph,
    Training,
    Function,
    Node,
    Attribute,
    SparseTensor,
    Tensor,
}

impl Message {
    /// What a field holds, if there may be tensors in it.
    fn field(self, number: u64) -> Option<Message> {
        Some(match (self, number) {
            (Self::Model, 7) | (Self::Training, 1 | 2) | (Self::Attribute, 6 | 11) => Self::Graph,
            (Self::Model, 20) => Self::Training,
            (Self::Model, 25) => Self::Function,
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            (Self::Function, 11) | (Self::Node, 5) => Self::Attribute,
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Self::SparseTensor,
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::SparseTensor, 1 | 2) => Self::Tensor,
            _ => return None,
        })
    }
}

impl Found {
    fn message<R: Read + Seek>(&mut self, kind: Message, wire: &mut Wire<R>, len: u64) -> Result<(), String> {
        if kind == Message::Tensor {
            return self.tensor(wire, len);
        }
        wire.message(len, &mut |wire, number, field| {
            let (Field::Bytes(len), Some(inner)) = (field, kind.field(number)) else { return Ok(false) };
            self.graph |= kind == Message::Model && inner == Message::Graph;
            self.message(inner, wire, *len)?;
            Ok(true)
        })
    }

    fn tensor<R: Read + Seek>(&mut self, wire: &mut Wire<R>, len: u64) -> Result<(), String> {
        if self.tensors.len() == TENSORS {
            return Err(format!("it has more than {TENSORS} tensors"));
        }
        let mut tensor = Tensor::new();
        wire.message(len, &mut |wire, number, field| {
            match (number, field) {
                (1, Field::Number(size)) => tensor.dimension(*size),
                (1, Field::Bytes(len)) => {
                    wire.numbers(*len, &mut |size| tensor.dimension(size))?;
                    return Ok(true);
                }
                (2, Field::Number(kind)) => tensor.kind = *kind,
                (8, Field::Bytes(len)) => {
                    tensor.name = wire.text(*len)?;
                    return Ok(true);
                }
                (13, Field::Bytes(len)) => {
                    tensor.external.extend(entry(wire, *len)?);
                    return Ok(true);
                }
                (14, Field::Number(place)) => tensor.is_external |= *place == 1,
                _ => {}
            }
            Ok(false)
        })?;
        self.tensors.push(tensor);
        Ok(())
    }
}

/// A `StringStringEntryProto`. A field that comes twice gives all its combinations: which of them a runtime would take
/// is not worth guessing, so each is checked.
fn entry<R: Read + Seek>(wire: &mut Wire<R>, len: u64) -> Result<Vec<(String, String)>, String> {
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    wire.message(len, &mut |wire, number, field| {
        let Field::Bytes(len) = *field else { return Ok(false) };
        match number {
            1 => keys.push(wire.text(len)?),
            2 => values.push(wire.text(len)?),
            _ => return Ok(false),
        }
        if keys.len().max(values.len()) > 8 {
            return Err("an entry of external data with many keys or values".to_owned());
        }
        Ok(true)
    })?;
    Ok(keys.iter().flat_map(|k| values.iter().map(|v| (k.clone(), v.clone()))).collect())
}
