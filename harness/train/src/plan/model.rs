//! `[model]`: the keys of `config.json`, with what a corpus and its tokenizer say filled in.

use serde_json::{Map, Value, json};
use toml::Table;

/// What may stand in any `config.json`.
const COMMON: [&str; 12] = [
    "model_type",
    "architectures",
    "vocab_size",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "unk_token_id",
    "tie_word_embeddings",
    "initializer_range",
    "use_cache",
    "torch_dtype",
    "dtype",
];

/// The keys of each architecture beside the common ones, and the class that `architectures` names. A key that nobody reads
/// would be a typing error that trains another model than was meant.
const KNOWN: [(&str, &str, &[&str]); 9] = [
    (
        "hgrn2",
        "HGRN2ForCausalLM",
        &[
            "hidden_size",
            "num_hidden_layers",
            "num_heads",
            "expand_ratio",
            "hidden_ratio",
            "intermediate_size",
            "use_short_conv",
            "conv_size",
            "use_lower_bound",
            "elementwise_affine",
            "norm_eps",
            "g_norm_eps",
            "hidden_act",
            "max_position_embeddings",
            "attn_mode",
            "attn",
            "attnres_block_size",
            "fuse_norm",
            "fuse_swiglu",
            "fuse_cross_entropy",
            "fuse_linear_cross_entropy",
            "use_l2warp",
            "bheval_init",
        ],
    ),
    (
        "llama",
        "LlamaForCausalLM",
        &[
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "rms_norm_eps",
            "max_position_embeddings",
            "hidden_act",
            "attention_bias",
            "attention_dropout",
            "mlp_bias",
            "rope_theta",
            "rope_scaling",
            "rope_parameters",
            "pretraining_tp",
        ],
    ),
    (
        "gpt2",
        "GPT2LMHeadModel",
        &[
            "n_embd",
            "n_layer",
            "n_head",
            "n_positions",
            "n_ctx",
            "n_inner",
            "activation_function",
            "layer_norm_epsilon",
            "resid_pdrop",
            "embd_pdrop",
            "attn_pdrop",
            "scale_attn_weights",
            "scale_attn_by_inverse_layer_idx",
            "reorder_and_upcast_attn",
        ],
    ),
    (
        "gpt_neox",
        "GPTNeoXForCausalLM",
        &[
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "rotary_pct",
            "rotary_emb_base",
            "rope_parameters",
            "rope_theta",
            "rope_scaling",
            "partial_rotary_factor",
            "layer_norm_eps",
            "hidden_act",
            "use_parallel_residual",
            "max_position_embeddings",
            "attention_bias",
            "attention_dropout",
            "hidden_dropout",
        ],
    ),
    (
        "opt",
        "OPTForCausalLM",
        &[
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "ffn_dim",
            "max_position_embeddings",
            "word_embed_proj_dim",
            "do_layer_norm_before",
            "activation_function",
            "dropout",
            "attention_dropout",
            "layerdrop",
            "enable_bias",
            "layer_norm_elementwise_affine",
            "init_std",
            "_remove_final_layer_norm",
        ],
    ),
    (
        "lstm_lm",
        "LstmForCausalLM",
        &[
            "embedding_size",
            "hidden_size",
            "num_layers",
            "bias",
            "bidirectional",
            "proj_size",
            "dropout",
            "embedding_dropout",
            "output_dropout",
            "forget_bias",
        ],
    ),
    (
        "mamba",
        "MambaForCausalLM",
        &[
            "hidden_size",
            "state_size",
            "num_hidden_layers",
            "expand",
            "intermediate_size",
            "conv_kernel",
            "time_step_rank",
            "time_step_min",
            "time_step_max",
            "time_step_floor",
            "time_step_scale",
            "time_step_init_scheme",
            "use_bias",
            "use_conv_bias",
            "layer_norm_epsilon",
            "residual_in_fp32",
            "rescale_prenorm_residual",
            "hidden_act",
            "use_mambapy",
            "use_bcdt_rms",
            "mixer_rms_eps",
        ],
    ),
    (
        "mamba2",
        "Mamba2ForCausalLM",
        &[
            "hidden_size",
            "state_size",
            "num_hidden_layers",
            "num_heads",
            "head_dim",
            "n_groups",
            "expand",
            "conv_kernel",
            "chunk_size",
            "time_step_rank",
            "time_step_min",
            "time_step_max",
            "time_step_floor",
            "time_step_limit",
            "use_bias",
            "use_conv_bias",
            "layer_norm_epsilon",
            "residual_in_fp32",
            "rescale_prenorm_residual",
            "rms_norm",
            "norm_before_gate",
            "hidden_act",
        ],
    ),
    (
        "xlstm",
        "xLSTMForCausalLM",
        &[
            "embedding_dim",
            "hidden_size",
            "num_blocks",
            "num_hidden_layers",
            "num_heads",
            "context_length",
            "bias",
            "dropout",
            "slstm_at",
            "tie_weights",
            "weight_decay_on_embedding",
            "add_embedding_dropout",
            "add_post_blocks_norm",
            "mlstm_block",
            "slstm_block",
            "use_bias",
            "norm_eps",
            "eps",
            "add_out_norm",
            "norm_reduction_force_float32",
            "qk_dim_factor",
            "v_dim_factor",
            "chunkwise_kernel",
            "sequence_kernel",
            "step_kernel",
            "mode",
            "chunk_size",
            "return_last_states",
            "autocast_kernel_dtype",
            "inference_state_dtype",
            "ffn_proj_factor",
            "ffn_round_up_to_multiple_of",
            "gate_soft_cap",
            "output_logit_soft_cap",
            "weight_mode",
            "max_inference_chunksize",
        ],
    ),
];

