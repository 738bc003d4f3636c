//! The C header is what the Rust source says: byte for byte when made anew, and in the layout that compilers give it.

use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::Command;

use bheval_abi::{
    Backend, Dtype, FEATURE_FOREST, Forest, HIDDEN_EXTENSION, Hidden, HiddenTable, Kept, Kind,
    LOGITS_EXTENSION, Logits, LogitsTable, MAJOR, MASKED_EXTENSION, MINOR, Masked, MaskedTable, Message,
    NO_PARENT, RawHead as Head, RawTeacher as Teacher, SYMBOL, Scores, Status, TRAIN_EXTENSION, TrainBatch,
    TrainRates, TrainSums, TrainTable,
};
use cbindgen::Config;

type Text = bheval_abi::Text<'static>;
type OpenOptions = bheval_abi::OpenOptions<'static>;
type ModelInfo = bheval_abi::ModelInfo<'static>;
type TrainOptions = bheval_abi::TrainOptions<'static>;
type TrainInfo = bheval_abi::TrainInfo<'static>;
type TrainTensor = bheval_abi::TrainTensor<'static>;

const WRITE: &str = "BHEVAL_WRITE_HEADER";

fn abi() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../backends/abi")
}

fn header() -> PathBuf {
    abi().join("include/bheval.h")
}

#[test]
fn the_header_is_what_the_source_says() {
    let made = made();
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(header(), &made).expect("the header is written");
    }
    let committed = std::fs::read_to_string(header()).unwrap_or_default();
    let line = committed.lines().zip(made.lines()).position(|(a, b)| a != b);
    assert!(
        committed == made,
        "{} is not what backends/abi/src says, first at line {}; to write it anew: \
         {WRITE}=1 cargo test -p bheval-tests --test header",
        header().display(),
        line.unwrap_or(committed.lines().count().min(made.lines().count())) + 1
    );
}

/// The header, made from the source.
fn made() -> String {
    let mut config = Config::from_file(abi().join("cbindgen.toml")).expect("cbindgen.toml is understood");
    let source = std::fs::read_to_string(abi().join("src/lib.rs")).expect("lib.rs is there");
    let fill = |text: &mut Option<String>| {
        *text = text.as_ref().map(|t| {
            t.replace("{rules}", &rules(&source))
                .replace("{SYMBOL}", SYMBOL)
                .replace("{LOGITS_EXTENSION}", LOGITS_EXTENSION)
                .replace("{HIDDEN_EXTENSION}", HIDDEN_EXTENSION)
                .replace("{MASKED_EXTENSION}", MASKED_EXTENSION)
                .replace("{TRAIN_EXTENSION}", TRAIN_EXTENSION)
        });
    };
    fill(&mut config.header);
    fill(&mut config.after_includes);
    let names = config.export.rename.clone();
    let builder = cbindgen::Builder::new().with_crate(abi()).with_config(config);
    let mut bytes = Vec::new();
    builder.generate().expect("cbindgen reads the source").write(&mut bytes);
    let text = String::from_utf8(bytes).expect("the header is UTF-8");
    let c_name = |name: &str| c_name(name, names.get(name));
    text.lines().map(|line| in_c_names(line, &c_name) + "\n").collect()
}

/// The docs of the crate, as a comment.
fn rules(source: &str) -> String {
    let docs: Vec<_> = source.lines().filter_map(|line| line.strip_prefix("//!")).collect();
    docs.iter().map(|line| format!("//{line}\n")).collect()
}

/// Turns the links and sizes of a comment into the names of C.
fn in_c_names(line: &str, c_name: &impl Fn(&str) -> String) -> String {
    if !line.trim_start().starts_with("//") {
        return line.to_owned();
    }
    let line = line.replace("`sizeof(Raw", "`sizeof(").replace("`sizeof(", "`sizeof(Bheval");
    let mut parts = line.split("[`");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once("`]").expect("a link ends on its line");
        out += &format!("`{}`{rest}", c_name(name.trim_start_matches("crate::")));
    }
    out
}

fn c_name(rust: &str, renamed: Option<&String>) -> String {
    if let Some(name) = renamed {
        return name.clone();
    }
    match rust.split_once("::") {
        Some((owner, constant)) => format!("BHEVAL_{}_{constant}", owner.to_uppercase()),
        None if rust.starts_with(char::is_uppercase) => format!("Bheval{rust}"),
        None => rust.to_owned(),
    }
}

#[test]
fn compilers_take_the_header_alone() {
    for compiler in COMPILERS {
        let mut command = compiler.command();
        compiled(command.arg("-include").arg(header()).args(["-x", compiler.language, "/dev/null"]));
    }
}

#[test]
fn compilers_lay_the_structs_out_as_rust_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("layout.c");
    std::fs::write(&file, layout_asserts()).expect("the asserts are written");
    for compiler in COMPILERS {
        let mut command = compiler.command();
        command.arg("-I").arg(abi().join("include"));
        compiled(command.args(["-x", compiler.language]).arg(&file));
    }
}

struct Compiler {
    program: &'static str,
    standard: &'static str,
    language: &'static str,
}

const COMPILERS: [Compiler; 2] = [
    Compiler { program: "cc", standard: "-std=c11", language: "c" },
    Compiler { program: "c++", standard: "-std=c++17", language: "c++" },
];

impl Compiler {
    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command.args([self.standard, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]);
        command
    }
}

