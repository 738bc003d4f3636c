//! .
pub mod kernels;
#[cfg(test)]
mod test_numbers;
