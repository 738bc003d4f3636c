//! The run: skip what is stored, score the rest, store it batch by batch, then judge and publish.

use std::time::{Duration, Instant};

use bheval_tasks::{Loaded, Selected};
use serde::Serialize;

use crate::batch::{BatchSize, Crash, Order, answer, batches};
use crate::outcome::outcomes;
use crate::store::{Record, Store, request_key};
use crate::{Error, ItemOutcome, Planned, Questions, Summary, items_csv, results_json, summarise};

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Requests that were answered, stored ones and failed ones included.
    pub done: usize,
    /// All of them.
    pub total: usize,
}

/// What this process did for a run. Times and counts that may differ from one run to the next live here and in
/// `sessions.jsonl`, never in the results.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Session {
    /// Distinct requests of the run.
    pub requests: usize,
    /// Those that were found in the store.
    pub found: usize,
    /// Damaged or torn records that were scored again.
    pub dropped: usize,
    /// Tokens that got a score here.
    pub tokens_scored: u64,
    /// What an evaluation that shares nothing feeds for them: every token of each sequence but its last.
    pub tokens_flat: u64,
    /// Tokens that were run through the network here.
    pub tokens_fed: u64,
    /// Seconds spent in the backend.
    pub seconds_scoring: f64,
    /// Worker processes of an isolated backend that died here.
    pub crashes: u64,
}

/// A finished run.
#[derive(Debug)]
pub struct Finished {
    /// The numbers.
    pub summary: Summary,
    /// For each task, its items' outcomes.
    pub outcomes: Vec<Vec<ItemOutcome>>,
    /// `results.json` as it was written.
    pub results: String,
    /// What this process did.
    pub session: Session,
    /// Failures, one sentence each, at most a few.
    pub failures: Vec<String>,
    /// Deaths of worker processes and what they held, one sentence each, at most a few.
    pub crashes: Vec<String>,
}

/// What went wrong on the way, in words.
#[derive(Default)]
struct Reported {
    failures: Vec<String>,
    crashes: Vec<String>,
}

/// Failures that are kept word for word; more are counted only.
const FAILURES_SHOWN: usize = 10;
/// Items that are named of those that a worker held when it died.
const HELD_SHOWN: usize = 3;

/// Runs a plan, from where its store stands to the published results.
///
/// # Errors
/// A failure that ends the run. What was scored before it is kept, and the same command goes on from there.
pub fn run(
    planned: &mut Planned,
    store: &mut Store,
    size: BatchSize,
    progress: &mut dyn FnMut(Progress),
) -> Result<Finished, Error> {
    let keys: Vec<String> =
        planned.questions.requests.iter().map(|r| request_key(&planned.plan.key, r)).collect();
    let mut session = Session { requests: keys.len(), dropped: store.dropped(), ..Session::default() };
    let before = planned.model.crashes();
    let reported = score_pending(planned, store, &keys, size, &mut session, progress)?;
    session.crashes = planned.model.crashes() - before;
    store.sync()?;
    publish(planned, store, &keys, session, reported)
}

fn score_pending(
    planned: &mut Planned,
    store: &mut Store,
    keys: &[String],
    size: BatchSize,
    session: &mut Session,
    progress: &mut dyn FnMut(Progress),
) -> Result<Reported, Error> {
    let pending: Vec<usize> = (0..keys.len()).filter(|&i| store.get(&keys[i]).is_none()).collect();
    session.found = keys.len() - pending.len();
    if session.found > 0 {
        planned.model.trust();
    }
    let mut done = session.found;
    let unscorable = planned.questions.unscorable.iter().take(FAILURES_SHOWN);
    let mut reported = Reported { failures: unscorable.cloned().collect(), crashes: Vec::new() };
    progress(Progress { done, total: keys.len() });
    let requests = &planned.questions.requests;
    for batch in batches(requests, pending, Order::Sorted, size, planned.model.info().nodes) {
        let start = Instant::now();
        let answered = answer(&mut planned.model, requests, &batch, planned.route);
        count(session, start.elapsed(), answered.fed);
        if let Some(crash) = answered.crash.filter(|_| reported.crashes.len() < FAILURES_SHOWN) {
            reported.crashes.push(held(&planned.tasks, &planned.questions, &crash));
        }
        let mut records: Vec<(String, Record)> = Vec::with_capacity(batch.len());
        for (index, record) in answered.records {
            match record {
                Ok(record) => {
                    session.tokens_scored += u64::from(record.tokens);
                    session.tokens_flat += requests[index].ids.len() as u64 - 1;
                    records.push((keys[index].clone(), record));
                }
                Err(error) if reported.failures.len() < FAILURES_SHOWN => {
                    let name = item_name(&planned.tasks, &planned.questions, index);
                    reported.failures.push(format!("{name}: {error}"));
                }
                Err(_) => {}
            }
        }
        store.append(&records)?;
        if let Some(error) = answered.ended {
            return Err(error.into());
        }
        done += batch.len();
        progress(Progress { done, total: keys.len() });
    }
    Ok(reported)
}

/// A worker's death with the first of the items whose sentences it held.
fn held(tasks: &[(Selected, Loaded)], questions: &Questions, crash: &Crash) -> String {
    let mut names: Vec<String> = Vec::new();
    for name in crash.requests.iter().map(|&request| item_name(tasks, questions, request)) {
        if names.contains(&name) {
            continue;
        }
        if names.len() == HELD_SHOWN {
            names.push("others".to_owned());
            break;
        }
        names.push(name);
    }
    let count = crash.requests.len();
    let noun = if count == 1 { "sentence" } else { "sentences" };
    format!("{}; it held {count} {noun}, of {}", crash.error, names.join(", "))
}

/// Id of the first item that needs a request.
fn item_name(tasks: &[(Selected, Loaded)], questions: &Questions, request: usize) -> String {
    let item = questions.item_of(request).and_then(|(task, item)| tasks[task].1.items.get(item));
    item.map_or_else(|| format!("request {request}"), |item| item.id.clone())
}

fn count(session: &mut Session, took: Duration, fed: u64) {
    session.seconds_scoring += took.as_secs_f64();
    session.tokens_fed += fed;
}

/// Judges, sums up and writes the files; `results.json` last: where it is, the run is complete.
fn publish(
    planned: &Planned,
    store: &Store,
    keys: &[String],
    session: Session,
    Reported { failures, crashes }: Reported,
) -> Result<Finished, Error> {
    let mut all = Vec::new();
    let mut tasks = Vec::new();
    for ((selected, task), indices) in planned.tasks.iter().zip(&planned.questions.of_items) {
        let outcomes = judged(planned, store, keys, task, indices);
        store.publish(&format!("items/{}.csv", selected.task.info().name), &items_csv(task, &outcomes)?)?;
        tasks.push(summarise(selected, task, &outcomes, planned.limit));
        all.push(outcomes);
    }
    let summary = Summary { tasks };
    let results = results_json(store.plan(), &summary);
    let line = serde_json::to_string(&session).expect("a session is plain data and always JSON");
    store.log("sessions.jsonl", &line)?;
    store.publish("results.json", results.as_bytes())?;
    Ok(Finished { summary, outcomes: all, results, session, failures, crashes })
}

fn judged(
    planned: &Planned,
    store: &Store,
    keys: &[String],
    task: &Loaded,
    indices: &[Vec<Option<u32>>],
) -> Vec<ItemOutcome> {
    outcomes(task, planned.protocol.ties(), |item, query| store.get(&keys[indices[item][query]? as usize]))
}