fn compiled(command: &mut Command) {
    let output = command.output().expect("a C and a C++ compiler, `cc` and `c++`, are there");
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// A struct's C name, size and alignment, and the offset of each field.
struct Layout {
    name: &'static str,
    size: usize,
    align: usize,
    fields: Vec<(&'static str, usize)>,
}

/// The layout of a struct. Every field must be named; those after `besides` exist in Rust only.
macro_rules! layout {
    ($name:ident { $($field:ident),* } $(besides $hidden:ident)?) => {{
        let _ = |$name { $($field: _,)* $($hidden: _,)? }: $name| ();
        Layout {
            name: stringify!($name),
            size: size_of::<$name>(),
            align: align_of::<$name>(),
            fields: vec![$((stringify!($field), offset_of!($name, $field))),*],
        }
    }};
}

fn layouts() -> Vec<Layout> {
    vec![
        layout!(Text { ptr, len } besides borrow),
        layout!(Message { size, ptr, capacity, len }),
        layout!(OpenOptions { size, path, threads, dtype, memory }),
        layout!(ModelInfo { size, vocab, context, nodes, kind, parameters, architecture, dtype }),
        layout!(Forest { size, len, token, parent, wanted }),
        layout!(Scores { size, log_prob, len, fed }),
        layout!(Backend {
            size,
            major,
            minor,
            features,
            name,
            version,
            open,
            close,
            describe,
            score,
            extension
        }),
        layout!(Logits { size, data, len }),
        layout!(LogitsTable { size, logits }),
        layout!(Head { size, width, has_bias, weight, bias }),
        layout!(Hidden { size, data, len }),
        layout!(HiddenTable { size, head, hidden }),
        layout!(Masked { size, len, token, sequences, begin, queries, position, target }),
        layout!(MaskedTable { size, score }),
        layout!(TrainOptions { size, path, draw, threads, dtype, seed }),
        layout!(TrainInfo { size, vocab, context, tensors, width, parameters, architecture, dtype, device }),
        layout!(TrainTensor { size, name, dimensions, decay, shape }),
        layout!(Teacher {
            size,
            kind,
            columns,
            temperature,
            weight,
            every_position,
            values,
            ids,
            rest,
            head,
            bias
        }),
        layout!(TrainBatch { size, batch, steps, token, target, weight, pass, teacher }),
        layout!(TrainSums { size, nats, divergence, targets }),
        layout!(TrainRates {
            size,
            learning_rate,
            beta1,
            beta2,
            epsilon,
            weight_decay,
            clip,
            step,
            decay_all
        }),
        layout!(TrainTable {
            size,
            create,
            close,
            describe,
            tensor,
            flops,
            bytes,
            accumulate,
            evaluate,
            hidden,
            update,
            read,
            write
        }),
    ]
}

fn constants() -> Vec<(&'static str, i64)> {
    vec![
        ("MAJOR", MAJOR.into()),
        ("MINOR", MINOR.into()),
        ("FEATURE_FOREST", FEATURE_FOREST as i64),
        ("NO_PARENT", NO_PARENT.into()),
        ("STATUS_OK", Status::OK.0.into()),
        ("STATUS_BAD_INPUT", Status::BAD_INPUT.0.into()),
        ("STATUS_BAD_MODEL", Status::BAD_MODEL.0.into()),
        ("STATUS_UNSUPPORTED", Status::UNSUPPORTED.0.into()),
        ("STATUS_NOT_FINITE", Status::NOT_FINITE.0.into()),
        ("STATUS_EXHAUSTED", Status::EXHAUSTED.0.into()),
        ("STATUS_PANIC", Status::PANIC.0.into()),
        ("STATUS_INTERNAL", Status::INTERNAL.0.into()),
        ("DTYPE_F32", Dtype::F32.0.into()),
        ("DTYPE_BF16", Dtype::BF16.0.into()),
        ("KIND_CAUSAL", Kind::CAUSAL.0.into()),
        ("KIND_MASKED", Kind::MASKED.0.into()),
        ("KEPT_WEIGHT", Kept::WEIGHT.0.into()),
        ("KEPT_FIRST_MOMENT", Kept::FIRST_MOMENT.0.into()),
        ("KEPT_SECOND_MOMENT", Kept::SECOND_MOMENT.0.into()),
        ("KEPT_GRADIENT", Kept::GRADIENT.0.into()),
    ]
}

/// A C file that compiles only if the compiler's layout is that of Rust.
fn layout_asserts() -> String {
    let committed = std::fs::read_to_string(header()).expect("the header is there");
    let structs = committed.matches("typedef struct Bheval").count() - 2; // the opaque model and trainer
    assert_eq!(layouts().len(), structs, "every struct of the header is checked");
    let numbers = committed.lines().filter(|l| l.starts_with("#define BHEVAL_") && !l.contains('"'));
    let beside = 1 + 2; // the guard, and two of three spellings of BHEVAL_EXPORT that hold no text
    assert_eq!(constants().len(), numbers.count() - beside, "every constant of the header is checked");
    let mut text = String::from("#include <assert.h>\n#include <stdalign.h>\n#include <bheval.h>\n");
    let mut check = |fact: String| text += &format!("static_assert({fact}, \"{fact}\");\n");
    for layout in layouts() {
        let name = format!("Bheval{}", layout.name);
        check(format!("sizeof({name}) == {}", layout.size));
        check(format!("alignof({name}) == {}", layout.align));
        for (field, offset) in layout.fields {
            check(format!("offsetof({name}, {field}) == {offset}"));
        }
    }
    for (name, value) in constants() {
        check(format!("BHEVAL_{name} == {value}"));
    }
    check(format!("sizeof(BHEVAL_SYMBOL) == {}", SYMBOL.len() + 1));
    text
}
