"""Makes the tiny checkpoints of this folder whose names begin with an architecture, with settings that ../../../shared/golden
does not cover, and what Hugging Face's own code computes for them in float64.

    pip install torch==2.9.1 transformers==4.57.6 safetensors
    python transformers.py FOLDER

Weights are random, none of them zero or one where training would have moved it. `golden.safetensors` holds `ids.{i}` [T]
and `logits.{i}` [T, V]; for masked models the logits of the input as it is.
"""

import json
import os
import sys

sys.path = [p for p in sys.path if os.path.abspath(p or ".") != os.path.dirname(os.path.abspath(__file__))]

import torch
import transformers as hf
from safetensors.torch import save_file

VOCAB = 48
LENGTHS = [1, 9, 40]


def randomise(model, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn_like(p)
            if "norm" in name.lower() or ".ln_" in name:
                p.copy_((1.0 if name.endswith("weight") else 0.0) + 0.3 * noise)
            elif p.dim() == 1:
                p.copy_(0.5 * noise)
            elif "embed" in name or "wte" in name or "wpe" in name:
                p.copy_(noise * 0.7)
            else:
                p.copy_(1.5 * noise / p.shape[-1] ** 0.5)


def make(root, name, cls, config, seed):
    folder = os.path.join(root, name)
    os.makedirs(folder, exist_ok=True)
    config._attn_implementation = "eager"
    model = cls(config).eval()
    randomise(model, seed)
    model.save_pretrained(folder)
    for extra in ["generation_config.json"]:
        if os.path.exists(os.path.join(folder, extra)):
            os.remove(os.path.join(folder, extra))
    model = model.double()
    out = {}
    for i, length in enumerate(LENGTHS):
        ids = torch.randint(3, VOCAB, (length,), generator=torch.Generator().manual_seed(100 * seed + i))
        with torch.no_grad():
            logits = model(ids[None]).logits[0]
        out[f"ids.{i}"], out[f"logits.{i}"] = ids.to(torch.int32), logits.to(torch.float32).contiguous()
    save_file(out, os.path.join(folder, "golden.safetensors"))
    print(name, sum(p.numel() for p in model.parameters()), json.dumps(config.to_diff_dict())[:200])


def main(root):
    llama = dict(vocab_size=VOCAB, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
                 max_position_embeddings=64, bos_token_id=1, eos_token_id=2)
    make(root, "llama_biases", hf.LlamaForCausalLM, hf.LlamaConfig(
        **llama, num_key_value_heads=1, head_dim=10, attention_bias=True, mlp_bias=True, tie_word_embeddings=True,
        rope_theta=500.0), 1)
    make(root, "llama_llama3", hf.LlamaForCausalLM, hf.LlamaConfig(
        **llama, rope_scaling={"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 3.0,
                               "original_max_position_embeddings": 32}, rope_theta=100.0), 2)
    make(root, "llama_yarn", hf.LlamaForCausalLM, hf.LlamaConfig(
        **llama, rope_scaling={"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32,
                               "beta_fast": 4.0, "beta_slow": 1.0}, rope_theta=1000.0), 3)
    make(root, "llama_linear", hf.LlamaForCausalLM, hf.LlamaConfig(
        **llama, rope_scaling={"type": "linear", "factor": 3.0}), 4)
    gpt2 = dict(vocab_size=VOCAB, n_embd=24, n_layer=2, n_head=3, n_positions=64, bos_token_id=1, eos_token_id=2)
    make(root, "gpt2_options", hf.GPT2LMHeadModel, hf.GPT2Config(
        **gpt2, n_inner=36, activation_function="relu", scale_attn_by_inverse_layer_idx=True,
        scale_attn_weights=False, tie_word_embeddings=False, layer_norm_epsilon=1e-3), 5)
    neox = dict(vocab_size=VOCAB, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
                max_position_embeddings=64, bos_token_id=1, eos_token_id=2)
    make(root, "gpt_neox_sequential", hf.GPTNeoXForCausalLM, hf.GPTNeoXConfig(
        **neox, use_parallel_residual=False, rotary_pct=0.5, attention_bias=False, hidden_act="gelu_new",
        tie_word_embeddings=True, rotary_emb_base=200), 6)
    opt = dict(vocab_size=VOCAB, hidden_size=24, ffn_dim=40, num_hidden_layers=2, num_attention_heads=3,
               max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=1)
    make(root, "opt_350m_style", hf.OPTForCausalLM, hf.OPTConfig(
        **opt, do_layer_norm_before=False, word_embed_proj_dim=16, activation_function="gelu"), 7)
    bert = dict(vocab_size=VOCAB, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
                max_position_embeddings=64, pad_token_id=0)
    make(root, "bert_options", hf.BertForMaskedLM, hf.BertConfig(
        **bert, hidden_act="relu", layer_norm_eps=1e-3, type_vocab_size=3, tie_word_embeddings=False), 8)
    make(root, "roberta_options", hf.RobertaForMaskedLM, hf.RobertaConfig(
        **{**bert, "pad_token_id": 2}, hidden_act="gelu_new", layer_norm_eps=1e-5, type_vocab_size=1), 9)


main(sys.argv[1])
