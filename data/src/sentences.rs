//! Text to learn from: one sentence a line, cut into ids by several threads, in the order of the lines.

use std::fmt;
use std::io::{BufReader, Read};

use crate::digest::Digesting;
use crate::encode::Encoder;
use crate::lines::{LINE_LIMIT, Line, LineError, lines};
use crate::tokenizer::TokenizerError;

/// Lines, and bytes of them, that are held at once.
const BATCH: (usize, usize) = (1 << 14, 1 << 23);

/// What a text held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextInfo {
    /// Lines that hold tokens.
    pub sentences: u64,
    /// Lines that hold none: they are empty, or white space.
    pub blank: u64,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
}

/// A line that can't be learnt from. Nothing behind it was read.
#[derive(Debug)]
#[non_exhaustive]
pub enum SentenceError {
    /// It can't be read.
    Line(LineError),
    /// The tokenizer refuses it.
    Uncut {
        /// Its number, from 1.
        number: u64,
        /// Why.
        source: TokenizerError,
    },
}

impl fmt::Display for SentenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(error) => error.fmt(f),
            Self::Uncut { number, source } => write!(f, "line {number}: {source}"),
        }
    }
}

impl std::error::Error for SentenceError {}

/// Cuts every line of `text` by [`Encoder::training_ids`] and hands the ids to `take`, line by line in order; `take` may
/// end it with an error of its own.
///
/// # Errors
/// The first line that can't be read or cut, or what `take` says.
pub fn read_sentences<E: From<SentenceError>>(
    text: impl Read,
    encoder: &Encoder<'_>,
    threads: usize,
    mut take: impl FnMut(&[u32]) -> Result<(), E>,
) -> Result<TextInfo, E> {
    let mut digesting = Digesting::new(text);
    let mut info = TextInfo::default();
    {
        let mut lines = lines(BufReader::with_capacity(1 << 18, &mut digesting), LINE_LIMIT);
        loop {
            let (batch, fault) = batch(&mut lines);
            for ids in cut(&batch, encoder, threads) {
                let ids = ids.map_err(E::from)?;
                if ids.is_empty() {
                    info.blank += 1;
                } else {
                    info.sentences += 1;
                    take(&ids)?;
                }
            }
            if let Some(fault) = fault {
                return Err(SentenceError::Line(fault).into());
            }
            if batch.is_empty() {
                break;
            }
        }
    }
    (info.bytes, info.sha256) = digesting.finish();
    Ok(info)
}

/// Some lines, and what is wrong with the one behind them.
fn batch(lines: &mut impl Iterator<Item = Result<Line, LineError>>) -> (Vec<Line>, Option<LineError>) {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while batch.len() < BATCH.0 && bytes < BATCH.1 {
        match lines.next() {
            None => break,
            Some(Err(fault)) => return (batch, Some(fault)),
            Some(Ok(line)) => {
                bytes += line.text.len();
                batch.push(line);
            }
        }
    }
    (batch, None)
}

/// The ids of each line, in order.
fn cut(batch: &[Line], encoder: &Encoder<'_>, threads: usize) -> Vec<Result<Vec<u32>, SentenceError>> {
    let one = |line: &Line| {
        if line.text.trim().is_empty() {
            return Ok(Vec::new());
        }
        encoder
            .training_ids(&line.text)
            .map_err(|source| SentenceError::Uncut { number: line.number, source })
    };
    let share = batch.len().div_ceil(threads.max(1)).max(1);
    std::thread::scope(|scope| {
        let parts =
            batch.chunks(share).map(|part| scope.spawn(move || part.iter().map(one).collect::<Vec<_>>()));
        let parts: Vec<_> = parts.collect();
        let join = |part: std::thread::ScopedJoinHandle<'_, Vec<_>>| {
            part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        parts.into_iter().flat_map(join).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Protocol;
    use crate::tokenizer::Tokenizer;

    /// Words are ids from 2 on; 0 and 1 are BOS and EOS, where `special` names them.
    fn tokenizer(special: &str) -> Tokenizer {
        let folder = tempfile::tempdir().expect("a folder");
        let json = serde_json::json!({
            "version": "1.0", "pre_tokenizer": {"type": "Whitespace"},
            "added_tokens": [],
            "model": {"type": "WordLevel", "vocab": {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "?": 4}, "unk_token": "?"},
        });
        std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).expect("written");
        std::fs::write(folder.path().join("special_tokens_map.json"), special).expect("written");
        Tokenizer::load(folder.path()).expect("a tokenizer")
    }

    fn read(text: &[u8], special: &str, threads: usize) -> Result<(Vec<Vec<u32>>, TextInfo), SentenceError> {
        let tokenizer = tokenizer(special);
        let encoder = Encoder::new(&tokenizer, Protocol::Bheval);
        let mut all = Vec::new();
        let info = read_sentences(text, &encoder, threads, |ids| {
            all.push(ids.to_vec());
            Ok::<_, SentenceError>(())
        })?;
        Ok((all, info))
    }

    const BOTH: &str = r#"{"bos_token": "<s>", "eos_token": "</s>"}"#;

    #[test]
    fn sentences_are_framed_and_blank_lines_passed_over() {
        let (all, info) = read(b"a b\r\n\n  \nb", BOTH, 2).expect("read");
        assert_eq!(all, [vec![0, 2, 3, 1], vec![0, 3, 1]]);
        assert_eq!((info.sentences, info.blank, info.bytes), (2, 2, 10));
        assert_eq!(info.sha256, crate::digest::sha256_hex(b"a b\r\n\n  \nb"));
    }

    #[test]
    fn without_bos_eos_stands_in_front_and_without_either_nothing() {
        let (all, _) = read(b"a b", r#"{"eos_token": "</s>"}"#, 1).expect("read");
        assert_eq!(all, [[1, 2, 3, 1]]);
        let (all, _) = read(b"a b", "{}", 1).expect("read");
        assert_eq!(all, [[2, 3]]);
    }

    #[test]
    fn lines_keep_their_order_whatever_the_threads() {
        let text: String = (0..40_000).map(|i| if i % 7 < 3 { "a b\n" } else { "b a a\n" }).collect();
        let one = read(text.as_bytes(), BOTH, 1).expect("read");
        assert_eq!(one.0.len(), 40_000);
        assert!(one == read(text.as_bytes(), BOTH, 3).expect("read"));
    }

    #[test]
    fn a_bad_line_is_named() {
        let error = read(b"a\nb\n\xff\na", BOTH, 2).expect_err("not UTF-8").to_string();
        assert!(error.contains("line 3: not UTF-8 from byte 0"), "{error}");
    }
}
