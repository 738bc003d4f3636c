//! From what was typed after `--backend` to an opened backend.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bheval_data::tokenizer::Tokenizer;
use bheval_host::{Backend, Dtype, Launch, Library, Model, ModelOptions, Source, file_name, plugin_folders};

use crate::args::{DtypeArg, ModelArgs};
use crate::commands::worker;

/// The backends that are part of this binary.
pub(crate) fn linked() -> Vec<&'static Backend> {
    let native = bheval_engine::BACKENDS.iter().map(|(table, _)| *table);
    native.chain([&bheval_onnx::BACKEND, &bheval_ngram::BACKEND]).collect()
}

/// The backend that `--backend` names for a model.
pub(crate) fn find(args: &ModelArgs) -> anyhow::Result<Library> {
    let source = source(args)?;
    if args.isolate {
        return Ok(Library::isolated(&Launch::this_program(&worker::ARGS)?, &source)?);
    }
    match source {
        Source::File { path, pin } => Ok(Library::open(&path, pin.as_deref())?),
        Source::Linked(name) => linked_as(&name)?.with_context(|| format!("no backend `{name}` is linked")),
    }
}

/// What was typed after `--backend`, or what the model's files ask for.
pub(crate) fn chosen(args: &ModelArgs) -> anyhow::Result<String> {
    if args.backend == "auto" { automatic(&args.model) } else { Ok(args.backend.clone()) }
}

/// Where that backend is. No code of a plugin runs to find out.
fn source(args: &ModelArgs) -> anyhow::Result<Source> {
    let (typed, pin) = (&args.backend, args.backend_sha256.clone());
    if typed.contains(['/', '\\']) || typed.ends_with(std::env::consts::DLL_SUFFIX) {
        return Ok(Source::File { path: typed.into(), pin });
    }
    let name = chosen(args)?;
    if linked_as(&name)?.is_some() {
        if pin.is_some() {
            bail!(
                "`{name}` is part of bheval and has no file of its own to pin; leave --backend-sha256 out, or give --backend the path of a plugin"
            );
        }
        return Ok(Source::Linked(name));
    }
    match plugin(&name) {
        Some(path) => Ok(Source::File { path, pin }),
        None if typed == "auto" => bail!(
            "{} is of architecture `{name}`, for which there is no backend; {}",
            args.model.display(),
            known()?
        ),
        None if backend_of(name.clone())? != name => bail!(
            "no backend `{name}`: models of this architecture are opened by --backend {}, or by auto",
            backend_of(name.clone())?
        ),
        None => bail!(
            "no backend `{name}`; {}. A plugin would be {} in one of: {}",
            known()?,
            file_name(&name),
            searched()
        ),
    }
}

/// The linked backend of this name.
fn linked_as(name: &str) -> anyhow::Result<Option<Library>> {
    for table in linked() {
        let library = Library::linked(table)?;
        if library.name() == name {
            return Ok(Some(library));
        }
    }
    Ok(None)
}

fn known() -> anyhow::Result<String> {
    let names: Result<Vec<_>, _> =
        linked().into_iter().map(|t| Library::linked(t).map(|l| l.name().to_owned())).collect();
    Ok(format!("linked are: {} (`bheval backends` lists plugins too)", names?.join(", ")))
}

