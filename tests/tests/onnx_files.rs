//! What an ONNX file may refer to, wherever in it the reference lies; and files that no exporter wrote.

use std::path::{Path, PathBuf};

use bheval_onnx_file::Contents;
use bheval_tests::onnx::{Attribute, Model, Tensor, field, number};
use proptest::prelude::*;

fn table() -> Tensor {
    Tensor::f32("table", &[3, 3], &[0.0; 9])
}

fn read(folder: &Path, bytes: &[u8]) -> Result<Contents, String> {
    let path = folder.join("model.onnx");
    std::fs::write(&path, bytes).expect("written");
    Contents::read(&path).map_err(|fault| fault.to_string())
}

/// A folder `inner` with `data.bin` of 36 bytes, beside which lies `secret.bin`.
fn folders() -> (tempfile::TempDir, PathBuf) {
    let outer = tempfile::tempdir().expect("a folder");
    let inner = outer.path().join("inner");
    std::fs::create_dir(&inner).expect("made");
    std::fs::write(inner.join("data.bin"), [0; 36]).expect("written");
    std::fs::write(outer.path().join("secret.bin"), [0; 36]).expect("written");
    (outer, inner)
}

fn with(entries: &[(&str, &str)]) -> Vec<u8> {
    Model::bigram(table().external(entries), 7).bytes()
}

#[test]
fn plain_files_below_the_folder_are_listed_once() {
    let (_outer, inner) = folders();
    let mut model = Model::bigram(table().external(&[("location", "./data.bin")]), 7);
    model.tensors.push(Tensor { name: "other".into(), ..table() }.external(&[("location", "data.bin")]));
    model.tensors.push(Tensor::f32("within", &[2], &[1.0, 2.0]));
    let contents = read(&inner, &model.bytes()).expect("fine");
    assert_eq!(contents.external, [inner.canonicalize().expect("there").join("data.bin")]);
    assert_eq!((contents.parameters, contents.bytes), (20, 80));
}

#[test]
fn places_outside_the_folder_are_refused() {
    let (outer, inner) = folders();
    let secret = outer.path().join("secret.bin");
    std::fs::create_dir_all(inner.join("*/_ORT_MEM_ADDR_")).expect("made");
    std::fs::write(inner.join("*/_ORT_MEM_ADDR_/*"), [0; 36]).expect("written");
    for place in [
        "../secret.bin",
        "x/../../secret.bin",
        "./../secret.bin",
        secret.to_str().expect("UTF-8"),
        "/etc/passwd",
        "C:\\secret.bin",
        "..\\secret.bin",
        "\\\\server\\share",
        "*/_ORT_MEM_ADDR_/*",
        "data.bin\0",
        "",
    ] {
        let error = read(&inner, &with(&[("location", place)])).expect_err(place);
        assert!(
            error.contains("not inside the model's folder") && error.contains("table"),
            "{place}: {error}"
        );
    }
}

#[cfg(unix)]
#[test]
fn links_that_lead_out_are_refused_and_others_followed() {
    let (outer, inner) = folders();
    let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, inner.join(name)).expect("linked");
    link(&outer.path().join("secret.bin"), "out.bin");
    link(outer.path(), "up");
    link(&inner.join("data.bin"), "in.bin");
    for place in ["out.bin", "up/secret.bin"] {
        let error = read(&inner, &with(&[("location", place)])).expect_err(place);
        assert!(error.contains("a link that leads out") && error.contains("cp -rL"), "{error}");
    }
    assert!(read(&inner, &with(&[("location", "in.bin")])).is_ok());
}

