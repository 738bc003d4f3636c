//! Failures as a status code and a sentence, and the guard that keeps panics inside a backend.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::growth::is_whole;

/// What became of a call. 0 is success; codes that a reader does not know count as [`Status::INTERNAL`].
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status(pub i32);

impl Status {
    /// Done.
    pub const OK: Status = Status(0);
    /// The caller's arguments are wrong: a token beyond the vocabulary, a parent that comes after its child.
    pub const BAD_INPUT: Status = Status(1);
    /// The files of the model are missing, damaged or contradict each other.
    pub const BAD_MODEL: Status = Status(2);
    /// Understood, but this backend can't do it.
    pub const UNSUPPORTED: Status = Status(3);
    /// A result was NaN or infinite. No score was returned for it.
    pub const NOT_FINITE: Status = Status(4);
    /// Memory or another resource ran out.
    pub const EXHAUSTED: Status = Status(5);
    /// The backend panicked. The model must not be used again, except to close it.
    pub const PANIC: Status = Status(6);
    /// A fault of the backend itself.
    pub const INTERNAL: Status = Status(7);

    /// The code in words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Status::OK => "ok",
            Status::BAD_INPUT => "bad input",
            Status::BAD_MODEL => "bad model",
            Status::UNSUPPORTED => "unsupported",
            Status::NOT_FINITE => "not finite",
            Status::EXHAUSTED => "out of memory",
            Status::PANIC => "panic",
            _ => "internal error",
        }
    }
}

/// Room for one sentence of UTF-8, owned by the caller.
#[repr(C)]
#[derive(Debug)]
pub struct Message {
    /// `sizeof(Message)` as the caller knows it.
    pub size: usize,
    /// Where the backend writes; never null.
    pub ptr: *mut u8,
    /// Bytes that may be written.
    pub capacity: usize,
    /// Bytes that were written. A longer sentence is cut at a character's boundary.
    pub len: usize,
}

impl Message {
    /// A message that writes into `buffer`.
    #[must_use]
    pub fn over(buffer: &mut [u8]) -> Self {
        Self { size: size_of::<Self>(), ptr: buffer.as_mut_ptr(), capacity: buffer.len(), len: 0 }
    }

    /// Writes as much of `text` as fits.
    ///
    /// # Safety
    /// `message` is null or a valid message whose `ptr` has room for `capacity` bytes.
    pub unsafe fn write(message: *mut Message, text: &str) {
        // SAFETY: the caller vouches for the pointer; null is handled.
        if message.is_null() || !unsafe { is_whole(message) } {
            return;
        }
        // SAFETY: as above, and whole.
        let message = unsafe { &mut *message };
        if message.ptr.is_null() {
            return;
        }
        let len = text.floor_char_boundary(message.capacity);
        // SAFETY: `len <= capacity` bytes of room, and `text` can't overlap a buffer borrowed mutably by the caller.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), message.ptr, len) };
        message.len = len;
    }
}

/// A failure on the Rust side of the boundary: what happened, where, and what to try.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The kind, which decides what a host does next.
    pub status: Status,
    /// One or two sentences for a person.
    pub text: String,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(status: Status, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    /// [`Status::BAD_INPUT`] with this sentence.
    pub fn input(text: impl Into<String>) -> Self {
        Self::new(Status::BAD_INPUT, text)
    }

    /// [`Status::BAD_MODEL`] with this sentence.
    pub fn model(text: impl Into<String>) -> Self {
        Self::new(Status::BAD_MODEL, text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

/// Runs `body`; turns a failure or a panic into a status and a message. Every entry of a backend goes through here,
/// since unwinding across a C boundary ends the process.
///
/// # Safety
/// `message` is null or valid as [`Message::write`] asks.
pub unsafe fn guard(message: *mut Message, body: impl FnOnce() -> Result<(), Failure>) -> Status {
    // AssertUnwindSafe: after a panic the host may only close the model, as `Status::PANIC` says.
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return Status::OK,
        Ok(Err(failure)) => failure,
        Err(panic) => Failure::new(Status::PANIC, panic_text(panic)),
    };
    // SAFETY: passed on from the caller.
    unsafe { Message::write(message, &failure.text) };
    failure.status
}

fn panic_text(panic: Box<dyn Any + Send>) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    // The payload's own destructor may panic, and this runs outside the guard.
    std::mem::forget(panic);
    format!("the backend panicked: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(capacity: usize, body: impl FnOnce() -> Result<(), Failure>) -> (Status, String) {
        let mut buffer = vec![0; capacity];
        let mut message = Message::over(&mut buffer);
        // SAFETY: `message` points into `buffer`.
        let status = unsafe { guard(&raw mut message, body) };
        let len = message.len;
        (status, String::from_utf8(buffer[..len].to_vec()).expect("UTF-8"))
    }

    #[test]
    fn a_panic_becomes_a_status_with_its_text() {
        let (status, text) = run(64, || panic!("token {}", 7));
        assert_eq!((status, text.as_str()), (Status::PANIC, "the backend panicked: token 7"));
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let (status, text) = run(4, || Err(Failure::input("aéé€")));
        assert_eq!((status, text.as_str()), (Status::BAD_INPUT, "aé"));
    }

    #[test]
    fn success_leaves_the_message_empty() {
        assert_eq!(run(8, || Ok(())), (Status::OK, String::new()));
    }
}
