//! Twin of `lib/pages.wgsl`.

/// Cache rows of a page.
pub const PAGE: usize = crate::lib::pages::PAGE as usize;

/// Cache row of `position` of a sequence whose pages are `pages`.
pub fn cache_row(pages: &[u32], position: usize) -> usize {
    pages[position / PAGE] as usize * PAGE + position % PAGE
}

/// For cases: sequences whose pages lie about in the cache in no order, with pages between that belong to nobody.
pub struct Shuffled {
    /// Row after row, one per sequence.
    pub table: Vec<u32>,
    sequences: usize,
}

impl Shuffled {
    /// `sequences` sequences of up to `longest` positions each.
    pub fn new(sequences: usize, longest: usize) -> Self {
        let pages = sequences * (longest.div_ceil(PAGE) + 1);
        // An odd step through a power of two meets every page once.
        let slots = (pages + 2).next_power_of_two() as u32;
        let table = (0..pages as u32).map(|page| (page * 5 + 3) % slots).collect();
        Shuffled { table, sequences }
    }

    /// Pages of one sequence.
    pub fn pages_per_sequence(&self) -> usize {
        self.table.len() / self.sequences
    }

    /// Rows a cache for them has.
    pub fn rows(&self) -> usize {
        (self.table.iter().copied().max().unwrap_or(0) as usize + 1) * PAGE
    }

    /// Cache row of `position` of `sequence`.
    pub fn row(&self, sequence: usize, position: usize) -> usize {
        let pages = &self.table[sequence * self.pages_per_sequence()..];
        pages[position / PAGE] as usize * PAGE + position % PAGE
    }
}
