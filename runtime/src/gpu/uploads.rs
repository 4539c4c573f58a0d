//! How much of what was written to an adapter may be on its way there. The driver keeps a copy of it until the submission
//! that takes it along is over, so it is submitted in windows, and before there are too many the oldest is waited for.

use std::collections::VecDeque;

/// Bytes on their way. `I` names a submission.
pub(super) struct Uploads<I> {
    /// Bytes that may be on their way, the window that is being filled included.
    most: u64,
    /// Bytes written since the last submission.
    open: u64,
    /// Submissions that took bytes along and may not be over, the oldest first. Those without, such as what computes, are
    /// not among them: they are waited for only where they come before such a submission.
    sent: VecDeque<(I, u64)>,
}

/// What has to be done before something is written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn<I> {
    /// Nothing.
    Write,
    /// The window is full: submit it.
    Submit,
    /// Too much is on its way: wait for this submission.
    Wait(I),
}

impl<I> Uploads<I> {
    /// So many bytes may be on their way.
    pub(super) fn new(most: u64) -> Self {
        Uploads { most, open: 0, sent: VecDeque::new() }
    }

    /// Bytes that may be on their way.
    pub(super) fn most(&self) -> u64 {
        self.most
    }

    /// From now on so many.
    pub(super) fn set_most(&mut self, most: u64) {
        self.most = most;
    }

    /// Bytes of a window, which is the most to be written at once: half, so that one is filled while one is on its way.
    /// Whole words, since buffers are written in words.
    pub(super) fn window(&self) -> u64 {
        self.most / 2 / 4 * 4
    }

    /// What has to be done before `bytes` more are written; to be asked again until it is nothing.
    pub(super) fn before(&mut self, bytes: u64) -> Turn<I> {
        assert!(bytes <= self.window(), "{bytes} bytes at once, a window has {}", self.window());
        if self.open > 0 && self.open + bytes > self.window() {
            return Turn::Submit;
        }
        let sent: u64 = self.sent.iter().map(|(_, bytes)| bytes).sum();
        if sent + self.open + bytes <= self.most {
            return Turn::Write;
        }
        let (oldest, _) = self.sent.pop_front().expect("what is open fits a window");
        Turn::Wait(oldest)
    }

    /// So many bytes were written.
    pub(super) fn written(&mut self, bytes: u64) {
        self.open += bytes;
    }

    /// Whether something was written that no submission took along.
    pub(super) fn is_open(&self) -> bool {
        self.open > 0
    }

    /// A submission took along what was written.
    pub(super) fn submitted(&mut self, by: I) {
        if self.open > 0 {
            self.sent.push_back((by, self.open));
            self.open = 0;
        }
    }

    /// All that was submitted is over.
    pub(super) fn arrived(&mut self) {
        self.sent.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A queue that says which of its submissions were waited for.
    struct Queue {
        uploads: Uploads<u32>,
        submissions: u32,
        waits: Vec<u32>,
    }

    impl Queue {
        fn new(most: u64) -> Self {
            Queue { uploads: Uploads::new(most), submissions: 0, waits: vec![] }
        }

        fn submit(&mut self) -> u32 {
            self.submissions += 1;
            self.submissions
        }

        fn write(&mut self, bytes: u64) {
            loop {
                match self.uploads.before(bytes) {
                    Turn::Write => break,
                    Turn::Submit => {
                        let by = self.submit();
                        self.uploads.submitted(by);
                    }
                    Turn::Wait(by) => self.waits.push(by),
                }
            }
            self.uploads.written(bytes);
        }
    }

    #[test]
    fn a_full_window_waits_for_the_one_before_and_for_no_computation() {
        let mut queue = Queue::new(80);
        // Submissions 1 and 2 compute; the first two windows find room beside them.
        queue.submit();
        queue.submit();
        for _ in 0..4 {
            queue.write(20);
        }
        assert_eq!((queue.submissions, &queue.waits[..]), (3, &[][..]));
        // Submission 4 computes, 5 has the second window. The third has to wait: for submission 3, which was there before
        // anything was computed by 4.
        queue.submit();
        queue.write(20);
        assert_eq!((queue.submissions, &queue.waits[..]), (5, &[3][..]));
        queue.write(20);
        assert_eq!(queue.waits, [3]);
        queue.write(20);
        assert_eq!((queue.submissions, &queue.waits[..]), (6, &[3, 5][..]));
    }

    #[test]
    fn what_is_known_to_be_over_is_not_waited_for() {
        let mut queue = Queue::new(80);
        for _ in 0..10 {
            queue.write(40);
            let by = queue.submit();
            queue.uploads.submitted(by);
            queue.uploads.arrived();
        }
        assert_eq!((queue.submissions, queue.waits.len()), (10, 0));
    }

    proptest! {
        #[test]
        fn never_more_is_on_its_way_than_may_be(
            most in 8u64..200, writes in prop::collection::vec((1u64..100, any::<bool>()), 1..60)
        ) {
            let mut queue = Queue::new(most);
            let mut bytes_of = vec![0u64];
            let mut open = 0;
            for (bytes, submit) in writes {
                let bytes = bytes.min(queue.uploads.window());
                let before = queue.submissions;
                queue.write(bytes);
                if queue.submissions > before {
                    bytes_of.push(std::mem::take(&mut open));
                }
                open += bytes;
                prop_assert!(queue.waits.windows(2).all(|pair| pair[0] < pair[1]));
                let over = queue.waits.last().map_or(0, |last| *last as usize);
                prop_assert!(bytes_of[over + 1..].iter().sum::<u64>() + open <= most);
                if submit {
                    let by = queue.submit();
                    queue.uploads.submitted(by);
                    bytes_of.push(std::mem::take(&mut open));
                }
            }
        }
    }
}
