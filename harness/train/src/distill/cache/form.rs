//! How a row of a record is written.

use half::f16;
use serde::{Deserialize, Serialize};

use crate::ABSENT;
use crate::distill::Stored;
use crate::distill::mix::Top;
use crate::distill::records::{Form, Records};

/// The form of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum RecordForm {
    /// Logits of the first `columns` tokens; the student's others are absent.
    Full {
        /// Tokens.
        columns: usize,
        /// Number format.
        dtype: Stored,
    },
    /// `k` ids (u16, or u32 where `columns` needs it), their log-probabilities, and that of the rest, f32.
    Top {
        /// Tokens that are named.
        k: usize,
        /// Tokens that could be.
        columns: usize,
    },
    /// A hidden state.
    Hidden {
        /// Its values.
        width: usize,
        /// Number format.
        dtype: Stored,
        /// Whether the head has a bias.
        bias: bool,
    },
}

impl RecordForm {
    /// Bytes of a row, or none where they can't be counted.
    pub(super) fn bytes(self) -> Option<usize> {
        match self {
            Self::Full { columns, dtype } => columns.checked_mul(dtype.bytes()),
            Self::Top { k, columns } => k.checked_mul(id_bytes(columns) + 4)?.checked_add(4),
            Self::Hidden { width, dtype, .. } => width.checked_mul(dtype.bytes()),
        }
    }

    /// Whether a student of `vocab` tokens can learn from it.
    pub(super) fn is_plausible(self, vocab: usize) -> bool {
        match self {
            Self::Full { columns, .. } => (1..=vocab).contains(&columns),
            Self::Top { k, columns } => (1..=vocab).contains(&columns) && (1..columns).contains(&k),
            Self::Hidden { width, .. } => width > 0,
        }
    }

    /// What a learner gets from it.
    pub(super) fn kind(self) -> Form {
        match self {
            Self::Full { .. } => Form::Logits,
            Self::Top { k, .. } => Form::Top(k),
            Self::Hidden { .. } => Form::Hidden,
        }
    }

    /// Reads the rows of a record. A file with a right checksum may still have been made to harm.
    pub(super) fn decode(self, bytes: &[u8], vocab: usize, into: &mut Records) -> Result<(), &'static str> {
        let (values_before, rest_before) = (into.values.len(), into.rest.len());
        let row = self.bytes().unwrap_or(1).max(1);
        for row in bytes.chunks_exact(row) {
            match self {
                Self::Full { columns, dtype } => {
                    values(row, dtype, &mut into.values);
                    into.values.extend(std::iter::repeat_n(ABSENT, vocab - columns));
                }
                Self::Hidden { dtype, .. } => values(row, dtype, &mut into.values),
                Self::Top { k, columns } => {
                    let (ids, numbers) = row.split_at(k * id_bytes(columns));
                    let first = into.ids.len();
                    read_ids(ids, columns, &mut into.ids);
                    check_ids(&into.ids[first..], columns)?;
                    let (log_probs, rest) = numbers.split_at(k * 4);
                    values(log_probs, Stored::F32, &mut into.values);
                    values(rest, Stored::F32, &mut into.rest);
                }
            }
        }
        let mut new = into.values[values_before..].iter().chain(&into.rest[rest_before..]);
        if new.all(|value| value.is_finite()) { Ok(()) } else { Err("holds a number that is not finite") }
    }
}

fn id_bytes(columns: usize) -> usize {
    if columns <= 1 << 16 { 2 } else { 4 }
}

fn values(bytes: &[u8], dtype: Stored, into: &mut Vec<f32>) {
    match dtype {
        Stored::F32 => into.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
        Stored::F16 => into.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
    }
}

fn read_ids(bytes: &[u8], columns: usize, into: &mut Vec<u32>) {
    if id_bytes(columns) == 2 {
        into.extend(bytes.as_chunks().0.iter().map(|b| u32::from(u16::from_le_bytes(*b))));
    } else {
        into.extend(bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)));
    }
}

/// Ids rise, so that each is there once.
fn check_ids(ids: &[u32], columns: usize) -> Result<(), &'static str> {
    let rising = ids.is_sorted_by(|a, b| a < b);
    let within = ids.last().is_none_or(|&last| (last as usize) < columns);
    if rising && within { Ok(()) } else { Err("names tokens that are none, or one twice") }
}

