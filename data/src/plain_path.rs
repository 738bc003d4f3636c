//! The one rule for paths from outside (manifests, archives): they lead down from a folder, on every system.

/// Whether a path is relative and stays below the folder it is joined to, on Unix and on Windows alike.
///
/// Control characters are refused too: names are shown to people and hashed line by line.
pub(crate) fn is_plain_path(path: &str) -> bool {
    let parts = path.strip_suffix('/').unwrap_or(path);
    let drive = path.as_bytes().get(1) == Some(&b':');
    let bad = |letter: char| letter == '\\' || letter.is_control();
    !drive && !path.contains(bad) && parts.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "../a",
            "a/../b",
            "a/..",
            "a//b",
            "./a",
            "C:/a",
            "c:a",
            "a\\b",
            "\\\\host\\share",
            "a\0b",
            "a\tb",
            "a\nb",
            "//host/share",
        ] {
            assert!(!is_plain_path(path), "{path:?}");
        }
    }

    #[test]
    fn ordinary_paths_pass() {
        for path in ["a", "a/b.jsonl", "csv/version=0/testsuite-x.csv", "dir/", "..a/b..", "STS-B/dev.tsv"] {
            assert!(is_plain_path(path), "{path:?}");
        }
    }
}
