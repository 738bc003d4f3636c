//! Writes what bheval makes of sentences, for `models.py` to compare: `ids.{i}` [T] and `logits.{i}` [T, V].
//!
//! `logits MODEL SENTENCES OUT`: a model's folder, a text file with one sentence a line, the safetensors file to be made.

use std::path::Path;

use bheval_candle::BACKENDS;
use bheval_data::tokenizer::Tokenizer;
use bheval_host::{Dtype, Forest, Library, Model, ModelOptions};
use safetensors::{Dtype as Stored, tensor::TensorView};

fn open(folder: &Path) -> Result<Model, Box<dyn std::error::Error>> {
    let config = bheval_python_json::parse(&std::fs::read(folder.join("config.json"))?)?;
    let kind = config["model_type"].as_str().unwrap_or_default();
    let (table, _) =
        BACKENDS.iter().find(|(_, opens)| opens.contains(&kind)).ok_or(format!("no backend for {kind}"))?;
    let options = ModelOptions { path: folder.to_owned(), threads: 2, dtype: Dtype::F32, memory: 1 << 28 };
    Ok(Model::open(&Library::linked(table)?, &options)?)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, sentences, out] = args.as_slice() else {
        return Err("usage: logits MODEL SENTENCES OUT".into());
    };
    let folder = Path::new(folder);
    let (mut model, tokenizer) = (open(folder)?, Tokenizer::load(folder)?);
    let mut tensors = Vec::new();
    for (i, sentence) in std::fs::read_to_string(sentences)?.lines().enumerate() {
        let ids = tokenizer.encode(sentence, true)?.ids;
        let mut forest = Forest::new();
        forest.insert_alone(&ids, &vec![true; ids.len()]);
        let logits: Vec<u8> = model.logits(&forest)?.iter().flat_map(|x| x.to_le_bytes()).collect();
        let shape = vec![ids.len(), logits.len() / 4 / ids.len()];
        tensors.push((format!("logits.{i}"), Stored::F32, shape, logits));
        let bytes = ids.iter().flat_map(|id| i64::from(*id).to_le_bytes()).collect();
        tensors.push((format!("ids.{i}"), Stored::I64, vec![ids.len()], bytes));
    }
    let mut views = Vec::new();
    for (name, dtype, shape, bytes) in &tensors {
        views.push((name.clone(), TensorView::new(*dtype, shape.clone(), bytes)?));
    }
    std::fs::write(out, safetensors::serialize(views, None)?)?;
    Ok(())
}
