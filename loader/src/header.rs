//! The header of a safetensors file: eight bytes of length, then JSON, then the tensors' bytes without holes.

use crate::error::{Error, Result};
use crate::stand_in::StandIn;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::path::Path;

/// The format's own limit on a header.
const HEADER_LIMIT: u64 = 100_000_000;

/// More dimensions than any tensor has.
const MOST_DIMENSIONS: usize = 8;

/// The dtypes of the format and the bits of an element. Of tensors that are not used too, the size must be right.
const DTYPES: [(&str, u64); 24] = [
    ("F64", 64),
    ("F32", 32),
    ("F16", 16),
    ("BF16", 16),
    ("F8_E4M3", 8),
    ("F8_E5M2", 8),
    ("F8_E8M0", 8),
    ("F8_E4M3FNUZ", 8),
    ("F8_E5M2FNUZ", 8),
    ("F6_E2M3", 6),
    ("F6_E3M2", 6),
    ("F4", 4),
    ("F4_E2M1", 4),
    ("I64", 64),
    ("I32", 32),
    ("I16", 16),
    ("I8", 8),
    ("U64", 64),
    ("U32", 32),
    ("U16", 16),
    ("U8", 8),
    ("BOOL", 8),
    ("C64", 64),
    ("C128", 128),
];

/// One tensor of a shard, checked: its bytes are in the file and as many as dtype and shape need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its dtype, one of the format's.
    pub dtype: &'static str,
    /// Its sizes.
    pub shape: Vec<u64>,
    /// Where its bytes start, counted from the start of the file.
    pub start: u64,
    /// Where they end.
    pub end: u64,
}

/// What a tensor's entry says, before it is believed.
struct Claim {
    name: String,
    dtype: String,
    shape: Vec<u64>,
    offsets: (u64, u64),
}

/// Reads and checks the header of a shard: `file` is its name for messages, `bytes` the whole file. The entries
/// come in the order of their bytes.
pub fn parse_header(file: &Path, bytes: &[u8]) -> Result<Vec<Entry>> {
    if let Some(found) = StandIn::of(bytes) {
        return Err(Error::StandIn { file: file.into(), expected: "a safetensors file".into(), found });
    }
    let found = bytes.len() as u64;
    let damaged = |expected: String, found: String| Error::Header { file: file.into(), expected, found };
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(damaged("8 bytes of header length".into(), format!("a file of {found} bytes")));
    };
    let length = u64::from_le_bytes(*length);
    if length > HEADER_LIMIT {
        let found = format!("a header length of {length} bytes in a file of {found}");
        return Err(damaged(format!("at most {HEADER_LIMIT} bytes of header"), found));
    }
    if length > rest.len() as u64 {
        let found = format!("a header length of {length} bytes in a file of {found}");
        return Err(damaged("a header within the file".into(), found));
    }
    let (text, data) = rest.split_at(length as usize);
    let mut claims =
        read_claims(text).map_err(|error| damaged("a JSON object of tensors".into(), error.to_string()))?;

    claims.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = claims.array_windows::<2>().find(|[a, b]| a.name == b.name) {
        let tensor = printable(&pair[0].name);
        return Err(Error::Duplicate { file: file.into(), tensor, found: "twice in the header".into() });
    }
    claims.sort_by_key(|claim| claim.offsets);
    let entries = check_claims(file, claims, 8 + length, data.len() as u64)?;
    Ok(entries)
}

/// Names come from the file and go to the terminal: control characters are escaped, and a megabyte is not a name.
pub(crate) fn printable(name: &str) -> String {
    let mut short: String = name.chars().take(200).flat_map(char::escape_debug).collect();
    if name.chars().nth(200).is_some() {
        short.push('…');
    }
    short
}

