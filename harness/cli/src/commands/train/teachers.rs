//! `[distill]`: teachers found, opened, or read from what they said before.

use std::path::Path;

use anyhow::Context;
use bheval_corpus::Corpus;
use bheval_data::tokenizer::Tokenizer;
use bheval_eval::model_digest;
use bheval_host::{Library, Model};
use bheval_train::distill::cache::{Maker, Text, cache_bytes, make};
use bheval_train::distill::{
    Cache, CacheKind, DistillPlan, Distiller, Error, Event, Key, Lectern, TeacherFiles, size,
};
use bheval_train::plan::{Identity, Offset, Plan};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::model_args;
use crate::args::{ModelArgs, TrainArgs};
use crate::backend::{cores, find, options};
use crate::console::tell;
use crate::progress::target;

/// Folder of the teachers' cache in a run's.
const FOLDER: &str = "teachers";

/// The teachers of a plan: their files are known, and nothing is opened.
pub(super) struct Teachers {
    plan: DistillPlan,
    args: Vec<ModelArgs>,
    libraries: Vec<Library>,
    files: Vec<TeacherFiles>,
    quiet: bool,
}

impl Teachers {
    /// The teachers that a plan names, if it does. `place` is where `[distill]` was typed.
    pub(super) fn find(args: &TrainArgs, plan: &Plan, place: &str) -> anyhow::Result<Option<Self>> {
        let Some(table) = &plan.distill else { return Ok(None) };
        let distill = DistillPlan::read(table).with_context(|| place.to_owned())?;
        let threads = args.threads.or(plan.train.threads).unwrap_or_else(cores);
        let mut teachers =
            Self { args: vec![], libraries: vec![], files: vec![], quiet: args.quiet, plan: distill };
        for path in teachers.plan.teachers.clone() {
            let args = model_args(&path, &teachers.plan.backend, threads);
            let library = find(&args).with_context(|| format!("teacher {}", path.display()))?;
            let options = options(&args, &library)?;
            teachers.files.push(TeacherFiles {
                sha256: model_digest(&library, &options.path)?,
                backend: library.name().to_owned(),
                tokenizer: Tokenizer::load(&path)?,
                path,
            });
            teachers.args.push(args);
            teachers.libraries.push(library);
        }
        Ok(Some(teachers))
    }

    /// Adds to a run's identity what decides the weights: the teachers' digests in place of their paths, and defaults.
    pub(super) fn identify(&self, identity: Identity) -> Identity {
        let mut value = serde_json::to_value(&self.plan).unwrap_or_default();
        value["teachers"] = json!(self.files.iter().map(|files| &files.sha256).collect::<Vec<_>>());
        value["cache_dir"] = json!(null);
        identity.with("distill", &value)
    }

    /// Opens the teachers, or what they said before; asks them about the whole text first where that is to be kept.
    pub(super) fn distiller(
        &self,
        plan: &Plan,
        (corpus, tokenizer): (&Corpus, &Tokenizer),
        run: &Path,
        stop: &dyn Fn() -> bool,
    ) -> anyhow::Result<Distiller> {
        let lectern = lectern(plan, tokenizer);
        if self.plan.cache == CacheKind::None {
            return Ok(Distiller::live(self.plan.clone(), &self.files, self.models()?, lectern)?);
        }
        let text = text(plan, corpus);
        let key = Key::new(&self.plan, &self.files, &text, lectern.vocab)?;
        let folder = self.plan.cache_dir.clone().unwrap_or_else(|| run.join(FOLDER));
        let cache = match Cache::find(&folder, &key)? {
            Some(cache) => {
                self.say(&format!("teachers' cache {} ({})", cache.path().display(), size(cache.size())));
                cache
            }
            None => self.make(&folder, &key, (text, lectern), stop)?,
        };
        Ok(Distiller::cached(self.plan.clone(), cache))
    }

    /// Bytes of the cache that a run would make, or find; none where teachers are asked as training goes on.
    pub(super) fn cache_bytes(
        &self,
        plan: &Plan,
        (corpus, tokenizer): (&Corpus, &Tokenizer),
    ) -> anyhow::Result<Option<u64>> {
        let lectern = lectern(plan, tokenizer);
        if self.plan.cache == CacheKind::None {
            return Ok(None);
        }
        let key = Key::new(&self.plan, &self.files, &text(plan, corpus), lectern.vocab)?;
        Ok(Some(cache_bytes(&key, self.models()?, (&self.plan, &self.files), lectern)?))
    }

    fn make(
        &self,
        folder: &Path,
        key: &Key,
        (text, lectern): (Text<'_>, Lectern<'_>),
        stop: &dyn Fn() -> bool,
    ) -> anyhow::Result<Cache> {
        let bar = ProgressBar::with_draw_target(None, target(self.quiet));
        let template = "{bar:30} teachers asked about {human_pos}/{human_len} windows, {eta} left";
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        let mut tell = |event: Event<'_>| match event {
            Event::Size { path, bytes, free, done, windows } => {
                let room = free.map_or(String::new(), |free| format!(", {} are free", size(free)));
                self.say(&format!(
                    "teachers' cache {}: {} for {windows} windows{room}",
                    path.display(),
                    size(bytes)
                ));
                bar.set_length(windows);
                bar.set_position(done);
                bar.reset_eta();
            }
            Event::Done { done, .. } => bar.set_position(done),
        };
        let maker = Maker { plan: &self.plan, files: &self.files, text, lectern, tell: &mut tell, stop };
        let made = make(folder, key, self.models()?, maker);
        bar.finish_and_clear();
        Ok(made?)
    }

    fn models(&self) -> anyhow::Result<Vec<Model>> {
        let open = |(args, library): (&ModelArgs, &Library)| {
            let model = options(args, library).and_then(|options| Ok(Model::open(library, &options)?));
            model.with_context(|| format!("teacher {}", args.model.display()))
        };
        self.args.iter().zip(&self.libraries).map(open).collect()
    }

    fn say(&self, text: &str) {
        if !self.quiet {
            tell(text);
        }
    }
}

fn lectern<'a>(plan: &Plan, tokenizer: &'a Tokenizer) -> Lectern<'a> {
    Lectern { tokenizer, vocab: plan.vocab() as usize, steps: plan.data.sequence_length }
}

/// What teachers are asked about.
fn text<'a>(plan: &Plan, corpus: &'a Corpus) -> Text<'a> {
    let fixed = plan.data.offset == Offset::None;
    Text { split: corpus.train(), sha256: corpus.sha256(), steps: plan.data.sequence_length, fixed }
}

/// Whether making the cache was interrupted, with what was made kept.
pub(super) fn was_interrupted(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<Error>(), Some(Error::Interrupted { .. }))
}