fn searched() -> String {
    plugin_folders().iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The file of the plugin that a name stands for.
fn plugin(name: &str) -> Option<PathBuf> {
    plugin_folders().into_iter().map(|folder| folder.join(file_name(name))).find(|f| f.is_file())
}

/// The backend for an architecture: the linked one that opens it, or else a plugin of that name.
fn backend_of(architecture: String) -> anyhow::Result<String> {
    match bheval_engine::BACKENDS.iter().find(|(_, opens)| opens.contains(&architecture.as_str())) {
        Some((table, _)) => Ok(Library::linked(table)?.name().to_owned()),
        None => Ok(architecture),
    }
}

/// Name of the backend for ONNX files.
const ONNX: &str = "onnx";

/// The backend that a model's files ask for: `onnx` for an ONNX file, or for a folder that has no other weights or an
/// architecture that nothing else runs; else the architecture.
fn automatic(model: &Path) -> anyhow::Result<String> {
    let onnx = || model.is_dir() && bheval_onnx_file::model_file(model).is_ok();
    if model.is_file() && is_named(model, "onnx") || !has_native_weights(model) && onnx() {
        return Ok(ONNX.to_owned());
    }
    let name = backend_of(architecture(model)?)?;
    let is_known = linked_as(&name)?.is_some() || plugin(&name).is_some();
    Ok(if !is_known && onnx() { ONNX.to_owned() } else { name })
}

/// Whether a folder holds weights that a backend other than `onnx` opens.
fn has_native_weights(folder: &Path) -> bool {
    let mut entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.any(|e| ["safetensors", "ngram"].iter().any(|end| is_named(&e.path(), end)))
}

fn is_named(file: &Path, extension: &str) -> bool {
    file.extension().is_some_and(|e| e == extension)
}

/// `model_type` of the `config.json` in a model's folder, or beside its file; an n-gram model's file says by its name what
/// it is.
fn architecture(model: &Path) -> anyhow::Result<String> {
    if model.is_file() && is_named(model, "ngram") {
        return Ok("ngram".to_owned());
    }
    let path = if model.is_file() { model.with_file_name("config.json") } else { model.join("config.json") };
    let bytes = std::fs::read(&path).with_context(|| {
        format!(
            "no model at {}: --model takes a folder with config.json and weights, a .safetensors file with config.json \
             beside it, or an .onnx or .ngram file, and {} can't be read",
            model.display(),
            path.display()
        )
    })?;
    let config =
        bheval_python_json::parse(&bytes).with_context(|| format!("{} is no JSON", path.display()))?;
    let Some(found) = config["model_type"].as_str() else {
        bail!("{} has no `model_type`; name the architecture with --backend", path.display());
    };
    Ok(found.to_owned())
}

/// How the arguments open a model.
///
/// # Errors
/// A folder in which it can't be told which ONNX file is meant.
pub(crate) fn options(args: &ModelArgs, library: &Library) -> anyhow::Result<ModelOptions> {
    // The folder may hold weights for other backends too; the file says in the results which ones these were.
    let onnx = library.name() == ONNX;
    let path = if onnx { bheval_onnx_file::model_file(&args.model)? } else { args.model.clone() };
    Ok(ModelOptions { path, ..plain_options(args) })
}

/// As [`options`], whatever the backend: the model is what was typed.
pub(crate) fn plain_options(args: &ModelArgs) -> ModelOptions {
    ModelOptions {
        path: args.model.clone(),
        threads: args.threads.unwrap_or_else(cores),
        dtype: match args.dtype {
            DtypeArg::F32 => Dtype::F32,
            DtypeArg::Bf16 => Dtype::BF16,
        },
        memory: args.memory,
    }
}

pub(crate) fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u32)
}

/// The folder that the tokenizer is read from: the one that was named, or the model's.
pub(crate) fn tokenizer_folder(args: &ModelArgs) -> PathBuf {
    args.tokenizer.clone().unwrap_or_else(|| match args.model.parent() {
        Some(folder) if args.model.is_file() && folder.as_os_str().is_empty() => PathBuf::from("."),
        Some(folder) if args.model.is_file() => folder.to_path_buf(),
        _ => args.model.clone(),
    })
}

/// Model and tokenizer, for the commands that take text of the user's own.
pub(crate) fn open(args: &ModelArgs) -> anyhow::Result<(Model, Tokenizer)> {
    let library = find(args)?;
    let tokenizer = Tokenizer::load_for(&tokenizer_folder(args), &args.model)?;
    Ok((Model::open(&library, &options(args, &library)?)?, tokenizer))
}
