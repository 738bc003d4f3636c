//! ONNX files through the whole program.

use std::process::Command;

use bheval_tests::onnx::onnxruntime;

use crate::kit::{Bheval, Ran, json, model, ran, table};

/// The program where onnxruntime is at hand.
fn command(bheval: &Bheval) -> Command {
    let mut command = bheval.command();
    command.env("ORT_DYLIB_PATH", onnxruntime());
    command
}

/// Runs `eval` on a golden ONNX file with its tokenizer.
fn eval(bheval: &Bheval, name: &str, args: &[&str]) -> Ran {
    let mut command = command(bheval);
    command.arg("--model").arg(model("onnx").join(format!("{name}.onnx")));
    command.arg("--tokenizer").arg(model(name)).args(args);
    ran(&command.output().expect("the program starts"))
}

#[test]
fn the_demo_is_scored_and_results_say_what_computed() {
    let bheval = Bheval::new();
    let ran = eval(&bheval, "llama", &["--tasks", "demo", "--run-dir", "run"]).done();
    assert!(
        ran.stdout.contains("demo_pairs") && ran.stderr.contains(": 0.0% saved"),
        "{}{}",
        ran.stdout,
        ran.stderr
    );
    assert_eq!(table(&bheval.read("run/items/demo_pairs.csv")).len(), 300);
    let identity = json(&bheval.path("run/plan.json"))["identity"].clone();
    assert!(identity["dtype"].as_str().is_some_and(|d| d.starts_with("f32 by onnxruntime 1.")), "{identity}");
    assert_eq!(identity["route"], "flat");
    assert!(identity["backend"].as_str().is_some_and(|b| b.starts_with("onnx ")), "{identity}");
}

/// Every item as lm-eval scored the same weights with transformers.
fn lm_eval(name: &str) {
    let bheval = Bheval::new();
    let golden = json(&model("protocols").join(format!("lmeval_blimp_items_{name}.json")));
    let paradigms = golden["items"].as_object().expect("paradigms");
    let tasks: Vec<String> = paradigms.keys().map(|uid| format!("blimp/{uid}")).collect();
    eval(&bheval, name, &["--tasks", &tasks.join(","), "--protocol", "lm-eval", "--run-dir", "run"]).done();
    let ours = table(&bheval.read("run/items/blimp.csv"));
    assert_eq!(ours.len(), paradigms.len() * 1000);
    for (uid, items) in paradigms {
        for i in 0..1000 {
            let row =
                ours.get(&format!("blimp/{uid}/{i}")).unwrap_or_else(|| panic!("no item blimp/{uid}/{i}"));
            let (good, bad) = (&items["good"][i], &items["bad"][i]);
            let pair = [("log_prob_good", good), ("log_prob_bad", bad)];
            for (column, golden) in pair {
                let ours: f64 = row[column].parse().expect("a number");
                let golden = golden.as_f64().expect("a number");
                assert!((ours - golden).abs() < 2e-4, "{uid} {i}: {ours} where lm-eval has {golden}");
            }
            // A closer pair than the goldens' rounding may be a tie there and none here.
            let (good, bad) = (good.as_f64().expect("a number"), bad.as_f64().expect("a number"));
            if (good - bad).abs() > 1e-4 {
                assert_eq!(row["correct"].parse(), Ok(f64::from(u8::from(good > bad))), "{uid} {i}");
            }
        }
    }
}

#[test]
fn llama_chooses_as_lm_eval_does() {
    lm_eval("llama");
}

#[test]
fn gpt2_chooses_as_lm_eval_does() {
    lm_eval("gpt2");
}

#[test]
fn batches_and_threads_change_no_bit() {
    let bheval = Bheval::new();
    let run = |name: &str, threads: &str, size: &str| {
        let tasks = ["--tasks", "blimp,demo", "--limit", "4", "--run-dir", name];
        eval(&bheval, "llama", &[&tasks[..], &["--threads", threads, "--batch-size", size]].concat()).done();
        (bheval.read(&format!("{name}/results.json")), bheval.read(&format!("{name}/items/blimp.csv")))
    };
    let reference = run("auto", "2", "auto");
    assert!(run("one", "1", "1") == reference && run("seven", "2", "7") == reference);
}

