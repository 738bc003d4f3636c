//! `model.safetensors`, as `save_pretrained` of transformers lays it out: one file, tensors by name, metadata `format: pt`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::Error;

/// A tensor of a model under the name that Hugging Face (for HGRN2: flash-linear-attention) gives it.
#[derive(Clone, Debug)]
pub struct Named<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its shape.
    pub shape: &'a [usize],
    /// Its values, row by row.
    pub values: &'a [f32],
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

/// Writes a safetensors file, and syncs it. The same tensors give the same bytes, in whatever order they come.
///
/// # Errors
/// Two tensors of one name, a shape that its values do not fill, values that are not finite (or not so in bf16), and
/// what the system refuses. A file that was begun is left for the caller to remove.
pub fn write_safetensors(path: &Path, tensors: &[Named<'_>], stored: StoredAs) -> Result<(), Error> {
    let mut by_name = BTreeMap::new();
    for tensor in tensors {
        check(tensor)?;
        if by_name.insert(tensor.name, tensor).is_some() {
            return Err(Error::Tensor { name: tensor.name.to_owned(), reason: "comes twice".to_owned() });
        }
    }
    let refused = |cause| Error::Io { action: "write", path: path.to_owned(), cause };
    let file = File::create_new(path).map_err(refused)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.write_all(&header(&by_name, stored)).map_err(refused)?;
    for tensor in by_name.values() {
        write_values(&mut out, tensor, stored).map_err(refused)??;
    }
    out.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| file.sync_all()).map_err(refused)
}

fn check(tensor: &Named<'_>) -> Result<(), Error> {
    let wrong = |reason: String| Err(Error::Tensor { name: tensor.name.to_owned(), reason });
    let len = tensor.shape.iter().try_fold(1_usize, |len, side| len.checked_mul(*side));
    if len != Some(tensor.values.len()) {
        return wrong(format!("has {} values for the shape {:?}", tensor.values.len(), tensor.shape));
    }
    match tensor.values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(at) => wrong(format!(
            "holds {} at {at}: the training diverged, and nothing was exported; take an earlier checkpoint",
            tensor.values[at]
        )),
    }
}

/// The length of the header in 8 bytes, and the header, filled up with blanks to a multiple of 8.
fn header(tensors: &BTreeMap<&str, &Named<'_>>, stored: StoredAs) -> Vec<u8> {
    let mut entries = Map::new();
    entries.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut start = 0;
    for (name, tensor) in tensors {
        let end = start + tensor.values.len() * stored.bytes();
        let entry = json!({"dtype": stored.name(), "shape": tensor.shape, "data_offsets": [start, end]});
        entries.insert((*name).to_owned(), entry);
        start = end;
    }
    let mut text = Value::Object(entries).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    bytes
}

fn write_values(out: &mut impl Write, tensor: &Named<'_>, stored: StoredAs) -> io::Result<Result<(), Error>> {
    for value in tensor.values {
        match (stored, bf16(*value)) {
            (StoredAs::F32, _) => out.write_all(&value.to_le_bytes())?,
            (StoredAs::Bf16, Some(bits)) => out.write_all(&bits.to_le_bytes())?,
            (StoredAs::Bf16, None) => {
                let reason = format!("holds {value}, which bf16 has no number for; export it as f32");
                return Ok(Err(Error::Tensor { name: tensor.name.to_owned(), reason }));
            }
        }
    }
    Ok(Ok(()))
}

#[cfg(test)]
mod tests {
    use half::bf16 as peer;
    use proptest::prelude::*;
    use safetensors::{Dtype, SafeTensors};

    use super::*;

    fn written(tensors: &[Named<'_>], stored: StoredAs) -> Result<Vec<u8>, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.safetensors");
        write_safetensors(&path, tensors, stored).map_err(|e| e.to_string())?;
        Ok(std::fs::read(path).expect("written"))
    }

    const A: Named<'static> =
        Named { name: "a.weight", shape: &[2, 3], values: &[1.0, -2.0, 3.5, 0.0, 1e-30, 7.0] };
    const B: Named<'static> = Named { name: "b", shape: &[], values: &[-0.1] };
    const C: Named<'static> = Named { name: "c", shape: &[0, 4], values: &[] };

    #[test]
    fn the_safetensors_crate_reads_what_was_written() {
        let bytes = written(&[C, B, A], StoredAs::F32).expect("written");
        let file = SafeTensors::deserialize(&bytes).expect("whole");
        assert_eq!(file.len(), 3);
        for tensor in [A, B, C] {
            let found = file.tensor(tensor.name).expect("there");
            let values: Vec<f32> =
                found.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            assert_eq!(
                (found.shape(), found.dtype(), values.as_slice()),
                (tensor.shape, Dtype::F32, tensor.values)
            );
        }
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("a header");
        let metadata = header.metadata().as_ref().expect("metadata");
        assert_eq!(metadata.get("format").map(String::as_str), Some("pt"));
    }

    /// The crate sorts by name within a number format, as Python's does; so equal models are equal files in either.
    #[test]
    fn the_bytes_are_those_of_the_safetensors_crate() {
        let bytes = |t: &Named<'_>| t.values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
        let data = [bytes(&B), bytes(&A)];
        let view = |t: &'static Named<'static>, data| {
            safetensors::tensor::TensorView::new(Dtype::F32, t.shape.to_vec(), data).expect("a tensor")
        };
        static TWO: [Named<'static>; 2] = [B, A];
        let views = [("b", view(&TWO[0], &data[0])), ("a.weight", view(&TWO[1], &data[1]))];
        let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let theirs = safetensors::serialize(views, Some(metadata)).expect("written");
        assert_eq!(written(&[B, A], StoredAs::F32), Ok(theirs));
    }

    #[test]
    fn what_is_wrong_with_a_tensor_is_said() {
        let told = |tensors: &[Named<'_>], stored| written(tensors, stored).expect_err("refused");
        assert!(told(&[A, A], StoredAs::F32).contains("`a.weight` comes twice"));
        assert!(told(&[Named { shape: &[7], ..A }], StoredAs::F32).contains("6 values for the shape [7]"));
        assert!(told(&[Named { shape: &[usize::MAX, 2], ..A }], StoredAs::F32).contains("6 values"));
        assert!(told(&[Named { values: &[f32::NAN], ..B }], StoredAs::F32).contains("holds NaN at 0"));
        assert!(told(&[Named { values: &[f32::MAX], ..B }], StoredAs::Bf16).contains("export it as f32"));
        assert!(written(&[Named { values: &[f32::MAX], ..B }], StoredAs::F32).is_ok());
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
