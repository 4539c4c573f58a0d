//! How fast shards are read that are not in memory yet.

use crate::index::Checkpoint;

/// Bytes per second that a checkpoint's shards are read with through the page cache. Some pieces of them are taken out of it
/// and read by several threads, 256 MiB in all. `None` where that cannot be measured: a checkpoint that is smaller or in
/// memory, and systems other than Linux.
#[cfg(target_os = "linux")]
pub fn read_rate(checkpoint: &Checkpoint) -> Option<f64> {
    use std::fs::File;
    use std::num::NonZeroU64;
    use std::os::unix::fs::FileExt as _;
    use std::time::Instant;

    const PIECE: u64 = 16 << 20;
    const PIECES: usize = 16;
    const THREADS: usize = 4;
    const BUFFER: usize = 1 << 20;

    checkpoint.directory()?;
    // Every piece of every shard, of which some are taken evenly.
    let mut all: Vec<(usize, u64)> = Vec::new();
    for (number, shard) in checkpoint.shards().iter().enumerate() {
        let pieces = shard.bytes().len() as u64 / PIECE;
        all.extend((0..pieces).map(|piece| (number, piece * PIECE)));
    }
    if all.len() < PIECES {
        return None;
    }
    let mut pieces: Vec<(File, u64)> = Vec::new();
    for at in (0..PIECES).map(|at| at * all.len() / PIECES) {
        let (shard, offset) = all[at];
        let file = File::open(checkpoint.shards()[shard].path()).ok()?;
        rustix::fs::fadvise(&file, offset, NonZeroU64::new(PIECE), rustix::fs::Advice::DontNeed).ok()?;
        pieces.push((file, offset));
    }
    let read = |pieces: &[(File, u64)]| -> std::io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        for (file, offset) in pieces {
            for at in (0..PIECE).step_by(BUFFER) {
                file.read_exact_at(&mut buffer, offset + at)?;
            }
        }
        Ok(())
    };
    let started = Instant::now();
    let done = std::thread::scope(|scope| {
        let threads: Vec<_> =
            pieces.chunks(PIECES / THREADS).map(|pieces| scope.spawn(|| read(pieces))).collect();
        threads.into_iter().all(|thread| matches!(thread.join(), Ok(Ok(()))))
    });
    done.then(|| (PIECE * PIECES as u64) as f64 / started.elapsed().as_secs_f64())
}

/// See the version for Linux.
#[cfg(not(target_os = "linux"))]
pub fn read_rate(_: &Checkpoint) -> Option<f64> {
    None
}
