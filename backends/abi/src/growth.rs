//! The rule of growth: a struct is led by its size, and nothing beyond that size is touched.

/// Whether the size that leads a struct covers all that this version knows of it. A reference may be made only then:
/// one to a shorter struct would reach beyond it.
///
/// # Safety
/// `ptr` is aligned and points to a struct of this contract, led by its size, and of that size.
pub(crate) unsafe fn is_whole<T>(ptr: *const T) -> bool {
    // SAFETY: each struct but `Text` is led by its size, and the caller vouches for the pointer.
    unsafe { ptr.cast::<usize>().read() >= size_of::<T>() }
}
