//! Documents out of files: plain text or JSON Lines, plain or packed, read in pieces of bounded size.

mod documents;
mod error;
mod reader;
mod row;
mod unpack;

pub use error::{Fault, SourceError};
pub use reader::{DocumentReader, Finished, RawDocument, SourceFile, Watch};
pub(crate) use reader::{changed, is_text_name, unchanged};

/// The most bytes of a line of text, and of a document.
pub const DOCUMENT_LIMIT: usize = 8 << 20;
/// The most bytes of a row of JSON Lines: a letter that takes two bytes takes six there, and other fields stand beside the
/// text.
pub const ROW_LIMIT: usize = 32 << 20;
