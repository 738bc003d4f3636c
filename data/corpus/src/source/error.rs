//! What can be wrong with a source, and where in it.

use std::fmt;
use std::path::PathBuf;

use bheval_data::lines::LineErrorKind;

use super::DOCUMENT_LIMIT;

/// A source that can't be read, and the place.
#[derive(Debug)]
pub struct SourceError {
    /// The file.
    pub file: PathBuf,
    /// The line of its (unpacked) text, from 1; 0 where the file was not read at all.
    pub line: u64,
    /// What is wrong.
    pub fault: Fault,
}

/// What can be wrong with a source.
#[derive(Debug)]
#[non_exhaustive]
pub enum Fault {
    /// The file can't be opened.
    Closed(std::io::Error),
    /// It is a folder, or something else that is no file.
    NoFile,
    /// Its name says that it is packed, and it is empty.
    EmptyPacked,
    /// A line can't be read.
    Line {
        /// Why.
        kind: LineErrorKind,
        /// What the file is packed with, and the bytes of it that were read.
        packed: Option<(&'static str, u64)>,
        /// What its first bytes are the mark of, where its name says otherwise.
        looks_like: Option<&'static str>,
    },
    /// A document that is longer than any may be.
    LongDocument,
    /// A row that is not JSON, or no object.
    Json {
        /// The column, in bytes from 1.
        column: usize,
        /// What is wrong there.
        what: String,
    },
    /// A row without a field that is needed.
    NoField {
        /// The field.
        field: String,
        /// Fields that the row has.
        has: Vec<String>,
    },
    /// A field that is not text.
    NoText {
        /// The field.
        field: String,
    },
    /// The file is another than when it was read first.
    Changed,
}

impl std::error::Error for SourceError {}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ", line {}", self.line)?;
        }
        write!(f, ": {}", self.fault)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(e) => {
                write!(f, "can't be read: {e}; name text files (.txt, .jsonl, also .zst, .xz, .gz)")
            }
            Self::NoFile => f.write_str("it is no file; a folder of files is given with --from"),
            Self::EmptyPacked => {
                f.write_str("the file is empty, which no packed file is; copy or fetch it again")
            }
            Self::Line { kind, packed, looks_like } => fmt_line(f, kind, *packed, *looks_like),
            Self::LongDocument => write!(
                f,
                "a document of more than {DOCUMENT_LIMIT} bytes; an empty line ends a document: put some in, or have long \
                 documents cut with --cut WORDS"
            ),
            Self::Json { column, what } => {
                write!(f, "column {column}: {what}; a file named .jsonl has one JSON object a line")
            }
            Self::NoField { field, has } => write!(
                f,
                "no field `{field}`; the row has {}; name the field of the text with --field, that of the domain with --label-field",
                if has.is_empty() { "none".to_owned() } else { has.join(", ") }
            ),
            Self::NoText { field } => write!(f, "the field `{field}` is not text"),
            Self::Changed => {
                f.write_str("the file was changed while the corpus was built; let it be and start again")
            }
        }
    }
}

fn fmt_line(
    f: &mut fmt::Formatter<'_>,
    kind: &LineErrorKind,
    packed: Option<(&str, u64)>,
    looks_like: Option<&str>,
) -> fmt::Result {
    match (kind, packed) {
        (LineErrorKind::Io(e), Some((packer, bytes))) => {
            write!(
                f,
                "the {packer} data can't be unpacked from here on, which is at or before byte {bytes} of the file ({e}); it is cut \
                 short or damaged: copy or fetch it again"
            )
        }
        (LineErrorKind::TooLong { .. }, _) => {
            write!(
                f,
                "{kind}; is this text? A document that long is to be broken into lines and documents first"
            )
        }
        (LineErrorKind::NotUtf8 { .. }, _) => {
            write!(f, "{kind}; only UTF-8 is read: convert it, as `iconv -f LATIN1 -t UTF-8` does")?;
            looks_like
                .map_or(Ok(()), |what| write!(f, ". It looks like {what} data: name it so (.zst, .xz, .gz)"))
        }
        _ => write!(f, "{kind}"),
    }
}
