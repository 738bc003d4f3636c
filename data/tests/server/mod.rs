//! An HTTP server that says what it is told to, one answer a connection, and remembers what it was asked.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What to do with one connection. The server hangs up after it.
#[derive(Clone)]
pub(crate) enum Answer {
    /// The whole of these bytes, with status 200.
    Whole(Vec<u8>),
    /// Claims the length of the first, sends the second, hangs up.
    Cut(usize, Vec<u8>),
    /// The rest of these bytes from where the request says, with status 206.
    Rest(Vec<u8>),
    /// Status 206 with a `Content-Range` as given, whatever was asked for.
    Range(&'static str, Vec<u8>),
    /// These bytes without a length, ended by hanging up.
    Unmeasured(Vec<u8>),
    /// An empty answer of this status.
    Status(u16),
    /// Hangs up without a word.
    Nothing,
}

pub(crate) struct Server {
    address: String,
    ranges: Arc<Mutex<Vec<Option<String>>>>,
}

impl Server {
    /// Gives these answers in turn; further connections are refused with status 418.
    pub(crate) fn start(answers: Vec<Answer>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let ranges = Arc::new(Mutex::new(Vec::new()));
        let seen = ranges.clone();
        thread::spawn(move || {
            let mut answers = answers.into_iter();
            for connection in listener.incoming() {
                let connection = connection.unwrap();
                let range = asked_range(&connection);
                seen.lock().unwrap().push(range.clone());
                reply(connection, answers.next().unwrap_or(Answer::Status(418)), range);
            }
        });
        Server { address, ranges }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.address)
    }

    /// The `Range` of each request so far.
    pub(crate) fn ranges(&self) -> Vec<Option<String>> {
        self.ranges.lock().unwrap().clone()
    }
}

fn asked_range(connection: &TcpStream) -> Option<String> {
    let lines = BufReader::new(connection).lines().map_while(Result::ok);
    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let range = |line: &String| line.to_ascii_lowercase().strip_prefix("range: ").map(str::to_owned);
    head.iter().find_map(range)
}

fn reply(mut to: TcpStream, answer: Answer, range: Option<String>) {
    let length = |bytes: &Vec<u8>| format!("Content-Length: {}\r\n", bytes.len());
    let (status, headers, body) = match answer {
        Answer::Whole(bytes) => (200, length(&bytes), bytes),
        Answer::Cut(claim, bytes) => (200, format!("Content-Length: {claim}\r\n"), bytes),
        Answer::Rest(bytes) => rest(&bytes, range.as_deref()),
        Answer::Range(header, bytes) => {
            (206, format!("Content-Range: {header}\r\n{}", length(&bytes)), bytes)
        }
        Answer::Unmeasured(bytes) => (200, String::new(), bytes),
        Answer::Status(status) => (status, "Content-Length: 0\r\n".to_owned(), Vec::new()),
        Answer::Nothing => return,
    };
    let head = format!("HTTP/1.1 {status} Text\r\n{headers}Connection: close\r\n\r\n");
    // The client may have hung up, rightly: what it does is what the tests look at.
    let _ = to.write_all(head.as_bytes()).and_then(|()| to.write_all(&body));
}

fn rest(bytes: &[u8], range: Option<&str>) -> (u16, String, Vec<u8>) {
    let from = range.and_then(|text| text.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let from = from.expect("the client asks for the rest of a file");
    let (last, total) = (bytes.len() - 1, bytes.len());
    let header =
        format!("Content-Range: bytes {from}-{last}/{total}\r\nContent-Length: {}\r\n", total - from);
    (206, header, bytes[from..].to_vec())
}
