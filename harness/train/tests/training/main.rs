//! The loop with a learner that can be checked by hand, on a corpus that is written here.

mod bigram;
mod faults;
mod kit;
mod learning;
mod plans;
mod resume;
