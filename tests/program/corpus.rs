//! From text to a tokenizer and to a corpus, as a user does it.

use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use crate::kit::{Bheval, Ran, json, ran};

/// Short documents of several lines; their words repeat, so that there is something to merge.
fn text(name: &str, documents: usize) -> String {
    let words = ["the", "child", "reads", "a", "long", "book", "about", "rivers", "and", "their", "bridges"];
    let line = |i: usize| {
        (0..5 + i % 7).map(|j| words[(i * 7 + j * j * 3) % words.len()]).collect::<Vec<_>>().join(" ")
    };
    (0..documents).map(|i| format!("{name} {i}\n{}\n{}\n\n", line(i), line(i * i + 1))).collect()
}

/// A folder `text` with two domains in two splits.
fn with_text() -> Bheval {
    let bheval = Bheval::new();
    bheval.write("text/tales.train.txt", text("Tale", 300));
    bheval.write("text/tales.dev.txt", text("Dev tale", 30));
    let rows: String = text("Row", 200)
        .split_terminator("\n\n")
        .map(|t| format!("{}\n", serde_json::json!({"text": t})))
        .collect();
    bheval.write("text/rows.train.jsonl", rows);
    bheval
}

const TEXT: [&str; 4] = ["--from", "text", "--split", "train"];

fn tokenizer(bheval: &Bheval, out: &str, more: &[&str]) -> Ran {
    bheval.run(&[&["tokenizer", "train", "--vocab", "500", "-o", out], &TEXT[..], more].concat())
}

fn build(bheval: &Bheval, out: &str, more: &[&str]) -> Ran {
    bheval.run(&[&["corpus", "build", "--tokenizer", "tokenizer", "-o", out], &TEXT[..], more].concat())
}

