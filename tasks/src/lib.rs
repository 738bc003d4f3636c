//! What is asked, and how the answers are judged. A task knows its data and its comparisons; it never sees a model, a
//! tokenizer or a protocol.

mod blimp;
mod choice;
pub mod demo;
mod demo_task;
mod error;
mod ewok;
mod pairs;
mod selection;
mod task;

pub use choice::{Comparison, Judgement, judge};
pub use error::Error;
pub use selection::{Selected, all, groups, select};
pub use task::{Info, Item, Loaded, Metric, Subset, Task};
