"""Adds losses and gradients to the tiny xLSTM checkpoints of this folder, by the peers' own code with autograd, in float64.

Peers and installation as in recurrent.py:

    python -P recurrent_gradients.py FOLDER

(`-P`, because transformers.py beside it is no package.)

`train.safetensors` of a checkpoint holds `ids` [B, T], `targets` [B, T] (-100 = ignored), `loss` (the mean cross-entropy over
the other targets) and `grad.{name}` for every parameter.
"""

import json
import sys

import torch
import transformers.utils.import_utils as import_utils
import_utils._xlstm_available = False

from safetensors.torch import load_file, save_file
from transformers import xLSTMConfig, xLSTMForCausalLM


def write(folder, model, vocab, run):
    model.load_state_dict(load_file(f"{folder}/model.safetensors"), strict=True)
    model.double().eval()
    torch.manual_seed(1)
    ids = torch.randint(0, vocab, (3, 40))
    targets = torch.roll(ids, -1, 1)
    targets[:, -1] = -100
    targets[1, 25:] = -100
    loss = torch.nn.functional.cross_entropy(run(ids).flatten(0, 1), targets.flatten())
    loss.backward()
    golden = {f"grad.{name}": p.grad.to(torch.float32).contiguous() for name, p in model.named_parameters()}
    golden |= {"ids": ids, "targets": targets, "loss": loss.detach().double().reshape(1)}
    save_file(golden, f"{folder}/train.safetensors")
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters()}
    print(folder, loss.item(), min(norms.items(), key=lambda x: x[1]), max(norms.items(), key=lambda x: x[1]))


def xlstm_block(folder):
    from xlstm import (FeedForwardConfig, mLSTMBlockConfig, mLSTMLayerConfig, sLSTMBlockConfig, sLSTMLayerConfig,
                       xLSTMLMModel, xLSTMLMModelConfig)
    keys = json.load(open(f"{folder}/config.json"))
    keys.pop("model_type")
    matrix, scalar = keys.pop("mlstm_block"), keys.pop("slstm_block")
    model = xLSTMLMModel(xLSTMLMModelConfig(
        mlstm_block=mLSTMBlockConfig(mlstm=mLSTMLayerConfig(**matrix["mlstm"])),
        slstm_block=sLSTMBlockConfig(
            slstm=sLSTMLayerConfig(**scalar["slstm"], dtype="float32"),
            feedforward=FeedForwardConfig(**scalar["feedforward"]),
        ), **keys))
    write(folder, model, keys["vocab_size"], model)


def main(root):
    config = xLSTMConfig(**json.load(open(f"{root}/xlstm_options/config.json")))
    model = xLSTMForCausalLM(config)
    write(f"{root}/xlstm_options", model, config.vocab_size, lambda ids: model(input_ids=ids, use_cache=False).logits)
    xlstm_block(f"{root}/xlstm_block")


main(sys.argv[1])
