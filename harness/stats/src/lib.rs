//! Estimates of a score and what surrounds them. Pure functions, no I/O; each names its source.

mod interval;
mod mean;

pub use interval::{Interval, student, wilson};
pub use mean::{
    Stratum, clustered_standard_error, macro_mean, macro_standard_error, mean, micro_mean, standard_error,
};
