//! Downloads from a server on this machine that misbehaves in the ways servers do.

#![allow(clippy::unwrap_used)]

mod server;

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use bheval_data::Error;
use bheval_data::digest::sha256_hex;
use bheval_data::fetch::{FetchFault, Fetched, Patience, Progress, fetch_with};
use bheval_data::locate::{Folders, Place};
use bheval_data::manifest::{FileEntry, Manifest};
use server::{Answer, Server};
use tempfile::TempDir;

const QUICK: Patience = Patience {
    attempts: 3,
    pause: Duration::from_millis(1),
    connect: Duration::from_secs(5),
    silence: Duration::from_secs(5),
};

/// A data set of one file, `set/a.txt`, on a server, and a folder to fetch it into.
struct Scene {
    server: Server,
    manifest: Manifest,
    folders: Folders,
    /// The most bytes that any progress told of.
    most_told: Cell<u64>,
    _folder: TempDir,
}

/// 200,000 bytes that do not repeat with any buffer's size.
fn content() -> Vec<u8> {
    (0..200_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn entry(path: &str, url: Option<String>, bytes: &[u8]) -> FileEntry {
    FileEntry { path: path.to_owned(), url, sha256: sha256_hex(bytes), size: bytes.len() as u64 }
}

fn manifest(files: Vec<FileEntry>) -> Manifest {
    Manifest {
        name: "set".to_owned(),
        title: "A set".to_owned(),
        revision: "1".to_owned(),
        licence: "none".to_owned(),
        source: "here".to_owned(),
        terms: None,
        how_to_get: "Ask for it.".to_owned(),
        password: None,
        content_sha256: None,
        files,
    }
}

impl Scene {
    fn new(answers: Vec<Answer>) -> Scene {
        let server = Server::start(answers);
        let manifest = manifest(vec![entry("set/a.txt", Some(server.url("a.txt")), &content())]);
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        let folders = Folders { given: None, env: None, cache, offline: false, ewok_password: None };
        Scene { server, manifest, folders, most_told: Cell::new(0), _folder: folder }
    }

    fn fetch(&self) -> Result<Fetched, Error> {
        let mut tell = |progress: Progress<'_>| self.most_told.set(self.most_told.get().max(progress.bytes));
        fetch_with(&self.manifest, &self.folders, QUICK, &mut tell)
    }

    fn target(&self) -> PathBuf {
        self.folders.cache.join("set/a.txt")
    }

    fn part(&self) -> PathBuf {
        self.folders.cache.join("set/a.txt.part")
    }

    fn put_part(&self, bytes: &[u8]) {
        fs::create_dir_all(self.folders.cache.join("set")).unwrap();
        fs::write(self.part(), bytes).unwrap();
    }

    /// The file is there, whole, and nothing else is.
    fn assert_fetched(&self) {
        assert_eq!(self.fetch().unwrap(), Fetched { kept: 0, fetched: 1, bytes: 200_000 });
        assert!(fs::read(self.target()).unwrap() == content());
        assert!(!self.part().exists());
    }

    /// The fetch fails in this way, and no file is published.
    fn fault(&self) -> FetchFault {
        let error = self.fetch().unwrap_err();
        assert!(!self.target().exists());
        assert!(error.to_string().contains("a.txt") && error.to_string().contains("Ask for it."), "{error}");
        match error {
            Error::Fetch { fault, .. } => fault,
            other => panic!("another error: {other}"),
        }
    }
}

fn from(byte: u32) -> Option<String> {
    Some(format!("bytes={byte}-"))
}

#[test]
fn a_file_is_fetched_once() {
    let scene = Scene::new(vec![Answer::Whole(content())]);
    scene.assert_fetched();
    assert_eq!(scene.fetch().unwrap(), Fetched { kept: 1, fetched: 0, bytes: 0 });
    assert_eq!(scene.server.ranges(), [None]);
    let set = scene.folders.open(&scene.manifest).unwrap();
    assert_eq!(set.place, Place::Cache);
    assert!(set.verify().iter().all(|(_, result)| result.is_ok()));
}

#[test]
fn progress_counts_over_all_files() {
    let (one, two) = (b"first".to_vec(), b"and second".to_vec());
    let server = Server::start(vec![Answer::Whole(one.clone()), Answer::Whole(two.clone())]);
    let files =
        vec![entry("set/1", Some(server.url("1")), &one), entry("set/2", Some(server.url("2")), &two)];
    let folder = tempfile::tempdir().unwrap();
    let folders =
        Folders { given: None, env: None, cache: folder.path().into(), offline: false, ewok_password: None };
    let mut told = Vec::new();
    let mut tell = |p: Progress<'_>| told.push((p.path.to_owned(), p.file, p.bytes, p.total));
    fetch_with(&manifest(files), &folders, QUICK, &mut tell).unwrap();
    assert_eq!(told.first(), Some(&("set/1".to_owned(), 1, 5, 15)));
    assert_eq!(told.last(), Some(&("set/2".to_owned(), 2, 15, 15)));
}

#[test]
fn a_file_that_is_wrong_is_fetched_again() {
    let scene = Scene::new(vec![Answer::Whole(content())]);
    fs::create_dir_all(scene.folders.cache.join("set")).unwrap();
    fs::write(scene.target(), vec![7; 200_000]).unwrap();
    scene.assert_fetched();
}

#[test]
fn a_cut_connection_is_taken_up_where_it_broke() {
    let scene = Scene::new(vec![Answer::Cut(200_000, content()[..70_000].to_vec()), Answer::Rest(content())]);
    scene.assert_fetched();
    assert_eq!(scene.server.ranges(), [None, from(70_000)]);
}

#[test]
fn a_part_of_an_earlier_run_is_used() {
    let scene = Scene::new(vec![Answer::Rest(content())]);
    scene.put_part(&content()[..199_999]);
    scene.assert_fetched();
    assert_eq!(scene.server.ranges(), [from(199_999)]);
}

#[test]
fn a_whole_part_needs_no_server() {
    let scene = Scene::new(vec![]);
    scene.put_part(&content());
    scene.assert_fetched();
    assert!(scene.server.ranges().is_empty());
}

#[test]
fn a_server_that_ignores_the_range_gives_the_whole() {
    let scene = Scene::new(vec![Answer::Whole(content())]);
    scene.put_part(&content()[..1_000]);
    scene.assert_fetched();
}

#[test]
fn a_range_that_cannot_be_or_is_another_starts_over() {
    let other = || Answer::Range("bytes 0-9/200000", vec![0; 10]);
    let resized = || Answer::Range("bytes 500-99999/100000", vec![0; 10]);
    for bad in [Answer::Status(416), other(), resized(), Answer::Range("nonsense", vec![1])] {
        let scene = Scene::new(vec![bad, Answer::Whole(content())]);
        scene.put_part(&content()[..500]);
        scene.assert_fetched();
        assert_eq!(scene.server.ranges(), [from(500), None]);
    }
}

#[test]
fn a_part_of_other_content_starts_over() {
    let scene = Scene::new(vec![Answer::Rest(content()), Answer::Whole(content())]);
    scene.put_part(&[9; 1_000]);
    scene.assert_fetched();
    assert_eq!(scene.server.ranges(), [from(1_000), None]);
    for bad in [vec![9; 200_000], vec![9; 300_000]] {
        let scene = Scene::new(vec![Answer::Whole(content())]);
        scene.put_part(&bad);
        scene.assert_fetched();
    }
}

#[test]
fn more_bytes_than_pinned_are_not_taken() {
    let mut longer = content();
    longer.extend([b'!'; 500_000]);
    // A length that is announced is refused unread; without one, nothing is written beyond the pinned size.
    for (answer, most) in [(Answer::Whole(longer.clone()), 0), (Answer::Unmeasured(longer.clone()), 200_000)]
    {
        let scene = Scene::new(vec![answer]);
        assert_eq!(scene.fault(), FetchFault::TooManyBytes { expected: 200_000 });
        assert!(scene.most_told.get() <= most, "{}", scene.most_told.get());
        assert!(!scene.part().exists());
        assert_eq!(scene.server.ranges().len(), 1, "it is not tried again");
    }
}

#[test]
fn other_content_is_deleted_and_told() {
    let scene = Scene::new(vec![Answer::Whole(vec![9; 200_000])]);
    let found = sha256_hex(&[9; 200_000]);
    assert_eq!(scene.fault(), FetchFault::WrongHash { expected: sha256_hex(&content()), found });
    assert!(!scene.part().exists());
}

#[test]
fn a_missing_file_is_not_asked_for_twice() {
    let scene = Scene::new(vec![Answer::Status(404)]);
    assert_eq!(scene.fault(), FetchFault::Status { code: 404 });
    assert_eq!(scene.server.ranges().len(), 1);
}

#[test]
fn a_server_in_trouble_is_asked_again() {
    let scene = Scene::new(vec![Answer::Status(500), Answer::Status(429), Answer::Whole(content())]);
    scene.assert_fetched();
    let scene = Scene::new(vec![Answer::Nothing, Answer::Whole(content())]);
    scene.assert_fetched();
    let scene = Scene::new(vec![Answer::Status(503); 3]);
    assert_eq!(scene.fault(), FetchFault::Status { code: 503 });
    assert_eq!(scene.server.ranges().len(), 3, "as often as patience allows");
}

#[test]
fn a_short_body_is_told_and_kept_for_the_next_run() {
    let short = content()[..150_000].to_vec();
    let end = Answer::Range("bytes 150000-199999/200000", vec![]);
    let scene = Scene::new(vec![Answer::Unmeasured(short.clone()), end.clone(), end]);
    assert_eq!(scene.fault(), FetchFault::Short { found: 150_000, expected: 200_000 });
    assert!(fs::read(scene.part()).unwrap() == short);
}

#[test]
fn nobody_at_the_address() {
    let mut scene = Scene::new(vec![]);
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    scene.manifest.files[0].url = Some(format!("http://{free}/a.txt"));
    assert!(matches!(scene.fault(), FetchFault::Connection { .. }));
}

/// The TLS side must at least start: a missing crypto provider would be a panic, not an error.
#[test]
fn a_server_that_does_not_speak_tls() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let _ = std::io::Write::write_all(&mut connection.unwrap(), b"HTTP/1.1 400 Text\r\n\r\n");
        }
    });
    let mut scene = Scene::new(vec![]);
    scene.manifest.files[0].url = Some(format!("https://{address}/a.txt"));
    assert!(matches!(scene.fault(), FetchFault::Connection { .. }));
}

