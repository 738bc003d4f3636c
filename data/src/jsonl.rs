//! JSON Lines into rows, where every fault is told with its line and column.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::Error;
use crate::lines::{LINE_LIMIT, Line, LineErrorKind, lines};

/// Whether error messages may quote what they are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privacy {
    /// They may.
    Open,
    /// They must not: the terms of the data forbid it as plain text. Only the place and the kind are told.
    Protected,
}

/// What can be wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RowFault {
    /// The line is longer than allowed.
    TooLong {
        /// The most bytes a line may have.
        limit: usize,
    },
    /// The line is not UTF-8.
    NotUtf8 {
        /// The offset in the line of the first bad byte, from 0.
        byte: usize,
    },
    /// The line is blank, with rows after it.
    Blank,
    /// The line is not JSON, or not a row of this kind.
    Json {
        /// The column, in bytes from 1.
        column: usize,
        /// What is wrong there; for protected data only its category.
        what: String,
    },
}

/// Reads all rows of a JSON Lines file. `source` is the file's name for messages.
///
/// Blank lines are allowed at the end only: elsewhere they are a sign of a damaged file.
pub fn rows<T: DeserializeOwned>(source: &str, bytes: &[u8], privacy: Privacy) -> Result<Vec<T>, Error> {
    let failed = |line, fault| Error::Row { file: source.to_owned(), line, fault };
    let mut rows = Vec::new();
    let mut blank = None;
    for line in lines(bytes, LINE_LIMIT) {
        let Line { number, text } = line.map_err(|error| failed(error.number, unreadable(error.kind)))?;
        if text.trim_ascii().is_empty() {
            blank = blank.or(Some(number));
        } else if let Some(number) = blank {
            return Err(failed(number, RowFault::Blank));
        } else {
            rows.push(serde_json::from_str(&text).map_err(|error| failed(number, json(&error, privacy)))?);
        }
    }
    Ok(rows)
}

/// serde_json quotes what it found, so that for protected data nothing but the category may be kept.
fn json(error: &serde_json::Error, privacy: Privacy) -> RowFault {
    let what = match (privacy, error.classify()) {
        (Privacy::Open, _) => without_place(&error.to_string()),
        (_, Category::Eof) => "the row ends too soon".to_owned(),
        (_, Category::Syntax) => "not JSON".to_owned(),
        (_, Category::Data | Category::Io) => "a field is missing, unknown or of the wrong type".to_owned(),
    };
    RowFault::Json { column: error.column(), what }
}

/// Drops the " at line 1 column 7" of serde_json, which counts lines within the row.
fn without_place(message: &str) -> String {
    message.rsplit_once(" at line ").map_or(message, |(what, _)| what).to_owned()
}

fn unreadable(kind: LineErrorKind) -> RowFault {
    match kind {
        LineErrorKind::TooLong { limit } => RowFault::TooLong { limit },
        LineErrorKind::NotUtf8 { byte } => RowFault::NotUtf8 { byte },
        LineErrorKind::Io(error) => unreachable!("bytes in memory can be read: {error}"),
    }
}

impl fmt::Display for RowFault {
    /// Continues "FILE, line N".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RowFault::TooLong { limit } => {
                write!(f, ": longer than the {limit} bytes a row may have; is this a JSON Lines file?")
            }
            RowFault::NotUtf8 { byte } => {
                write!(f, ": not UTF-8 from byte {byte} of the line on; fetch or copy the file again")
            }
            RowFault::Blank => f.write_str(
                ": blank, with rows after it; a piece of the file may be lost: fetch or copy it again",
            ),
            RowFault::Json { column, what } => write!(
                f,
                ", column {column}: {what}; if the file was edited or cut short, fetch or copy it again"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Pair {
        good: String,
        n: u8,
    }

    fn error(text: &[u8], privacy: Privacy) -> String {
        rows::<Pair>("x.jsonl", text, privacy).unwrap_err().to_string()
    }

    const ROW: &str = "{\"good\": \"a\", \"n\": 1}\n";

    #[test]
    fn rows_with_blank_lines_at_the_end() {
        let two = rows::<Pair>("x", format!("{ROW}{ROW}\n \n").as_bytes(), Privacy::Open).unwrap();
        assert_eq!(two, [Pair { good: "a".into(), n: 1 }, Pair { good: "a".into(), n: 1 }]);
        assert!(rows::<Pair>("x", b"", Privacy::Open).unwrap().is_empty());
    }

    #[test]
    fn a_blank_line_between_rows_is_named() {
        assert!(
            error(format!("{ROW}\n\n{ROW}").as_bytes(), Privacy::Open).starts_with("x.jsonl, line 2: blank")
        );
    }

    #[test]
    fn faults_have_line_and_column() {
        let text = format!("{ROW}{{\"good\": \"a\", \"n\": 300}}\n");
        let told = error(text.as_bytes(), Privacy::Open);
        assert!(told.starts_with("x.jsonl, line 2, column 22: invalid value: integer `300`"), "{told}");
        assert!(!told.contains("at line 1"), "{told}");
    }

    #[test]
    fn bad_bytes_and_long_lines_are_located() {
        assert!(error(b"{\"good\": \"\xff\"}", Privacy::Open).contains("line 1: not UTF-8 from byte 10"));
        let long = format!("{ROW}{{\"good\": \"{}\", \"n\": 1}}", "x".repeat(LINE_LIMIT));
        assert!(error(long.as_bytes(), Privacy::Open).contains("line 2: longer than the 1048576 bytes"));
    }

    proptest! {
        /// Whatever is wrong with a row, no run of its letters reaches the message or the debug form.
        #[test]
        fn protected_rows_are_never_quoted(secret in "[A-Z]{8,20}", shape in 0usize..6) {
            let row = [
                format!("{{\"good\": \"a\", \"n\": \"{secret}\"}}"),
                format!("{{\"{secret}\": 1}}"),
                format!("{{\"good\": \"{secret}"),
                secret.clone(),
                format!("\"{secret}\""),
                format!("{{\"good\": \"{secret}\", \"good\": \"{secret}\", \"n\": 1}}"),
            ];
            let failed = rows::<Pair>("x.jsonl", row[shape].as_bytes(), Privacy::Protected).unwrap_err();
            let told = format!("{failed} {failed:?}");
            prop_assert!(!told.contains(&secret), "quoted");
            prop_assert!(told.contains("x.jsonl, line 1, column "), "{}", told);
        }

        #[test]
        fn any_bytes_are_rows_or_an_error(bytes: Vec<u8>) {
            let _ = rows::<serde_json::Value>("x", &bytes, Privacy::Open);
        }
    }
}
