//! What is read into one buffer: pieces of consecutive jobs, in as few and as long reads as their places allow.

use crate::index::Location;
use std::ops::Range;

/// Offsets, lengths and addresses of reads past the page cache are multiples of this; disks ask for 512 or 4096.
pub(super) const ALIGN: u64 = 4096;

/// One read: these bytes of a shard, to this place in the buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) shard: u32,
    /// Bytes of the file that are wanted.
    pub(super) range: Range<u64>,
    /// Where in the buffer the byte at `range.start` rounded down to [`ALIGN`] belongs.
    pub(super) at: usize,
    /// The job of its first byte, for messages.
    pub(super) job: usize,
}

impl Read {
    /// The whole blocks in which the bytes lie.
    pub(super) fn blocks(&self) -> Range<u64> {
        down(self.range.start)..up(self.range.end)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// A part of a job, in the buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Index into the list of jobs.
    pub(super) job: usize,
    /// Where in the job it starts.
    pub(super) offset: u64,
    /// Where in the buffer it is.
    pub(super) buffer: Range<usize>,
    /// Whether the job ends with it.
    pub(super) last: bool,
}

/// What one buffer holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Batch {
    pub(super) reads: Vec<Read>,
    /// In the order of the jobs.
    pub(super) pieces: Vec<Piece>,
}

/// Cuts the jobs of one destination into batches.
pub(super) struct Cutter {
    /// Indices into the list of jobs, in the order of arrival.
    jobs: Vec<usize>,
    /// The next job to be cut, as an index into `jobs`.
    next: usize,
    /// Bytes of it that earlier batches have.
    offset: u64,
}

fn down(position: u64) -> u64 {
    position / ALIGN * ALIGN
}

fn up(position: u64) -> u64 {
    position.next_multiple_of(ALIGN)
}

impl Cutter {
    pub(super) fn new(jobs: Vec<usize>) -> Self {
        Self { jobs, next: 0, offset: 0 }
    }

    pub(super) fn is_done(&self) -> bool {
        self.next == self.jobs.len()
    }

    /// The first job of which nothing was cut, as an index into `jobs`.
    fn untouched(&self) -> usize {
        self.next + usize::from(self.offset > 0)
    }

    /// Jobs of which nothing was cut come first where `wanted`, by the job's index in the list, says so.
    pub(super) fn hasten(&mut self, wanted: &[bool]) {
        let first = self.untouched();
        // Stable: within both parts the order stays.
        self.jobs[first..].sort_by_key(|job| !wanted[*job]);
    }

    /// Jobs of which nothing was cut do not come where `unwanted` says so.
    pub(super) fn skip(&mut self, unwanted: &[bool]) {
        let first = self.untouched();
        let rest = self.jobs.split_off(first);
        self.jobs.extend(rest.into_iter().filter(|job| !unwanted[*job]));
    }

    /// The next batch, for a buffer of `space` bytes: a multiple of [`ALIGN`], at least two of it.
    ///
    /// Jobs are cut at multiples of [`ALIGN`], so that no block is read twice on account of the cut.
    pub(super) fn cut<'a>(&mut self, location: impl Fn(usize) -> &'a Location, space: u64) -> Batch {
        // A job that does not fit is begun only if that leaves it a read worth making.
        let least = space / 4;
        let mut free = space;
        let mut wanted: Vec<Wanted> = Vec::new();
        while let Some(&job) = self.jobs.get(self.next)
            && wanted.len() < MOST_PIECES
        {
            let Range { start, end: whole } = location(job).range();
            let start = start + self.offset;
            let goes_on = wanted.last().is_some_and(|before| {
                let Range { start: from, end } = before.range;
                from < end && end == start && before.shard == location(job).shard() as u32
            });
            // Its first block is the last one of the job before it, where it goes on from there.
            let covered = if goes_on { up(start) } else { down(start) };
            let end = whole.min(covered + free);
            if end < whole && (end <= start || (!wanted.is_empty() && end - start < least)) {
                break;
            }
            free -= up(end).saturating_sub(covered);
            let shard = location(job).shard() as u32;
            wanted.push(Wanted { job, shard, offset: self.offset, range: start..end, last: end == whole });
            if end < whole {
                self.offset += end - start;
                break;
            }
            self.next += 1;
            self.offset = 0;
        }
        arrange(wanted)
    }
}

/// Small jobs by the thousand need descriptions too, however little they read.
const MOST_PIECES: usize = 4096;

struct Wanted {
    job: usize,
    shard: u32,
    offset: u64,
    range: Range<u64>,
    last: bool,
}

/// Joins neighbours in a file to one read, and gives everything its place in the buffer.
fn arrange(wanted: Vec<Wanted>) -> Batch {
    let mut by_place: Vec<&Wanted> = wanted.iter().filter(|piece| !piece.range.is_empty()).collect();
    by_place.sort_by_key(|piece| (piece.shard, piece.range.start));
    let mut reads: Vec<Read> = Vec::new();
    for piece in by_place {
        match reads.last_mut() {
            Some(read) if read.shard == piece.shard && piece.range.start <= read.range.end => {
                read.range.end = read.range.end.max(piece.range.end);
            }
            _ => reads.push(Read { shard: piece.shard, range: piece.range.clone(), at: 0, job: piece.job }),
        }
    }
    let mut at = 0;
    for read in &mut reads {
        read.at = at;
        let blocks = read.blocks();
        at += (blocks.end - blocks.start) as usize;
    }
    let pieces = wanted.iter().map(|piece| {
        let Range { start, end } = piece.range;
        let buffer = if start == end {
            0..0
        } else {
            let after = reads.partition_point(|read| (read.shard, read.range.start) <= (piece.shard, start));
            let read = &reads[after - 1];
            let from = read.at + (start - read.blocks().start) as usize;
            from..from + (end - start) as usize
        };
        Piece { job: piece.job, offset: piece.offset, buffer, last: piece.last }
    });
    Batch { pieces: pieces.collect(), reads }
}
