//! From what was typed after `--tasks` to tasks and subsets.

use crate::{Error, Subset, Task, blimp, demo_task, ewok};

/// Every task, in the order in which they are listed.
#[must_use]
pub fn all() -> Vec<&'static dyn Task> {
    vec![
        &blimp::FULL,
        &blimp::FILTERED,
        &blimp::FAST,
        &blimp::SUPPLEMENT,
        &blimp::SUPPLEMENT_FAST,
        &ewok::FULL,
        &ewok::FILTERED,
        &ewok::FAST,
        &demo_task::DemoPairs,
        &demo_task::DemoScenes,
    ]
}

/// Names that stand for several tasks.
#[must_use]
pub fn groups() -> [(&'static str, &'static [&'static str]); 3] {
    [
        ("demo", &["demo_pairs", "demo_scenes"]),
        ("babylm", &["blimp_filtered", "blimp_supplement", "ewok_filtered"]),
        ("babylm_fast", &["blimp_fast", "supplement_fast", "ewok_fast"]),
    ]
}

/// A task and which of its subsets are wanted.
#[derive(Clone)]
pub struct Selected {
    /// The task.
    pub task: &'static dyn Task,
    /// Patterns over names and tags of subsets; none means all.
    pub patterns: Vec<String>,
}

impl Selected {
    /// Whether a subset is wanted: a pattern fits its name, its field or its linguistics term.
    #[must_use]
    pub fn wants(&self, subset: &Subset) -> bool {
        self.patterns.is_empty() || self.patterns.iter().any(|p| fits_subset(p, subset))
    }

    /// Refuses a pattern that fits no subset.
    ///
    /// # Errors
    /// [`Error::UnknownSubset`] with the names there are.
    pub fn check(&self, subsets: &[Subset]) -> Result<(), Error> {
        match self.patterns.iter().find(|p| !subsets.iter().any(|s| fits_subset(p, s))) {
            None => Ok(()),
            Some(pattern) => Err(Error::UnknownSubset {
                task: self.task.info().name,
                pattern: pattern.clone(),
                known: subsets.iter().map(|s| s.name.clone()).collect(),
            }),
        }
    }
}

impl std::fmt::Debug for Selected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{:?}", self.task.info().name, self.patterns)
    }
}

/// Reads a list such as `blimp,ewok/agent*,demo`. A part is a task, a group, or a glob over task names, and after a slash
/// a subset, a tag of subsets (`blimp/morphology`), or a glob over either.
///
/// # Errors
/// [`Error::UnknownTask`] for a part that fits nothing.
pub fn select(list: &str) -> Result<Vec<Selected>, Error> {
    let mut selected: Vec<Selected> = Vec::new();
    for part in list.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (name, pattern) = part.split_once('/').map_or((part, None), |(n, p)| (n, Some(p)));
        for task in named(name)? {
            add(&mut selected, task, pattern);
        }
    }
    if selected.is_empty() {
        return Err(unknown(list));
    }
    Ok(selected)
}

fn add(selected: &mut Vec<Selected>, task: &'static dyn Task, pattern: Option<&str>) {
    let patterns: Vec<String> = pattern.map(str::to_owned).into_iter().collect();
    match selected.iter_mut().find(|s| s.task.info().name == task.info().name) {
        None => selected.push(Selected { task, patterns }),
        // The whole task takes in any part of it.
        Some(known) if patterns.is_empty() || known.patterns.is_empty() => known.patterns.clear(),
        Some(known) => known.patterns.extend(patterns),
    }
}

fn named(name: &str) -> Result<Vec<&'static dyn Task>, Error> {
    let members = groups().into_iter().find(|(group, _)| *group == name).map(|(_, members)| members);
    let fits = |task: &&'static dyn Task| {
        let own = task.info().name;
        members.map_or_else(|| glob(name, own), |m| m.contains(&own))
    };
    let found: Vec<_> = all().into_iter().filter(fits).collect();
    if found.is_empty() { Err(unknown(name)) } else { Ok(found) }
}

fn unknown(name: &str) -> Error {
    let groups = groups().into_iter().map(|(group, _)| group);
    let known = all().iter().map(|t| t.info().name).chain(groups).collect();
    Error::UnknownTask { name: name.to_owned(), known }
}

fn fits_subset(pattern: &str, subset: &Subset) -> bool {
    glob(pattern, &subset.name) || subset.tags.iter().any(|(_, value)| glob(pattern, value))
}

/// Whether `text` fits `pattern`, where `*` stands for any run of characters and `?` for one; case is passed over, since
/// published lists disagree on it (`complex_NP_island`).
fn glob(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.to_lowercase().chars().collect();
    let text: Vec<char> = text.to_lowercase().chars().collect();
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        if p < pattern.len() && (pattern[p] == '?' || (pattern[p] == text[t] && pattern[p] != '*')) {
            (p, t) = (p + 1, t + 1);
        } else if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, t));
            p += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            (p, t) = (at + 1, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &str) -> Vec<&'static str> {
        select(list).expect("known").iter().map(|s| s.task.info().name).collect()
    }

    #[test]
    fn globs() {
        for (pattern, text, fits) in [
            ("adjunct_island", "adjunct_island", true),
            ("*island*", "adjunct_island", true),
            ("*island", "wh_island_x", false),
            ("complex_np_*", "complex_NP_island", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*", "", true),
            ("", "a", false),
            ("*a*b", "xaxxb", true),
        ] {
            assert_eq!(glob(pattern, text), fits, "{pattern} on {text}");
        }
    }

    #[test]
    fn groups_and_globs_name_tasks() {
        assert_eq!(names("demo"), ["demo_pairs", "demo_scenes"]);
        assert_eq!(names("blimp,ewok"), ["blimp", "ewok"]);
        assert_eq!(names("ewok*"), ["ewok", "ewok_filtered", "ewok_fast"]);
    }

    #[test]
    fn the_whole_takes_in_its_parts() {
        let selected = select("blimp/wh_island,blimp").expect("known");
        assert_eq!(selected.len(), 1);
        assert!(selected[0].patterns.is_empty());
        let selected = select("blimp/wh_island,blimp/morphology").expect("known");
        assert_eq!(selected[0].patterns, ["wh_island", "morphology"]);
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let text = select("blmp").expect_err("misspelt").to_string();
        assert!(text.contains("`blmp`") && text.contains("blimp_filtered"));
        assert!(select(" , ").is_err());
    }
}
