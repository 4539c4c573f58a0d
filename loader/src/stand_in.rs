//! What may lie in the place of a model's file: a pointer that a version control system left, another format, a web page.
//!
//! Damage looks different: these are whole, and it is said what to do about each.

use std::fmt;

/// Something whole that is not the file it stands for, told by its first bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandIn {
    what: What,
    /// How large the file itself would be, where a pointer says so.
    bytes: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    GitLfs,
    GitAnnex,
    Xet,
    Dvc,
    Gguf,
    Zip,
    Pickle,
    WebPage,
    NotFound,
}

/// So much of a file is looked at; pointers have a tenth of it.
const LOOKED_AT: usize = 1024;

impl StandIn {
    /// What these bytes are, if they are one of those things; the beginning of a file is enough.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let beginning = &bytes[..bytes.len().min(LOOKED_AT)];
        let text = String::from_utf8_lossy(beginning);
        let trimmed = text.trim_start_matches('\u{feff}').trim_start();
        let first_line = trimmed.lines().next().unwrap_or_default();
        let lower = first_line.to_ascii_lowercase();
        // A safetensors file begins with a length, whose upper half is zero.
        let is_length = bytes.get(4..8).is_none_or(|upper| upper == [0; 4]);
        let what = if first_line.starts_with("version https://") && lower.contains("git-lfs") {
            What::GitLfs
        } else if lower.contains("/annex/objects/") && bytes.len() < LOOKED_AT {
            What::GitAnnex
        } else if lower.starts_with("# xet version") || lower.starts_with("version https://xethub") {
            What::Xet
        } else if lower.starts_with("outs:") || trimmed.starts_with("md5: ") {
            What::Dvc
        } else if bytes.starts_with(b"GGUF") {
            What::Gguf
        } else if bytes.starts_with(b"PK\x03\x04") && !is_length {
            What::Zip
        } else if bytes.starts_with(b"\x80\x02") && !is_length {
            What::Pickle
        } else if ["<!doctype html", "<html", "<?xml"].iter().any(|begin| lower.starts_with(begin)) {
            What::WebPage
        } else if ["entry not found", "repository not found", "invalid credentials", "access to model"]
            .iter()
            .any(|begin| lower.starts_with(begin))
        {
            What::NotFound
        } else {
            return None;
        };
        let field = |line: &str| {
            let (name, value) = line.trim_start().trim_start_matches("- ").split_once([' ', ':'])?;
            matches!(name, "size" | "filesize").then(|| value.trim_matches([' ', '=', ':']).parse().ok())?
        };
        let is_pointer = matches!(what, What::GitLfs | What::Xet | What::Dvc);
        Some(Self { what, bytes: text.lines().find_map(field).filter(|_| is_pointer) })
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self.what {
            What::GitLfs => "fetch the files themselves: `git lfs pull` in their folder, or `hf download`",
            What::GitAnnex => "fetch the files themselves: `git annex get` in their folder",
            What::Xet => "fetch the files themselves: `git xet pull` in their folder, or `hf download`",
            What::Dvc => "fetch the files themselves: `dvc pull` in their folder",
            What::Gguf => {
                "give the folder of the published checkpoint (config.json and *.safetensors), or serve this file with llama-server and ask it with --endpoint"
            }
            What::Zip | What::Pickle => {
                "give the checkpoint as published in safetensors; what is pickled is never read, for it may run code"
            }
            What::WebPage | What::NotFound => {
                "the download was answered with a message: fetch the file again"
            }
        }
    }
}

/// For the middle of a sentence: `a Git LFS pointer (the file itself has 4301234567 bytes)`.
impl fmt::Display for StandIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.what {
            What::GitLfs => "a Git LFS pointer",
            What::GitAnnex => "a git-annex pointer",
            What::Xet => "a Git Xet pointer",
            What::Dvc => "a DVC pointer",
            What::Gguf => "a GGUF file, the format of llama.cpp",
            What::Zip => "a zip archive, as PyTorch writes its own checkpoints",
            What::Pickle => "a Python pickle, as PyTorch wrote its checkpoints",
            What::WebPage => "a web page",
            What::NotFound => "a server's message that there is no such file",
        })?;
        match self.bytes {
            Some(bytes) => write!(f, " (the file itself has {bytes} bytes)"),
            None => Ok(()),
        }
    }
}

/// What other formats a folder holds, for the end of a sentence; `None` where there is nothing to tell.
pub(crate) fn other_formats(names: &[String]) -> Option<String> {
    const FORMATS: [(&str, &str); 9] = [
        (".gguf", "GGUF files, the format of llama.cpp (serve them with llama-server and give --endpoint)"),
        (".bin", "files of PyTorch's own format"),
        (".pt", "files of PyTorch's own format"),
        (".pth", "files of PyTorch's own format"),
        (".ckpt", "files of PyTorch's own format"),
        (".onnx", "ONNX files"),
        (".h5", "HDF5 files"),
        (".msgpack", "files of Flax"),
        (".safetensors", "safetensors files under other names"),
    ];
    for (ending, format) in FORMATS {
        let mut found = names.iter().filter(|name| name.to_ascii_lowercase().ends_with(ending));
        if let Some(first) = found.next() {
            return Some(format!(
                "{format}: {} of them, `{}` is one",
                1 + found.count(),
                crate::header::printable(first)
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_the_place_of_a_file_is_named() {
        let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 2023880\n";
        let found = StandIn::of(lfs).unwrap();
        assert_eq!(found.to_string(), "a Git LFS pointer (the file itself has 2023880 bytes)");
        assert!(found.remedy().contains("git lfs pull"));
        let cases: [(&[u8], &str); 10] = [
            (b"\xef\xbb\xbfversion https://git-lfs.github.com/spec/v1\r\nsize x\r\n", "a Git LFS pointer"),
            (b"version https://hawser.github.com/spec/v1\n", ""),
            (b"/annex/objects/SHA256E-s5--00.safetensors\n", "a git-annex pointer"),
            (b"../../.git/annex/objects/aa/SHA256E-s5--00\n", "a git-annex pointer"),
            (b"# xet version 0\nfilesize = 77\n", "a Git Xet pointer (the file itself has 77 bytes)"),
            (b"outs:\n- md5: 00\n  size: 9\n  path: m\n", "a DVC pointer (the file itself has 9 bytes)"),
            (b"GGUF\x03\0\0\0", "a GGUF file, the format of llama.cpp"),
            (b"PK\x03\x04\0\0\x08\x08", "a zip archive, as PyTorch writes its own checkpoints"),
            (b"\n<!DOCTYPE html><html>", "a web page"),
            (b"Entry not found", "a server's message that there is no such file"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(StandIn::of(bytes).map_or(String::new(), |found| found.to_string()), expected);
        }
    }

    #[test]
    fn files_themselves_stand_for_nothing_else() {
        let header = b"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
        let mut shard = (header.len() as u64).to_le_bytes().to_vec();
        shard.extend_from_slice(header);
        // A header of 640 bytes begins like a pickle.
        let short = 640u64.to_le_bytes();
        for bytes in [
            &shard[..],
            &short,
            b"",
            b"{",
            b"{\"model_type\": \"git-lfs\"}",
            b"{{ bos_token }}",
            b"version 3",
        ] {
            assert_eq!(StandIn::of(bytes), None, "{bytes:?}");
        }
    }
}
