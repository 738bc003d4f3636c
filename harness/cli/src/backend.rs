//! From what was typed after `--backend` to an opened backend.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bheval_data::python_json;
use bheval_data::tokenizer::Tokenizer;
use bheval_host::{Backend, Dtype, Kind, Library, Model, ModelInfo, ModelOptions, file_name, plugin_folders};

use crate::args::{DtypeArg, ModelArgs};

/// The backends that are part of this binary.
pub(crate) fn linked() -> Vec<&'static Backend> {
    vec![&bheval_candle::BACKEND, &bheval_onnx::BACKEND]
}

/// The backend that `--backend` names for a model.
pub(crate) fn find(args: &ModelArgs) -> anyhow::Result<Library> {
    let typed = &args.backend;
    if typed.contains(['/', '\\']) || typed.ends_with(std::env::consts::DLL_SUFFIX) {
        return Ok(Library::open(Path::new(typed), args.backend_sha256.as_deref())?);
    }
    let name = if typed == "auto" { automatic(&args.model)? } else { typed.clone() };
    let pin = args.backend_sha256.as_deref();
    if pin.is_some() && is_linked(&name)? {
        bail!(
            "`{name}` is part of bheval and has no file of its own to pin; leave --backend-sha256 out, or give --backend the path of a plugin"
        );
    }
    match named(&name, pin)? {
        Some(library) => Ok(library),
        None if typed == "auto" => bail!(
            "{} is of architecture `{name}`, for which there is no backend; {}",
            args.model.display(),
            known()?
        ),
        None => bail!(
            "no backend `{name}`; {}. A plugin would be {} in one of: {}",
            known()?,
            file_name(&name),
            searched()
        ),
    }
}

fn named(name: &str, pin: Option<&str>) -> anyhow::Result<Option<Library>> {
    for table in linked() {
        let library = Library::linked(table)?;
        if library.name() == name {
            return Ok(Some(library));
        }
    }
    let file = plugin_folders().into_iter().map(|folder| folder.join(file_name(name))).find(|f| f.is_file());
    Ok(file.map(|f| Library::open(&f, pin)).transpose()?)
}

fn is_linked(name: &str) -> anyhow::Result<bool> {
    let names: Result<Vec<_>, _> = linked().into_iter().map(Library::linked).collect();
    Ok(names?.iter().any(|library| library.name() == name))
}

fn known() -> anyhow::Result<String> {
    let names: Result<Vec<_>, _> =
        linked().into_iter().map(|t| Library::linked(t).map(|l| l.name().to_owned())).collect();
    Ok(format!("linked are: {} (`bheval backends` lists plugins too)", names?.join(", ")))
}

fn searched() -> String {
    plugin_folders().iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Name of the backend for ONNX files.
const ONNX: &str = "onnx";

/// The backend that a model's files ask for: `onnx` for an ONNX file, or for a folder that has no other weights or an
/// architecture that nothing else runs; else the architecture.
fn automatic(model: &Path) -> anyhow::Result<String> {
    let onnx = || bheval_onnx_file::model_file(model).is_ok();
    if model.is_file() && model.extension().is_some_and(|e| e == "onnx") {
        return Ok(ONNX.to_owned());
    }
    if model.is_dir() && !has_safetensors(model) && onnx() {
        return Ok(ONNX.to_owned());
    }
    let architecture = architecture(model)?;
    let is_known = named(&architecture, None)?.is_some();
    Ok(if !is_known && onnx() { ONNX.to_owned() } else { architecture })
}

fn has_safetensors(folder: &Path) -> bool {
    let mut entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.any(|e| e.path().extension().is_some_and(|e| e == "safetensors"))
}

/// `model_type` of a model's `config.json`.
fn architecture(model: &Path) -> anyhow::Result<String> {
    let path = model.join("config.json");
    let bytes = std::fs::read(&path).with_context(|| {
        format!(
            "no model at {}: --model takes a folder with config.json and weights, or an .onnx file, and {} can't be read",
            model.display(),
            path.display()
        )
    })?;
    let config = python_json::parse(&bytes).with_context(|| format!("{} is no JSON", path.display()))?;
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
    Ok(ModelOptions {
        path,
        threads: args.threads.unwrap_or_else(cores),
        dtype: match args.dtype {
            DtypeArg::F32 => Dtype::F32,
            DtypeArg::Bf16 => Dtype::BF16,
        },
        memory: args.memory,
    })
}

fn cores() -> u32 {
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

/// Refuses a reading of masked models for a causal one.
pub(crate) fn refuse_pll(pll: Option<&str>, info: &ModelInfo) -> anyhow::Result<()> {
    match pll {
        Some(pll) if info.kind == Kind::CAUSAL => {
            bail!("--pll {pll} reads masked models, and {} is causal: leave --pll out", info.architecture)
        }
        _ => Ok(()),
    }
}
