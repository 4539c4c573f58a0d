//! The pipe between a source that does what a test wants and sinks that do so too.

use super::*;
use crate::error::Result as Loaded;
use crate::names::Role;
use batch::{Batch, Cutter, Read};
use proptest::prelude::*;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Condvar, Mutex, mpsc};

type Jobs = Vec<Job<usize>>;

/// The byte at a place of a shard.
fn byte(shard: u32, position: u64) -> u8 {
    ((position ^ u64::from(shard).wrapping_mul(77)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn job(destination: usize, shard: u32, range: Range<u64>, tag: usize) -> Job<usize> {
    let from = Location { role: Role::Embedding, is_scale: false, shard, range };
    Job { destination, from, tag }
}

/// A list of jobs of so many bytes, one after the other in shard 0.
fn in_a_row(destinations: usize, count: usize, bytes: u64) -> Jobs {
    let one = |i: usize| job(i % destinations, 0, i as u64 * bytes..(i as u64 + 1) * bytes, i);
    (0..count).map(one).collect()
}

/// Shards made of [`byte`], with a hook at each read.
struct Fake {
    hook: Box<dyn Fn(&Read) -> Loaded<()> + Send + Sync>,
    reads: Mutex<Vec<Read>>,
}

impl Fake {
    fn new(hook: impl Fn(&Read) -> Loaded<()> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { hook: Box::new(hook), reads: Mutex::new(Vec::new()) })
    }
}

impl Source for Fake {
    fn read(&self, read: &Read, _: &dyn Fn() -> String, space: &mut [u8]) -> Loaded<()> {
        (self.hook)(read)?;
        assert!(space.as_ptr().addr().is_multiple_of(ALIGN as usize));
        let blocks = read.blocks();
        assert_eq!(space.len() as u64, blocks.end - blocks.start);
        space.fill(0xee);
        for position in read.range.clone() {
            space[(position - blocks.start) as usize] = byte(read.shard, position);
        }
        self.reads.lock().unwrap().push(read.clone());
        Ok(())
    }
}

/// A sink with a hook at each write; it compares what it gets.
struct Checked<'a> {
    hook: &'a (dyn Fn(&Job<usize>, u64) -> Result<(), String> + Sync),
    finished: Vec<usize>,
    done: u64,
}

impl<'a> Checked<'a> {
    fn new(hook: &'a (dyn Fn(&Job<usize>, u64) -> Result<(), String> + Sync)) -> Self {
        Self { hook, finished: Vec::new(), done: 0 }
    }
}

impl Sink<usize, String> for Checked<'_> {
    fn write(&mut self, job: &Job<usize>, offset: u64, bytes: &[u8]) -> Result<(), String> {
        (self.hook)(job, offset)?;
        assert_eq!(offset, self.done, "a piece of job {} out of order", job.tag);
        for (position, found) in (job.from.range().start + offset..).zip(bytes) {
            assert_eq!(*found, byte(job.from.shard, position), "byte {position} of job {}", job.tag);
        }
        self.done += bytes.len() as u64;
        Ok(())
    }

    fn finish(&mut self, job: &Job<usize>) -> Result<(), String> {
        assert_eq!(self.done, job.from.bytes(), "job {}", job.tag);
        self.done = 0;
        self.finished.push(job.tag);
        Ok(())
    }
}

const SMALL: StreamOptions = StreamOptions { readers: 3, memory: 64 << 10, buffer: 8 << 10, direct: false };

fn no_hook(_: &Read) -> Loaded<()> {
    Ok(())
}

fn takes_all(_: &Job<usize>, _: u64) -> Result<(), String> {
    Ok(())
}

fn no_events(_: Event<'_, usize>) -> Result<(), String> {
    Ok(())
}

fn failed_read(read: &Read) -> Error {
    let source = std::io::Error::other("broken");
    Error::ReadTensor { file: format!("shard {}", read.shard).into(), tensor: "some".into(), source }
}

