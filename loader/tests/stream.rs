//! Checkpoints on disk and in memory, streamed.

mod common;

use common::{Synthetic, golden};
use porism_loader::stream::{Event, Job, Sink, Statistics, StreamError, StreamOptions, stream};
use porism_loader::{Checkpoint, Options};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Buffers that are small against these checkpoints.
const SMALL: StreamOptions = StreamOptions { readers: 3, memory: 256 << 10, buffer: 32 << 10, direct: true };

/// Keeps everything.
#[derive(Default)]
struct Keep {
    jobs: Vec<(usize, Vec<u8>)>,
}

impl Sink<usize, String> for Keep {
    fn write(&mut self, job: &Job<usize>, offset: u64, bytes: &[u8]) -> Result<(), String> {
        if offset == 0 {
            self.jobs.push((job.tag, Vec::new()));
        }
        let (tag, kept) = self.jobs.last_mut().ok_or("no job")?;
        assert_eq!((*tag, kept.len() as u64), (job.tag, offset));
        kept.extend_from_slice(bytes);
        Ok(())
    }
}

/// Every tensor and its scales, dealt to so many destinations.
fn everything(checkpoint: &Checkpoint, destinations: usize) -> Vec<Job<usize>> {
    let mut jobs = Vec::new();
    for (number, role) in checkpoint.roles().into_iter().enumerate() {
        for from in [checkpoint.location(role), checkpoint.scale_location(role)].into_iter().flatten() {
            jobs.push(Job { destination: number % destinations, from, tag: jobs.len() });
        }
    }
    jobs
}

fn mapped(checkpoint: &Checkpoint, job: &Job<usize>) -> Vec<u8> {
    let tensor = checkpoint.tensor(job.from.role()).unwrap();
    let bytes = if job.from.is_scale() { tensor.scale.unwrap().bytes } else { tensor.bytes };
    assert_eq!(bytes.len() as u64, job.from.bytes());
    bytes.to_vec()
}

type Outcome = Result<Statistics, StreamError<String>>;

/// Streams everything to one sink, with a hook at the first finished job.
fn streamed(checkpoint: &Checkpoint, options: &StreamOptions, hook: impl Fn() + Sync) -> Outcome {
    let jobs = everything(checkpoint, 1);
    let mut sinks = [Keep::default()];
    stream(checkpoint, &jobs, &mut sinks, options, &AtomicBool::new(false), &|event| {
        if matches!(event, Event::Finished { index: 0, .. }) {
            hook();
        }
        Ok(())
    })
}

fn written() -> (tempfile::TempDir, Checkpoint, [PathBuf; 2]) {
    let directory = tempfile::tempdir().unwrap();
    let tiny = Synthetic::tiny();
    tiny.files().write(directory.path());
    let checkpoint = Checkpoint::open(directory.path(), Options::default()).unwrap();
    let shards = [0, 1].map(|number| directory.path().join(tiny.shard_name(number)));
    (directory, checkpoint, shards)
}

