"""Loads models that `bheval export` wrote in transformers and fla, and compares ids and logits with bheval's.

    pip install -r tests/interop/requirements.txt
    cargo build --release -p bheval && cargo build --release -p bheval-tests --example bheval_logits
    python tests/interop/models.py --bin target/release --train TEXT.txt --work DIR       # makes tiny models first
    python tests/interop/models.py --bin target/release EXPORTED...                        # models that are there

With --train every architecture is trained for a few steps at a tiny size on the text (one document a paragraph), exported as
f32 and as bf16, and compared; with --distil a student of a Llama as well. Every tensor must have its place, the tokenizer's ids
must be bheval's, and no logit may differ by more than 1e-4. bf16 files are read into f32 by either side. Exit code 1 otherwise.
"""

import argparse
import json
import subprocess
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import torch
import torch.nn as nn
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file
from transformers import AutoTokenizer

TOLERANCE = 1e-4
SENTENCES = [
    "The cat sat on the mat.",
    "Who did you say that the old man would have seen there?",
    "  Two  blanks, a tab\tand an accent: café naïve ½.",
    "a",
    "It wasn't the first time, and it will not be the last; 1,234 of them have come since 1999, most of them twice. " * 2,
]

# Sizes at which every part is there: several heads, groups, a padded vocabulary, a bias, a head of its own or a tied one.
MODELS = {
    "hgrn2": {"model_type": "hgrn2", "hidden_size": 64, "num_hidden_layers": 3, "expand_ratio": 16, "intermediate_size": 96,
              "tie_word_embeddings": True},
    "hgrn2_conv": {"model_type": "hgrn2", "hidden_size": 64, "num_hidden_layers": 2, "expand_ratio": 32, "use_short_conv": True,
                   "intermediate_size": 256, "use_lower_bound": False, "tie_word_embeddings": False},
    "llama": {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 256, "tie_word_embeddings": False},
    "llama_tied": {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                   "intermediate_size": 96, "max_position_embeddings": 256, "tie_word_embeddings": True},
    "gpt2": {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256, "resid_pdrop": 0.1,
             "embd_pdrop": 0.1, "attn_pdrop": 0.0},
    "gpt_neox": {"model_type": "gpt_neox", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                 "intermediate_size": 96, "rotary_pct": 0.25, "max_position_embeddings": 256, "tie_word_embeddings": False},
    "opt": {"model_type": "opt", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 96,
            "max_position_embeddings": 256, "word_embed_proj_dim": 64, "dropout": 0.1, "attention_dropout": 0.0},
    "mamba": {"model_type": "mamba", "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8, "expand": 2,
              "intermediate_size": 128, "conv_kernel": 4, "time_step_rank": 4},
    "mamba2": {"model_type": "mamba2", "hidden_size": 64, "num_hidden_layers": 2, "state_size": 16, "expand": 2, "num_heads": 8,
               "head_dim": 16, "n_groups": 1, "conv_kernel": 4, "chunk_size": 32, "tie_word_embeddings": False},
    # transformers 4.57.6 runs neither a width whose query width is no multiple of 64 nor a sequence longer than a chunk.
    "xlstm": {"model_type": "xlstm", "hidden_size": 128, "num_hidden_layers": 2, "num_heads": 4, "qk_dim_factor": 0.5,
              "v_dim_factor": 1.0, "ffn_proj_factor": 2.667, "ffn_round_up_to_multiple_of": 16, "gate_soft_cap": 15.0,
              "output_logit_soft_cap": 30.0, "chunk_size": 512},
    "lstm": {"model_type": "lstm_lm", "embedding_size": 48, "hidden_size": 64, "num_layers": 2, "tie_word_embeddings": True},
}
RECIPE = {
    "data": {"sequence_length": 64, "vocab_multiple": 16},
    "optimizer": {"learning_rate": 5e-3},
    "train": {"batch": 8, "micro_batch": 4, "steps": 8, "seed": 1},
    "checkpoint": {"every_steps": 0},
    "evaluate": {"every_steps": 4},
}