#[test]
fn offline_refuses_before_anything_else() {
    let mut scene = Scene::new(vec![]);
    scene.folders.offline = true;
    let told = scene.fetch().unwrap_err().to_string();
    assert!(told.contains("offline"), "{told}");
    assert!(!scene.folders.cache.exists() && scene.server.ranges().is_empty());
}

#[test]
fn a_file_without_an_address_stops_before_the_first_download() {
    let mut scene = Scene::new(vec![Answer::Whole(content())]);
    scene.manifest.files.push(entry("set/gated.zip", None, b"x"));
    let told = scene.fetch().unwrap_err().to_string();
    assert!(told.contains("set/gated.zip") && told.contains("Ask for it."), "{told}");
    assert!(scene.server.ranges().is_empty());
}

#[test]
fn a_file_in_the_way_of_a_folder_is_named() {
    let scene = Scene::new(vec![Answer::Whole(content())]);
    fs::write(&scene.folders.cache, b"not a folder").unwrap();
    let told = scene.fetch().unwrap_err().to_string();
    assert!(told.contains(&scene.folders.cache.display().to_string()), "{told}");
}

/// `/dev/full` is a file that answers every write as a full disk does.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_told_with_what_to_do() {
    let scene = Scene::new(vec![Answer::Whole(content())]);
    fs::create_dir_all(scene.folders.cache.join("set")).unwrap();
    std::os::unix::fs::symlink("/dev/full", scene.part()).unwrap();
    let told = scene.fetch().unwrap_err().to_string();
    assert!(told.contains("a.txt.part") && told.contains("the disk is full: free some space"), "{told}");
    assert_eq!(scene.server.ranges().len(), 1, "it is not tried again");
}

#[test]
fn two_at_once_do_not_mix() {
    let scene = Scene::new(vec![Answer::Whole(content())]);
    let mut second = None;
    fetch_with(&scene.manifest, &scene.folders, QUICK, &mut |_| {
        second.get_or_insert_with(|| scene.fetch().unwrap_err());
    })
    .unwrap();
    assert!(matches!(second, Some(Error::Locked { .. })));
    assert!(fs::read(scene.target()).unwrap() == content());
}