#[track_caller]
fn refused(outcome: Outcome, file: &Path, parts: &[&str]) {
    let message = match outcome {
        Err(StreamError::Checkpoint(error)) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(message.starts_with(&format!("{}: ", file.display())), "{message}");
    for part in parts.iter().chain(&["load again", "`"]) {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[test]
fn whole_checkpoints_arrive_as_they_are_mapped() {
    for name in ["v2-lite-tiny-bf16", "v3-tiny-bf16", "v32-tiny-fp8"] {
        let checkpoint = Checkpoint::open(&golden(name), Options::default()).unwrap();
        for (destinations, direct) in [(1, true), (2, false), (3, true)] {
            let jobs = everything(&checkpoint, destinations);
            let mut sinks: Vec<Keep> = (0..destinations).map(|_| Keep::default()).collect();
            let options = StreamOptions { direct, ..SMALL };
            let statistics =
                stream(&checkpoint, &jobs, &mut sinks, &options, &AtomicBool::new(false), &|_| Ok(()))
                    .unwrap();
            for (number, sink) in sinks.iter().enumerate() {
                let wanted: Vec<_> = jobs
                    .iter()
                    .filter(|job| job.destination == number)
                    .map(|job| (job.tag, mapped(&checkpoint, job)))
                    .collect();
                assert!(sink.jobs == wanted, "{name} to {number} of {destinations}");
            }
            // Each byte once, whatever the order and the cuts.
            assert_eq!(statistics.bytes(), checkpoint.weight_bytes());
            let of_files: u64 = statistics.files.iter().map(|file| file.bytes).sum();
            assert_eq!(of_files, checkpoint.weight_bytes());
            for file in &statistics.files {
                if file.direct {
                    // Whole blocks: less than one more at each end.
                    assert!(direct && file.bytes_read <= file.bytes + file.reads * 2 * 4096, "{file:?}");
                } else {
                    assert_eq!(file.bytes_read, file.bytes, "{file:?}");
                }
            }
        }
    }
}

#[test]
fn a_part_of_a_tensor_arrives_alone() {
    let checkpoint = Checkpoint::open(&golden("v32-tiny-fp8"), Options::default()).unwrap();
    let role = porism_loader::Role::Embedding;
    let (from, all) = (checkpoint.location(role).unwrap(), checkpoint.tensor(role).unwrap().bytes);
    let half = from.bytes() / 2 + 1;
    let parts = [from.part(half..from.bytes()), from.part(0..half)];
    let jobs: Vec<_> = (0..).zip(parts).map(|(tag, from)| Job { destination: tag, from, tag }).collect();
    let mut sinks = [Keep::default(), Keep::default()];
    stream(&checkpoint, &jobs, &mut sinks, &SMALL, &AtomicBool::new(false), &|_| Ok(())).unwrap();
    assert!(sinks[0].jobs[0].1 == all[half as usize..] && sinks[1].jobs[0].1 == all[..half as usize]);
}

#[test]
fn a_checkpoint_in_memory_is_streamed_too() {
    let checkpoint = Synthetic::tiny().files().in_memory(Options::default()).unwrap();
    let jobs = everything(&checkpoint, 2);
    let mut sinks = [Keep::default(), Keep::default()];
    let statistics =
        stream(&checkpoint, &jobs, &mut sinks, &SMALL, &AtomicBool::new(false), &|_| Ok(())).unwrap();
    assert_eq!(statistics.bytes(), checkpoint.weight_bytes());
    for (tag, bytes) in sinks.iter().flat_map(|sink| &sink.jobs) {
        assert!(*bytes == mapped(&checkpoint, &jobs[*tag]));
    }
}

#[test]
fn progress_reaches_the_total_and_may_stop_it() {
    let (_directory, checkpoint, _) = written();
    let jobs = everything(&checkpoint, 1);
    let cancel = AtomicBool::new(false);
    let run = |stop_at: u64, flag: bool| {
        let last = std::sync::Mutex::new((0, 0));
        let mut sinks = [Keep::default()];
        let outcome = stream(&checkpoint, &jobs, &mut sinks, &SMALL, &cancel, &|event| {
            if let Event::Progress { destination: 0, done, total } = event {
                let mut last = last.lock().unwrap();
                assert!(done >= last.0);
                *last = (done, total);
                if done >= stop_at {
                    if !flag {
                        return Err("enough".to_owned());
                    }
                    cancel.store(true, Ordering::SeqCst);
                }
            }
            Ok(())
        });
        (outcome, last.into_inner().unwrap())
    };
    let all = checkpoint.weight_bytes();
    let (outcome, last) = run(u64::MAX, true);
    assert!(outcome.is_ok());
    assert_eq!(last, (all, all));
    let (outcome, (done, total)) = run(all / 2, false);
    assert!(matches!(outcome, Err(StreamError::Event(_))), "{outcome:?}");
    assert!(done >= all / 2 && done < all && total == all);
    let (outcome, (done, _)) = run(all / 2, true);
    assert!(matches!(outcome, Err(StreamError::Cancelled)), "{outcome:?}");
    assert!(done < all);
}

#[test]
fn a_shard_that_vanished_is_named_with_its_first_tensor() {
    let (_directory, checkpoint, shards) = written();
    std::fs::remove_file(&shards[1]).unwrap();
    refused(streamed(&checkpoint, &SMALL, || {}), &shards[1], &["gone", "found no such file", "bytes"]);
}

#[cfg(unix)]
#[test]
fn a_shard_that_vanishes_meanwhile_is_an_error_unless_it_is_open() {
    // Buffers so small that the second shard, which is wanted at the end only, is not opened by then.
    let least = StreamOptions { readers: 1, memory: 0, ..SMALL };
    let (_directory, checkpoint, shards) = written();
    let mut jobs = everything(&checkpoint, 1);
    jobs.sort_by_key(|job| (job.from.shard(), job.from.range().start));
    let mut outcomes = shards.iter().map(|shard| {
        let mut sinks = [Keep::default()];
        let outcome = stream(&checkpoint, &jobs, &mut sinks, &least, &AtomicBool::new(false), &|event| {
            if matches!(event, Event::Finished { index: 0, .. }) {
                std::fs::rename(shard, shard.with_extension("away")).unwrap();
            }
            Ok::<(), String>(())
        });
        std::fs::rename(shard.with_extension("away"), shard).unwrap();
        outcome
    });
    let bytes = outcomes.next().unwrap().unwrap().bytes();
    assert_eq!(bytes, checkpoint.weight_bytes());
    refused(outcomes.next().unwrap(), &shards[1], &["gone", "found no such file"]);
}

#[test]
fn a_shard_that_changed_is_refused_before_it_is_read() {
    let (_directory, checkpoint, shards) = written();
    let file = File::options().write(true).open(&shards[0]).unwrap();
    let before = file.metadata().unwrap();
    file.set_modified(before.modified().unwrap() + Duration::from_secs(3)).unwrap();
    refused(streamed(&checkpoint, &SMALL, || {}), &shards[0], &["changed", "expected", "found"]);
    file.set_modified(before.modified().unwrap()).unwrap();
    streamed(&checkpoint, &SMALL, || {}).unwrap();
}

// Windows does not shorten a file that is mapped.
#[cfg(unix)]
#[test]
fn a_shard_that_shrinks_is_refused() {
    let (_directory, checkpoint, shards) = written();
    let length = shards[0].metadata().unwrap().len();
    let shrink = || File::options().write(true).open(&shards[0]).unwrap().set_len(length / 2).unwrap();
    let lengths = [format!("{length} bytes"), format!("{} bytes", length / 2)];
    let parts = ["changed", &lengths[0], &lengths[1]];
    refused(streamed(&checkpoint, &SMALL, shrink), &shards[0], &parts);
    // Now it is short from the start.
    refused(streamed(&checkpoint, &SMALL, || panic!("a job was finished")), &shards[0], &parts);
}

#[test]
fn a_shard_that_changes_meanwhile_is_refused_even_if_all_of_it_was_read() {
    for memory in [0, 64 << 20] {
        let (_directory, checkpoint, shards) = written();
        let change = || {
            let file = File::options().write(true).open(&shards[0]).unwrap();
            let modified = file.metadata().unwrap().modified().unwrap();
            file.set_modified(modified + Duration::from_secs(1)).unwrap();
        };
        let options = StreamOptions { memory, ..StreamOptions::default() };
        refused(streamed(&checkpoint, &options, change), &shards[0], &["changed", "modified"]);
    }
}