def patch_fla():
    """Puts plain torch in the place of the triton kernels that fla's HGRN2 calls, which need a GPU."""
    import fla.layers.hgrn2 as layer
    import fla.modules.conv.short_conv as short_conv
    import fla.modules.layernorm as layernorm
    import fla.modules.mlp as mlp

    def recurrence(q, k, v, g=None, gk=None, **_):
        g = gk if g is None else g
        state = q.new_zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[-1])
        out = []
        for t in range(q.shape[1]):
            state = state * g[:, t].exp()[..., None] + k[:, t][..., None] * v[:, t][..., None, :]
            out.append(((q[:, t] * q.shape[3] ** -0.5)[..., None] * state).sum(-2))
        return torch.stack(out, 1), None

    def rms(x, weight, bias, eps):
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
        x = x if weight is None else x * weight
        return x if bias is None else x + bias

    def rms_norm(self, x, residual=None, prenorm=False, residual_in_fp32=False):
        total = x if residual is None else x + residual
        normed = rms(total, self.weight, self.bias, self.eps)
        return (normed, total) if prenorm else normed

    def convolution(self, x, cache=None, **_):
        taps = self.kernel_size[0]
        padded = F.pad(x.transpose(1, 2), (taps - 1, 0))
        y = F.conv1d(padded, self.weight, self.bias, groups=self.hidden_size).transpose(1, 2)
        return (F.silu(y) if self.activation else y), None

    layer.fused_recurrent_gla = layer.chunk_gla = layer.fused_chunk_gla = recurrence
    layer.swish = F.silu
    layer.rms_norm_linear = lambda x, w, b, lw, lb, residual=None, eps=1e-5, **_: F.linear(rms(x, w, b, eps), lw, lb)
    layernorm.RMSNorm.forward = rms_norm
    mlp.SwiGLULinear.forward = lambda self, x, y, w, b: F.linear(F.silu(x) * y, w, b)
    short_conv.ShortConvolution.forward = convolution


class Lstm(nn.Module):
    """bheval's `lstm_lm`, which transformers does not have: torch's LSTM between embedding and decoder."""

    def __init__(self, config):
        super().__init__()
        width, hidden = config["embedding_size"], config["hidden_size"]
        tied = config.get("tie_word_embeddings", False)
        self.embedding = nn.Embedding(config["vocab_size"], width)
        self.lstm = nn.LSTM(width, hidden, config["num_layers"], batch_first=True)
        self.proj = nn.Linear(hidden, width, bias=False) if tied and hidden != width else None
        self.decoder = nn.Linear(width if tied else hidden, config["vocab_size"])
        if tied:
            self.decoder.weight = self.embedding.weight

    def forward(self, input_ids):
        states, _ = self.lstm(self.embedding(input_ids))
        return self.decoder(states if self.proj is None else self.proj(states))


def load(folder):
    """The model in f32, and the names of tensors without a place or without a value."""
    config = json.loads((folder / "config.json").read_text())
    kind = config["model_type"]
    if kind == "lstm_lm":
        model = Lstm(config)
        stored = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
        missing, unexpected = model.load_state_dict(stored, strict=False)
        tied = {"decoder.weight"} if config.get("tie_word_embeddings", False) else set()
        return model.eval(), sorted(set(missing) - tied) + list(unexpected)
    if kind == "hgrn2":
        import fla

        patch_fla()
        cls = fla.models.HGRN2ForCausalLM
    else:
        # Explicit, because fla registers classes of its own for mamba and mamba2, which need a GPU.
        cls = getattr(transformers, config["architectures"][0])
    model, info = cls.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    wrong = [*info["missing_keys"], *info["unexpected_keys"], *map(str, info["mismatched_keys"])]
    return model.eval(), sorted(wrong)