fn wait_for(condition: impl Fn() -> bool) {
    while !condition() {
        thread::yield_now();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_jobs_arrive_whole_and_in_order_and_are_read_once(
        shards in prop::collection::vec(prop::collection::vec((0u64..30_000, 0usize..3, any::<u16>()), 0..12), 1..4),
        readers in 1usize..5,
        memory in 0u64..200_000,
        buffer in 0u64..40_000,
        destinations in 1usize..4,
    ) {
        let mut jobs = Vec::new();
        for (shard, cuts) in (0..).zip(&shards) {
            let mut start = 11;
            for (bytes, destination, key) in cuts {
                // A third of them is small, and some are empty.
                let bytes = if key % 3 == 0 { bytes % 40 } else { *bytes };
                jobs.push((*key, job(destination % destinations, shard, start..start + bytes, 0)));
                start += bytes;
            }
        }
        jobs.sort_by_key(|(key, _)| *key);
        let mut jobs: Jobs = jobs.into_iter().map(|(_, job)| job).collect();
        jobs.iter_mut().enumerate().for_each(|(index, job)| job.tag = index);

        let source = Fake::new(no_hook);
        let mut sinks: Vec<_> = (0..destinations).map(|_| Checked::new(&takes_all)).collect();
        let options = StreamOptions { readers, memory, buffer, direct: false };
        let events = Mutex::new(vec![Vec::new(); destinations]);
        let statistics = run(source.clone(), &jobs, &mut sinks, &options, &AtomicBool::new(false), &|event| {
            if let Event::Finished { index, job } = event {
                events.lock().unwrap()[job.destination].push(index);
            }
            Ok(())
        });
        let statistics = statistics.unwrap();
        for (number, sink) in sinks.iter().enumerate() {
            let wanted: Vec<usize> =
                jobs.iter().filter(|job| job.destination == number).map(|job| job.tag).collect();
            prop_assert_eq!(&sink.finished, &wanted);
            prop_assert_eq!(&events.lock().unwrap()[number], &wanted);
        }
        let mut read: Vec<_> =
            source.reads.lock().unwrap().drain(..).map(|read| (read.shard, read.range)).collect();
        read.sort_by_key(|(shard, range)| (*shard, range.start));
        for pair in read.windows(2) {
            prop_assert!(pair[0].0 != pair[1].0 || pair[0].1.end <= pair[1].1.start, "{:?} twice", pair);
        }
        let bytes: u64 = read.iter().map(|(_, range)| range.end - range.start).sum();
        prop_assert_eq!(bytes, jobs.iter().map(|job| job.from.bytes()).sum::<u64>());
        prop_assert_eq!(bytes, statistics.bytes());
        let most = memory.max(destinations as u64 * 2 * ALIGN);
        prop_assert!(statistics.buffers as u64 * statistics.buffer_bytes <= most);
    }
}

#[test]
fn small_neighbours_are_one_read_and_large_ones_are_cut_at_blocks() {
    let mut jobs: Jobs = (0..100).map(|i| job(0, 0, 50 + i * 70..50 + (i + 1) * 70, i as usize)).collect();
    // The same again in another order: neighbours in the file, though not in the list.
    jobs.extend((0..100).rev().map(|i| job(0, 1, 50 + i * 70..50 + (i + 1) * 70, 0)));
    jobs.push(job(0, 1, 7050..7050 + 200_000, 0));
    let mut cutter = Cutter::new((0..jobs.len()).collect());
    let mut next =
        || -> Option<Batch> { (!cutter.is_done()).then(|| cutter.cut(|job| &jobs[job].from, 16 * ALIGN)) };
    // 100 jobs that the cutter takes for a block or two each, so that a batch takes some of them.
    let first = next().unwrap();
    assert_eq!(first.reads[0].range, 50..7050);
    assert!(first.reads.len() <= 2 && first.pieces.len() > 100, "{:?}", first.reads);
    let mut reads = Vec::new();
    while let Some(batch) = next() {
        reads.extend(batch.reads);
    }
    let last = &reads[reads.len() - 4..];
    for read in &last[..3] {
        assert!(read.range.end.is_multiple_of(ALIGN), "{read:?}");
    }
    assert_eq!(last[3].range.end, 207_050);
}

#[test]
fn a_slow_sink_holds_its_share_of_buffers_and_the_others_go_on() {
    let jobs = in_a_row(2, 400, 8 << 10);
    let (done, other_is_done) = mpsc::channel();
    let other_is_done = Mutex::new(other_is_done);
    let waited = AtomicBool::new(false);
    let slow = |_: &Job<usize>, _: u64| {
        // The first write lasts until the other sink has everything.
        if !waited.swap(true, Ordering::SeqCst) {
            other_is_done.lock().unwrap().recv().unwrap();
        }
        Ok(())
    };
    let read_for_slow = Arc::new(AtomicUsize::new(0));
    let most = AtomicUsize::new(0);
    let counter = read_for_slow.clone();
    let source = Fake::new(move |read| {
        counter.fetch_add(usize::from(read.job.is_multiple_of(2)), Ordering::SeqCst);
        Ok(())
    });
    let sinks: [Box<dyn Sink<usize, String>>; 2] =
        [Box::new(Checked::new(&slow)), Box::new(Checked::new(&takes_all))];
    let mut sinks = sinks;
    let statistics = run(source.clone(), &jobs, &mut sinks, &SMALL, &AtomicBool::new(false), &|event| {
        if let Event::Progress { destination: 1, done: bytes, total } = event
            && bytes == total
        {
            most.store(read_for_slow.load(Ordering::SeqCst), Ordering::SeqCst);
            done.send(()).unwrap();
        }
        Ok(())
    });
    let statistics = statistics.unwrap();
    assert_eq!((statistics.buffers as u64) * statistics.buffer_bytes, SMALL.memory);
    let most = most.into_inner();
    assert!((1..=4).contains(&most), "{most} of 8 buffers");
    assert_eq!(statistics.destinations[0].bytes, 200 * (8 << 10));
}

#[test]
fn the_flag_ends_it_at_once_with_a_slow_reader_and_a_slow_sink() {
    let cancel = Arc::new(AtomicBool::new(false));
    let jobs = in_a_row(2, 100, 8 << 10);
    let begun = AtomicU64::new(0);
    // Every read after the first two, and the only write, last until the flag is set.
    let flag = cancel.clone();
    let source = Fake::new(move |_| {
        if begun.fetch_add(1, Ordering::SeqCst) >= 2 {
            wait_for(|| flag.load(Ordering::SeqCst));
        }
        Ok(())
    });
    let writes = AtomicU64::new(0);
    let slow = |_: &Job<usize>, _: u64| {
        writes.fetch_add(1, Ordering::SeqCst);
        wait_for(|| cancel.load(Ordering::SeqCst));
        Ok(())
    };
    let mut sinks = [Checked::new(&slow), Checked::new(&slow)];
    thread::scope(|scope| {
        scope.spawn(|| {
            wait_for(|| writes.load(Ordering::SeqCst) > 0);
            cancel.store(true, Ordering::SeqCst);
        });
        let result = run(source.clone(), &jobs, &mut sinks, &SMALL, &cancel, &no_events);
        assert!(matches!(result, Err(StreamError::Cancelled)), "{result:?}");
    });
    assert!(writes.into_inner() <= 2);
}

/// A file system that does not answer until this is dropped.
struct Stalled(Arc<(Mutex<Stall>, Condvar)>);

#[derive(Default)]
struct Stall {
    over: bool,
    /// Readers that wait.
    waiting: usize,
    /// Readers that got their answer.
    answered: usize,
}

impl Stalled {
    fn new() -> Self {
        Self(Arc::default())
    }

    /// A source of which everything from the job on stalls.
    fn source(&self, from: usize) -> Arc<Fake> {
        let shared = self.0.clone();
        Fake::new(move |read| {
            let (stall, changed) = &*shared;
            let mut stall = stall.lock().unwrap();
            if read.job >= from {
                stall.waiting += 1;
                changed.notify_all();
                while !stall.over {
                    stall = changed.wait(stall).unwrap();
                }
                stall.answered += 1;
                changed.notify_all();
            }
            Ok(())
        })
    }

    fn wait_until(&self, condition: impl Fn(&Stall) -> bool) {
        let (stall, changed) = &*self.0;
        let mut stall = stall.lock().unwrap();
        while !condition(&stall) {
            stall = changed.wait(stall).unwrap();
        }
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).over = true;
        self.0.1.notify_all();
    }
}

