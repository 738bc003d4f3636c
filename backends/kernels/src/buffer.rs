//! Room for packed operands, kept between products.

use std::cell::RefCell;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Memory that begins at a cache line. It grows and never shrinks.
#[derive(Default, Debug)]
pub(crate) struct Buffer {
    memory: Vec<f32>,
    len: usize,
}

impl Buffer {
    /// This many words, their content left over from earlier.
    pub(crate) fn slice(&mut self, words: usize) -> &mut [f32] {
        if self.room() < words {
            self.memory = vec![0.0; words + Self::SLACK];
        }
        self.len = words;
        let start = self.start();
        &mut self.memory[start..][..words]
    }

    /// The words of the last [`Buffer::slice`].
    pub(crate) fn get(&self) -> &[f32] {
        &self.memory[self.start()..][..self.len]
    }

    /// Elements that go into finding the beginning of a line.
    const SLACK: usize = LINE / size_of::<f32>();

    fn room(&self) -> usize {
        self.memory.len().saturating_sub(Self::SLACK)
    }

    fn start(&self) -> usize {
        self.memory.as_ptr().align_offset(LINE).min(self.memory.len() - self.room())
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        // Other memory begins elsewhere in a line.
        let mut buffer = Buffer::default();
        buffer.slice(self.len).copy_from_slice(self.get());
        buffer
    }
}

thread_local! {
    /// Buffers that are not in use on this thread.
    static FREE: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
}

/// Lends `work` a buffer of this many words, their content left over from earlier.
///
/// A buffer stays with its thread, so that its pages are touched for the first time once. While `work` waits for other
/// threads its own may run another product: that one takes another buffer.
pub(crate) fn with_buffer<R>(words: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = FREE.with_borrow_mut(|free| take(free, words));
    let result = work(buffer.slice(words));
    FREE.with_borrow_mut(|free| free.push(buffer));
    result
}

/// The smallest that is large enough, else the largest, to be replaced.
fn take(free: &mut Vec<Buffer>, words: usize) -> Buffer {
    let key = |b: &Buffer| if b.room() >= words { (0, b.room()) } else { (1, usize::MAX - b.room()) };
    let best = (0..free.len()).min_by_key(|&i| key(&free[i]));
    best.map_or_else(Buffer::default, |i| free.swap_remove(i))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_begin_at_a_line_and_are_used_again() {
        let first = with_buffer(100, |outer| {
            assert_eq!((outer.len(), outer.as_ptr().align_offset(LINE)), (100, 0));
            // A product inside another one must not get the same memory.
            let inner = with_buffer(50, |inner| (inner.as_ptr(), inner.len()));
            assert!(inner.1 == 50 && !outer.as_ptr_range().contains(&inner.0));
            outer.as_ptr()
        });
        assert_eq!(with_buffer(90, |again| again.as_ptr()), first);
        with_buffer(0, |none| assert!(none.is_empty()));
    }

    #[test]
    fn a_clone_holds_the_same_words() {
        let mut buffer = Buffer::default();
        assert!(buffer.get().is_empty());
        buffer.slice(40).iter_mut().zip(0u8..).for_each(|(x, i)| *x = i.into());
        assert_eq!(buffer.clone().get(), buffer.get());
        buffer.slice(10);
        assert_eq!(buffer.get(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
    }
}
