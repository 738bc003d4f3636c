//! Room for packed operands, kept between products.

use std::cell::RefCell;

thread_local! {
    /// Buffers that are not in use on this thread.
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Lends `work` a buffer of this many words, its content left over from earlier, at the beginning of a cache line.
///
/// A buffer stays with its thread, so that its pages are touched for the first time once. While `work` waits for other
/// threads its own may run another product: that one takes another buffer.
pub(crate) fn with_buffer<R>(words: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let room = words + LINE / size_of::<f32>();
    let mut buffer = FREE.with_borrow_mut(|free| take(free, room));
    if buffer.len() < room {
        buffer = vec![0.0; room];
    }
    let start = buffer.as_ptr().align_offset(LINE).min(room - words);
    let result = work(&mut buffer[start..][..words]);
    FREE.with_borrow_mut(|free| free.push(buffer));
    result
}

/// The smallest that is large enough, else the largest, to be replaced.
fn take(free: &mut Vec<Vec<f32>>, room: usize) -> Vec<f32> {
    let fits = |v: &Vec<f32>| v.len() >= room;
    let best = (0..free.len()).min_by_key(|&i| {
        let len = free[i].len();
        if fits(&free[i]) { (0, len) } else { (1, usize::MAX - len) }
    });
    best.map_or_else(Vec::new, |i| free.swap_remove(i))
}