#[test]
fn the_flag_ends_it_while_no_reader_gets_an_answer() {
    for from in [0, 5] {
        let stalled = Stalled::new();
        let jobs = in_a_row(2, 100, 8 << 10);
        let mut sinks = [Checked::new(&takes_all), Checked::new(&takes_all)];
        let cancel = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                stalled.wait_until(|stall| stall.waiting == SMALL.readers);
                cancel.store(true, Ordering::SeqCst);
            });
            let result = run(stalled.source(from), &jobs, &mut sinks, &SMALL, &cancel, &no_events);
            assert!(matches!(result, Err(StreamError::Cancelled)), "{result:?}");
        });
        // Nobody was answered. Whoever is answered later ends, and no sink hears of it.
        stalled.wait_until(|stall| stall.answered == 0);
        let finished = sinks.each_ref().map(|sink| sink.finished.len());
        assert!(finished.iter().sum::<usize>() <= from);
        stalled.0.0.lock().unwrap().over = true;
        stalled.0.1.notify_all();
        stalled.wait_until(|stall| stall.answered == SMALL.readers);
        assert_eq!(sinks.each_ref().map(|sink| sink.finished.len()), finished);
    }
}

#[test]
fn an_error_of_events_ends_it_while_no_reader_gets_an_answer() {
    let stalled = Stalled::new();
    let jobs = in_a_row(1, 100, 8 << 10);
    let mut sinks = [Checked::new(&takes_all)];
    let ticks = AtomicUsize::new(0);
    let events = |event: Event<'_, usize>| match event {
        Event::Tick if ticks.fetch_add(1, Ordering::SeqCst) == 2 => Err("enough".to_owned()),
        _ => Ok(()),
    };
    let source = stalled.source(0);
    let result = run(source, &jobs, &mut sinks, &SMALL, &AtomicBool::new(false), &events);
    assert!(matches!(&result, Err(StreamError::Event(text)) if text == "enough"), "{result:?}");
    assert_eq!(ticks.into_inner(), 3);
}

