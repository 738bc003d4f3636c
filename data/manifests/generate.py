#!/usr/bin/env python3
"""Writes the pinned manifests beside this file from a data folder.

    generate.py DATA             write the manifests
    generate.py DATA CLONES      also check that each URL's file is in that repository, at that commit,
                                 with the bytes of DATA. CLONES/<owner>/<name> is a git directory.

Sums come from DATA/*/SHA256SUMS and are recomputed: a file that differs from its sum stops the script.
"""
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

HERE = Path(__file__).resolve().parent
BABYLM = "suchirsalhan/babylm-evaluation-2025@bb41f0f01c21e90ee5051505570b1334df06f06a"
TINY = "moritzlad/BabyLM-Tiny@9511b3e854fa8217e029a4760df65cadc1c05bc5"
EWOK_HOME = "https://github.com/ewok-core/ewok"
EWOK_TERMS = (
    "Share only inside password-protected ZIP files, never as plain text, and report any use of it in training or "
    "improving models: https://github.com/ewok-core/ewok, TERMS_OF_USE.txt."
)
BABYLM_HOW = (
    "The official copy is the evaluation_data folder at https://osf.io/ryjfm; copy {0} from it "
    "to babylm-eval/{0} in your data folder."
)
BABYLM_LICENCE = "CC-BY 4.0 (BLiMP); the pipeline it comes with is Apache-2.0"
EWOK_HOW = (
    "No public address serves this archive. Accept the terms at "
    "https://huggingface.co/datasets/ewok-core/ewok-core-1.0, then copy {0} from a data folder that has it to "
    "ewok/{0} in yours (a lab's shared folder may hold it: the terms allow a ZIP with a password). "
    "{1} Or pack the items yourself: one DOMAIN.jsonl for each domain, rows with Context1, Context2, Target1 and Target2, "
    "`zip -e -r {0} FOLDER` with the password `ewok` or one that you set in BHEVAL_EWOK_PASSWORD; the items must be "
    "the same, their order need not."
)

# name: title, licence, source, terms, how_to_get, password, folder of SHA256SUMS, prefix kept from it,
# upstream "owner/name@commit" or a plain revision, and how a path there follows from the path here
SETS = {
    "blimp": dict(
        title="BLiMP: the benchmark of linguistic minimal pairs for English",
        licence="CC-BY 4.0",
        source="https://github.com/alexwarstadt/blimp",
        how_to_get="Clone https://github.com/alexwarstadt/blimp and copy its data folder to blimp/data in your data folder.",
        folder="blimp",
        keep="data/",
        upstream="alexwarstadt/blimp@3e56b06fcabca9b30822fc66435fca6b1aa40bb1",
        there="{path}",
    ),
    "blimp_filtered": dict(
        title="BLiMP as filtered by vocabulary for BabyLM 2025",
        licence=BABYLM_LICENCE,
        source="https://osf.io/ryjfm",
        how_to_get=BABYLM_HOW.format("full_eval/blimp_filtered"),
        folder="babylm-eval",
        keep="full_eval/blimp_filtered/",
        upstream=BABYLM,
        there="evaluation_data/{path}",
    ),
    "blimp_supplement": dict(
        title="BLiMP supplement of BabyLM, filtered, 2025",
        licence=BABYLM_LICENCE,
        source="https://osf.io/ryjfm",
        how_to_get=BABYLM_HOW.format("full_eval/supplement_filtered"),
        folder="babylm-eval",
        keep="full_eval/supplement_filtered/",
        upstream=BABYLM,
        there="evaluation_data/{path}",
    ),
    "blimp_fast": dict(
        title="BLiMP, fast set of BabyLM 2025",
        licence=BABYLM_LICENCE,
        source="https://osf.io/ryjfm",
        how_to_get=BABYLM_HOW.format("fast_eval/blimp_fast"),
        folder="babylm-eval",
        keep="fast_eval/blimp_fast/",
        upstream=TINY,
        there="evaluation_data/{path}",
    ),
    "supplement_fast": dict(
        title="BLiMP supplement, fast set of BabyLM 2025",
        licence=BABYLM_LICENCE,
        source="https://osf.io/ryjfm",
        how_to_get=BABYLM_HOW.format("fast_eval/supplement_fast"),
        folder="babylm-eval",
        keep="fast_eval/supplement_fast/",
        upstream=TINY,
        there="evaluation_data/{path}",
    ),
    "ewok": dict(
        title="EWoK-core-1.0: elements of world knowledge",
        licence="CC-BY 4.0, with terms of use",
        source=EWOK_HOME,
        terms=EWOK_TERMS,
        how_to_get=EWOK_HOW.format(
            "ewok-core-1.0.zip",
            "It was made with the framework of https://github.com/ewok-core/ewok, commit "
            "c4602f486da4ed765577b44485fa8977bf29b945, by its recipe for ewok-core, and packed with the password.",
        ),
        password="ewok",
        folder="ewok",
        keep="ewok-core-1.0.zip",
        upstream="c4602f486da4ed765577b44485fa8977bf29b945",
    ),
    "ewok_filtered": dict(
        title="EWoK as filtered by vocabulary for BabyLM 2025",
        licence="CC-BY 4.0, with terms of use",
        source=EWOK_HOME,
        terms=EWOK_TERMS,
        how_to_get=EWOK_HOW.format(
            "ewok_filtered.zip",
            "Its items are those that evaluation_pipeline.ewok.dl_and_filter of "
            "https://github.com/babylm/evaluation-pipeline-2025 writes, packed with the password.",
        ),
        password="ewok",
        folder="ewok",
        keep="ewok_filtered.zip",
        upstream=BABYLM.split("@")[1],
    ),
    "ewok_fast": dict(
        title="EWoK, fast set of BabyLM 2025",
        licence="CC-BY 4.0, with terms of use",
        source=EWOK_HOME,
        terms=EWOK_TERMS,
        how_to_get="The official copy is evaluation_data/fast_eval/ewok_fast.zip at https://osf.io/ryjfm; copy it, still "
        "packed, to ewok/ewok_fast.zip in your data folder.",
        password="BabyLM2025",
        folder="ewok",
        keep="ewok_fast.zip",
        upstream=TINY,
        there="evaluation_data/fast_eval/{path}",
    ),
    "bear": dict(
        title="BEAR and BEAR-big: a relational knowledge probe",
        licence="no licence file upstream; triples and labels from Wikidata (CC0)",
        source="https://github.com/lm-pub-quiz/BEAR",
        how_to_get="Clone https://github.com/lm-pub-quiz/BEAR to bear in your data folder and rename its README.md to UPSTREAM_README.md.",
        folder="bear",
        keep="",
        upstream="lm-pub-quiz/BEAR@3818fdc029d335b603631255c135d2a87b0bd24d",
        there="{path}",
        renamed={"UPSTREAM_README.md": "README.md"},
    ),
    "glue": dict(
        title="GLUE: CoLA, SST-2, MRPC, STS-B, QNLI (dev, test), RTE, WNLI and the diagnostic set",
        licence="per task, for research; see the README of each",
        source="https://gluebenchmark.com",
        how_to_get="The originals are the archives https://dl.fbaipublicfiles.com/glue/data/<TASK>.zip; unpack them to glue/<TASK> in "
        "your data folder. Their bytes may differ from the pinned copy, which has this manifest's revision.",
        folder="glue",
        keep="",
        upstream="F0restL1n/BERT@0d0288be08079531c7b3a85af3d532f9adb0f13a",
        there="glue_data/{path}",
    ),
    "superglue": dict(
        title="SuperGLUE: CB, COPA, MultiRC, RTE, WiC, WSC, AX-b, AX-g and BoolQ (val, test)",
        licence="per task, for research; see https://super.gluebenchmark.com",
        source="https://super.gluebenchmark.com",
        how_to_get="The originals are the archives https://dl.fbaipublicfiles.com/glue/superglue/data/v2/<TASK>.zip; unpack them to "
        "superglue/<TASK> in your data folder.",
        folder="superglue",
        keep="",
        upstream="DavidHe137/mice@e70addc73cae5c9dab5c64ccd7fe2e4bd660ad2c",
        there="data/{path}",
    ),
}


