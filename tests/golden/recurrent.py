"""Makes the tiny checkpoints of this folder and what the peers' own code computes for them.

Peers: torch 2.9.1, transformers 4.57.6, xlstm 2.0.6 with mlstm-kernels 2.0.6, all on the CPU:

    pip install torch==2.9.1 transformers==4.57.6 xlstm==2.0.6 mlstm-kernels==2.0.6 einops omegaconf safetensors
    python recurrent.py FOLDER

Weights are random, none of them zero or one where training would have moved it. `golden.safetensors` holds `ids.{i}` [T] and
`logits.{i}` [T, V]. xlstm_block and xlstm_options are computed in float64; Mamba's code rounds parts to float32 whatever it is given.

xlstm_block/cuda.safetensors holds the sLSTM cell's parameters in the layout of the package's CUDA backend, by the package's
own conversion.
"""

import copy
import json
import os
import sys

import torch
import torch.nn as nn

# transformers takes its xLSTM from the package `xlstm` where that is installed; hide it to get transformers' own.
import transformers.utils.import_utils as import_utils
import_utils._xlstm_available = False

from safetensors.torch import save_file
from transformers import Mamba2Config, Mamba2ForCausalLM, MambaConfig, MambaForCausalLM
from transformers import xLSTMConfig, xLSTMForCausalLM

LENGTHS = [1, 9, 40]


def randomise(model, seed):
    """Random weights of a size at which every part of the network matters."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn_like(p)
            if name.endswith("A_log"):
                p.copy_(noise * 0.7)
            elif "norm" in name and name.endswith("weight"):
                centre = 0.0 if "xlstm_block_stack" in name else 1.0
                p.copy_(centre + 0.3 * noise)
            elif p.dim() == 1:
                p.copy_(0.7 * noise)
            elif "embed" in name:
                p.copy_(noise)
            elif "gate" in name and "mlstm_cell" in name or "gate_preact" in name:
                p.copy_(noise * 1.5 / p.shape[-1] ** 0.5)
            else:
                p.copy_(noise / p.shape[-1] ** 0.5)


def write(folder, model, config, vocab, run):
    os.makedirs(folder, exist_ok=True)
    state = {name: t.to(torch.float32).contiguous().clone() for name, t in model.state_dict().items()}
    if config.get("tie_word_embeddings", config.get("model_type") == "mamba"):
        state.pop("lm_head.weight")
    save_file(state, f"{folder}/model.safetensors", {"format": "pt"})
    with open(f"{folder}/config.json", "w") as file:
        json.dump(config, file, indent=1)
        file.write("\n")
    torch.manual_seed(0)
    golden = {}
    for i, length in enumerate(LENGTHS):
        ids = torch.randint(0, vocab, (1, length))
        with torch.no_grad():
            golden[f"logits.{i}"] = run(ids)[0].to(torch.float32).contiguous()
        golden[f"ids.{i}"] = ids[0].clone()
    save_file(golden, f"{folder}/golden.safetensors")
    print(folder, sum(p.numel() for p in model.parameters()), {n: tuple(t.shape) for n, t in golden.items()})


def hugging_face(folder, model_class, config, seed, dtype=torch.float32):
    model = model_class(config).eval()
    randomise(model, seed)
    model.to(dtype)
    keys = json.loads(config.to_json_string(use_diff=True))
    keys.pop("transformers_version", None)
    write(folder, model, keys, config.vocab_size, lambda ids: model(input_ids=ids, use_cache=False).logits)


def xlstm_block(folder, seed):
    from xlstm import (FeedForwardConfig, mLSTMBlockConfig, mLSTMLayerConfig, sLSTMBlockConfig, sLSTMLayerConfig,
                       xLSTMLMModel, xLSTMLMModelConfig)
    from xlstm.blocks.slstm.cell import sLSTMCell_cuda
    keys = {
        "model_type": "xlstm", "vocab_size": 40, "embedding_dim": 32, "num_blocks": 3, "context_length": 64, "bias": True,
        "slstm_at": [1], "tie_weights": False,
        "mlstm_block": {"mlstm": {"conv1d_kernel_size": 4, "qkv_proj_blocksize": 4, "num_heads": 4}},
        "slstm_block": {
            "slstm": {"backend": "vanilla", "num_heads": 4, "conv1d_kernel_size": 4, "bias_init": "standard"},
            "feedforward": {"proj_factor": 1.3, "act_fn": "gelu"},
        },
    }
    model = xLSTMLMModel(xLSTMLMModelConfig(
        vocab_size=40, embedding_dim=32, num_blocks=3, context_length=64, bias=True, slstm_at=[1],
        mlstm_block=mLSTMBlockConfig(mlstm=mLSTMLayerConfig(**keys["mlstm_block"]["mlstm"])),
        slstm_block=sLSTMBlockConfig(
            slstm=sLSTMLayerConfig(**keys["slstm_block"]["slstm"], dtype="float32"),
            feedforward=FeedForwardConfig(**keys["slstm_block"]["feedforward"]),
        ),
    )).eval()
    randomise(model, seed)
    model.double()
    write(folder, model, keys, 40, lambda ids: model(ids))
    cell = model.xlstm_block_stack.blocks[1].xlstm.slstm_cell
    config = copy.deepcopy(cell.config)
    cuda = sLSTMCell_cuda(config, skip_backend_init=True)
    prefix = "xlstm_block_stack.blocks.1.xlstm.slstm_cell."
    kernel = cuda._recurrent_kernel_ext2int(cell._recurrent_kernel_int2ext(cell._recurrent_kernel_.data))
    bias = cuda._bias_ext2int(cell._bias_int2ext(cell._bias_.data))
    layout = {f"{prefix}_recurrent_kernel_": kernel, f"{prefix}_bias_": bias}
    save_file({name: t.to(torch.float32).contiguous().clone() for name, t in layout.items()}, f"{folder}/cuda.safetensors")


def main(root):
    hugging_face(f"{root}/mamba_options", MambaForCausalLM, MambaConfig(
        vocab_size=40, hidden_size=24, state_size=5, num_hidden_layers=2, expand=1, conv_kernel=3, use_bias=True,
        use_conv_bias=False, time_step_rank=3), 1)
    hugging_face(f"{root}/mamba2_groups", Mamba2ForCausalLM, Mamba2Config(
        vocab_size=40, hidden_size=24, state_size=6, num_hidden_layers=2, expand=2, head_dim=6, num_heads=8, n_groups=4,
        conv_kernel=3, use_bias=True, time_step_limit=(0.3, 1.5), chunk_size=16), 2)
    hugging_face(f"{root}/xlstm_options", xLSTMForCausalLM, xLSTMConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_heads=2, use_bias=True, qk_dim_factor=0.25, v_dim_factor=0.5,
        gate_soft_cap=2.0, output_logit_soft_cap=3.0, ffn_proj_factor=1.1, ffn_round_up_to_multiple_of=8,
        norm_reduction_force_float32=False, inference_state_dtype="float64", eps=1e-3, norm_eps=1e-5), 3,
        torch.float64)
    xlstm_block(f"{root}/xlstm_block", 4)


main(sys.argv[1])
