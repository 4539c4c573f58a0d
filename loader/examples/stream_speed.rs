//! How fast a checkpoint comes from disk when nothing is done with it:
//! `cargo run --release -p porism-loader --example stream_speed -- FOLDER [--buffered] [--cold] [--readers 4]
//! [--sinks 1] [--memory 64] [--buffer 4] [--file-order]`, sizes in MiB. To be compared with `dd iflag=direct bs=4M of=/dev/null`.
#![expect(clippy::print_stdout, reason = "an example that prints figures")]

use porism_loader::stream::{Job, Sink, StreamOptions, stream};
use porism_loader::{Checkpoint, Options};
use std::sync::atomic::AtomicBool;

struct Null;

impl Sink<(), String> for Null {
    fn write(&mut self, _: &Job<()>, _: u64, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let given = |name: &str| arguments.iter().any(|argument| argument == name);
    let number = |name: &str, otherwise: u64| -> Result<u64, std::num::ParseIntError> {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)).map_or(Ok(otherwise), |value| value.parse())
    };
    let folder = arguments.first().ok_or("the folder of a checkpoint is missing")?;
    let checkpoint = Checkpoint::open(folder.as_ref(), Options::default())?;
    let options = StreamOptions {
        readers: number("--readers", 4)? as usize,
        memory: number("--memory", 64)? << 20,
        buffer: number("--buffer", 4)? << 20,
        direct: !given("--buffered"),
    };
    let sinks = number("--sinks", 1)?.max(1) as usize;
    if given("--cold") {
        forget(&checkpoint)?;
    }

    let mut jobs = Vec::new();
    for (index, role) in checkpoint.roles().into_iter().enumerate() {
        for from in [checkpoint.location(role), checkpoint.scale_location(role)].into_iter().flatten() {
            jobs.push(Job { destination: index % sinks, from, tag: () });
        }
    }
    if given("--file-order") {
        jobs.sort_by_key(|job| (job.from.shard(), job.from.range().start));
    }
    let mut sinks: Vec<Null> = (0..sinks).map(|_| Null).collect();
    let done = stream(&checkpoint, &jobs, &mut sinks, &options, &AtomicBool::new(false), &|_| Ok(()))?;
    let seconds = done.elapsed.as_secs_f64();
    let (read, reads) =
        done.files.iter().fold((0, 0), |(bytes, reads), file| (bytes + file.bytes_read, reads + file.reads));
    println!(
        "{:.3} GB in {seconds:.3} s: {:.3} GB/s; {read} bytes read for {} in {reads} reads, direct: {}",
        done.bytes() as f64 / 1e9,
        done.bytes() as f64 / 1e9 / seconds,
        done.bytes(),
        done.files.iter().all(|file| file.direct),
    );
    println!(
        "{} buffers of {} bytes; readers read for {:.2?} and waited for buffers for {:.2?}",
        done.buffers, done.buffer_bytes, done.reading, done.waiting
    );
    Ok(())
}

/// Takes the shards out of the page cache.
#[cfg(target_os = "linux")]
fn forget(checkpoint: &Checkpoint) -> Result<(), Box<dyn std::error::Error>> {
    for shard in checkpoint.shards() {
        let file = std::fs::File::open(shard.path())?;
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn forget(_: &Checkpoint) -> Result<(), Box<dyn std::error::Error>> {
    Err("the page cache can only be emptied on Linux".into())
}
