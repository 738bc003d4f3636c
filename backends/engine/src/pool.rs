//! Buffers that are used again: a training step asks for the same sizes as the one before, and fresh pages cost a third of
//! a step (rust-stack.md 1).

use std::collections::BTreeMap;

/// Buffers that nobody uses at the moment, by length.
#[derive(Debug, Default)]
pub struct Pool {
    free: BTreeMap<usize, Vec<Vec<f32>>>,
    bytes: usize,
}

impl Pool {
    /// A buffer of `len` values, whatever they are: the caller writes all of them. In debug builds they are NaN.
    #[must_use]
    pub fn take(&mut self, len: usize) -> Vec<f32> {
        let mut buffer = self.free.get_mut(&len).and_then(Vec::pop).unwrap_or_else(|| {
            self.bytes += len * size_of::<f32>();
            vec![0.0; len]
        });
        if cfg!(debug_assertions) {
            buffer.fill(f32::NAN);
        }
        buffer
    }

    /// A buffer of zeros.
    #[must_use]
    pub fn zeros(&mut self, len: usize) -> Vec<f32> {
        let mut buffer = self.take(len);
        buffer.fill(0.0);
        buffer
    }

    /// Takes a buffer back.
    pub fn give(&mut self, buffer: Vec<f32>) {
        if !buffer.is_empty() {
            self.free.entry(buffer.len()).or_default().push(buffer);
        }
    }

    /// Bytes of all buffers that were ever made and not dropped by [`Pool::clear`].
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives unused buffers back to the system: another batch shape follows.
    pub fn clear(&mut self) {
        let free: usize = self.free.iter().map(|(len, buffers)| len * buffers.len()).sum();
        self.bytes -= free * size_of::<f32>();
        self.free.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back() {
        let mut pool = Pool::default();
        let buffer = pool.take(8);
        let place = buffer.as_ptr();
        pool.give(buffer);
        let again = pool.zeros(8);
        assert_eq!(again.as_ptr(), place);
        assert_eq!((pool.take(4).len(), pool.bytes()), (4, 48));
    }
}
