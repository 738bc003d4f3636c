//! Reading sources: every packing, real data, and what is wrong with bad ones.

mod support;

use std::path::Path;

use bheval_corpus::source::{DOCUMENT_LIMIT, SourceFile};
use bheval_corpus::sources::{Reading, Sources, folder, label, named};
use proptest::prelude::*;
use support::{Folder, data, documents, file, packed, source, texts};

const ENDS: [&str; 4] = ["", ".zst", ".xz", ".gz"];

fn told(path: &Path) -> String {
    texts(path).expect_err("it is refused").to_string()
}

#[test]
fn every_packing_gives_the_same_documents() {
    let folder = Folder::new();
    let text = "\u{feff}a b\r\nc\r\n\r\n\r\nd é\n \ne";
    let rows =
        "{\"text\": \"a b\\nc\"}\n\n{\"text\": \" \"}\n{\"id\": 1, \"text\": \"d é\"}\n{\"text\":\"e\"}\n";
    for end in ENDS {
        let txt = folder.write(&format!("a.txt{end}"), packed(end, text.as_bytes()));
        assert_eq!(texts(&txt).unwrap(), ["a b\nc", "d é", "e"], "{end}");
        let jsonl = folder.write(&format!("a.JSONL{end}"), packed(end, rows.as_bytes()));
        assert_eq!(texts(&jsonl).unwrap(), ["a b\nc", "d é", "e"], "{end}");
        // Two packed files one after the other are one.
        let twice = [packed(end, b"a\n"), packed(end, b"b\n\nc")].concat();
        assert_eq!(texts(&folder.write(&format!("b.txt{end}"), twice)).unwrap(), ["a\nb", "c"], "{end}");
    }
}

/// Documents and words of every dev and test file, as the data's own README counts them.
#[test]
fn real_data_has_the_documents_and_words_of_its_readme() {
    let mut compared = 0;
    for set in ["babylm-text", "pile-like"] {
        let readme = std::fs::read_to_string(data(set).join("README.md")).unwrap();
        for row in readme.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            let name = cells[1].trim_matches('`');
            if !name.ends_with(".zst") || name.contains(".train.") {
                continue;
            }
            let number = |cell: &str| cell.replace(',', "").parse::<u64>().unwrap();
            let found = documents(&file(&data(set).join(name))).unwrap();
            let words: usize = found.iter().map(|d| d.text.split_whitespace().count()).sum();
            assert_eq!((found.len() as u64, words as u64), (number(cells[2]), number(cells[3])), "{name}");
            compared += 1;
        }
    }
    assert_eq!(compared, 12 + 18);
}

#[test]
fn packed_files_that_are_cut_short_are_refused_wherever() {
    let folder = Folder::new();
    let text: String =
        (0..3000).map(|i| format!("line {} of it\n{}", i * i, if i % 9 == 0 { "\n" } else { "" })).collect();
    for end in [".zst", ".xz", ".gz"] {
        let whole = packed(end, text.as_bytes());
        for cut in (0..whole.len()).step_by(whole.len() / 40).chain([whole.len() - 1]) {
            let path = folder.write(&format!("a.txt{end}"), &whole[..cut]);
            let told = told(&path);
            let parts: &[&str] =
                if cut == 0 { &["is empty"] } else { &["line ", "can't be unpacked", "byte "] };
            assert!(parts.iter().all(|part| told.contains(part)), "{end} cut at {cut}: {told}");
        }
    }
}

#[test]
fn damaged_checksums_and_garbage_are_refused() {
    let folder = Folder::new();
    for end in [".xz", ".gz"] {
        let mut bytes = packed(end, "some text\n".repeat(200).as_bytes());
        let at = bytes.len() - 10;
        bytes[at] ^= 1;
        assert!(told(&folder.write(&format!("a.txt{end}"), bytes)).contains("can't be unpacked"), "{end}");
    }
    for end in [".zst", ".xz", ".gz"] {
        let path = folder.write(&format!("b.txt{end}"), "no packed data at all");
        assert!(told(&path).contains("can't be unpacked"), "{end}");
    }
}

#[test]
fn a_window_that_needs_gigabytes_is_refused() {
    // A zstd frame header that asks for a window of 2^31 bytes (RFC 8878, 3.1.1.1.2: exponent 21 above 2^10).
    let folder = Folder::new();
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x09, 0x00, 0x00, b'a'];
    assert!(told(&folder.write("a.txt.zst", frame)).contains("can't be unpacked"));
}

