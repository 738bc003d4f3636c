//! Room for intermediate results, one part a thread, from the pass's own buffers.

use std::sync::{Mutex, PoisonError};

use bheval_kernels::LANES;

/// Room for each thread of the current pool.
pub(super) struct Rooms {
    each: Vec<Mutex<Vec<f32>>>,
}

impl Rooms {
    /// Room of `len` values for each thread, from buffers that `take` gives.
    pub(super) fn new(len: usize, mut take: impl FnMut(usize) -> Vec<f32>) -> Self {
        let one = |_| Mutex::new(take(len + LANES));
        Self { each: (0..rayon::current_num_threads()).map(one).collect() }
    }

    /// Runs `work` in the calling thread's room. `work` must not wait for other tasks, which might ask for it again.
    pub(super) fn with(&self, work: impl FnOnce(Carver<'_>)) {
        let mine = &self.each[rayon::current_thread_index().unwrap_or(0)];
        let mut room = mine.lock().unwrap_or_else(PoisonError::into_inner);
        // A register's load that crosses a cache line costs twice.
        let skip = room.as_ptr().align_offset(LANES * size_of::<f32>()).min(LANES);
        work(Carver { rest: &mut room[skip..] });
    }

    /// The buffers, to be given back.
    pub(super) fn into_buffers(self) -> impl Iterator<Item = Vec<f32>> {
        self.each.into_iter().map(|room| room.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Hands out consecutive parts of a room.
pub(super) struct Carver<'a> {
    rest: &'a mut [f32],
}

impl<'a> Carver<'a> {
    /// The next `len` values, whatever they are.
    pub(super) fn take(&mut self, len: usize) -> &'a mut [f32] {
        let (part, rest) = std::mem::take(&mut self.rest).split_at_mut(len);
        self.rest = rest;
        part
    }
}
