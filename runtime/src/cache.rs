//! Which rows of the latent and indexer caches belong to which sequence: pages of 64 tokens, given out from a free list.

use porism_shaders::kernels::pages::PAGE;

use crate::error::Error;

/// A sequence of tokens whose keys are cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SequenceId(pub usize);

/// Pages of the caches, the same in every layer.
#[derive(Debug)]
pub struct Pages {
    free: Vec<u32>,
    sequences: Vec<Option<Sequence>>,
    pages_per_sequence: usize,
}

#[derive(Debug, Default)]
struct Sequence {
    pages: Vec<u32>,
    tokens: usize,
}

impl Pages {
    /// Pages for `sequences` sequences of up to `context` tokens each.
    pub fn new(sequences: usize, context: usize) -> Self {
        let pages_per_sequence = context.div_ceil(PAGE);
        let total = (sequences * pages_per_sequence) as u32;
        Pages {
            free: (0..total).rev().collect(),
            sequences: (0..sequences).map(|_| None).collect(),
            pages_per_sequence,
        }
    }

    /// Cache rows in all.
    pub fn rows(sequences: usize, context: usize) -> u64 {
        (sequences * context.div_ceil(PAGE) * PAGE) as u64
    }

    /// Entries of a page table row.
    pub fn pages_per_sequence(&self) -> usize {
        self.pages_per_sequence
    }

    /// A new empty sequence, or `None` when all are in use.
    pub fn open(&mut self) -> Option<SequenceId> {
        let index = self.sequences.iter().position(Option::is_none)?;
        self.sequences[index] = Some(Sequence::default());
        Some(SequenceId(index))
    }

    /// Gives the pages of a sequence back.
    pub fn close(&mut self, id: SequenceId) {
        if let Some(sequence) = self.sequences[id.0].take() {
            self.free.extend(sequence.pages.into_iter().rev());
        }
    }

    /// Tokens cached for a sequence.
    pub fn tokens(&self, id: SequenceId) -> usize {
        self.sequences[id.0].as_ref().map_or(0, |sequence| sequence.tokens)
    }

    /// Makes room for `count` more tokens and returns the position of the first.
    pub fn extend(&mut self, id: SequenceId, count: usize) -> Result<usize, Error> {
        let sequence = self.sequences[id.0].as_mut().expect("the sequence is open");
        let first = sequence.tokens;
        let pages = (first + count).div_ceil(PAGE);
        if pages > self.pages_per_sequence || pages - sequence.pages.len() > self.free.len() {
            let context = self.pages_per_sequence * PAGE;
            return Err(Error::ContextTooLong { tokens: first + count, context });
        }
        while sequence.pages.len() < pages {
            sequence.pages.push(self.free.pop().expect("counted above"));
        }
        sequence.tokens += count;
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
        let sequence = self.sequences[id.0].as_ref().expect("the sequence is open");
        sequence.pages[position / PAGE] * PAGE as u32 + (position % PAGE) as u32
    }

    /// Writes the page table row of a sequence.
    pub fn table(&self, id: SequenceId, row: &mut [u32]) {
        let sequence = self.sequences[id.0].as_ref().expect("the sequence is open");
        row[..sequence.pages.len()].copy_from_slice(&sequence.pages);
    }
}