#[test]
fn bad_utf8_is_named_by_line_and_byte() {
    let folder = Folder::new();
    for end in ENDS {
        let path = folder.write(&format!("a.txt{end}"), packed(end, b"good\n\nab\xffc\n"));
        let told = told(&path);
        assert!(told.contains("line 3: not UTF-8 from byte 2 of the line"), "{told}");
        assert!(told.contains(&path.display().to_string()), "{told}");
    }
    let path = folder.write("unnamed.txt", packed(".gz", b"text"));
    assert!(told(&path).contains("looks like gzip"), "{}", told(&path));
}

#[test]
fn rows_are_refused_with_line_and_column() {
    let folder = Folder::new();
    let refused = |row: &str, parts: &[&str]| {
        let path = folder.write("a.jsonl", format!("{{\"text\": \"good\"}}\n{row}\n"));
        let told = told(&path);
        assert!(parts.iter().chain(&["line 2"]).all(|part| told.contains(part)), "{told}");
    };
    refused("{\"text\": \"a\"", &["column 12", "one JSON object a line"]);
    refused("{\"text\": 3}", &["`text` is not text"]);
    refused("[\"text\"]", &["no field `text`", "none"]);
    refused("{\"body\": \"a\", \"id\": 1}", &["no field `text`", "`body`, `id`", "--field"]);
    refused(&"[".repeat(100_000), &["column 100000", "EOF"]);
    refused("{\"text\": \"a\"} {}", &["column", "trailing characters"]);
    refused("{\"text\": \"\\ud800\"}", &["column"]);
}

#[test]
fn fields_within_fields_and_domains_by_row() {
    let folder = Folder::new();
    let rows = "{\"a.b\": \"whole\", \"a\": {\"b\": \"inner\"}}\n{\"a\": {\"b\": \"inner\"}}\n";
    let path = folder.write("a.jsonl", rows);
    let read = |field: &str| {
        let found = documents(&SourceFile { field: field.into(), ..file(&path) });
        found.map(|all| all.into_iter().map(|d| d.text).collect::<Vec<_>>())
    };
    assert_eq!(read("a.b").unwrap(), ["whole", "inner"]);
    assert!(read("a").unwrap_err().to_string().contains("`a` is not text"));
    assert!(read("a.c").unwrap_err().to_string().contains("no field `a.c`"));
    let pile = "{\"text\": \"x\", \"meta\": {\"pile_set_name\": \"Pile-CC\"}}\n";
    let path = folder.write("pile.jsonl", pile);
    let reading = Reading { label_field: Some("meta.pile_set_name".into()), ..Reading::default() };
    let found = documents(&reading.source(path, "pile").file).unwrap();
    assert_eq!(found[0].label.as_deref(), Some("Pile-CC"));
}

#[test]
fn cutting_long_documents() {
    let folder = Folder::new();
    let path = folder.write("a.txt", "a b\nc d\ne f\n\ng\n");
    let rows = folder.write("a.jsonl", "{\"text\": \"a b\\nc d\\ne f\"}\n{\"text\": \"g\"}\n");
    let cut = |path: &Path| {
        let found = documents(&SourceFile { cut: Some(3), ..file(path) }).unwrap();
        found.into_iter().map(|d| d.text.trim_end().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(cut(&path), ["a b\nc d", "e f", "g"]);
    assert_eq!(cut(&rows), ["a b\nc d", "e f", "g"]);
}

#[test]
fn lines_and_documents_beyond_the_limit_are_refused() {
    let folder = Folder::new();
    let long = vec![b'x'; DOCUMENT_LIMIT + 1];
    let path = folder.write("a.txt", [b"first\n", &long[..]].concat());
    assert!(told(&path).contains("line 2: longer than the 8388608 bytes"), "{}", told(&path));
    let path = folder.write("b.txt", "123456789012345\n".repeat(DOCUMENT_LIMIT / 16 + 1));
    let told_b = told(&path);
    assert!(told_b.contains("line 524289") && told_b.contains("--cut"), "{told_b}");
    assert_eq!(documents(&SourceFile { cut: Some(400_000), ..file(&path) }).unwrap().len(), 2);
    let row = format!("{{\"text\": \"{}\"}}", "x".repeat(DOCUMENT_LIMIT + 1));
    assert!(told(&folder.write("c.jsonl", row)).contains("a document of more than"));
}

#[test]
fn what_is_no_file_is_refused() {
    let folder = Folder::new();
    assert!(told(&folder.path("none.txt")).contains("can't be read"));
    std::fs::create_dir(folder.path("d.txt")).unwrap();
    assert!(told(&folder.path("d.txt")).contains("it is no file"));
}

#[test]
fn domains_are_named_by_their_files() {
    assert_eq!(label("books.train.txt.zst"), ("books", Some("train")));
    assert_eq!((label("a"), label("a.txt")), (("a", None), ("a", Some("txt"))));
    let here = Folder::new();
    for name in ["a.train.txt", "b.train", "a.dev.txt", "README.md", ".a.train.txt"] {
        here.write(name, "text\n");
    }
    let root = here.path("");
    let names = |split: Option<&str>| {
        let found = folder(&root, split, &Reading::default());
        found.map(|all| all.into_iter().filter_map(|s| s.domain).collect::<Vec<_>>())
    };
    assert_eq!(names(Some("train")).unwrap(), ["a", "b"]);
    let told = names(None).unwrap_err().to_string();
    assert!(told.contains("dev, train") && told.contains("--split"), "{told}");
    let told = names(Some("test")).unwrap_err().to_string();
    assert!(told.contains("no file of the split \"test\"") && told.contains("dev, md, train"), "{told}");
    std::fs::remove_file(here.path("a.dev.txt")).unwrap();
    assert_eq!(names(None).unwrap(), ["a"], "b.train has no ending of a text");
    assert!(folder(&here.path("none"), None, &Reading::default()).is_err());
}

#[test]
fn domains_are_named_by_hand() {
    let reading = Reading::default();
    let found = named("a=x.txt,y.txt", &reading).unwrap();
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|s| s.domain.as_deref() == Some("a")));
    for wrong in ["a", "=x", "a=", "a=,"] {
        assert!(named(wrong, &reading).unwrap_err().to_string().contains("NAME=FILE"), "{wrong}");
    }
}

