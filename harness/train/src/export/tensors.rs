//! `model.safetensors`, as `save_pretrained` of transformers lays it out: one file, tensors by name, metadata `format: pt`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::Error;

/// A tensor of a model under the name that Hugging Face (for HGRN2: flash-linear-attention) gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// Number format of stored weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoredAs {
    /// As they were trained.
    #[default]
    F32,
    /// Rounded to the nearest bf16, ties to even: half the size, 8 significant bits.
    Bf16,
}

impl StoredAs {
    /// As `torch_dtype` of config.json spells it.
    #[must_use]
    pub fn torch_dtype(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// The bf16 nearest to a finite value, ties to the even one: its upper 16 bits. `None` where the value is not finite, or
/// rounds to infinity.
#[must_use]
pub fn bf16(value: f32) -> Option<u16> {
    let bits = value.to_bits();
    // Half of the dropped bits' range, less one unless the last kept bit is odd: a tie then carries to the even side.
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    (value.is_finite() && rounded & 0x7f80 != 0x7f80).then_some(rounded)
}

/// Writes a safetensors file, and syncs it. The same tensors give the same bytes, in whatever order they come. `read` gives
/// the values of the tensor of an index, row by row; no more than one tensor is in memory.
///
/// # Errors
/// Two tensors of one name, a shape that its values do not fill, values that are not finite (or not so in bf16), what
/// `read` refuses, and what the system does. A file that was begun is left for the caller to remove.
pub fn write_safetensors(
    path: &Path,
    tensors: &[Named],
    stored: StoredAs,
    read: &mut dyn FnMut(usize) -> Result<Vec<f32>, Error>,
) -> Result<(), Error> {
    let mut by_name = BTreeMap::new();
    for (index, tensor) in tensors.iter().enumerate() {
        if by_name.insert(tensor.name.as_str(), (index, size(tensor, stored)?)).is_some() {
            return Err(wrong(tensor, "comes twice"));
        }
    }
    let refused = |cause| Error::Io { action: "write", path: path.to_owned(), cause };
    let file = File::create_new(path).map_err(refused)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.write_all(&header(&by_name, tensors, stored)).map_err(refused)?;
    for (index, _) in by_name.values() {
        let bytes = encode(&tensors[*index], &read(*index)?, stored)?;
        out.write_all(&bytes).map_err(refused)?;
    }
    out.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| file.sync_all()).map_err(refused)
}

fn wrong(tensor: &Named, reason: impl Into<String>) -> Error {
    Error::Tensor { name: tensor.name.clone(), reason: reason.into() }
}

/// Bytes that a tensor takes.
fn size(tensor: &Named, stored: StoredAs) -> Result<usize, Error> {
    let size = tensor.shape.iter().try_fold(stored.bytes(), |size, side| size.checked_mul(*side));
    size.ok_or_else(|| wrong(tensor, format!("has the shape {:?}, which is none", tensor.shape)))
}

/// The length of the header in 8 bytes, and the header, filled up with blanks to a multiple of 8.
fn header(by_name: &BTreeMap<&str, (usize, usize)>, tensors: &[Named], stored: StoredAs) -> Vec<u8> {
    let mut entries = Map::new();
    entries.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut start = 0;
    for (name, (index, size)) in by_name {
        let (shape, end) = (&tensors[*index].shape, start + size);
        let entry = json!({"dtype": stored.name(), "shape": shape, "data_offsets": [start, end]});
        entries.insert((*name).to_owned(), entry);
        start = end;
    }
    let mut text = Value::Object(entries).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    bytes
}

fn encode(tensor: &Named, values: &[f32], stored: StoredAs) -> Result<Vec<u8>, Error> {
    let bytes = size(tensor, stored)?;
    if values.len() * stored.bytes() != bytes {
        return Err(wrong(tensor, format!("has {} values for the shape {:?}", values.len(), tensor.shape)));
    }
    if let Some(at) = values.iter().position(|value| !value.is_finite()) {
        let advice = "the training diverged, and nothing was exported; take an earlier checkpoint";
        return Err(wrong(tensor, format!("holds {} at {at}: {advice}", values[at])));
    }
    let mut out = Vec::with_capacity(bytes);
    for value in values {
        match (stored, bf16(*value)) {
            (StoredAs::F32, _) => out.extend(value.to_le_bytes()),
            (StoredAs::Bf16, Some(bits)) => out.extend(bits.to_le_bytes()),
            (StoredAs::Bf16, None) => {
                return Err(wrong(
                    tensor,
                    format!("holds {value}, which bf16 has no number for; export it as f32"),
                ));
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use half::bf16 as peer;
    use proptest::prelude::*;
    use safetensors::{Dtype, SafeTensors};

    use super::*;

    /// Name, shape and values.
    type Plain = (&'static str, &'static [usize], &'static [f32]);

    fn written(tensors: &[Plain], stored: StoredAs) -> Result<Vec<u8>, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.safetensors");
        let named: Vec<_> = tensors
            .iter()
            .map(|(name, shape, _)| Named { name: (*name).into(), shape: shape.to_vec() })
            .collect();
        let mut read = |index: usize| Ok(tensors[index].2.to_vec());
        write_safetensors(&path, &named, stored, &mut read).map_err(|e| e.to_string())?;
        Ok(std::fs::read(path).expect("written"))
    }

    const A: Plain = ("a.weight", &[2, 3], &[1.0, -2.0, 3.5, 0.0, 1e-30, 7.0]);
    const B: Plain = ("b", &[], &[-0.1]);
    const C: Plain = ("c", &[0, 4], &[]);

    #[test]
    fn the_safetensors_crate_reads_what_was_written() {
        let bytes = written(&[C, B, A], StoredAs::F32).expect("written");
        let file = SafeTensors::deserialize(&bytes).expect("whole");
        assert_eq!(file.len(), 3);
        for (name, shape, values) in [A, B, C] {
            let found = file.tensor(name).expect("there");
            let read: Vec<f32> = found.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            assert_eq!((found.shape(), found.dtype(), read.as_slice()), (shape, Dtype::F32, values));
        }
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("a header");
        let metadata = header.metadata().as_ref().expect("metadata");
        assert_eq!(metadata.get("format").map(String::as_str), Some("pt"));
    }

    /// The crate sorts by name within a number format, as Python's does; so equal models are equal files in either.
    #[test]
    fn the_bytes_are_those_of_the_safetensors_crate() {
        let data =
            [B, A].map(|(_, _, values)| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>());
        let views = [B, A].into_iter().zip(&data).map(|((name, shape, _), data)| {
            (name, safetensors::tensor::TensorView::new(Dtype::F32, shape.to_vec(), data).expect("a tensor"))
        });
        let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let theirs = safetensors::serialize(views, Some(metadata)).expect("written");
        assert_eq!(written(&[B, A], StoredAs::F32), Ok(theirs));
    }

    #[test]
    fn what_is_wrong_with_a_tensor_is_said() {
        let told = |tensors: &[Plain], stored| written(tensors, stored).expect_err("refused");
        assert!(told(&[A, A], StoredAs::F32).contains("`a.weight` comes twice"));
        assert!(told(&[("a", &[7], A.2)], StoredAs::F32).contains("6 values for the shape [7]"));
        assert!(told(&[("a", &[usize::MAX, 2], A.2)], StoredAs::F32).contains("which is none"));
        assert!(told(&[("b", &[], &[f32::NAN])], StoredAs::F32).contains("holds NaN at 0"));
        assert!(told(&[("b", &[], &[f32::MAX])], StoredAs::Bf16).contains("export it as f32"));
        assert!(written(&[("b", &[], &[f32::MAX])], StoredAs::F32).is_ok());
    }

    #[test]
    fn ties_go_to_the_even_side() {
        let low = |bits: u32| bf16(f32::from_bits(bits));
        assert_eq!(low(0x3f80_8000), Some(0x3f80));
        assert_eq!(low(0x3f81_8000), Some(0x3f82));
        assert_eq!(low(0x3f80_8001), Some(0x3f81));
        assert_eq!((bf16(f32::NAN), bf16(f32::INFINITY), bf16(-0.0)), (None, None, Some(0x8000)));
    }

    proptest! {
        #[test]
        fn rounding_is_that_of_the_half_crate(value in any::<f32>()) {
            let theirs = peer::from_f32(value);
            prop_assert_eq!(bf16(value), theirs.is_finite().then(|| theirs.to_bits()));
        }
    }
}
