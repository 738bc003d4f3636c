//! Borrowed UTF-8 as pointer and length.

use std::marker::PhantomData;

/// Borrowed UTF-8 text, not terminated by a zero byte. Empty text may have a null pointer.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Text<'a> {
    /// First byte, or null if `len` is 0.
    pub ptr: *const u8,
    /// Length in bytes.
    pub len: usize,
    /// Ties the view to what it borrows on the Rust side; takes no space.
    pub borrow: PhantomData<&'a str>,
}

// SAFETY: a `Text` is a shared, read-only view, like the `&str` it is made from.
unsafe impl Send for Text<'_> {}
// SAFETY: as above; nothing can be written through it.
unsafe impl Sync for Text<'_> {}

impl<'a> Text<'a> {
    /// A view of `text`.
    #[must_use]
    pub const fn new(text: &'a str) -> Self {
        Self { ptr: text.as_ptr(), len: text.len(), borrow: PhantomData }
    }

    /// The text, or `None` where the bytes are not UTF-8 or the pointer is null with a length.
    ///
    /// # Safety
    /// `ptr` is null or points to `len` readable bytes that live and stay unchanged for `'a`.
    #[must_use]
    pub unsafe fn get(self) -> Option<&'a str> {
        if self.len == 0 {
            return Some("");
        }
        if self.ptr.is_null() || self.len > isize::MAX as usize {
            return None;
        }
        // SAFETY: not null, and the caller vouches for `len` readable bytes.
        std::str::from_utf8(unsafe { std::slice::from_raw_parts(self.ptr, self.len) }).ok()
    }
}

impl std::fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Text({} bytes)", self.len)
    }
}
