"""Compares a tokenizer that `bheval tokenizer train` wrote with what transformers makes of it.

    python tests/interop/tokenizer.py TOKENIZER CORPUS [--documents N]

CORPUS was built with that tokenizer. The tokens of its first N training documents are decoded by transformers and cut again,
by AutoTokenizer and by PreTrainedTokenizerFast: the ids must be those that bheval stored. Then hostile texts are held against
the ids of the `tokenizers` package alone. Prints what was compared; exit code 1 if anything differs.
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--documents", type=int, default=2000)
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
    print(f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}: {type(auto).__name__}, "
          f"{len(auto)} entries, special {special}")
    print(f"{len(docs)} documents of {tokens} tokens and {len(HOSTILE)} hostile texts: {wrong} differences")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
