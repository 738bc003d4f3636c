//! How many words each domain is to give.

mod preset;
mod spelling;

use std::collections::BTreeMap;

use crate::Error;
use crate::sources::listed;

pub use preset::{PRESETS, Part, Preset};
pub use spelling::words;

/// What a domain is to give.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Share {
    /// All that it has.
    All,
    /// What the others leave of the words asked for.
    Rest,
    /// This many words.
    Words(u64),
    /// This part of the words asked for.
    Part(f64),
}

/// The words of a domain, decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// All that it has.
    All,
    /// At most this many.
    Words(u64),
}

/// How words are divided among domains.
#[derive(Clone, Debug, PartialEq)]
pub enum Mixture {
    /// As they are: all, or in proportion to what each has.
    Natural,
    /// Each domain by its name; `*` stands for those not named.
    Shares(Vec<(String, Share)>),
    /// Published shares of sources that domains stand for.
    Preset(&'static Preset),
}

/// What was asked for, beside the mixture itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Words in all.
    pub words: Option<u64>,
    /// Whether shares that do not add up to 1, or of which a part is missing, are scaled.
    pub renormalise: bool,
    /// Domains that stand for parts of a preset, by the part's name, where the names of the domains do not tell.
    pub map: BTreeMap<String, Vec<String>>,
}

/// What each domain is to give, and whether shares were scaled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budgets {
    /// For each domain; `None` where it gives nothing.
    pub of: Vec<Option<Budget>>,
    /// Whether shares were scaled.
    pub renormalised: bool,
}

impl Mixture {
    /// Divides the words asked for among domains, given with the words that each has.
    ///
    /// # Errors
    /// Shares that do not fit the domains or do not add up.
    pub fn budgets(&self, domains: &[(String, u64)], asked: &Asked) -> Result<Budgets, Error> {
        match self {
            Self::Natural => natural(domains, asked.words),
            Self::Shares(shares) => by_shares(shares, domains, asked),
            Self::Preset(preset) => by_preset(preset, domains, asked),
        }
    }

    /// Its name, for the record.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Natural => "natural".into(),
            Self::Preset(preset) => preset.name.into(),
            Self::Shares(shares) => {
                let one = |(name, share): &(String, Share)| format!("{name}={share}");
                shares.iter().map(one).collect::<Vec<_>>().join(",")
            }
        }
    }
}

fn natural(domains: &[(String, u64)], words: Option<u64>) -> Result<Budgets, Error> {
    let weights: Vec<_> = domains.iter().map(|(_, words)| *words as f64).collect();
    let of = match words {
        None => vec![Some(Budget::All); domains.len()],
        Some(words) => divide(words, &weights).into_iter().map(budget).collect(),
    };
    Ok(Budgets { of, renormalised: false })
}

fn budget(words: u64) -> Option<Budget> {
    (words > 0).then_some(Budget::Words(words))
}

/// Divides a number in proportion to weights: each rounded down, and what is left to the largest remainders.
fn divide(words: u64, weights: &[f64]) -> Vec<u64> {
    let total: f64 = weights.iter().sum();
    if total <= 0.0 {
        return vec![0; weights.len()];
    }
    let exact: Vec<_> = weights.iter().map(|w| words as f64 * w / total).collect();
    let mut parts: Vec<_> = exact.iter().map(|e| e.floor() as u64).collect();
    let mut order: Vec<_> = (0..weights.len()).collect();
    order.sort_by(|a, b| (exact[*b] - exact[*b].floor()).total_cmp(&(exact[*a] - exact[*a].floor())));
    let left = words.saturating_sub(parts.iter().sum());
    order.into_iter().take(left as usize).for_each(|i| parts[i] += 1);
    parts
}

fn needs_words(asked: &Asked, why: &str) -> Result<u64, Error> {
    asked.words.ok_or_else(|| Error::plan(format!("{why} a number of words in all: give --words, as 10M")))
}

fn by_shares(shares: &[(String, Share)], domains: &[(String, u64)], asked: &Asked) -> Result<Budgets, Error> {
    let mut of = assigned(shares, domains)?;
    let parts: f64 = of.iter().map(|share| if let Share::Part(part) = share { *part } else { 0.0 }).sum();
    let only_parts = of.iter().all(|share| matches!(share, Share::Part(_)));
    let off = only_parts && (parts - 1.0).abs() > 1e-6;
    if off && !asked.renormalise {
        return Err(Error::plan(format!(
            "the shares add up to {parts}, not to 1; correct them, or have them scaled with --renormalize"
        )));
    }
    if off {
        if parts <= 0.0 {
            return Err(Error::plan("every share is 0: nothing would be left"));
        }
        of.iter_mut().for_each(|share| scale(share, 1.0 / parts));
    }
    let budgets = amounts(&of, domains, asked)?;
    Ok(Budgets { of: budgets, renormalised: off })
}

fn scale(share: &mut Share, factor: f64) {
    if let Share::Part(part) = share {
        *part *= factor;
    }
}

/// The share of every domain; each must be named, or `*` must be.
fn assigned(shares: &[(String, Share)], domains: &[(String, u64)]) -> Result<Vec<Share>, Error> {
    let has = || listed(domains.iter().map(|(name, _)| name));
    if let Some((name, _)) = shares.iter().find(|(n, _)| n != "*" && !domains.iter().any(|(d, _)| d == n)) {
        return Err(Error::plan(format!(
            "the mixture names {name:?}, and there is no such domain; there is: {}",
            has()
        )));
    }
    let share = |(domain, _): &(String, u64)| {
        let named = |name: &str| shares.iter().find(|(n, _)| n == name).map(|(_, share)| *share);
        named(domain).or_else(|| named("*")).ok_or_else(|| {
            Error::plan(format!(
                "the mixture has no share for {domain}; give it one (0 leaves it out), or *=all"
            ))
        })
    };
    domains.iter().map(share).collect()
}