def compare(folder, binaries, work):
    """What differs: names, ids, and the largest difference of a logit."""
    sentences, dump = work / "sentences.txt", work / "logits.safetensors"
    sentences.write_text("\n".join(SENTENCES) + "\n", encoding="utf-8")
    subprocess.run([binaries / "examples" / "bheval_logits", folder, sentences, dump], check=True)
    ours, tokenizer = load_file(dump), AutoTokenizer.from_pretrained(folder)
    model, wrong = load(folder)
    other_ids, largest, tokens = 0, 0.0, 0
    for i, sentence in enumerate(SENTENCES):
        ids = ours[f"ids.{i}"]
        other_ids += tokenizer(sentence)["input_ids"] != ids.tolist()
        with torch.no_grad():
            theirs = model(ids[None])
        theirs = theirs[0] if isinstance(theirs, torch.Tensor) else theirs.logits[0]
        assert theirs.shape == ours[f"logits.{i}"].shape, (theirs.shape, ours[f"logits.{i}"].shape)
        largest = max(largest, (theirs.float() - ours[f"logits.{i}"]).abs().max().item())
        tokens += len(ids)
    return tokens, other_ids, wrong, largest


def toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(value)


def plan(model, more=()):
    sections = {"model": model, **RECIPE, **dict(more)}
    return "".join(f"[{name}]\n" + "".join(f"{k} = {toml(v)}\n" for k, v in keys.items()) for name, keys in sections.items())


def make(args, work):
    """Trains and exports tiny models; returns their folders."""
    bheval = args.bin / "bheval"

    def run(*command):
        subprocess.run([bheval, *map(str, command), "--quiet"], check=True, stdout=subprocess.DEVNULL)

    tokenizer, corpus, folders = work / "tokenizer", work / "corpus", []
    if not corpus.exists():
        run("tokenizer", "train", "--domain", f"text={args.train}", "--vocab", 600, "-o", tokenizer)
        run("corpus", "build", "--domain", f"text={args.train}", "--tokenizer", tokenizer, "--dev-share", 0.05, "-o", corpus)

    def trained(name, text):
        (work / f"{name}.toml").write_text(text)
        run("train", work / f"{name}.toml", "--corpus", corpus, "-o", work / "runs" / name)
        for dtype in ["f32", "bf16"]:
            out = work / f"{name}-{dtype}"
            run("export", work / "runs" / name, "--dtype", dtype, "-o", out, "--force", "--license", "mit")
            folders.append(out)

    (work / "runs").mkdir(exist_ok=True)
    names = args.only or [*MODELS, *(["student"] if args.distil else [])]
    for name in names:
        if name == "student":
            distil = {"teachers": [str(work / "llama-f32")], "cache": "top-k", "k": 8}
            trained(name, plan(MODELS["hgrn2"], {"distill": distil}.items()))
        else:
            trained(name, plan(MODELS[name]))
    return folders


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--bin", type=Path, required=True, help="folder of the built programs: target/release")
    parser.add_argument("--train", type=Path, help="text file to train tiny models on")
    parser.add_argument("--work", type=Path, default=Path("/tmp/bheval-interop"))
    parser.add_argument("--only", nargs="+", help="names of tiny models")
    parser.add_argument("--distil", action="store_true", help="also train a student")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    args.work.mkdir(parents=True, exist_ok=True)
    folders = args.folders + (make(args, args.work) if args.train else [])
    if not folders:
        parser.error("name exported folders, or a text with --train")
    failed = False
    print(f"{'model':<18} {'tokens':>6} {'other ids':>9} {'largest difference':>18}  tensors")
    for folder in folders:
        tokens, other_ids, wrong, largest = compare(folder, args.bin, args.work)
        bad = other_ids > 0 or bool(wrong) or not largest <= TOLERANCE
        failed |= bad
        note = ", ".join(wrong[:3]) if wrong else "all"
        print(f"{folder.name:<18} {tokens:>6} {other_ids:>9} {largest:>18.2e}  {note}{'  FAILED' if bad else ''}", flush=True)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}; tolerance {TOLERANCE}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