/// What a corpus and its tokenizer say of a model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vocabulary {
    /// Entries of the tokenizer.
    pub(super) entries: u64,
    /// What the embedding's rows are padded to a multiple of.
    pub(super) multiple: u64,
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) pad: Option<u32>,
}

/// The first key that the architecture does not know, or what is wrong instead: the key and the reason.
pub(super) fn check(table: &Table) -> Result<(), (String, String)> {
    let kinds: Vec<_> = KNOWN.iter().map(|(kind, ..)| *kind).collect();
    let wrong = |key: &str, reason: String| Err((key.to_owned(), reason));
    let Some(kind) = table.get("model_type") else {
        let reason = format!(
            "model.model_type is missing; it may be: {}. Or take a preset (`bheval train --list-presets`)",
            kinds.join(", ")
        );
        return wrong("model_type", reason);
    };
    let shown = kind.as_str().unwrap_or_else(|| kind.type_str());
    let Some((_, _, own)) = KNOWN.iter().find(|(name, ..)| *name == shown) else {
        return wrong(
            "model_type",
            format!("model.model_type is {shown}, but it may be: {}", kinds.join(", ")),
        );
    };
    match table.keys().find(|key| !own.contains(&key.as_str()) && !COMMON.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => {
            let known: Vec<_> = own.iter().chain(&COMMON).copied().collect();
            wrong(key, format!("model.{key} is no key of {shown}; known are: {}", known.join(", ")))
        }
    }
}

/// `config.json` from checked keys.
///
/// # Errors
/// The key and what is wrong with it.
pub(super) fn config(table: &Table, vocabulary: Vocabulary) -> Result<Map<String, Value>, (String, String)> {
    let mut config = Map::new();
    for (key, value) in table {
        config.insert(
            key.clone(),
            json(value).map_err(|reason| (key.clone(), format!("model.{key} {reason}")))?,
        );
    }
    fill_vocabulary(&mut config, vocabulary)?;
    let class = KNOWN.iter().find(|(kind, ..)| config["model_type"] == *kind).map(|(_, class, _)| class);
    config.entry("architectures").or_insert_with(|| json!([class]));
    config.entry("torch_dtype").or_insert_with(|| json!("float32"));
    Ok(config)
}

fn fill_vocabulary(config: &mut Map<String, Value>, vocabulary: Vocabulary) -> Result<(), (String, String)> {
    let Vocabulary { entries, multiple, bos, eos, pad } = vocabulary;
    let rows = entries.div_ceil(multiple) * multiple;
    match config.get("vocab_size") {
        None => drop(config.insert("vocab_size".into(), json!(rows))),
        Some(given) if given.as_u64().is_some_and(|given| (entries..1 << 31).contains(&given)) => (),
        Some(given) => {
            let reason = format!(
                "model.vocab_size is {given}, but the corpus was cut by a tokenizer of {entries} entries; leave the key out"
            );
            return Err(("vocab_size".into(), reason));
        }
    }
    for (key, id) in [("bos_token_id", bos), ("eos_token_id", eos), ("pad_token_id", pad)] {
        match (config.get(key), id) {
            (None, Some(id)) => drop(config.insert(key.into(), json!(id))),
            (Some(given), Some(id)) if *given != json!(id) => {
                let reason =
                    format!("model.{key} is {given}, but the corpus's tokenizer has {id}; leave the key out");
                return Err((key.into(), reason));
            }
            _ => (),
        }
    }
    Ok(())
}

fn json(value: &toml::Value) -> Result<Value, String> {
    Ok(match value {
        toml::Value::String(text) => json!(text),
        toml::Value::Integer(n) => json!(n),
        toml::Value::Float(x) if x.is_finite() => json!(x),
        toml::Value::Float(x) => return Err(format!("is {x}, which JSON can't hold")),
        toml::Value::Boolean(b) => json!(b),
        toml::Value::Datetime(time) => return Err(format!("is the date {time}, which JSON can't hold")),
        toml::Value::Array(items) => Value::Array(items.iter().map(json).collect::<Result<_, _>>()?),
        toml::Value::Table(table) => {
            let entries = table.iter().map(|(k, v)| Ok((k.clone(), json(v)?)));
            Value::Object(entries.collect::<Result<_, String>>()?)
        }
    })
}

/// A table of TOML as JSON.
pub(super) fn object(table: &Table) -> Result<Map<String, Value>, String> {
    table.iter().map(|(k, v)| Ok((k.clone(), json(v).map_err(|reason| format!("{k} {reason}"))?))).collect()
}