#[test]
fn what_is_missing_too_short_or_senseless_is_refused() {
    let (_outer, inner) = folders();
    std::fs::create_dir(inner.join("folder")).expect("made");
    for (entries, part) in [
        (&[("location", "none.bin")][..], "can't be opened"),
        (&[("location", "folder")], "is no file"),
        (&[("location", "data.bin"), ("offset", "4")], "needs 36 bytes from byte 4"),
        (&[("location", "data.bin"), ("length", "37")], "which has 36"),
        (&[("location", "data.bin"), ("offset", "18446744073709551615")], "needs"),
        (&[("location", "data.bin"), ("offset", "-4")], "no number of bytes"),
        (&[("location", "data.bin"), ("location", "none.bin")], "several files"),
        (&[("offset", "4")], "names no file"),
    ] {
        let error = read(&inner, &with(entries)).expect_err(part);
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
    let unmarked =
        [table().bytes(), field(13, [field(1, "location"), field(2, "../secret.bin")].concat())].concat();
    assert!(
        read(&inner, &field(7, field(5, unmarked))).is_err(),
        "data_location is not needed to be refused"
    );
    let huge = Tensor { dims: vec![u64::MAX >> 1, 1 << 40], ..table() };
    assert!(read(&inner, &Model::bigram(huge, 7).bytes()).is_err_and(|e| e.contains("no memory holds")));
}

/// Every place where the format allows a tensor.
#[test]
fn references_are_found_wherever_they_hide() {
    let (_outer, inner) = folders();
    let tensor = table().external(&[("location", "../secret.bin")]).bytes();
    let node = |attribute: Attribute| {
        let mut model = Model::default();
        model.node("If", &["x"], "y", &[attribute]);
        model.graph()
    };
    let in_graph = field(5, &tensor);
    let in_attribute =
        |at: u64, kind: u64, bytes: &[u8]| node(Attribute::Other("value", at, kind, bytes.to_vec()));
    let sparse = field(1, &tensor);
    let hidden = [
        ("an initialiser", field(7, &in_graph)),
        ("a sparse initialiser", field(7, field(15, &sparse))),
        ("a sparse initialiser's indices", field(7, field(15, field(2, &tensor)))),
        ("a constant", field(7, in_attribute(5, 4, &tensor))),
        ("a list of constants", field(7, in_attribute(10, 9, &tensor))),
        ("a branch", field(7, in_attribute(6, 5, &in_graph))),
        ("branches", field(7, in_attribute(11, 10, &in_graph))),
        ("a branch in a branch", field(7, in_attribute(6, 5, &in_attribute(6, 5, &in_graph)))),
        ("a sparse constant", field(7, in_attribute(22, 11, &sparse))),
        ("sparse constants", field(7, in_attribute(23, 12, &sparse))),
        ("a second graph", [field(7, []), field(7, &in_graph)].concat()),
        ("training", [field(7, []), field(20, field(2, &in_graph))].concat()),
        // A node is field 1 of a graph, and field 7 of a function.
        ("a function", [field(7, []), field(25, field(7, field(5, field(5, &tensor))))].concat()),
        ("a function's default", [field(7, []), field(25, field(11, field(5, &tensor)))].concat()),
    ];
    for (place, bytes) in hidden {
        let error = read(&inner, &bytes).expect_err(place);
        assert!(error.contains("secret.bin"), "{place}: {error}");
    }
}

#[test]
fn what_is_no_model_is_refused_in_words() {
    let (_outer, inner) = folders();
    let mut deep = Vec::new();
    for _ in 0..60 {
        deep = field(1, field(5, field(6, deep)));
    }
    for (bytes, part) in [
        (vec![], "no graph"),
        (number(1, 8), "no graph"),
        (b"PK\x03\x04 a zip archive".to_vec(), "no ONNX model"),
        (vec![0x3a, 0xff, 0xff, 0xff, 0xff, 0x0f], "ends early"),
        (vec![0x3a; 4], "ends early"),
        (vec![0xff; 12], "64 bits"),
        (vec![0x3b, 0x00], "unknown kind"),
        (field(7, deep), "deep"),
        (field(7, field(5, field(8, vec![b'x'; 5000]))), "4096 are enough"),
        (field(7, field(5, field(8, [0xff]))), "not UTF-8"),
    ] {
        let error = read(&inner, &bytes).expect_err(part);
        assert!(error.contains(part) && error.contains("model.onnx"), "{part:?} is not in: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    /// Changed bytes give an answer or an error, and never a file from outside.
    #[test]
    fn changed_files_never_lead_outside(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let (_outer, inner) = folders();
        let mut bytes = with(&[("location", "data.bin"), ("offset", "0"), ("length", "36")]);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(contents) = read(&inner, &bytes) {
            let inner = inner.canonicalize().expect("there");
            prop_assert!(contents.external.iter().all(|file| file.starts_with(&inner)));
        }
    }
}