#[test]
fn a_check_that_gets_no_answer_is_given_up() {
    let (answer, wait) = mpsc::channel::<()>();
    let asked = AtomicUsize::new(0);
    let given_up = apart(
        move || wait.recv().is_ok(),
        || (asked.fetch_add(1, Ordering::SeqCst) == 3).then_some("enough"),
    );
    assert_eq!(given_up, Err("enough"));
    drop(answer);
    assert_eq!(apart(|| 5, || None::<()>), Ok(5));
}

#[test]
fn what_is_hastened_arrives_while_a_reader_stalls_at_the_rest() {
    // The only reader stalls at the first job that it does not have to read for us.
    let jobs = in_a_row(1, 100, 8 << 10);
    let (begun, read) = mpsc::channel();
    let go = Arc::new((Mutex::new(0usize), Condvar::new()));
    let allowed = go.clone();
    let source = Fake::new(move |read| {
        begun.send(read.job).unwrap();
        let mut left = allowed.0.lock().unwrap();
        while *left == 0 {
            left = allowed.1.wait(left).unwrap();
        }
        *left -= 1;
        Ok(())
    });
    let allow = |reads: usize| {
        *go.0.lock().unwrap() += reads;
        go.1.notify_all();
    };
    let options = StreamOptions { readers: 1, memory: 16 << 10, ..SMALL };
    let mut sink = InAnyOrder::default();
    let mut arriving = Arriving::of(source.clone(), jobs.clone(), 1, &options);
    assert_eq!(read.recv().unwrap(), 0);
    assert!(!arriving.take(0, false, &mut sink).unwrap(), "nothing was read");
    // The first job is under way, so it comes before those that are wanted now.
    arriving.hasten(0, |job| [70, 80].contains(&job.tag));
    arriving.skip(0, |job| job.tag == 1);
    allow(3);
    while sink.finished.len() < 3 {
        assert!(arriving.take(0, true, &mut sink).unwrap());
    }
    assert_eq!(sink.finished, [0, 70, 80]);
    allow(1000);
    while arriving.take(0, true, &mut sink).unwrap() {}
    let rest = (2..100).filter(|tag| ![70, 80].contains(tag));
    assert_eq!(sink.finished, [0, 70, 80].into_iter().chain(rest).collect::<Vec<_>>());
    let read: u64 = source.reads.lock().unwrap().iter().map(Read::bytes).sum();
    assert_eq!(read, 99 * (8 << 10));
}

