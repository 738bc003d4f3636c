"""Makes kenlm.json: what KenLM's lmplz says of a small made-up corpus. Usage: make.py PATH_OF_LMPLZ

KenLM commit 4cb443e60b7bf2c0ddf3c745378f76cb59e254e5, https://github.com/kpu/kenlm, built with cmake and Boost 1.74.
The corpus is made of numbers by a seeded generator, so that every order has n-grams of adjusted counts 1 to 4 and its
discounts can be estimated. Words are ids from 2 on: 0 stands for <s> and 1 for </s>. KenLM spreads the uniform share over
its words, </s> and <unk>, but not <s>; here it is spread over the words, 1 and 0, which are as many, so that the numbers
agree and 0 takes the place of <unk>.
"""
import json, random, re, subprocess, sys, tempfile

COMMON = 14
SEED = 4


def sentence(rng):
    """A walk over a few common words, now and then to a rare one."""
    word, out = 0, []
    while len(out) < 12:
        steps = [2, 1, 5, 3, 1, 7, 11, 4]
        pick = min(int(rng.expovariate(0.75)), len(steps) - 1)
        word = (word * 3 + steps[pick]) % COMMON
        rare = rng.random() < 0.06
        out.append(COMMON + min(int(rng.paretovariate(0.6)), 60) if rare else word)
        if len(out) > 1 and rng.random() < 0.16:
            break
    return out


def numbered(train, held):
    """Words become 2, 3, ...; held-out sentences with a word that training lacks are left out."""
    number = {word: i + 2 for i, word in enumerate(sorted({w for s in train for w in s}))}
    known = [s for s in held if all(w in number for w in s)]
    return len(number) + 2, *([[number[w] for w in s] for s in part] for part in (train, known))


def lmplz(path, order, text, more=()):
    with tempfile.NamedTemporaryFile("r", suffix=".arpa") as arpa:
        command = [path, "-o", str(order), "-S", "200M", "-T", tempfile.gettempdir(), "--arpa", arpa.name, *more]
        done = subprocess.run(command, input=text, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        found = re.findall(r"^(\d) \d+ D1=(\S+) D2=(\S+) D3\+=(\S+)", done.stderr, re.M)
        return [[float(x) for x in row[1:]] for row in found], read_arpa(arpa.read())


def read_arpa(text):
    grams = {}
    for line in text.splitlines():
        cells = line.split("\t")
        if len(cells) > 1:
            grams[tuple(cells[1].split())] = (float(cells[0]), float(cells[2]) if len(cells) > 2 else 0.0)
    return grams


def log10(grams, context, word):
    """The definition of an ARPA file: the longest n-gram that is there, and the back-off weights of those that are not."""
    if context + (word,) in grams:
        return grams[context + (word,)][0]
    if not context:
        return grams[("<unk>",)][0]
    return grams.get(context, (0, 0.0))[1] + log10(grams, context[1:], word)


def table(path, order, train, held, more=()):
    text = "".join(" ".join(map(str, s)) + "\n" for s in train)
    discounts, grams = lmplz(path, order, text, more)
    rows = []
    for s in held:
        path_of = ["<s>"] + [str(w) for w in s] + ["</s>"]
        rows.append([log10(grams, tuple(path_of[max(0, i - order + 1):i]), path_of[i]) for i in range(1, len(path_of))])
    return {"order": order, "discounts": discounts, "ngrams": len(grams), "log10": rows}


def corpus(path, train, held, more=()):
    vocab, train, held = numbered(train, held)
    models = [table(path, order, train, held, more) for order in range(1, 6)]
    return {"vocab": vocab, "train": train, "held": held, "models": models}


def main():
    rng = random.Random(SEED)
    train = [sentence(rng) for _ in range(400)]
    held = [sentence(rng) for _ in range(30)] + [[rng.randrange(COMMON + 4) for _ in range(9)] for _ in range(20)]
    out = {
        "estimated": corpus(sys.argv[1], train, held),
        "fallback": corpus(
            sys.argv[1], [[2, 3, 4], [2, 3, 5], [6, 3], [2]], [[2, 3, 4], [3, 2, 6], [5, 5]], ["--discount_fallback"]
        ),
    }
    open("kenlm.json", "w").write(json.dumps(out).replace("], [", "],\n[") + "\n")


main()