/// `data_start` is where the bytes begin in the file, `data_bytes` how many there are.
fn check_claims(file: &Path, claims: Vec<Claim>, data_start: u64, data_bytes: u64) -> Result<Vec<Entry>> {
    let mut entries = Vec::with_capacity(claims.len());
    let mut position = 0;
    let mut cut_off: Option<String> = None;
    for claim in claims {
        let (start, end) = claim.offsets;
        let tensor = || printable(&claim.name);
        let offsets = || format!("[{start}, {end}]");
        let Some((dtype, bits)) = DTYPES.iter().find(|(name, _)| *name == claim.dtype) else {
            return Err(Error::WrongDtype {
                file: file.into(),
                tensor: tensor(),
                expected: "a dtype of the safetensors format".into(),
                found: printable(&claim.dtype),
            });
        };
        if start > end {
            let expected = "a start before the end".into();
            return Err(Error::Offsets { file: file.into(), tensor: tensor(), expected, found: offsets() });
        }
        let described = || format!("{dtype} of shape {:?}", claim.shape);
        match bytes_of(&claim.shape, *bits) {
            Some(bytes) if bytes == end - start => {}
            bytes => {
                let bytes = bytes.map_or("more bytes than can be counted".into(), |b| format!("{b} bytes"));
                return Err(Error::ByteCount {
                    file: file.into(),
                    tensor: tensor(),
                    expected: format!("{bytes} for {}", described()),
                    found: format!("{} bytes at {}", end - start, offsets()),
                });
            }
        }
        if start != position {
            let problem =
                if start < position { "overlap with the tensor before it" } else { "a hole before it" };
            return Err(Error::Offsets {
                file: file.into(),
                tensor: tensor(),
                expected: format!("a start at {position}"),
                found: format!("{}: {problem}", offsets()),
            });
        }
        position = end;
        if end > data_bytes && cut_off.is_none() {
            cut_off = Some(tensor());
        }
        // Sums cannot overflow once the end is known to lie in the file; until then nothing is built on them.
        if cut_off.is_none() {
            let (start, end) = (data_start + start, data_start + end);
            entries.push(Entry { name: claim.name, dtype, shape: claim.shape, start, end });
        }
    }
    let (expected, found) = (position.saturating_add(data_start), data_bytes + data_start);
    if let Some(tensor) = cut_off {
        return Err(Error::Truncated { file: file.into(), tensor, expected, found });
    }
    if position < data_bytes {
        return Err(Error::Oversize { file: file.into(), expected, found });
    }
    Ok(entries)
}

/// Bytes of a tensor; `None` if they overflow or do not fill the last byte.
fn bytes_of(shape: &[u64], bits: u64) -> Option<u64> {
    let elements = shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size))?;
    let bits = elements.checked_mul(bits)?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

fn read_claims(text: &[u8]) -> serde_json::Result<Vec<Claim>> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let claims = deserializer.deserialize_map(HeaderVisitor)?;
    deserializer.end()?; // only the spaces that pad a header may follow
    Ok(claims)
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Vec<Claim>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut claims = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let RawClaim { dtype, shape: Sizes(shape), data_offsets: offsets } = map.next_value()?;
            claims.push(Claim { name, dtype, shape, offsets });
        }
        Ok(claims)
    }
}

#[derive(serde::Deserialize)]
struct RawClaim {
    dtype: String,
    shape: Sizes,
    data_offsets: (u64, u64),
}

/// A shape that is not longer than a shape can be.
struct Sizes(Vec<u64>);

impl<'de> serde::Deserialize<'de> for Sizes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizesVisitor;
        impl<'de> Visitor<'de> for SizesVisitor {
            type Value = Sizes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MOST_DIMENSIONS} sizes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Sizes, A::Error> {
                let mut sizes = Vec::new();
                while let Some(size) = sequence.next_element()? {
                    if sizes.len() == MOST_DIMENSIONS {
                        return Err(A::Error::custom(format!("more than {MOST_DIMENSIONS} dimensions")));
                    }
                    sizes.push(size);
                }
                Ok(Sizes(sizes))
            }
        }
        deserializer.deserialize_seq(SizesVisitor)
    }
}
