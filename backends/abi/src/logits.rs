//! The extension that hands out whole rows of logits.

use crate::{Forest, Message, RawModel, Status};

/// Id of the extension whose table is a [`LogitsTable`].
pub const LOGITS_EXTENSION: &str = "bheval.logits.1";

/// Room for rows of logits, owned by the caller.
#[repr(C)]
#[derive(Debug)]
pub struct Logits {
    /// `sizeof(Logits)` as the caller knows it.
    pub size: usize,
    /// `len` elements: one row of `vocab` for each wanted node, in the order of the nodes.
    pub data: *mut f32,
    /// Number of wanted nodes times the vocabulary.
    pub len: usize,
}

/// Logits of the next token. Lives as long as the library.
#[repr(C)]
#[derive(Debug)]
pub struct LogitsTable {
    /// `sizeof(LogitsTable)` as the backend knows it.
    pub size: usize,
    /// Writes, for each wanted node, the unnormalised log-probabilities of the token that follows it: the row belongs to
    /// the path *including* the node. [any thread; one call at a time per model]
    pub logits: Option<
        unsafe extern "C" fn(
            model: *mut RawModel,
            forest: *const Forest,
            out: *mut Logits,
            message: *mut Message,
        ) -> Status,
    >,
}
