//! Which rows of the latent and indexer caches belong to which sequence: pages of 64 tokens from a free list, counted so
//! that sequences with a common beginning share them.

use porism_shaders::kernels::pages::PAGE;

use crate::error::Error;

/// A sequence of tokens whose keys are cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SequenceId(pub usize);

/// Cache rows to be copied before a forked sequence goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowCopy {
    /// First row of the source.
    pub source: u32,
    /// First row of the destination.
    pub destination: u32,
    /// How many.
    pub rows: u32,
}

/// Pages of the caches, the same in every layer.
#[derive(Debug)]
pub struct Pages {
    free: Vec<u32>,
    /// Sequences that hold each page.
    holders: Vec<u32>,
    sequences: Vec<Option<Sequence>>,
    pages_per_sequence: usize,
}

#[derive(Debug, Default)]
struct Sequence {
    pages: Vec<u32>,
    tokens: usize,
}

impl Pages {
    /// Pages for `tokens` tokens in all, in up to `sequences` sequences of up to `context` tokens each.
    pub fn new(sequences: usize, context: usize, tokens: usize) -> Self {
        let total = tokens.div_ceil(PAGE);
        Pages {
            free: (0..total as u32).rev().collect(),
            holders: vec![0; total],
            sequences: (0..sequences).map(|_| None).collect(),
            pages_per_sequence: context.div_ceil(PAGE),
        }
    }

    /// Entries of a page table row.
    pub fn pages_per_sequence(&self) -> usize {
        self.pages_per_sequence
    }

    /// Pages that nobody holds.
    pub fn free_pages(&self) -> usize {
        self.free.len()
    }

    /// Pages that `count` more tokens of a sequence would take.
    pub fn pages_needed(&self, id: SequenceId, count: usize) -> usize {
        let sequence = self.sequence(id);
        (sequence.tokens + count).div_ceil(PAGE).saturating_sub(sequence.pages.len())
    }

    /// A new empty sequence, or `None` when all are in use.
    pub fn open(&mut self) -> Option<SequenceId> {
        let index = self.sequences.iter().position(Option::is_none)?;
        self.sequences[index] = Some(Sequence::default());
        Some(SequenceId(index))
    }

    /// A new sequence with the first `tokens` tokens of `of`. Whole pages are shared; of a page that is shared in part a
    /// copy is to be made. `None` when there is no sequence or page left.
    pub fn fork(&mut self, of: SequenceId, tokens: usize) -> Option<(SequenceId, Option<RowCopy>)> {
        assert!(tokens <= self.tokens(of), "{tokens} tokens of a sequence of {}", self.tokens(of));
        let (whole, rest) = (tokens / PAGE, tokens % PAGE);
        if rest > 0 && self.free.is_empty() {
            return None;
        }
        let id = self.open()?;
        let mut pages = self.sequence(of).pages[..whole].to_vec();
        for page in &pages {
            self.holders[*page as usize] += 1;
        }
        let mut copy = None;
        if rest > 0 {
            let source = self.sequence(of).pages[whole];
            let page = self.take();
            pages.push(page);
            let row = |page: u32| page * PAGE as u32;
            copy = Some(RowCopy { source: row(source), destination: row(page), rows: rest as u32 });
        }
        self.sequences[id.0] = Some(Sequence { pages, tokens });
        Some((id, copy))
    }

    /// Gives the pages of a sequence back; those that others hold stay.
    pub fn close(&mut self, id: SequenceId) {
        if let Some(sequence) = self.sequences[id.0].take() {
            for page in sequence.pages.into_iter().rev() {
                self.holders[page as usize] -= 1;
                if self.holders[page as usize] == 0 {
                    self.free.push(page);
                }
            }
        }
    }

    fn sequence(&self, id: SequenceId) -> &Sequence {
        self.sequences[id.0].as_ref().expect("the sequence is open")
    }

    fn take(&mut self) -> u32 {
        let page = self.free.pop().expect("counted before");
        self.holders[page as usize] = 1;
        page
    }

    /// Tokens cached for a sequence.
    pub fn tokens(&self, id: SequenceId) -> usize {
        self.sequences[id.0].as_ref().map_or(0, |sequence| sequence.tokens)
    }

    /// Makes room for `count` more tokens and returns the position of the first.
    pub fn extend(&mut self, id: SequenceId, count: usize) -> Result<usize, Error> {
        let first = self.tokens(id);
        let pages = (first + count).div_ceil(PAGE);
        let needed = self.pages_needed(id, count);
        if pages > self.pages_per_sequence || needed > self.free.len() {
            let context = self.pages_per_sequence.min(self.holders.len()) * PAGE;
            return Err(Error::ContextTooLong { tokens: first + count, context });
        }
        for _ in 0..needed {
            let page = self.take();
            self.sequences[id.0].as_mut().expect("open").pages.push(page);
        }
        self.sequences[id.0].as_mut().expect("open").tokens += count;
        Ok(first)
    }

    /// Forgets the tokens of a sequence from position `tokens` on, which were never computed.
    pub fn truncate(&mut self, id: SequenceId, tokens: usize) {
        if let Some(sequence) = self.sequences[id.0].as_mut() {
            sequence.tokens = sequence.tokens.min(tokens);
        }
    }

    /// Cache row of a position.
    pub fn row(&self, id: SequenceId, position: usize) -> u32 {
        self.sequence(id).pages[position / PAGE] * PAGE as u32 + (position % PAGE) as u32
    }

    /// Writes the page table row of a sequence.
    pub fn table(&self, id: SequenceId, row: &mut [u32]) {
        let pages = &self.sequence(id).pages;
        row[..pages.len()].copy_from_slice(pages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forks_share_whole_pages_and_copy_the_rest() {
        let mut pages = Pages::new(3, 4 * PAGE, 6 * PAGE);
        let first = pages.open().expect("free");
        pages.extend(first, 2 * PAGE + 10).expect("fits");
        let (second, copy) = pages.fork(first, 2 * PAGE + 7).expect("fits");
        assert_eq!(copy.map(|c| c.rows), Some(7));
        assert_eq!(pages.row(first, PAGE + 5), pages.row(second, PAGE + 5));
        assert_ne!(pages.row(first, 2 * PAGE), pages.row(second, 2 * PAGE));
        assert_eq!(pages.free_pages(), 2);
        pages.close(first);
        assert_eq!(pages.free_pages(), 3, "the shared pages are still held");
        pages.close(second);
        assert_eq!(pages.free_pages(), 6);
    }

    #[test]
    fn a_fork_at_a_page_border_copies_nothing() {
        let mut pages = Pages::new(2, 4 * PAGE, 2 * PAGE);
        let first = pages.open().expect("free");
        pages.extend(first, 2 * PAGE).expect("fits");
        let (_, copy) = pages.fork(first, 2 * PAGE).expect("no page is needed");
        assert_eq!(copy, None);
        assert!(pages.open().is_none(), "both sequences are in use");
    }

    #[test]
    fn more_tokens_than_pages_are_refused_and_change_nothing() {
        let mut pages = Pages::new(2, 2 * PAGE, 2 * PAGE);
        let first = pages.open().expect("free");
        pages.extend(first, PAGE + 1).expect("fits");
        let second = pages.open().expect("free");
        assert!(pages.extend(second, 1).is_err());
        assert!(pages.extend(first, PAGE).is_err());
        assert_eq!((pages.tokens(first), pages.tokens(second)), (PAGE + 1, 0));
    }
}
