//! Lines within a limit, against a twin that splits the whole text at once.

use std::io::BufReader;

use bheval_data::lines::{LineErrorKind, lines as lines_within};

/// What a line came to: its text, too long, or the place of its first bad byte.
#[derive(Debug, PartialEq)]
enum Told {
    Text(String),
    TooLong,
    NotUtf8(usize),
}

/// Reads lines; the first byte is the limit, the second the size of the reader's buffer.
///
/// # Panics
/// Where reader and twin differ.
pub fn lines(bytes: &[u8]) {
    let [limit, buffer, text @ ..] = bytes else { return };
    let (limit, buffer) = (usize::from(limit % 40), usize::from(buffer % 16) + 1);
    let found: Vec<_> = lines_within(BufReader::with_capacity(buffer, text), limit)
        .enumerate()
        .map(|(index, line)| {
            let number = line.as_ref().map_or_else(|error| error.number, |line| line.number);
            assert_eq!(number, index as u64 + 1);
            line.map_or_else(|error| told(&error.kind), |line| Told::Text(line.text))
        })
        .collect();
    assert_eq!(found, twin(text, limit));
}

fn told(kind: &LineErrorKind) -> Told {
    match kind {
        LineErrorKind::TooLong { .. } => Told::TooLong,
        LineErrorKind::NotUtf8 { byte } => Told::NotUtf8(*byte),
        other => panic!("bytes in memory can be read: {other}"),
    }
}

fn twin(text: &[u8], limit: usize) -> Vec<Told> {
    let line = |(index, line): (usize, &[u8])| {
        let line = line.strip_suffix(b"\n").map_or(line, |line| line.strip_suffix(b"\r").unwrap_or(line));
        let line = if index == 0 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
        match std::str::from_utf8(line) {
            _ if line.len() > limit => Told::TooLong,
            Ok(text) => Told::Text(text.to_owned()),
            Err(error) => Told::NotUtf8(error.valid_up_to()),
        }
    };
    text.split_inclusive(|&byte| byte == b'\n').enumerate().map(line).collect()
}