/// Jobs that come in an order of their own.
#[derive(Default)]
struct InAnyOrder {
    finished: Vec<usize>,
}

impl Sink<usize, String> for InAnyOrder {
    fn write(&mut self, job: &Job<usize>, offset: u64, bytes: &[u8]) -> Result<(), String> {
        for (position, found) in (job.from.range().start + offset..).zip(bytes) {
            assert_eq!(*found, byte(job.from.shard, position), "byte {position} of job {}", job.tag);
        }
        Ok(())
    }

    fn finish(&mut self, job: &Job<usize>) -> Result<(), String> {
        self.finished.push(job.tag);
        if job.tag == 50 && job.from.shard == 1 { Err("full".into()) } else { Ok(()) }
    }
}

#[test]
fn what_goes_wrong_with_arriving_bytes_is_told_when_they_are_taken() {
    let mut jobs = in_a_row(1, 100, 8 << 10);
    jobs[40].from.shard = 9;
    let fails = |read: &Read| if read.shard == 9 { Err(failed_read(read)) } else { Ok(()) };
    let mut sink = InAnyOrder::default();
    let mut arriving = Arriving::of(Fake::new(fails), jobs, 1, &SMALL);
    let error = loop {
        match arriving.take(0, true, &mut sink) {
            Ok(more) => assert!(more),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StreamError::Checkpoint(_)), "{error}");
    assert!(sink.finished.len() <= 40);

    let mut jobs = in_a_row(1, 100, 8 << 10);
    jobs[50].from.shard = 1;
    let mut arriving = Arriving::of(Fake::new(no_hook), jobs, 1, &SMALL);
    let error = loop {
        match arriving.take(0, true, &mut sink) {
            Ok(more) => assert!(more),
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, StreamError::Sink { destination: 0, error } if error == "full"), "{error}");
}

#[test]
fn a_flag_set_before_ends_it_before_a_byte_is_written() {
    let jobs = in_a_row(1, 100, 8 << 10);
    let mut sinks = [Checked::new(&|_, _| Err("was called".into()))];
    let result = run(Fake::new(no_hook), &jobs, &mut sinks, &SMALL, &AtomicBool::new(true), &no_events);
    assert!(matches!(result, Err(StreamError::Cancelled)), "{result:?}");
}

