//! Lines of a text, within a limit, with bad lines reported and passed over.
//!
//! However long a line is, no more than the limit of it is ever held.

use std::fmt;
use std::io::{self, BufRead};

/// The longest line that data files of this program may have, in bytes.
pub const LINE_LIMIT: usize = 1 << 20;

const BOM: &[u8] = b"\xef\xbb\xbf";
/// A mark at the start and a carriage return at the end are read, but do not count.
const UNCOUNTED: usize = BOM.len() + 1;

/// A line of text without its line ending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number, from 1.
    pub number: u64,
    /// Its text. A byte order mark on line 1 and the ending `\n` or `\r\n` are gone.
    pub text: String,
}

/// A line that could not be read.
#[derive(Debug)]
pub struct LineError {
    /// Its number, from 1.
    pub number: u64,
    /// What is wrong with it.
    pub kind: LineErrorKind,
}

/// What can be wrong with a line.
#[derive(Debug)]
#[non_exhaustive]
pub enum LineErrorKind {
    /// It is longer than allowed. It was read to its end and dropped.
    TooLong {
        /// The most bytes a line may have.
        limit: usize,
    },
    /// It is not UTF-8.
    NotUtf8 {
        /// The offset in the line of the first byte that cannot be read, from 0.
        byte: usize,
    },
    /// Reading failed. Nothing follows.
    Io(io::Error),
}

/// The lines of a reader; see [`lines`].
#[derive(Debug)]
pub struct Lines<R> {
    reader: R,
    limit: usize,
    number: u64,
    failed: bool,
}

/// Reads lines of at most `limit` bytes each, and goes on after a line that is bad.
///
/// ```
/// use bheval_data::lines::lines;
///
/// let texts: Vec<_> = lines(&b"one\r\ntwo"[..], 80).map(|line| line.unwrap().text).collect();
/// assert_eq!(texts, ["one", "two"]);
/// ```
pub fn lines<R: BufRead>(reader: R, limit: usize) -> Lines<R> {
    Lines { reader, limit, number: 0, failed: false }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<Line, LineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let number = self.number + 1;
        let kept = match self.read_raw() {
            Ok(None) => return None,
            Ok(Some(kept)) => self.decode(kept, number),
            Err(error) => {
                self.failed = true;
                Err(LineErrorKind::Io(error))
            }
        };
        self.number = number;
        Some(kept.map(|text| Line { number, text }).map_err(|kind| LineError { number, kind }))
    }
}

/// The bytes kept of a line, and how long it was.
struct Raw {
    bytes: Vec<u8>,
    length: usize,
}

impl<R: BufRead> Lines<R> {
    /// Reads to the end of a line, or gives none at the end of the text.
    fn read_raw(&mut self) -> io::Result<Option<Raw>> {
        let mut raw = Raw { bytes: Vec::new(), length: 0 };
        loop {
            let buffer = match self.reader.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if buffer.is_empty() {
                return Ok((raw.length > 0).then_some(raw));
            }
            let end = buffer.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
            let piece = &buffer[..end.unwrap_or(buffer.len())];
            raw.keep(piece, self.limit.saturating_add(UNCOUNTED + 1));
            let used = piece.len();
            self.reader.consume(used);
            if end.is_some() {
                return Ok(Some(raw));
            }
        }
    }

    fn decode(&self, raw: Raw, number: u64) -> Result<String, LineErrorKind> {
        let mut bytes = raw.bytes;
        let whole = raw.length == bytes.len();
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            bytes.pop_if(|byte| *byte == b'\r');
        }
        if number == 1 && bytes.starts_with(BOM) {
            bytes.drain(..BOM.len());
        }
        if !whole || bytes.len() > self.limit {
            return Err(LineErrorKind::TooLong { limit: self.limit });
        }
        String::from_utf8(bytes)
            .map_err(|error| LineErrorKind::NotUtf8 { byte: error.utf8_error().valid_up_to() })
    }
}

impl Raw {
    fn keep(&mut self, piece: &[u8], most: usize) {
        let room = most.saturating_sub(self.bytes.len()).min(piece.len());
        self.bytes.extend_from_slice(&piece[..room]);
        self.length = self.length.saturating_add(piece.len());
    }
}

