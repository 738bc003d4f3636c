//! The head within a cache of hidden states.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::Header;
use super::form::RecordForm;
use crate::distill::{Error, Head};

/// Bytes that the head takes, checksum included; 0 in a cache of another kind, none where they can't be counted.
pub(super) fn bytes(header: &Header) -> Option<u64> {
    let RecordForm::Hidden { width, bias, .. } = header.form else { return Some(0) };
    let values = (header.vocab as u64).checked_mul(width as u64 + u64::from(bias))?;
    values.checked_mul(4)?.checked_add(4)
}

/// The head as it is written.
pub(super) fn write(head: &Head) -> Vec<u8> {
    let values = head.weight.iter().chain(head.bias.iter().flatten());
    let mut bytes: Vec<u8> = values.flat_map(|value| value.to_le_bytes()).collect();
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// Reads the head, whose bytes are known to be there.
pub(super) fn read(path: &Path, file: &mut File, header: &Header) -> Result<Option<Head>, Error> {
    let RecordForm::Hidden { width, .. } = header.form else { return Ok(None) };
    let size = bytes(header).and_then(|size| usize::try_from(size).ok());
    let mut bytes = vec![0; size.ok_or_else(|| Error::cache(path, "its head is too large"))?];
    file.read_exact(&mut bytes).map_err(Error::io("read", path))?;
    let (values, sum) = bytes.split_at(bytes.len() - 4);
    if crc32fast::hash(values).to_le_bytes() != *sum {
        return Err(Error::cache(path, "its head is damaged"));
    }
    let mut weight: Vec<f32> = values.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    if weight.iter().any(|value| !value.is_finite()) {
        return Err(Error::cache(path, "its head holds a number that is not finite"));
    }
    let bias = weight.split_off(header.vocab * width);
    Ok(Some(Head { width, weight, bias: (!bias.is_empty()).then_some(bias) }))
}
