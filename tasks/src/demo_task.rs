//! The demo as tasks: items that are part of the program and need no data.

use bheval_data::digest::sha256_hex;
use bheval_data::locate::Folders;

use crate::pairs::{self, Place, complete};
use crate::{Error, Info, Item, Loaded, Subset, Task, demo, ewok};
use bheval_data::encode::Query;

/// 300 minimal pairs of ours.
#[derive(Debug)]
pub(crate) struct DemoPairs;

/// 60 items of ours in EWoK's schema.
#[derive(Debug)]
pub(crate) struct DemoScenes;

const PAIRS: Info = Info {
    name: "demo_pairs",
    title: "300 minimal pairs over 15 phenomena, part of bheval: for a first look, not for publication",
    version: demo::VERSION,
    subset_noun: "paradigm",
    subsets: 15,
    items: 300,
    chance: 0.5,
    licence: "MIT OR Apache-2.0",
    source: "bheval itself",
    dataset: None,
};

const SCENES: Info = Info {
    name: "demo_scenes",
    title: "60 world-knowledge items in EWoK's schema, part of bheval: for a first look, not for publication",
    subset_noun: "domain",
    subsets: 6,
    items: 60,
    ..PAIRS
};

impl Task for DemoPairs {
    fn info(&self) -> &Info {
        &PAIRS
    }

    fn load(&self, _folders: &Folders) -> Result<Loaded, Error> {
        let mut loaded = pairs::empty(String::new());
        let mut text = String::new();
        for pair in demo::pairs() {
            let tags = vec![("field", pair.field.to_owned()), ("term", pair.linguistics_term.to_owned())];
            let (subset, index) = place(&mut loaded, pair.uid, tags);
            text += &format!("{}\t{}\n", pair.good, pair.bad);
            let queries = vec![Query::sentence(pair.good), Query::sentence(pair.bad)];
            loaded.items.push(Item {
                id: format!("{}/{}/{index}", PAIRS.name, pair.uid),
                subset,
                cluster: index,
                queries,
            });
        }
        loaded.fingerprint = sha256_hex(text.as_bytes());
        complete(&PAIRS, loaded)
    }
}

impl Task for DemoScenes {
    fn info(&self) -> &Info {
        &SCENES
    }

    fn load(&self, _folders: &Folders) -> Result<Loaded, Error> {
        let mut loaded = ewok::empty(String::new(), true);
        let mut text = String::new();
        for scene in demo::scenes() {
            let (subset, index) = place(&mut loaded, scene.domain, vec![]);
            let row = ewok::Row {
                context1: scene.context_1,
                context2: scene.context_2,
                target1: scene.target_1,
                target2: scene.target_2,
            };
            text +=
                &[&row.context1, &row.context2, &row.target1, &row.target2].map(String::as_str).join("\t");
            let queries = ewok::queries(row, &Place { source: SCENES.name, line: index + 1 })?;
            loaded.items.push(Item {
                id: format!("{}/{}/{index}", SCENES.name, scene.domain),
                subset,
                cluster: index,
                queries,
            });
        }
        loaded.fingerprint = sha256_hex(text.as_bytes());
        complete(&SCENES, loaded)
    }
}

/// Subset and index in it of the next item; a new name opens a new subset.
fn place(loaded: &mut Loaded, name: &str, tags: Vec<(&'static str, String)>) -> (usize, usize) {
    let subset = loaded.subsets.iter().position(|s| s.name == name).unwrap_or_else(|| {
        loaded.subsets.push(Subset { name: name.to_owned(), tags });
        loaded.subsets.len() - 1
    });
    (subset, loaded.items.iter().filter(|i| i.subset == subset).count())
}
