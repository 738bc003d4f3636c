//! What will happen: models, data and rules, resolved and fingerprinted. Everything it names exists.

use std::path::{Path, PathBuf};

use bheval_data::digest::hex;
use bheval_data::encode::Query;
use bheval_data::locate::Folders;
use bheval_data::masked::Pll;
use bheval_data::protocol::Protocol;
use bheval_data::tokenizer::Tokenizer;
use bheval_host::{Library, Model, ModelOptions, Origin, Route};
use bheval_tasks::{Loaded, Selected};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::fingerprint::digest;
use crate::{AnyCut, Cutter, Difference, Error, Questions};

/// Version of bheval, and after a plus the digest of the sources that this binary was built from.
pub const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), "+", env!("BHEVAL_SOURCE"));

/// Layout of the run's folder and the meaning of its files.
const FORMAT: u32 = 1;

/// A task as it is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskPlan {
    /// Name.
    pub name: String,
    /// Version of the task.
    pub version: u32,
    /// Fingerprint of its data.
    pub data: String,
    /// The subsets asked for; none means all.
    pub subsets: Vec<String>,
    /// How many items of each subset, where not all.
    pub limit: Option<usize>,
}

/// All that decides the scores. Two runs with the same identity have the same results.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Layout of the run's folder.
    pub format: u32,
    /// Version of bheval, and after a plus the digest of the sources it was built from.
    pub bheval: String,
    /// SHA-256 over the model's files; for a plugin, over all that lie in the model's folder.
    pub model: String,
    /// SHA-256 over the tokenizer's files.
    pub tokenizer: String,
    /// Backend: name, version, and digest of the file it was loaded from.
    pub backend: String,
    /// Number format.
    pub dtype: String,
    /// `forest` or `flat`, or `copies` for a masked model.
    pub route: String,
    /// Protocol.
    pub protocol: String,
    /// Reading of a masked model. Left out for a causal one, whose runs keep the key they had before there were readings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pll: Option<String>,
    /// Tasks.
    pub tasks: Vec<TaskPlan>,
}

/// A run's plan as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// SHA-256 over the identity, in hex.
    pub key: String,
    /// What decides the scores.
    pub identity: Identity,
    /// Folder or file of the model, as typed.
    pub model_path: String,
    /// Architecture as the backend names it.
    pub architecture: String,
    /// Number of parameters.
    pub parameters: u64,
    /// The token that stands before each sentence, as `text (id)`, if the protocol puts one there.
    pub prefix: Option<String>,
    /// Whether the first token of a sentence is scored. Without a token before it, it can't be.
    pub first_token_scored: bool,
}

/// A plan with everything opened and read.
#[derive(Debug)]
pub struct Planned {
    /// The plan.
    pub plan: Plan,
    /// The model.
    pub model: Model,
    /// Its folder or file.
    pub path: PathBuf,
    /// Selected tasks and their items.
    pub tasks: Vec<(Selected, Loaded)>,
    /// What must be scored.
    pub questions: Questions,
    /// The protocol.
    pub protocol: Protocol,
    /// How forests reach the backend.
    pub route: Route,
    /// Items of each subset, where not all.
    pub limit: Option<usize>,
}

/// What a plan is made of.
#[derive(Debug)]
pub struct Request<'a> {
    /// The backend.
    pub library: &'a Library,
    /// How to open the model.
    pub options: ModelOptions,
    /// Folder of the tokenizer.
    pub tokenizer: PathBuf,
    /// Tasks.
    pub tasks: Vec<Selected>,
    /// Items of each subset, where not all.
    pub limit: Option<usize>,
    /// Protocol.
    pub protocol: Protocol,
    /// Reading of a masked model, where not the protocol's own.
    pub pll: Option<Pll>,
    /// How forests reach the backend.
    pub route: Route,
    /// Where data is looked for.
    pub folders: &'a Folders,
}

impl Planned {
    /// Opens, reads and cuts everything that a run needs. Nothing is scored yet.
    ///
    /// # Errors
    /// Whatever keeps the run from starting.
    pub fn resolve(request: Request<'_>) -> Result<Self, Error> {
        let tokenizer =
            Tokenizer::load_for(&request.tokenizer, &request.options.path).map_err(Error::Tokenizer)?;
        let model = Model::open(request.library, &request.options)?;
        let cutter = Cutter::new(&tokenizer, request.protocol, request.pll, &model)?;
        let tasks = load(request.tasks, request.folders, request.limit)?;
        let questions = Questions::new(tasks.iter().map(|(_, loaded)| loaded), &cutter, model.info())?;
        let identity = Identity {
            format: FORMAT,
            bheval: BUILD.to_owned(),
            model: digest(request.library, &request.options.path)?,
            tokenizer: tokenizer.sha256().to_owned(),
            backend: backend_name(request.library),
            dtype: model.info().dtype.clone(),
            route: route_name(request.library, request.route, &cutter).to_owned(),
            protocol: request.protocol.name().to_owned(),
            pll: cutter.pll().map(|pll| pll.name().to_owned()),
            tasks: tasks.iter().map(|(s, l)| task_plan(s, l, request.limit)).collect(),
        };
        let plan = Plan {
            key: identity.key(),
            identity,
            model_path: request.options.path.display().to_string(),
            architecture: model.info().architecture.clone(),
            parameters: model.info().parameters,
            prefix: prefix(&cutter, &tokenizer),
            first_token_scored: sample(&cutter).is_none_or(|cut| cut.unscored() == 0),
        };
        let Request { options, protocol, route, limit, .. } = request;
        Ok(Self { plan, model, path: options.path, tasks, questions, protocol, route, limit })
    }
}

