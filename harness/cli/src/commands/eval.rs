//! `bheval eval`: score tasks.

use std::path::PathBuf;
use std::time::Instant;

use bheval_eval::{BatchSize, Ended, Finished, Plan, PlanRequest, Planned, Session, Store, run as run_plan};
use bheval_host::Route;
use bheval_tasks::select;

use crate::args::{BatchArg, EvalArgs, RouteArg};
use crate::backend::{find, options, tokenizer_folder};
use crate::commands::data;
use crate::console::{Outcome, answer, complain, grouped, is_closed_pipe, tell, warn, warn_of_deaths};
use crate::progress::Bar;
use crate::table::report;

pub(crate) fn run(args: &EvalArgs) -> anyhow::Result<Outcome> {
    let start = Instant::now();
    let mut planned = plan(args)?;
    let folder =
        args.run_dir.clone().unwrap_or_else(|| PathBuf::from("runs").join(planned.plan.folder_name()));
    let mut store = Store::open(&folder, &planned.plan, args.fresh)?;
    warn_of_plan(&planned.plan, &store);
    let size = match args.batch_size {
        BatchArg::Auto => BatchSize::Auto,
        BatchArg::Sentences(n) => BatchSize::Requests(n),
    };
    let finished = {
        let bar = Bar::new(args.quiet);
        run_plan(&mut planned, &mut store, size, &mut |progress| bar.show(progress))
    };
    match finished {
        Ok(finished) => present(args, &store, &finished, start),
        Err(ended) => Ok(broken_off(&ended)),
    }
}

/// Says what ended a run, after what went wrong before.
fn broken_off(ended: &Ended) -> Outcome {
    warn_of_crashes(&ended.crashes, ended.session.crashes);
    ended.failures.iter().for_each(|f| complain(f));
    complain(&ended.error.to_string());
    Outcome::Failed
}

fn plan(args: &EvalArgs) -> anyhow::Result<Planned> {
    let tasks = select(&args.tasks)?;
    let library = find(&args.model)?;
    let folders = data::open(&args.folders)?;
    data::ensure(&tasks, &folders)?;
    Ok(Planned::resolve(PlanRequest {
        library: &library,
        options: options(&args.model, &library)?,
        tokenizer: tokenizer_folder(&args.model),
        tasks,
        limit: args.limit.map(|l| l as usize),
        protocol: args.protocol,
        pll: args.pll,
        route: match args.route {
            RouteArg::Forest => Route::Forest,
            RouteArg::Flat => Route::Flat,
        },
        folders: &folders,
    })?)
}

fn warn_of_plan(plan: &Plan, store: &Store) {
    if !plan.first_token_scored {
        warn(&format!(
            "under {} nothing stands before a sentence, so its first token is not scored (`bheval inspect` shows it)",
            plan.identity.protocol
        ));
    }
    if !store.locked() {
        warn("this file system has no locks: see to it that no other bheval works in the same run's folder");
    }
    if store.dropped() > 0 {
        warn(&format!("{} damaged or torn records were dropped and are scored again", store.dropped()));
    }
}

fn present(args: &EvalArgs, store: &Store, finished: &Finished, start: Instant) -> anyhow::Result<Outcome> {
    let text =
        if args.json { finished.results.clone() } else { report(store.plan(), &finished.summary, args.full) };
    let shown = answer(&text);
    if !args.quiet {
        tell(&tokens(&finished.session));
        tell(&format!(
            "results in {} after {:.1} s",
            store.folder().display(),
            start.elapsed().as_secs_f64()
        ));
    }
    warn_of_ties(finished);
    warn_of_limit(finished);
    warn_of_crashes(&finished.crashes, finished.session.crashes);
    let outcome = report_failures(finished);
    match shown {
        Err(error) if !is_closed_pipe(&error) => {
            complain(&format!(
                "the report could not be written to stdout ({error}); it lies in {}",
                store.folder().display()
            ));
            Ok(Outcome::Failed)
        }
        _ => Ok(outcome),
    }
}

fn report_failures(finished: &Finished) -> Outcome {
    let failed = finished.summary.failed();
    if failed == 0 {
        return Outcome::Done;
    }
    finished.failures.iter().for_each(|f| complain(f));
    complain(&format!(
        "{failed} items have no score, so neither have the subsets and tasks they belong to; the others are as printed. \
         The same command tries those items again"
    ));
    Outcome::Failed
}

fn warn_of_limit(finished: &Finished) {
    for task in finished.summary.tasks.iter().filter(|t| t.limit.is_some()) {
        let (name, asked, of) = (task.info.name, task.items, task.available);
        warn(&format!("{name}: {asked} of {of} items were asked (--limit): this is no score of the whole"));
    }
}

fn warn_of_crashes(said: &[String], deaths: u64) {
    said.iter().for_each(|crash| warn(crash));
    warn_of_deaths(deaths);
}

/// More ties than this share hint at a fault of the model: equal logits, or a number format that is too coarse.
const TIES: f64 = 0.001;

fn warn_of_ties(finished: &Finished) {
    for task in &finished.summary.tasks {
        for average in &task.averages {
            let share = average.ties as f64 / average.comparisons.max(1) as f64;
            if share > TIES {
                warn(&format!(
                    "{}, {}: {} of {} comparisons are ties ({:.1}%); equal scores often mean a broken model, unknown \
                     tokens, or a number format that is too coarse",
                    task.info.name,
                    average.label,
                    average.ties,
                    average.comparisons,
                    100.0 * share
                ));
            }
        }
    }
}

fn tokens(session: &Session) -> String {
    let Session { requests, found, tokens_scored, tokens_flat, tokens_fed, seconds_scoring, .. } = session;
    if found == requests {
        return format!("all {} sentences were found scored in the run's folder", grouped(*requests as u64));
    }
    let saved = 100.0 * (1.0 - *tokens_fed as f64 / (*tokens_flat).max(1) as f64);
    let resumed = if *found > 0 {
        format!(" ({} sentences were found scored)", grouped(*found as u64))
    } else {
        String::new()
    };
    format!(
        "{} tokens scored; {} fed where {} would be without sharing: {saved:.1}% saved; {seconds_scoring:.1} s in the backend{resumed}",
        grouped(*tokens_scored),
        grouped(*tokens_fed),
        grouped(*tokens_flat)
    )
}
