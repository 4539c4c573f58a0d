// The caches are paged: a sequence's logical positions lie in pages of 64 cache rows, named by its row of page_table.

const PAGE: u32 = 64u;

// Where in page_table the page of `position` stands.
fn page_entry(sequence: u32, pages_per_sequence: u32, position: u32) -> u32 {
    return sequence * pages_per_sequence + position / PAGE;
}

// Cache row of `position`, whose page is `page`.
fn cache_row(page: u32, position: u32) -> u32 {
    return page * PAGE + position % PAGE;
}