fn load(
    tasks: Vec<Selected>,
    folders: &Folders,
    limit: Option<usize>,
) -> Result<Vec<(Selected, Loaded)>, Error> {
    let mut all = Vec::new();
    for selected in tasks {
        let loaded = selected.task.load(folders)?;
        selected.check(&loaded.subsets)?;
        let loaded = loaded.narrowed(|subset| selected.wants(subset), limit);
        all.push((selected, loaded));
    }
    Ok(all)
}

fn task_plan(selected: &Selected, loaded: &Loaded, limit: Option<usize>) -> TaskPlan {
    let info = selected.task.info();
    let part = !selected.patterns.is_empty();
    let names = loaded.subsets.iter().filter(|_| part).map(|s| s.name.clone());
    TaskPlan {
        name: info.name.to_owned(),
        version: info.version,
        data: loaded.fingerprint.clone(),
        subsets: names.collect(),
        limit,
    }
}

/// How a plain sentence is cut, if it can be.
fn sample(cutter: &Cutter<'_>) -> Option<AnyCut> {
    let text = "The cat sat on the mat.";
    cutter.cut(&Query::sentence(text).with_answer(0, text.len())).ok()
}

/// What stands before a plain sentence, put there by the protocol or by the tokenizer.
fn prefix(cutter: &Cutter<'_>, tokenizer: &Tokenizer) -> Option<String> {
    let cut = sample(cutter)?;
    let id = cut.ids()[0];
    let before = cut.offsets()[0] == (0, 0) && cut.unscored() == 0;
    before.then(|| format!("{} ({id})", tokenizer.piece(id).unwrap_or_default()))
}

fn backend_name(library: &Library) -> String {
    match library.origin() {
        Origin::Linked => format!("{} {}", library.name(), library.version()),
        Origin::File { sha256, .. } => format!("{} {} sha256:{sha256}", library.name(), library.version()),
    }
}

fn route_name(library: &Library, route: Route, cutter: &Cutter<'_>) -> &'static str {
    match route {
        _ if cutter.pll().is_some() => "copies",
        Route::Forest if library.takes_forests() => "forest",
        Route::Forest | Route::Flat => "flat",
    }
}

impl Identity {
    /// SHA-256 over all of it, in hex.
    #[must_use]
    pub fn key(&self) -> String {
        let text = serde_json::to_string(self).expect("an identity is plain data and always JSON");
        hex(&Sha256::digest(text.as_bytes()))
    }

    /// In what another identity differs from this one.
    #[must_use]
    pub fn differences(&self, asked: &Identity) -> Vec<Difference> {
        let stored = fields(self);
        let asked = fields(asked);
        let differ = |((what, stored), (_, asked)): ((&str, String), (&str, String))| {
            (stored != asked).then(|| Difference { what: what.to_owned(), stored, asked })
        };
        stored.into_iter().zip(asked).filter_map(differ).collect()
    }
}

fn fields(identity: &Identity) -> [(&'static str, String); 10] {
    let Identity { format, bheval, model, tokenizer, backend, dtype, route, protocol, pll, tasks } = identity;
    let short = |digest: &str| digest.get(..12).unwrap_or(digest).to_owned();
    let task = |t: &TaskPlan| {
        let limit = t.limit.map_or(String::new(), |l| format!(" limit {l}"));
        let subsets =
            if t.subsets.is_empty() { String::new() } else { format!("/{{{}}}", t.subsets.join(",")) };
        format!("{}{subsets}{limit} v{} data {}", t.name, t.version, short(&t.data))
    };
    [
        ("the folder's format", format.to_string()),
        ("bheval's version", bheval.clone()),
        ("the model", short(model)),
        ("the tokenizer", short(tokenizer)),
        ("the backend", backend.clone()),
        ("the number format", dtype.clone()),
        ("the route", route.clone()),
        ("the protocol", protocol.clone()),
        ("the reading", pll.clone().unwrap_or_else(|| "left to right".to_owned())),
        ("the tasks", tasks.iter().map(task).collect::<Vec<_>>().join(" + ")),
    ]
}

impl Plan {
    /// A folder's name for this run, the same for the same command: model, tasks, rules, and the key's beginning.
    #[must_use]
    pub fn folder_name(&self) -> String {
        let model = Path::new(&self.model_path);
        let model = model.canonicalize().unwrap_or_else(|_| model.to_path_buf());
        let model = model.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let tasks: Vec<_> = self.identity.tasks.iter().map(|t| t.name.as_str()).collect();
        let tasks = if tasks.len() > 3 { format!("{}-tasks", tasks.len()) } else { tasks.join("+") };
        let protocol = &self.identity.protocol;
        let reading = self.identity.pll.as_ref().map_or(String::new(), |pll| format!("-{pll}"));
        let name = format!("{model}-{tasks}-{protocol}{reading}-{}", &self.key[..8]);
        name.chars().map(|c| if c.is_alphanumeric() || "-+_.".contains(c) { c } else { '_' }).collect()
    }
}