/// Writes rows of values.
///
/// # Errors
/// The first value that the number format does not have.
pub(super) fn encode_values(rows: &[f32], dtype: Stored, out: &mut Vec<u8>) -> Result<(), f32> {
    for &value in rows {
        match dtype {
            Stored::F32 => out.extend(value.to_le_bytes()),
            Stored::F16 => {
                let rounded = f16::from_f32(value);
                if !rounded.is_finite() {
                    return Err(value);
                }
                out.extend(rounded.to_le_bytes());
            }
        }
    }
    Ok(())
}

/// Writes a row's most probable tokens.
pub(super) fn encode_top(top: &Top, columns: usize, out: &mut Vec<u8>) {
    for id in &top.ids {
        out.extend(&id.to_le_bytes()[..id_bytes(columns)]);
    }
    out.extend(top.log_probs.iter().chain([&top.rest]).flat_map(|value| value.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(form: RecordForm, bytes: &[u8], vocab: usize) -> Result<Records, &'static str> {
        let mut records = Records::default();
        records.clear(form.kind());
        form.decode(bytes, vocab, &mut records).map(|()| records)
    }

    #[test]
    fn values_come_back_and_padding_is_absent() {
        let form = RecordForm::Full { columns: 2, dtype: Stored::F32 };
        let mut bytes = vec![];
        encode_values(&[1.5, -0.1, 3.0, 4.0], Stored::F32, &mut bytes).expect("finite");
        let records = decoded(form, &bytes, 3).expect("read");
        assert_eq!(records.values, [1.5, -0.1, ABSENT, 3.0, 4.0, ABSENT]);
        let mut halves = vec![];
        encode_values(&[1.5, -0.1], Stored::F16, &mut halves).expect("finite");
        let records = decoded(RecordForm::Full { columns: 2, dtype: Stored::F16 }, &halves, 2).expect("read");
        assert_eq!(records.values, [1.5, f16::from_f32(-0.1).to_f32()]);
        assert_eq!(encode_values(&[1.0, 65_520.0], Stored::F16, &mut halves), Err(65_520.0));
    }

    #[test]
    fn named_tokens_come_back_in_both_widths() {
        let top = Top { ids: vec![3, 60_000], log_probs: vec![-0.5, -1.5], rest: -2.5 };
        for columns in [65_536, 65_537] {
            let mut bytes = vec![];
            encode_top(&top, columns, &mut bytes);
            let form = RecordForm::Top { k: 2, columns };
            assert_eq!(Some(bytes.len()), form.bytes());
            let records = decoded(form, &bytes, columns).expect("read");
            assert_eq!(
                (records.ids, records.values, records.rest),
                (vec![3, 60_000], vec![-0.5, -1.5], vec![-2.5])
            );
        }
    }

    #[test]
    fn what_would_harm_a_learner_is_refused() {
        let form = RecordForm::Top { k: 2, columns: 100 };
        for (ids, rest) in
            [(vec![5, 5], -1.0), (vec![6, 5], -1.0), (vec![5, 100], -1.0), (vec![5, 6], f32::NAN)]
        {
            let mut bytes = vec![];
            encode_top(&Top { ids, log_probs: vec![-1.0; 2], rest }, 100, &mut bytes);
            assert!(decoded(form, &bytes, 100).is_err());
        }
        let infinite = f32::INFINITY.to_le_bytes();
        assert!(decoded(RecordForm::Full { columns: 1, dtype: Stored::F32 }, &infinite, 1).is_err());
    }

    #[test]
    fn absurd_sizes_are_no_overflow() {
        assert_eq!(RecordForm::Full { columns: usize::MAX, dtype: Stored::F32 }.bytes(), None);
        assert_eq!(RecordForm::Top { k: usize::MAX, columns: 5 }.bytes(), None);
        assert!(!RecordForm::Top { k: 5, columns: 5 }.is_plausible(5));
        assert!(!RecordForm::Full { columns: 6, dtype: Stored::F16 }.is_plausible(5));
    }
}
