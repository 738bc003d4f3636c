"""Compares a tokenizer that `bheval tokenizer train` wrote with what transformers makes of it.

    python tests/interop/tokenizer.py TOKENIZER CORPUS [--documents N] [--retrain FILE ...]

CORPUS was built with that tokenizer. The tokens of its first N training documents are decoded by transformers and cut again,
by AutoTokenizer and by PreTrainedTokenizerFast: the ids must be those that bheval stored. Then hostile texts are held against
the ids of the `tokenizers` package alone. With --retrain and the (unpacked) text files that the tokenizer was trained on, the
package trains one of the same size on them: vocabulary and merges must be the same. Prints what was compared; exit code 1 if
anything differs.
"""

import argparse
import json
import struct
import sys
from pathlib import Path

import tokenizers
import transformers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

HOSTILE = [
    "a", " a", "  a  b\t\tc\n\n\nd \n e", "naïve Ünïcödé ﬁ ½ Ａ", "日本語 русский العربية", "👩‍👩‍👧‍👦 e\u0301 \u200b\ufeff",
    "it's we'll I'VE don''t", "1234567890 3.14e-10", "\x00\x01\x7f", "x" * 5000, "\n" * 300, "\r\n\r\n",
    "= = = Title = = =", "A:\tyes . \nB:\tno", "<s", "s>", "< s >", "</ s>",
]


def documents(corpus, count):
    """Token ids of the first training documents, from the shards' bytes alone."""
    record = json.loads((corpus / "corpus.json").read_text())
    width = {2: "H", 4: "I"}[record["token_bytes"]]
    shards = b"".join((corpus / shard["file"]).read_bytes() for shard in record["train"]["shards"])
    ids = struct.unpack(f"<{len(shards) // record['token_bytes']}{width}", shards)
    index = (corpus / record["train"]["index"]["file"]).read_bytes()
    starts = [start for start, _, _ in struct.iter_unpack("<QII", index)] + [len(ids)]
    return record, [ids[a:b] for a, b in list(zip(starts, starts[1:]))[:count]]


def retrained(files, record, special):
    """Vocabulary and merges of the package's own training on the same documents."""
    def texts():
        for file in files:
            text = file.read_text(encoding="utf-8").removeprefix("\ufeff")
            lines = [line.removesuffix("\r") for line in text.split("\n")]
            document = []
            for line in lines + [""]:
                if line.strip():
                    document.append(line)
                elif document:
                    yield "\n".join(document)
                    document = []

    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    space = record["add_prefix_space"]
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=space)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=record["vocab_asked"], min_frequency=record["min_frequency"], special_tokens=special,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], model["merges"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--retrain", type=Path, nargs="+", metavar="FILE")
    args = parser.parse_args()
    auto = AutoTokenizer.from_pretrained(args.tokenizer)
    fast = PreTrainedTokenizerFast.from_pretrained(args.tokenizer)
    bare = tokenizers.Tokenizer.from_file(str(args.tokenizer / "tokenizer.json"))
    record, docs = documents(args.corpus, args.documents)
    wrong = 0

    def hold(what, found, expected):
        nonlocal wrong
        if found != expected:
            wrong += 1
            print(f"DIFFERS: {what}: {str(found)[:200]} and not {str(expected)[:200]}")

    hold("vocabulary", len(auto), record["tokenizer"]["vocab"])
    hold("eos", auto.eos_token_id, record["tokenizer"]["eos"])
    hold("bos", auto.bos_token_id, record["tokenizer"]["bos"])
    special = {role: (token, auto.convert_tokens_to_ids(token)) for role, token in auto.special_tokens_map.items()}
    tokens = 0
    for number, ids in enumerate(docs):
        hold(f"end of document {number}", ids[-1], auto.eos_token_id)
        body = list(ids[1 if record["bos"] else 0:-1])
        text = auto.decode(body, clean_up_tokenization_spaces=False)
        tokens += len(body)
        for name, tokenizer in [("AutoTokenizer", auto), ("PreTrainedTokenizerFast", fast)]:
            again = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            hold(f"document {number}, {name}", again, body)
    for text in HOSTILE:
        hold(f"hostile {text[:20]!r}", auto(text, add_special_tokens=False)["input_ids"],
             bare.encode(text, add_special_tokens=False).ids)
        hold(f"hostile {text[:20]!r} and back", auto.decode(auto(text, add_special_tokens=False)["input_ids"],
             clean_up_tokenization_spaces=False), text)
    if args.retrain:
        own = json.loads((args.tokenizer / "tokenizer.json").read_text())
        training = json.loads((args.tokenizer / "training.json").read_text())
        vocab, merges = retrained(args.retrain, training, [t["content"] for t in own["added_tokens"]])
        hold("retrained vocabulary", vocab == own["model"]["vocab"], True)
        hold("retrained merges", merges == own["model"]["merges"], True)
        print(f"retrained on {len(args.retrain)} files: {len(vocab)} entries, {len(merges)} merges")
    print(f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}: {type(auto).__name__}, "
          f"{len(auto)} entries, special {special}")
    print(f"{len(docs)} documents of {tokens} tokens and {len(HOSTILE)} hostile texts: {wrong} differences")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