/// From shares to words, which must add up to those asked for.
fn amounts(shares: &[Share], domains: &[(String, u64)], asked: &Asked) -> Result<Vec<Option<Budget>>, Error> {
    let all: u64 =
        shares.iter().zip(domains).map(|(s, (_, has))| if *s == Share::All { *has } else { 0 }).sum();
    let fixed: u64 = shares.iter().map(|s| if let Share::Words(words) = s { *words } else { 0 }).sum();
    let weights: Vec<_> =
        shares.iter().map(|s| if let Share::Part(part) = s { *part } else { 0.0 }).collect();
    let weight: f64 = weights.iter().sum();
    let rests = shares.iter().filter(|share| **share == Share::Rest).count();
    let parts = if weight > 0.0 {
        let words = needs_words(asked, "shares are parts of")?;
        divide((words as f64 * weight).round() as u64, &weights)
    } else {
        vec![0; shares.len()]
    };
    let given = all + fixed + parts.iter().sum::<u64>();
    let left = left(given, rests, asked)?;
    let one = |(share, part): (&Share, u64)| match share {
        Share::All => Some(Budget::All),
        Share::Rest => budget(left),
        Share::Words(words) => budget(*words),
        Share::Part(_) => budget(part),
    };
    Ok(shares.iter().zip(parts).map(one).collect())
}

/// What the one domain that gives the rest has to give.
fn left(given: u64, rests: usize, asked: &Asked) -> Result<u64, Error> {
    match (rests, asked.words) {
        (0, None) => Ok(0),
        (0, Some(words)) if words == given => Ok(0),
        (0, Some(words)) => Err(Error::plan(format!(
            "the mixture gives {given} words and --words asks for {words}; leave --words out, or let one domain give the rest \
             (NAME=rest)"
        ))),
        (1, _) => {
            let words = needs_words(asked, "a rest is what is left of")?;
            words.checked_sub(given).ok_or_else(|| {
                Error::plan(format!("the other domains give {given} words, more than the {words} asked for"))
            })
        }
        _ => Err(Error::plan("only one domain can give the rest")),
    }
}

fn by_preset(preset: &Preset, domains: &[(String, u64)], asked: &Asked) -> Result<Budgets, Error> {
    let words = needs_words(asked, &format!("the mixture {} divides", preset.name))?;
    let part_of = preset_parts(preset, domains, asked)?;
    let missing: Vec<_> = (0..preset.parts.len())
        .filter(|i| !part_of.contains(&Some(*i)))
        .map(|i| preset.parts[i].name)
        .collect();
    if !missing.is_empty() && !asked.renormalise {
        return Err(Error::plan(format!(
            "the mixture {} has parts that no domain stands for: {}; name one with --map \"PART=DOMAIN\", or have the other \
             shares scaled with --renormalize",
            preset.name,
            listed(missing)
        )));
    }
    let unnamed = domains.iter().zip(&part_of).find(|(_, part)| part.is_none());
    if let Some(((name, _), _)) = unnamed {
        return Err(Error::plan(format!(
            "{name} stands for no part of the mixture {}; say which with --map \"PART={name}\", or leave it out with --only",
            preset.name
        )));
    }
    // Domains of one part share its words in proportion to what they have.
    let weight = |(domain, part): (&(String, u64), &Option<usize>)| {
        let Some(part) = *part else { return 0.0 };
        let has: u64 =
            domains.iter().zip(&part_of).filter(|(_, p)| **p == Some(part)).map(|((_, w), _)| w).sum();
        if has == 0 { 0.0 } else { preset.parts[part].words as f64 * domain.1 as f64 / has as f64 }
    };
    let weights: Vec<_> = domains.iter().zip(&part_of).map(weight).collect();
    let of = divide(words, &weights).into_iter().map(budget).collect();
    Ok(Budgets { of, renormalised: !missing.is_empty() })
}

/// Which part of a preset each domain stands for.
fn preset_parts(
    preset: &Preset,
    domains: &[(String, u64)],
    asked: &Asked,
) -> Result<Vec<Option<usize>>, Error> {
    for (part, labels) in &asked.map {
        if !preset.parts.iter().any(|p| p.name == part) {
            let parts = listed(preset.parts.iter().map(|p| p.name));
            return Err(Error::plan(format!("{} has no part {part:?}; it has: {parts}", preset.name)));
        }
        if let Some(label) = labels.iter().find(|l| !domains.iter().any(|(d, _)| d == *l)) {
            let has = listed(domains.iter().map(|(name, _)| name));
            return Err(Error::plan(format!(
                "--map names {label:?}, and there is no such domain; there is: {has}"
            )));
        }
    }
    let rest = preset.parts.iter().position(|p| p.labels.is_empty());
    let find = |(domain, _): &(String, u64)| {
        let mapped = asked.map.iter().find(|(_, labels)| labels.contains(domain)).map(|(part, _)| part);
        let plain: String = domain.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
        let part = |p: &Part| match mapped {
            Some(name) => p.name == name,
            None => !asked.map.contains_key(p.name) && p.labels.iter().any(|label| plain.starts_with(label)),
        };
        preset.parts.iter().position(part).or(rest)
    };
    Ok(domains.iter().map(find).collect())
}