fn ready() -> Bheval {
    let bheval = with_text();
    tokenizer(&bheval, "tokenizer", &["--quiet"]).done();
    bheval
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_tokenizer_is_trained_and_described() {
    let bheval = with_text();
    let ran = tokenizer(&bheval, "tokenizer", &[]).done();
    for part in ["vocabulary of", "rows", "tales", "tokens a word", "one-token words"] {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
    assert!(ran.stderr.starts_with("tokenizer in tokenizer after"), "{}", ran.stderr);
    let args = [&["tokenizer", "train", "--vocab", "5000", "-o", "large"], &TEXT[..]].concat();
    let few = bheval.run(&args).done().stderr;
    assert!(few.contains("no more pairs to merge") && few.contains("not 5,000"), "{few}");
    let files = ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "training.json"];
    assert_eq!(names(&bheval.path("tokenizer")), files);
    let record = json(&bheval.path("tokenizer/training.json"));
    let rows = bheval_data::digest::sha256_file(&bheval.path("text/rows.train.jsonl")).expect("a digest");
    assert_eq!(record["sources"][0]["sha256"], rows.as_str());
    let tales = text("Tale", 300);
    assert_eq!(record["domains"]["tales"]["words"], tales.split_whitespace().count());
    assert_eq!(record["domains"]["tales"]["documents"], 300);
    assert_eq!(record["domains"]["tales"]["unknown_tokens"], 0);
    let config = json(&bheval.path("tokenizer/tokenizer_config.json"));
    assert_eq!((&config["bos_token"], &config["eos_token"]), (&"<s>".into(), &"</s>".into()));
}

#[test]
fn a_tokenizer_is_the_same_whatever_the_threads_and_says_what_it_is_asked_for() {
    let bheval = with_text();
    for threads in ["1", "2", "5"] {
        tokenizer(&bheval, threads, &["--threads", threads, "--quiet"]).done();
        assert!(bheval.read("1/tokenizer.json") == bheval.read(&format!("{threads}/tokenizer.json")));
        assert_eq!(bheval.read("1/training.json"), bheval.read(&format!("{threads}/training.json")));
    }
    let more = ["--special", "[E],[P]", "--eos", "[E]", "--pad", "[P]", "--bos", "none", "--unk", "none"];
    let more =
        [&more[..], &["--normalizer", "nfc", "--add-prefix-space", "--json", "--sample", "0.5"]].concat();
    let shown = tokenizer(&bheval, "other", &more).done().stdout;
    assert_eq!(shown, bheval.read("other/training.json"));
    let tokenizer = json(&bheval.path("other/tokenizer.json"));
    assert_eq!(
        (&tokenizer["model"]["vocab"]["[E]"], &tokenizer["model"]["vocab"]["[P]"]),
        (&0.into(), &1.into())
    );
    assert_eq!(tokenizer["normalizer"]["type"], "NFC");
    assert_eq!(tokenizer["pre_tokenizer"]["add_prefix_space"], true);
    let config = json(&bheval.path("other/tokenizer_config.json"));
    assert!(config.get("bos_token").is_none() && config["eos_token"] == "[E]");
}

#[test]
fn tokenizers_that_can_not_be_are_refused() {
    let bheval = with_text();
    let refused = |more: &[&str], parts: &[&str]| {
        let args = [&["tokenizer", "train", "-o", "out"], more].concat();
        bheval.run(&args).refused(2, parts);
        assert!(!bheval.path("out").exists());
    };
    let with = |more: &[&'static str]| [&TEXT[..], more].concat();
    refused(&with(&["--vocab", "259"]), &["no room for the 256 bytes and 4 special tokens", "260"]);
    refused(&with(&["--special", "<s>,</s>,<s>"]), &["\"<s>\" was given twice"]);
    refused(&with(&["--special", "<s>,</s>,x"]), &["\"x\" can't be a special token"]);
    refused(&with(&["--eos", "<end>"]), &["<end>", "--special"]);
    refused(&with(&["--sample", "0"]), &["a sample of 0"]);
    refused(&with(&["--only", "poems"]), &["no domain is called \"poems\"", "rows, tales"]);
    refused(&[], &["no text was named"]);
    refused(&["--from", "text"], &["several splits", "dev, train"]);
    refused(&["--from", "none"], &["none"]);
    bheval.write("empty.txt", "\n\n");
    refused(&["--domain", "a=empty.txt"], &["hold no documents"]);
    bheval.write("bad.txt.gz", "nothing packed");
    refused(
        &["--domain", "a=text/tales.dev.txt,bad.txt.gz"],
        &["bad.txt.gz, line 1", "gzip data can't be unpacked"],
    );
}

#[test]
fn a_corpus_is_built_shown_and_verified() {
    let bheval = ready();
    let built =
        build(&bheval, "corpus", &["--dev-domain", "tales=text/tales.dev.txt", "--licence", "tales=CC0"])
            .done();
    assert!(built.stdout.contains("tales") && built.stdout.contains("dev words"), "{}", built.stdout);
    let record = json(&bheval.path("corpus/corpus.json"));
    assert_eq!(
        (&record["train"]["total"]["documents"], &record["dev"]["total"]["documents"]),
        (&500.into(), &30.into())
    );
    assert_eq!(record["domains"][1]["licence"], "CC0");
    let words: usize =
        [text("Tale", 300), text("Row", 200)].iter().map(|t| t.split_whitespace().count()).sum();
    assert_eq!(record["train"]["total"]["words"], words);
    assert_eq!(
        bheval.run(&["corpus", "show", "corpus", "--json"]).done().stdout,
        bheval.read("corpus/corpus.json")
    );
    let shown = bheval.run(&["corpus", "show", "corpus", "--documents", "2"]).done().stdout;
    assert_eq!((shown.matches("\n--- ").count(), shown.matches("<s>").count()), (2, 2), "{shown}");
    let verified = bheval.run(&["corpus", "verify", "corpus"]).done().stdout;
    let digest = bheval_data::digest::sha256_file(&bheval.path("corpus/corpus.json")).expect("a digest");
    assert!(verified.contains(&digest), "{verified}");
    let path = bheval.path("corpus/train-00000.bin");
    let mut bytes = std::fs::read(&path).expect("a shard");
    bytes[9] ^= 1;
    std::fs::write(&path, bytes).expect("written");
    bheval.run(&["corpus", "verify", "corpus"]).refused(1, &["train-00000.bin", "SHA-256"]);
    bheval.run(&["corpus", "verify", "text"]).refused(2, &["this is no corpus"]);
}

#[test]
fn plans_and_mixture_files_say_the_same_as_options() {
    let bheval = ready();
    let plan = "[domains.tales]\nfiles = [\"text/tales.train.txt\"]\nshare = 0.25\nlicence = \"mine\"\n\
                [domains.rows]\nfiles = [\"text/rows.train.jsonl\"]\nshare = \"rest\"\n";
    bheval.write("plan.toml", plan);
    let words = ["--words", "2000", "--dev-share", "0"];
    let by = |out: &str, more: &[&str]| {
        let args = [&["corpus", "build", "--tokenizer", "tokenizer", "-o", out], &words[..], more].concat();
        bheval.run(&args).done();
        std::fs::read(bheval.path(out).join("train-00000.bin")).expect("a shard")
    };
    let planned = by("plan", &["--plan", "plan.toml"]);
    assert_eq!(json(&bheval.path("plan/corpus.json"))["domains"][1]["licence"], "mine");
    bheval.write(
        "plan.json",
        serde_json::json!({"domains": {
            "tales": {"files": ["text/tales.train.txt"], "share": "25%"},
            "rows": {"files": ["text/rows.train.jsonl"], "share": "rest"},
        }})
        .to_string(),
    );
    assert!(planned == by("json", &["--plan", "plan.json"]));
    let options = [&TEXT[..], &["--mixture", "tales=25%,rows=rest"]].concat();
    assert!(planned == by("options", &options));
    bheval.write("mixture.toml", "tales = 0.25\nrows = \"rest\"\n");
    assert!(planned == by("file", &[&TEXT[..], &["--mixture", "mixture.toml"]].concat()));
    let refused = |more: &[&str], parts: &[&str]| {
        let args = [&["corpus", "build", "--tokenizer", "tokenizer", "-o", "out"], more].concat();
        bheval.run(&args).refused(2, parts);
    };
    refused(&["--plan", "plan.toml", "--mixture", "natural"], &["the plan has shares of its own"]);
    bheval.write("wrong.toml", "[domains.a]\nfiles = []\nfile = \"x\"\n");
    refused(&["--plan", "wrong.toml"], &["wrong.toml", "unknown field `file`"]);
    refused(&[&TEXT[..], &["--mixture", "pyle"]].concat(), &["pyle", "natural, pile, pile-100m, babylm"]);
}

#[test]
fn what_does_not_add_up_is_refused_before_anything_is_written() {
    let bheval = ready();
    let refused = |more: &[&str], parts: &[&str]| {
        build(&bheval, "corpus", more).refused(2, parts);
        assert!(names(&bheval.path(".")).iter().all(|name| name != "corpus" && !name.starts_with('.')));
    };
    refused(&["--words", "10M"], &["short of their word budgets", "rows has", "tales has", "--allow-short"]);
    refused(&["--words", "ten"], &["no number of words"]);
    refused(&["--mixture", "tales=0.5,rows=0.4", "--words", "1K"], &["0.9", "--renormalize"]);
    refused(&["--mixture", "tales=all"], &["no share for rows"]);
    refused(&["--mixture", "pile", "--words", "1K"], &["parts that no domain stands for", "Pile-CC"]);
    refused(&["--dev-share", "1.5"], &["1.5"]);
    refused(&["--dev-split", "test"], &["no file of the split \"test\""]);
    refused(&["--dev-domain", "tales=text/tales.train.txt"], &["given twice"]);
    refused(&["--licence", "tales"], &["NAME=TEXT"]);
    bheval.write("corpus-file", "");
    build(&bheval, "corpus-file", &[]).refused(2, &["it is a file"]);
    build(&bheval, "text", &["--force"]).refused(2, &["something else"]);
    build(&bheval, "tokenizer", &[]).refused(2, &["not empty"]);
    let warned =
        build(&bheval, "scaled", &["--mixture", "tales=0.5,rows=0.4", "--words", "1K", "--renormalize"])
            .done();
    assert!(warned.stderr.contains("shares were scaled"), "{}", warned.stderr);
    let short = build(&bheval, "short", &["--words", "1M", "--allow-short"]).done();
    assert!(short.stderr.contains("rows is short"), "{}", short.stderr);
    build(&bheval, "short", &["--force", "--quiet"]).done();
}

/// Two lines of 100 MB, plain and packed to a few kilobytes: refused, with less memory than a line has.
#[cfg(target_os = "linux")]
#[test]
fn a_line_of_100_mb_is_refused_in_little_memory() {
    let bheval = ready();
    let long = vec![b'x'; 100 << 20];
    let packed = bheval.path("long.txt.zst");
    std::fs::write(&packed, zstd_of_letters(b"short\n\n", b'x', 800)).expect("written");
    bheval.write("long.txt", &long);
    bheval.write("long.jsonl", [b"{\"text\": \"", &long[..], b"\"}\n"].concat());
    for (file, line) in [("long.txt.zst", 3), ("long.txt", 1), ("long.jsonl", 1)] {
        let mut command = bheval.command();
        let args = ["corpus", "build", "--tokenizer", "tokenizer", "-o", "out", "--threads", "2", "--domain"];
        command.args(args).arg(format!("a={file}"));
        let (ran, peak) = measured(&mut command);
        ran.refused(2, &[&format!("{file}, line {line}: longer than the")]);
        assert!(peak < 100 << 20, "{file}: {peak} bytes");
    }
}

/// A zstd frame of a text and then a letter, 800 times 128 KiB of it: blocks of one repeated byte (RFC 8878, 3.1.1.2).
#[cfg(target_os = "linux")]
fn zstd_of_letters(text: &[u8], letter: u8, blocks: u32) -> Vec<u8> {
    let header = |kind: u32, size: usize, last: bool| {
        let number = u32::from(last) | kind << 1 | (size as u32) << 3;
        number.to_le_bytes()[..3].to_vec()
    };
    // Magic number, no sizes and no checksum, a window of 128 KiB.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 7 << 3];
    frame.extend(header(0, text.len(), false));
    frame.extend(text);
    for block in 1..=blocks {
        frame.extend(header(1, 1 << 17, block == blocks));
        frame.push(letter);
    }
    frame
}

/// Runs a command to its end and tells the most memory it had: read again and again, since it is gone with the process.
#[cfg(target_os = "linux")]
fn measured(command: &mut std::process::Command) -> (Ran, u64) {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let status = format!("/proc/{}/status", child.id());
    let watcher = std::thread::spawn(move || {
        let mut peak = 0;
        while let Ok(text) = std::fs::read_to_string(&status) {
            let Some(line) = text.lines().find(|line| line.starts_with("VmHWM:")) else { break };
            let kib = line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
            peak = kib.expect("a number") << 10;
            sleep(Duration::from_millis(1));
        }
        peak
    });
    let ran = ran(&child.wait_with_output().expect("it ends"));
    (ran, watcher.join().expect("it watches"))
}

/// A file-size limit stands in for a full disk: writing fails in the middle.
#[cfg(unix)]
#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let bheval = ready();
    let program = env!("CARGO_BIN_EXE_bheval");
    let script = format!(
        "trap '' XFSZ; ulimit -f 8; exec {program} corpus build --tokenizer tokenizer --from text --split train -o out"
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .current_dir(bheval.path("."))
        .stdin(Stdio::null())
        .output()
        .expect("a shell");
    ran(&output).refused(2, &["could not write", "spool.tmp"]);
    assert!(names(&bheval.path(".")).iter().all(|name| name != "out" && !name.starts_with('.')));
}

#[test]
fn killed_at_any_moment_a_build_leaves_a_whole_corpus_or_none() {
    let bheval = ready();
    let (mut none, mut whole) = (0, 0);
    for kill in 0..16_u64 {
        let args =
            ["corpus", "build", "--tokenizer", "tokenizer", "--out", "corpus", "--shard-tokens", "500"];
        let mut child = bheval
            .command()
            .args(args)
            .args(TEXT)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let staging = bheval.path(&format!(".corpus.{}.tmp", child.id()));
        if kill == 15 {
            child.wait().expect("a child");
        } else if kill > 2 {
            while !staging.exists() && child.try_wait().expect("a child").is_none() {
                sleep(Duration::from_micros(50));
            }
            sleep(Duration::from_micros(300 * (kill - 3)));
        }
        let _ = child.kill();
        child.wait().expect("gone");
        if bheval.path("corpus").exists() {
            bheval.run(&["corpus", "verify", "corpus"]).done();
            std::fs::remove_dir_all(bheval.path("corpus")).expect("removed");
            whole += 1;
        } else {
            none += 1;
        }
    }
    assert!(whole > 0 && none > 2, "{whole} whole, {none} none");
}