def sums(data, folder, keep):
    """(path in the folder, checksum) for each file whose path starts with `keep`."""
    lines = (data / folder / "SHA256SUMS").read_text().splitlines()
    pairs = [line.split("  ", 1) for line in lines if line]
    return sorted((path, digest) for digest, path in pairs if path.startswith(keep))


def entry(data, spec, path, digest):
    body = (data / spec["folder"] / path).read_bytes()
    if hashlib.sha256(body).hexdigest() != digest:
        sys.exit(f"{spec['folder']}/{path} differs from its sum in SHA256SUMS")
    out = {"path": f"{spec['folder']}/{path}", "sha256": digest, "size": len(body)}
    if "there" in spec:
        repository, commit = spec["upstream"].split("@")
        there = spec.get("renamed", {}).get(path, spec["there"].format(path=path))
        out["url"] = f"https://raw.githubusercontent.com/{repository}/{commit}/{there}"
    return out


def content(archive, password):
    """The digest of an EWoK archive's rows as data/src/content.rs defines it. Rows are hashed and never shown."""
    digest = hashlib.sha256()
    with ZipFile(archive) as packed:
        entries = {Path(entry).stem: entry for entry in packed.namelist() if entry.endswith(".jsonl")}
        for domain in sorted(entries, key=str.encode):
            rows = [json.loads(line) for line in packed.read(entries[domain], password).decode().split("\n") if line.strip()]
            digest.update(domain.encode() + b"\0" + len(rows).to_bytes(8, "little") + b"".join(sorted(map(row_key, rows))))
    return digest.hexdigest()


def row_key(row):
    fields = ("Context1", "Context2", "Target1", "Target2")
    return hashlib.sha256(b"".join(row[field].encode() + b"\0" for field in fields)).digest()


def manifest(data, name, spec):
    head = {"name": name, "title": spec["title"], "revision": spec["upstream"].split("@")[-1]}
    for key in ("licence", "source", "terms", "how_to_get", "password"):
        if key in spec:
            head[key] = spec[key]
    if name.startswith("ewok"):
        head["content_sha256"] = content(data / spec["folder"] / spec["keep"], spec["password"].encode())
    head["files"] = [entry(data, spec, *pair) for pair in sums(data, spec["folder"], spec["keep"])]
    return head


def blob_id(body):
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def check(data, clones, file):
    """The repository's own object at the URL's commit and path is this very file."""
    owner, name, commit, there = file["url"].split("/", 6)[3:]
    git = ["git", "-C", str(clones / owner / name)]
    found = subprocess.run(git + ["rev-parse", f"{commit}:{there}"], capture_output=True, text=True)
    if found.stdout.strip() != blob_id((data / file["path"]).read_bytes()):
        sys.exit(f"{file['url']} does not hold the bytes of {file['path']}")


def main():
    data = Path(sys.argv[1])
    clones = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    for name, spec in SETS.items():
        made = manifest(data, name, spec)
        with_url = [file for file in made["files"] if "url" in file]
        for file in with_url if clones else []:
            check(data, clones, file)
        (HERE / f"{name}.json").write_text(json.dumps(made, indent=1) + "\n")
        checked = "checked" if clones else "not checked"
        print(f"{name}: {len(made['files'])} files, {len(with_url)} with a URL ({checked})")


main()