#[test]
fn an_error_of_events_ends_it() {
    let jobs = in_a_row(3, 300, 5000);
    let mut sinks = [&takes_all, &takes_all, &takes_all].map(|hook| Checked::new(hook));
    let events = |event: Event<'_, usize>| match event {
        Event::Finished { index: 31, .. } => Err("enough".to_owned()),
        _ => Ok(()),
    };
    let result = run(Fake::new(no_hook), &jobs, &mut sinks, &SMALL, &AtomicBool::new(false), &events);
    assert!(matches!(&result, Err(StreamError::Event(text)) if text == "enough"), "{result:?}");
    assert_eq!(sinks[1].finished.last(), Some(&31));
}

#[test]
fn a_failed_read_ends_it_with_what_was_finished_intact() {
    let mut jobs = in_a_row(2, 100, 8 << 10);
    jobs[70].from.shard = 9;
    let source = Fake::new(|read| if read.shard == 9 { Err(failed_read(read)) } else { Ok(()) });
    let mut sinks = [Checked::new(&takes_all), Checked::new(&takes_all)];
    let result = run(source, &jobs, &mut sinks, &SMALL, &AtomicBool::new(false), &no_events);
    let message = result.unwrap_err().to_string();
    assert_eq!(message, "shard 9: `some` cannot be read: broken; check the disk and load again");
    assert!(sinks[0].finished.iter().all(|tag| *tag < 70));
}

#[test]
fn an_error_of_a_sink_goes_before_a_later_one_of_a_reader() {
    let jobs = in_a_row(1, 100, 8 << 10);
    let fails = Arc::new(AtomicBool::new(false));
    let failed = fails.clone();
    let source = Fake::new(move |read| {
        if read.job == 0 {
            return Ok(());
        }
        wait_for(|| failed.load(Ordering::SeqCst));
        Err(failed_read(read))
    });
    let sink = |_: &Job<usize>, _: u64| {
        fails.store(true, Ordering::SeqCst);
        Err("out of memory".to_owned())
    };
    let mut sinks = [Checked::new(&sink)];
    let result = run(source, &jobs, &mut sinks, &SMALL, &AtomicBool::new(false), &no_events);
    match result {
        Err(StreamError::Sink { destination: 0, error }) => assert_eq!(error, "out of memory"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_panic_of_a_sink_comes_out_when_all_have_ended() {
    let jobs = in_a_row(2, 100, 8 << 10);
    let panics = |job: &Job<usize>, _: u64| if job.tag == 31 { panic!("in job 31") } else { Ok(()) };
    let mut sinks = [Checked::new(&takes_all), Checked::new(&panics)];
    let source = Fake::new(no_hook);
    let result = catch_unwind(AssertUnwindSafe(|| {
        run(source.clone(), &jobs, &mut sinks, &SMALL, &AtomicBool::new(false), &no_events)
    }));
    assert_eq!(result.unwrap_err().downcast_ref::<&str>(), Some(&"in job 31"));
}

#[test]
fn nothing_to_do_is_done_and_empty_jobs_come_in_their_turn() {
    let cancel = AtomicBool::new(false);
    let source = Fake::new(no_hook);
    let mut none: [Checked<'_>; 0] = [];
    let statistics = run(source.clone(), &[], &mut none, &SMALL, &cancel, &no_events).unwrap();
    assert_eq!((statistics.bytes(), statistics.buffers), (0, 0));
    let mut sinks = [Checked::new(&takes_all), Checked::new(&takes_all)];
    run(source.clone(), &[], &mut sinks, &SMALL, &cancel, &no_events).unwrap();

    let jobs = [
        job(1, 0, 5..5, 0),
        job(1, 0, 5..9000, 1),
        job(1, 0, 9000..9000, 2),
        job(1, 0, 9000..30_000, 3),
        job(1, 0, 3..3, 4),
    ];
    run(source.clone(), &jobs, &mut sinks, &SMALL, &cancel, &no_events).unwrap();
    assert_eq!(sinks[1].finished, [0, 1, 2, 3, 4]);
    let empty = [job(0, 0, 5..5, 7)];
    run(source.clone(), &empty, &mut sinks, &SMALL, &cancel, &no_events).unwrap();
    assert_eq!(sinks[0].finished, [7]);
}
