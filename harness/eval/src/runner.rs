//! The run: skip what is stored, score the rest, store it batch by batch, then judge and publish.

use std::path::Path;
use std::time::{Duration, Instant};

use bheval_host::{Model, Route};
use bheval_tasks::{Loaded, Selected};
use serde::Serialize;

use crate::ask::{Ask, Requests};
use crate::batch::{BatchSize, Crash, Order, answer, batches};
use crate::fingerprint::digest;
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
    /// What an evaluation that shares nothing feeds for them: every token of each sequence but its last, or every token
    /// of each masked copy.
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

/// A run that an error ended. What was scored before is kept.
#[derive(Debug)]
pub struct Ended {
    /// The error.
    pub error: Error,
    /// What this process did.
    pub session: Session,
    /// As [`Finished::failures`].
    pub failures: Vec<String>,
    /// As [`Finished::crashes`].
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
/// A failure that ends the run, with what went wrong before it. What was scored is kept, and the same command goes on from
/// there.
pub fn run(
    planned: &mut Planned,
    store: &mut Store,
    size: BatchSize,
    progress: &mut dyn FnMut(Progress),
) -> Result<Finished, Box<Ended>> {
    let keys = match &planned.questions.requests {
        Requests::Causal(requests) => names(&planned.plan.key, requests),
        Requests::Masked(requests) => names(&planned.plan.key, requests),
    };
    let mut session = Session { requests: keys.len(), dropped: store.dropped(), ..Session::default() };
    let before = planned.model.crashes();
    let mut reported = Reported::default();
    let Planned { plan, model, path, tasks, questions, route, .. } = planned;
    let begun_with = plan.identity.model.as_str();
    let route = *route;
    let mut work =
        Work { model, path, begun_with, tasks, questions, route, store, keys: &keys, size, progress };
    let scored = match &questions.requests {
        Requests::Causal(requests) => work.score_pending(requests, &mut session, &mut reported),
        Requests::Masked(requests) => work.score_pending(requests, &mut session, &mut reported),
    };
    session.crashes = planned.model.crashes() - before;
    let stored = scored.and_then(|()| store.sync());
    // A run that ended early was a session, too; what ended it is told before a log that can't be written.
    let logged = log(store, &session);
    let published = stored.and(logged).and_then(|()| publish(planned, store, &keys));
    let Reported { failures, crashes } = reported;
    match published {
        Ok((summary, outcomes, results)) => {
            Ok(Finished { summary, outcomes, results, session, failures, crashes })
        }
        Err(error) => Err(Box::new(Ended { error, session, failures, crashes })),
    }
}

fn log(store: &Store, session: &Session) -> Result<(), Error> {
    let line = serde_json::to_string(session).expect("a session is plain data and always JSON");
    store.log("sessions.jsonl", &line)
}

fn names(run: &str, requests: &[impl Ask]) -> Vec<String> {
    requests.iter().map(|request| request_key(run, request)).collect()
}

/// What scoring needs of a plan and its surroundings.
struct Work<'a> {
    model: &'a mut Model,
    path: &'a Path,
    /// Digest of the files that the run began with.
    begun_with: &'a str,
    tasks: &'a [(Selected, Loaded)],
    questions: &'a Questions,
    route: Route,
    store: &'a mut Store,
    keys: &'a [String],
    size: BatchSize,
    progress: &'a mut dyn FnMut(Progress),
}

impl Work<'_> {
    /// Scores what the store lacks; reports what went wrong, word for word as far as it is kept.
    fn score_pending<A: Ask>(
        &mut self,
        requests: &[A],
        session: &mut Session,
        reported: &mut Reported,
    ) -> Result<(), Error> {
        let total = requests.len();
        let pending: Vec<usize> = (0..total).filter(|&i| self.store.get(&self.keys[i]).is_none()).collect();
        session.found = total - pending.len();
        if session.found > 0 {
            self.model.trust();
        }
        let mut done = session.found;
        let unscorable = self.questions.unscorable.iter().take(FAILURES_SHOWN);
        reported.failures.extend(unscorable.cloned());
        (self.progress)(Progress { done, total });
        for batch in batches(requests, pending, Order::Sorted, self.size, self.model.info().nodes) {
            self.score_batch(requests, &batch, session, reported)?;
            done += batch.len();
            (self.progress)(Progress { done, total });
        }
        Ok(())
    }

    fn score_batch<A: Ask>(
        &mut self,
        requests: &[A],
        batch: &[usize],
        session: &mut Session,
        reported: &mut Reported,
    ) -> Result<(), Error> {
        let (start, reopened) = (Instant::now(), self.model.reopened());
        let answered = answer(self.model, requests, batch, self.route);
        count(session, start.elapsed(), answered.fed);
        if let Some(crash) = answered.crash.filter(|_| reported.crashes.len() < FAILURES_SHOWN) {
            reported.crashes.push(held(self.tasks, self.questions, &crash));
        }
        if self.model.reopened() > reopened {
            self.check_files()?;
        }
        let mut records: Vec<(String, Record)> = Vec::with_capacity(batch.len());
        for (index, record) in answered.records {
            match record {
                Ok(record) => {
                    session.tokens_scored += u64::from(record.tokens);
                    session.tokens_flat += requests[index].alone();
                    records.push((self.keys[index].clone(), record));
                }
                Err(error) if reported.failures.len() < FAILURES_SHOWN => {
                    let name = item_name(self.tasks, self.questions, index);
                    reported.failures.push(format!("{name}: {error}"));
                }
                Err(_) => {}
            }
        }
        self.store.append(&records)?;
        answered.ended.map_or(Ok(()), |error| Err(error.into()))
    }

    /// A model that is opened again reads its files again: none of its scores may stand beside those of other files.
    fn check_files(&self) -> Result<(), Error> {
        if digest(self.model.library(), self.path)? == self.begun_with {
            return Ok(());
        }
        Err(Error::ModelChanged { path: self.path.to_path_buf() })
    }
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

/// What a run comes to: the numbers, each task's outcomes, and `results.json`.
type Published = (Summary, Vec<Vec<ItemOutcome>>, String);

/// Judges, sums up and writes the files; `results.json` last: where it is, the run is complete.
fn publish(planned: &Planned, store: &Store, keys: &[String]) -> Result<Published, Error> {
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
    store.publish("results.json", results.as_bytes())?;
    Ok((summary, all, results))
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
