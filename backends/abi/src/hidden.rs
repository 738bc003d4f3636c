//! The extension that hands out what stands before the head: hidden states, a fraction of the logits they become.

use crate::growth::is_whole;
use crate::{Failure, Forest, Message, RawModel, Status};

/// Id of the extension whose table is a [`HiddenTable`].
pub const HIDDEN_EXTENSION: &str = "bheval.hidden.1";

/// The head of a model: `logits = hidden · weightᵀ + bias`. First asked with null pointers, for its sizes.
#[repr(C)]
#[derive(Debug)]
pub struct RawHead {
    /// `sizeof(RawHead)`: set by the caller before the call.
    pub size: usize,
    /// Values of a hidden state. Set by the backend.
    pub width: u32,
    /// 1 where the head has a bias. Set by the backend.
    pub has_bias: u32,
    /// Null, or room for `[vocab, width]` values.
    pub weight: *mut f32,
    /// Null, or room for `[vocab]` values.
    pub bias: *mut f32,
}

/// Room for hidden states, owned by the caller.
#[repr(C)]
#[derive(Debug)]
pub struct Hidden {
    /// `sizeof(Hidden)` as the caller knows it.
    pub size: usize,
    /// `len` elements: one row of `width` for each wanted node, in the order of the nodes.
    pub data: *mut f32,
    /// Number of wanted nodes times the width.
    pub len: usize,
}

/// Hidden states and the head that turns them into logits. Lives as long as the library.
#[repr(C)]
#[derive(Debug)]
pub struct HiddenTable {
    /// `sizeof(HiddenTable)` as the backend knows it.
    pub size: usize,
    /// Writes the head's sizes and, where there is room, its values. A model whose logits are more than a product and a
    /// bias, because something bounds them, refuses with [`Status::UNSUPPORTED`].
    /// [any thread; one call at a time per model]
    pub head: Option<
        unsafe extern "C" fn(model: *mut RawModel, head: *mut RawHead, message: *mut Message) -> Status,
    >,
    /// Writes, for each wanted node, the hidden state that the head reads. It belongs to the path *including* the node.
    /// [any thread; one call at a time per model]
    pub hidden: Option<
        unsafe extern "C" fn(
            model: *mut RawModel,
            forest: *const Forest,
            out: *mut Hidden,
            message: *mut Message,
        ) -> Status,
    >,
}

/// The head of a model, in safe Rust.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadValues {
    /// Values of a hidden state.
    pub width: usize,
    /// `[vocab, width]`
    pub weight: Vec<f32>,
    /// `[vocab]`
    pub bias: Option<Vec<f32>>,
}

impl HeadValues {
    /// Fills what the caller gave room for.
    ///
    /// # Errors
    /// [`Status::BAD_INPUT`] without a struct of this version's size.
    ///
    /// # Safety
    /// `out` is null or points to a [`RawHead`] whose pointers are null or have room for the values of this head.
    pub(crate) unsafe fn write(&self, out: *mut RawHead) -> Result<(), Failure> {
        // SAFETY: null is handled first, and the caller vouches for the pointer.
        if out.is_null() || !unsafe { is_whole(out) } {
            return Err(Failure::input("there is no room for the head, or less than this version knows"));
        }
        // SAFETY: not null, whole, and nothing else uses it.
        let out = unsafe { &mut *out };
        out.width = self.width as u32;
        out.has_bias = u32::from(self.bias.is_some());
        for (to, from) in [(out.weight, Some(&self.weight)), (out.bias, self.bias.as_ref())] {
            if let (false, Some(from)) = (to.is_null(), from) {
                // SAFETY: the caller vouches for room for all values.
                unsafe { to.copy_from_nonoverlapping(from.as_ptr(), from.len()) };
            }
        }
        Ok(())
    }
}
