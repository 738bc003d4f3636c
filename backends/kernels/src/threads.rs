//! A pool of threads that have ended when it is dropped. Rayon's own only tells its threads to end, and a library may be
//! unloaded right after a model was closed: a thread that still runs then runs code that is gone.

use std::io;
use std::thread::JoinHandle;

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// A pool of exactly so many threads.
#[derive(Debug)]
pub struct Threads {
    /// `None` only while it is dropped.
    pool: Option<ThreadPool>,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Starts the threads.
    ///
    /// # Errors
    /// If the system refuses one of them.
    pub fn new(count: usize) -> Result<Self, ThreadPoolBuildError> {
        let mut handles = Vec::with_capacity(count);
        let spawn = |thread: rayon::ThreadBuilder| -> io::Result<()> {
            handles.push(std::thread::Builder::new().spawn(|| thread.run())?);
            Ok(())
        };
        let pool = ThreadPoolBuilder::new().num_threads(count).spawn_handler(spawn).build()?;
        Ok(Self { pool: Some(pool), handles })
    }

    /// Runs `work` in the pool, and waits for it.
    ///
    /// # Panics
    /// If `work` does.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool().install(work)
    }

    /// Number of threads.
    #[must_use]
    pub fn count(&self) -> usize {
        self.pool().current_num_threads()
    }

    fn pool(&self) -> &ThreadPool {
        self.pool.as_ref().expect("the pool is there until it is dropped")
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        drop(self.pool.take());
        for handle in self.handles.drain(..) {
            // A thread that panicked has ended, too; its panic was passed on when its work was waited for.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Counts the threads that hold it, and those that have let go of it.
    struct Held(Arc<AtomicUsize>);

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    thread_local! {
        static HELD: std::cell::RefCell<Option<Held>> = const { std::cell::RefCell::new(None) };
    }

    #[test]
    fn every_thread_has_ended_after_the_drop() {
        for count in [1, 2, 7] {
            let ended = Arc::new(AtomicUsize::new(0));
            let threads = Threads::new(count).expect("threads start");
            assert_eq!(threads.count(), count);
            threads.install(|| {
                rayon::broadcast(|_| HELD.with(|held| held.replace(Some(Held(Arc::clone(&ended))))));
            });
            assert_eq!(ended.load(Ordering::SeqCst), 0);
            drop(threads);
            assert_eq!(ended.load(Ordering::SeqCst), count);
        }
    }
}