#[test]
fn the_backend_follows_from_the_files() {
    let bheval = Bheval::new();
    let inspect = |folder: &std::path::Path, more: &[&str]| {
        let mut command = command(&bheval);
        command.arg("inspect").arg("--model").arg(folder).args(more);
        ran(&command.output().expect("the program starts"))
    };
    // A folder as Optimum writes it: configuration and tokenizer beside the graph.
    let folder = bheval.copy_of("llama");
    let onnx = model("onnx").join("llama.onnx");
    std::fs::copy(&onnx, folder.join("model.onnx")).expect("copied");
    std::fs::rename(folder.join("model.safetensors"), bheval.path("model.safetensors")).expect("moved");
    let shown = inspect(&folder, &["The cat sat."]).done().stdout;
    assert!(shown.contains("model      llama (causal)") && shown.contains("context: 256 tokens"), "{shown}");
    assert!(inspect(&folder.join("model.onnx"), &["The cat sat."]).done().stdout.contains("llama (causal)"));
    // Both kinds of weights: the native backend goes first, and --backend decides otherwise.
    let both = bheval.copy_of("hgrn2");
    std::fs::copy(&onnx, both.join("model.onnx")).expect("copied");
    assert!(inspect(&both, &["The cat."]).done().stdout.contains("240448 parameters"));
    assert!(inspect(&both, &["The cat.", "--backend", "onnx"]).done().stdout.contains("189256 parameters"));
    let file = inspect(&both.join("model.safetensors"), &["The cat."]).done().stdout;
    assert!(file.contains("240448 parameters"), "{file}");
    std::fs::rename(both.join("model.onnx"), both.join("a.onnx")).expect("moved");
    std::fs::copy(&onnx, both.join("b.onnx")).expect("copied");
    inspect(&both, &["--backend", "onnx"]).refused(2, &["several .onnx files", "a.onnx, b.onnx"]);
}

#[test]
fn a_missing_library_is_explained() {
    let bheval = Bheval::new();
    let file = model("onnx").join("llama.onnx");
    let mut command = bheval.command();
    // Nothing is left that could lead to a library, but for the system's own folders.
    command.env_clear().env("PATH", bheval.path("nothing")).env("HOME", bheval.path("home"));
    command.arg("inspect").arg("--model").arg(&file).arg("--tokenizer").arg(model("llama"));
    let named = bheval.path("none.so");
    let output = command.env("ORT_DYLIB_PATH", &named).output().expect("the program starts");
    ran(&output).refused(2, &["none.so", "can't be opened", "pip install onnxruntime", "ORT_DYLIB_PATH"]);
    std::fs::write(&named, "no library").expect("written");
    ran(&command.output().expect("starts")).refused(2, &["can't be loaded as a library", "1.17 or newer"]);
    let old = bheval_tests::plugins::compiled(&bheval.path(""), "old_onnxruntime");
    let output = command.env("ORT_DYLIB_PATH", &old).output().expect("the program starts");
    ran(&output).refused(2, &["is version 1.16.3", "1.17 or newer"]);
    let unset = command.env_remove("ORT_DYLIB_PATH").output().expect("the program starts");
    if unset.status.code() != Some(0) {
        ran(&unset).refused(2, &["none is there", "beside the binary", "pip install onnxruntime"]);
    }
    // Beside the binary is a place of its own: the same program, moved next to the library.
    let binary = bheval.path("bin/bheval");
    std::fs::create_dir(bheval.path("bin")).expect("made");
    std::fs::copy(env!("CARGO_BIN_EXE_bheval"), &binary).expect("copied");
    let runtime = bheval_onnx::runtime::Runtime::load(onnxruntime()).expect("the library loads");
    let library = runtime.path;
    std::fs::copy(&library, binary.with_file_name(library.file_name().expect("a name"))).expect("copied");
    let mut moved = Command::new(&binary);
    moved.env_clear().arg("inspect").arg("--model").arg(&file).arg("--tokenizer").arg(model("llama"));
    ran(&moved.output().expect("the program starts")).done();
}

#[test]
fn external_data_outside_the_folder_is_refused() {
    use bheval_tests::onnx::{Model, Tensor};
    let bheval = Bheval::new();
    bheval.write("secret.bin", [0; 36]);
    let table = Tensor::f32("table", &[3, 3], &[0.0; 9]).external(&[("location", "../secret.bin")]);
    let file = bheval.write("inner/model.onnx", Model::bigram(table, 7).bytes());
    let mut command = command(&bheval);
    command.arg("inspect").arg("--model").arg(file).arg("--tokenizer").arg(model("llama"));
    let ran = ran(&command.output().expect("the program starts"));
    ran.refused(2, &["../secret.bin", "not inside the model's folder"]);
}
