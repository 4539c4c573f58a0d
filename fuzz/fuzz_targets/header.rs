//! A safetensors file of any bytes: refused, or all its tensors lie in it one after the other.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    // The first eight bytes are the header's length. Random ones are mostly refused at once, so every input is
    // also read as the text of a header that is followed by some data.
    let _ = porism_loader::parse_header(Path::new("shard"), bytes);
    let text = bytes;
    for data in [0usize, 16, 300] {
        let file = [&(text.len() as u64).to_le_bytes(), text, &vec![0; data]].concat();
        if let Ok(entries) = porism_loader::parse_header(Path::new("shard"), &file) {
            let mut position = (8 + text.len()) as u64;
            for entry in entries {
                assert_eq!(entry.start, position);
                assert!(entry.start <= entry.end);
                position = entry.end;
            }
            assert_eq!(position, file.len() as u64);
        }
    }
});
