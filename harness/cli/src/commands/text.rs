//! From what was typed about texts to domains and files.

use bheval_corpus::plan::{self, Planned};
use bheval_corpus::sources::{Reading, Source, folder, named};

use crate::args::TextArgs;

/// How files are read, where the plan says nothing else.
pub(crate) fn reading(args: &TextArgs) -> Reading {
    Reading { field: args.field.clone(), label_field: args.label_field.clone(), cut: args.cut }
}

/// All files that were named, not yet checked, and the shares of a plan.
pub(crate) fn read(args: &TextArgs) -> anyhow::Result<Planned> {
    let reading = reading(args);
    let mut planned = match &args.plan {
        Some(path) => plan::read(path, &reading)?,
        None => Planned::default(),
    };
    let sources = &mut planned.sources;
    for path in &args.from {
        sources.train.extend(folder(path, args.split.as_deref(), &reading)?);
    }
    for typed in &args.domain {
        sources.train.extend(named(typed, &reading)?);
    }
    Ok(planned)
}

/// Bytes of all files, where they can be told.
pub(crate) fn stored_bytes(sources: &[Source]) -> Option<u64> {
    sources.iter().map(|s| std::fs::metadata(&s.file.path).ok().map(|m| m.len())).sum()
}