#[test]
fn sources_that_do_not_fit_together_are_refused() {
    let folder = Folder::new();
    let (x, y) = (folder.write("x.txt", "x"), folder.write("y.txt", "y"));
    let checked = |train: &[(&str, &Path)], dev: &[(&str, &Path)]| {
        let all = |files: &[(&str, &Path)]| files.iter().map(|(name, path)| source(name, path)).collect();
        Sources { train: all(train), dev: all(dev), ..Sources::default() }.checked()
    };
    let told = |result: Result<Sources, bheval_corpus::Error>| result.unwrap_err().to_string();
    assert!(told(checked(&[], &[])).contains("no text was named"));
    assert!(told(checked(&[("a", &x), ("b", &x)], &[])).contains("given twice"));
    assert!(told(checked(&[("a", &x)], &[("a", &x)])).contains("given twice"));
    assert!(told(checked(&[("a", &x)], &[("b", &y)])).contains("without training text"));
    let mut sources = checked(&[("b", &x), ("a", &y)], &[]).unwrap();
    assert_eq!(sources.train[0].domain.as_deref(), Some("a"), "in the order of domains");
    assert!(sources.only(&["c".into()]).unwrap_err().to_string().contains("a, b"));
    sources.only(&["b".into()]).unwrap();
    assert_eq!(sources.train.len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any bytes under any name are documents or an error, never a panic.
    #[test]
    fn any_bytes_are_documents_or_an_error(bytes: Vec<u8>, end in 0_usize..4, rows: bool, cut in proptest::option::of(1_u64..4)) {
        let folder = Folder::new();
        let name = format!("a.{}{}", if rows { "jsonl" } else { "txt" }, ENDS[end]);
        let path = folder.write(&name, &bytes);
        let _ = documents(&SourceFile { cut, ..file(&path) });
    }

    /// A byte changed anywhere in a packed file: an error or some documents, never a panic, and within the limits.
    #[test]
    fn a_changed_byte_is_survived(at in 0_usize..10_000, change in 1_u8.., end in 1_usize..4) {
        let folder = Folder::new();
        let mut bytes = packed(ENDS[end], "Some words of a text.\n\nAnd more of them.\n".repeat(30).as_bytes());
        let at = at % bytes.len();
        bytes[at] ^= change;
        let path = folder.write(&format!("a.txt{}", ENDS[end]), &bytes);
        if let Ok(found) = texts(&path) {
            prop_assert!(found.iter().all(|text| text.len() <= DOCUMENT_LIMIT));
        }
    }

    /// Text and rows of the same documents, in any packing, read back as they were.
    #[test]
    fn documents_come_back(all in proptest::collection::vec("[a-zé🙂]{1,8}( [a-z\"\\\\]{1,5}){0,4}(\n[a-z]{1,5}){0,2}", 0..12), end in 0_usize..4) {
        let folder = Folder::new();
        let text = all.join("\n\n");
        let path = folder.write(&format!("a.txt{}", ENDS[end]), packed(ENDS[end], text.as_bytes()));
        prop_assert_eq!(&texts(&path).unwrap(), &all);
        let rows: String = all.iter().map(|t| serde_json::json!({"text": t}).to_string() + "\n").collect();
        let path = folder.write(&format!("a.jsonl{}", ENDS[end]), packed(ENDS[end], rows.as_bytes()));
        prop_assert_eq!(&texts(&path).unwrap(), &all);
    }
}