impl fmt::Display for LineErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LineErrorKind::TooLong { limit } => write!(f, "longer than the {limit} bytes a line may have"),
            LineErrorKind::NotUtf8 { byte } => write!(f, "not UTF-8 from byte {byte} of the line on"),
            LineErrorKind::Io(error) => write!(f, "cannot be read: {error}"),
        }
    }
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.number, self.kind)
    }
}

impl std::error::Error for LineError {}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Read};

    use proptest::prelude::*;

    use super::*;

    /// What a line came to, in a form that can be compared.
    fn told(bytes: &[u8], limit: usize, buffer: usize) -> Vec<Result<String, String>> {
        let reader = BufReader::with_capacity(buffer, bytes);
        let tell =
            |line: Result<Line, LineError>| line.map(|line| line.text).map_err(|error| error.to_string());
        lines(reader, limit).map(tell).collect()
    }

    fn texts(bytes: &[u8]) -> Vec<String> {
        told(bytes, 100, 8).into_iter().map(Result::unwrap).collect()
    }

    #[test]
    fn endings_and_a_missing_last_one() {
        assert_eq!(texts(b"a\nb\r\n\nc"), ["a", "b", "", "c"]);
        assert_eq!(texts(b"a\n"), ["a"]);
        assert_eq!(texts(b"a\r\r\nb\r"), ["a\r", "b\r"]);
        assert!(texts(b"").is_empty());
    }

    #[test]
    fn a_byte_order_mark_is_taken_off_the_first_line_only() {
        assert_eq!(texts(b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n"), ["a", "\u{feff}b"]);
        assert_eq!(texts(b"\xef\xbb\xbf"), [""]);
    }

    #[test]
    fn the_limit_is_exact_and_counts_text_only() {
        let good = |text: &str| Ok(text.to_owned());
        for buffer in [1, 2, 3, 64] {
            let got = told(b"\xef\xbb\xbfabc\r\nabcd\nabc\r\nabc", 3, buffer);
            let long = Err("line 2: longer than the 3 bytes a line may have".to_owned());
            assert_eq!(got, [good("abc"), long, good("abc"), good("abc")]);
        }
    }

    #[test]
    fn bad_bytes_are_located_and_passed_over() {
        let got = told(b"ok\nab\xffcd\nok\n", 10, 4);
        assert_eq!(got[1], Err("line 2: not UTF-8 from byte 2 of the line on".to_owned()));
        assert_eq!(got[2], Ok("ok".to_owned()));
    }

    #[test]
    fn a_line_without_end_is_drained_and_not_held() {
        let long =
            || BufReader::with_capacity(1 << 16, io::repeat(b'x').take(1 << 26)).chain(&b"\nafter"[..]);
        let raw = lines(long(), 1_000).read_raw().unwrap().unwrap();
        assert_eq!((raw.bytes.len(), raw.length), (1_000 + UNCOUNTED + 1, (1 << 26) + 1));
        let got: Vec<_> = lines(long(), LINE_LIMIT).collect();
        assert!(matches!(got[0], Err(LineError { number: 1, kind: LineErrorKind::TooLong { .. } })));
        assert_eq!(got[1].as_ref().unwrap(), &Line { number: 2, text: "after".into() });
    }

    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("torn"))
        }
    }

    #[test]
    fn a_failing_reader_ends_the_lines() {
        let got: Vec<_> = lines(BufReader::new((&b"one\ntw"[..]).chain(Broken)), 10).collect();
        assert_eq!(got.len(), 2);
        assert!(matches!(got[1], Err(LineError { number: 2, kind: LineErrorKind::Io(_) })));
    }

    proptest! {
        #[test]
        fn agrees_with_the_standard_library_on_text(text in "[a-z\r\n\u{e9}]{0,60}", buffer in 1usize..9) {
            let expected: Vec<_> = text.lines().map(|line| Ok(line.to_owned())).collect();
            prop_assert_eq!(told(text.as_bytes(), 1000, buffer), expected);
        }

        #[test]
        fn any_bytes_give_one_result_a_line(bytes: Vec<u8>, limit in 0usize..20, buffer in 1usize..9) {
            let got = told(&bytes, limit, buffer);
            let ends = bytes.iter().filter(|byte| **byte == b'\n').count();
            let open = usize::from(bytes.last().is_some_and(|byte| *byte != b'\n'));
            prop_assert_eq!(got.len(), ends + open);
            prop_assert!(got.iter().flatten().all(|text| text.len() <= limit));
        }
    }
}
