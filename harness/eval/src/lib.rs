//! From a plan to a report: what is asked is cut into token sequences, scored once each, stored as it comes, judged and
//! summed up. Nothing here prints.

mod ask;
mod batch;
mod causal;
mod cutter;
mod error;
mod fingerprint;
pub mod inspect;
mod masked;
mod outcome;
mod plan;
mod questions;
mod report;
mod runner;
mod store;
mod summary;
pub mod surprisal;

pub use ask::{Ask, Requests};
pub use batch::{BatchSize, Order, score_all};
pub use cutter::{AnyCut, Cutter, reading};
pub use error::{Difference, Error};
pub use fingerprint::{digest as model_digest, model_sha256};
pub use outcome::ItemOutcome;
pub use plan::{BUILD, Identity, Plan, Planned, Request as PlanRequest, TaskPlan};
pub use questions::Questions;
pub use report::{items_csv, results_json};
pub use runner::{Ended, Finished, Progress, Session, run};
pub use store::{Record, Store};
pub use summary::{Average, MetricSummary, SubsetSummary, Summary, TaskSummary, summarise};
