//! What it costs to ask another process: a socket and two pipes with the frames that `--isolate` uses, and shared memory
//! with a socket to signal over. `cargo run --release -p bheval-host --example transport`
#![allow(clippy::print_stdout)] // The figures are the point.
#![allow(unsafe_code)] // fork and mmap; each block states what it relies on.

#[allow(dead_code)]
#[path = "../src/worker/wire.rs"]
mod wire;

use std::hint::black_box;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use wire::{Field, Frame, send};

/// A forest of 65,536 nodes, as whole BLiMP is scored in.
const NODES: usize = 65_536;
/// Rows of logits, over a vocabulary of 16,384.
const LOGITS: usize = 1000 * 16_384;

/// What is asked: a forest of `nodes`, and `values` floats of an answer.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    nodes: usize,
    values: usize,
    rounds: usize,
}

struct Arrays {
    token: Vec<u32>,
    parent: Vec<u32>,
    wanted: Vec<u8>,
}

impl Arrays {
    fn new(nodes: usize) -> Self {
        let token: Vec<u32> = (0..nodes as u32).collect();
        Self { parent: token.clone(), token, wanted: vec![1; nodes] }
    }
}

fn main() -> io::Result<()> {
    let loads = [
        Load { name: "one sentence, 16 nodes", nodes: 16, values: 16, rounds: 5000 },
        Load { name: "forest of 65,536 nodes", nodes: NODES, values: NODES, rounds: 300 },
        Load { name: "logits, 1,000 rows of 16,384", nodes: 1000, values: LOGITS, rounds: 20 },
    ];
    println!(
        "{:<30}{:>14}{:>14}{:>14}{:>14}",
        "median of a call, in ms", "memory copy", "socket", "pipes", "shared"
    );
    for load in loads {
        let times = [copied(load), socket(load)?, pipes(load)?, shared(load)?];
        print!("{:<30}", load.name);
        times.iter().for_each(|ms| print!("{ms:>14.3}"));
        println!();
    }
    Ok(())
}

/// Median milliseconds of a call.
fn median(rounds: usize, mut call: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            call();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[rounds / 2]
}

/// The least there can be: the answer written by the "backend" and checked, in one process.
fn copied(load: Load) -> f64 {
    let arrays = Arrays::new(load.nodes);
    median(load.rounds, || check(&answer(&arrays.token, load.values)))
}

/// The backend's work, as little as there can be: it touches what it was given and fills what it returns.
fn answer(token: &[u32], values: usize) -> Vec<f32> {
    vec![black_box(-(token.iter().map(|&t| u64::from(t)).sum::<u64>() as f32)); values]
}

fn check(values: &[f32]) {
    assert!(values.iter().all(|v| v.is_finite()));
}

/// Runs `body` in a child, until it returns or fails; the parent goes on. Returns the child's id.
fn forked(body: impl FnOnce() -> io::Result<()>) -> io::Result<libc::pid_t> {
    // SAFETY: this program has one thread, so the child may do whatever it likes.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let _ = body();
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) }
        }
        child => Ok(child),
    }
}

fn reap(child: libc::pid_t) {
    // SAFETY: a child of this process, waited for once.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
}

fn ask(source: &mut impl Read, out: &mut impl Write, arrays: &Arrays, values: usize) {
    let fields = [Field::Words(&arrays.token), Field::Words(&arrays.parent), Field::Bytes(&arrays.wanted)];
    send(&mut BufWriter::with_capacity(1 << 16, out), 4, &fields).expect("sent");
    let mut frame = Frame::receive(source).expect("an answer");
    check(&frame.floats(values).expect("values"));
}

fn serve(mut source: impl Read, mut out: impl Write, values: usize) -> io::Result<()> {
    while let Ok(mut frame) = Frame::receive(&mut source) {
        let (Ok(token), Ok(_), Ok(_)) = (frame.words(NODES), frame.words(NODES), frame.bytes(NODES)) else {
            break;
        };
        let answer = answer(&token, values);
        send(&mut BufWriter::with_capacity(1 << 16, &mut out), 3, &[Field::Floats(&answer)])?;
    }
    Ok(())
}

fn socket(load: Load) -> io::Result<f64> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let child = forked(|| serve(&theirs, &theirs, load.values))?;
    let arrays = Arrays::new(load.nodes);
    let mut source = ours.try_clone()?;
    let time = median(load.rounds, || ask(&mut source, &mut ours, &arrays, load.values));
    ours.shutdown(std::net::Shutdown::Both)?;
    reap(child);
    Ok(time)
}

fn pipes(load: Load) -> io::Result<f64> {
    let ((request, mut ask_on), (mut answers, reply)) = (io::pipe()?, io::pipe()?);
    let child = forked(|| serve(request, reply, load.values))?;
    let arrays = Arrays::new(load.nodes);
    let time = median(load.rounds, || ask(&mut answers, &mut ask_on, &arrays, load.values));
    // SAFETY: a child of this process; it holds an end of its own pipe, so it sees no end of it.
    unsafe { libc::kill(child, libc::SIGKILL) };
    reap(child);
    Ok(time)
}

/// Request and answer lie in memory that both processes map; a byte over a socket says that they are there. The answer is
/// copied before it is checked, since the other process could still write to it.
fn shared(load: Load) -> io::Result<f64> {
    let (words, floats) = (2 * load.nodes + load.nodes.div_ceil(4), load.values);
    let bytes = 4 * (words + floats);
    // SAFETY: a fresh mapping of our own.
    let at = unsafe {
        let (rights, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        libc::mmap(std::ptr::null_mut(), bytes, rights, kind, -1, 0)
    };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let base = at.cast::<u32>();
    let (mut ours, mut theirs) = UnixStream::pair()?;
    let child = forked(|| {
        let mut signal = [0];
        loop {
            theirs.read_exact(&mut signal)?;
            // SAFETY: the parent waits, so nobody else touches the mapping.
            let (token, out) = unsafe {
                let out = std::slice::from_raw_parts_mut(base.add(words).cast::<f32>(), floats);
                (std::slice::from_raw_parts(base, load.nodes), out)
            };
            out.fill(black_box(-(token.iter().map(|&t| u64::from(t)).sum::<u64>() as f32)));
            theirs.write_all(&signal)?;
        }
    })?;
    let arrays = Arrays::new(load.nodes);
    let time = median(load.rounds, || {
        // SAFETY: the child waits, so nobody else touches the mapping.
        unsafe {
            base.copy_from_nonoverlapping(arrays.token.as_ptr(), load.nodes);
            base.add(load.nodes).copy_from_nonoverlapping(arrays.parent.as_ptr(), load.nodes);
            let wanted = base.add(2 * load.nodes).cast::<u8>();
            wanted.copy_from_nonoverlapping(arrays.wanted.as_ptr(), load.nodes);
        }
        ours.write_all(&[1]).and_then(|()| ours.read_exact(&mut [0])).expect("the child lives");
        let mut answer = vec![0.0; floats];
        // SAFETY: as above.
        unsafe { base.add(words).cast::<f32>().copy_to_nonoverlapping(answer.as_mut_ptr(), floats) };
        check(&answer);
    });
    // SAFETY: a child of this process, which would wait for ever.
    unsafe { libc::kill(child, libc::SIGKILL) };
    reap(child);
    // SAFETY: mapped above; nothing points into it any more.
    unsafe { libc::munmap(at, bytes) };
    Ok(time)
}
