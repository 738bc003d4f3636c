"""Makes one model of about 10 million parameters for each architecture, with random weights and one tokenizer of 8,192 pieces
trained on BLiMP's own sentences: what architectures cost, not what they know.

    pip install torch==2.9.1 transformers==4.57.6 tokenizers safetensors
    python random_models.py BLIMP_FOLDER OUT
"""

import glob
import json
import os
import sys

import transformers.utils.import_utils as import_utils
import_utils._xlstm_available = False

import torch
import transformers as hf
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

V, D, L = 8192, 256, 8


def tokenizer(blimp, kind):
    special = ["<s>", "</s>", "<pad>", "<unk>", "<mask>"]
    tok = Tokenizer(models.BPE(unk_token=None))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    rows = [json.loads(line) for f in sorted(glob.glob(f"{blimp}/*.jsonl")) for line in open(f, encoding="utf-8")]
    text = (row[key] for row in rows for key in ("sentence_good", "sentence_bad"))
    tok.train_from_iterator(text, trainers.BpeTrainer(vocab_size=V, special_tokens=special, show_progress=False,
                                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    pieces = tok.get_vocab_size()
    if kind == "masked":
        tok.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    named = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>", mask_token="<mask>")
    if kind == "masked":
        named |= dict(cls_token="<s>", sep_token="</s>")
    return hf.PreTrainedTokenizerFast(tokenizer_object=tok, **named), pieces


def by_name(out, config, shapes):
    torch.manual_seed(0)
    os.makedirs(out, exist_ok=True)
    tensor = lambda name, shape: torch.ones(shape) if "norm" in name else torch.randn(shape) * 0.02
    save_file({name: tensor(name, shape) for name, shape in shapes.items()}, f"{out}/model.safetensors")
    json.dump(config, open(f"{out}/config.json", "w"), indent=1)
    return sum(torch.Size(s).numel() for s in shapes.values())


def hgrn2(out):
    shapes = {"model.embeddings.weight": [V, D], "lm_head.weight": [V, D], "model.norm.weight": [D], "model.lower_bounds": [7, D]}
    for l in range(7):
        for p in "qfio":
            shapes[f"model.layers.{l}.attn.{p}_proj.weight"] = [D, D]
        for n in ("attn_norm", "attn.g_norm", "mlp_norm"):
            shapes[f"model.layers.{l}.{n}.weight"] = [D]
        for p in ("gate", "up"):
            shapes[f"model.layers.{l}.mlp.{p}_proj.weight"] = [768, D]
        shapes[f"model.layers.{l}.mlp.down_proj.weight"] = [D, 768]
    return by_name(out, {"model_type": "hgrn2", "hidden_size": D, "num_hidden_layers": 7, "vocab_size": V, "expand_ratio": 128}, shapes)


def lstm(out):
    H = 512
    shapes = {"embedding.weight": [V, D], "decoder.weight": [V, H], "decoder.bias": [V]}
    for k, width in enumerate([D, H]):
        shapes |= {f"lstm.weight_ih_l{k}": [4 * H, width], f"lstm.weight_hh_l{k}": [4 * H, H],
                   f"lstm.bias_ih_l{k}": [4 * H], f"lstm.bias_hh_l{k}": [4 * H]}
    return by_name(out, {"model_type": "lstm_lm", "vocab_size": V, "embedding_size": D, "hidden_size": H, "num_layers": 2,
                         "tie_word_embeddings": False}, shapes)


def transformers_models():
    ids = dict(bos_token_id=0, eos_token_id=1, pad_token_id=2)
    heads = dict(num_attention_heads=4, num_hidden_layers=L, max_position_embeddings=256)
    wide = dict(vocab_size=V, hidden_size=D, **heads)
    yield "llama", hf.LlamaForCausalLM, hf.LlamaConfig(**{**wide, "num_hidden_layers": 7}, intermediate_size=768, tie_word_embeddings=False, **ids)
    yield "gpt2", hf.GPT2LMHeadModel, hf.GPT2Config(vocab_size=V, n_embd=D, n_layer=L, n_head=4, n_positions=256, tie_word_embeddings=False, **ids)
    yield "gpt_neox", hf.GPTNeoXForCausalLM, hf.GPTNeoXConfig(**wide, intermediate_size=4 * D, **ids)
    yield "opt", hf.OPTForCausalLM, hf.OPTConfig(**wide, ffn_dim=4 * D, tie_word_embeddings=False, **ids)
    yield "mamba", hf.MambaForCausalLM, hf.MambaConfig(vocab_size=V, hidden_size=D, num_hidden_layers=14, tie_word_embeddings=False, **ids)
    yield "mamba2", hf.Mamba2ForCausalLM, hf.Mamba2Config(vocab_size=V, hidden_size=D, num_hidden_layers=14, num_heads=8, head_dim=64,
                                                         state_size=64, n_groups=1, tie_word_embeddings=False, **ids)
    yield "xlstm", hf.xLSTMForCausalLM, hf.xLSTMConfig(vocab_size=V, hidden_size=D, embedding_dim=D, num_hidden_layers=7, num_blocks=7, num_heads=4, **ids)
    yield "bert", hf.BertForMaskedLM, hf.BertConfig(**wide, intermediate_size=4 * D, tie_word_embeddings=False, pad_token_id=2)
    yield "roberta", hf.RobertaForMaskedLM, hf.RobertaConfig(**wide, intermediate_size=4 * D, tie_word_embeddings=False, **ids)


def main(blimp, out):
    causal, pieces = tokenizer(blimp, "causal")
    masked, _ = tokenizer(blimp, "masked")
    assert pieces <= V
    for name, make in [("hgrn2", hgrn2), ("lstm", lstm)]:
        print(name, make(f"{out}/{name}"))
        causal.save_pretrained(f"{out}/{name}")
    for name, cls, config in transformers_models():
        torch.manual_seed(0)
        model = cls(config)
        model.save_pretrained(f"{out}/{name}")
        (masked if name in ("bert", "roberta") else causal).save_pretrained(f"{out}/{name}")
        print(name, sum(p.numel() for p in model.parameters()))


main(sys.argv[1], sys.argv[2])
