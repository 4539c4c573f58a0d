//! Where a model comes from.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use porism_loader::{Checkpoint, Options, catalog, resolve_model};
use porism_prover::prompts::{PromptError, PromptSet};
use porism_runtime::chat::{ChatError, ChatTemplate};
use porism_runtime::text::{TextError, Tokenizer};

/// The name of the embedded model.
pub const EMBEDDED_NAME: &str = "porism-tiny";

/// Its files, by name.
const EMBEDDED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// A model's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Model {
    /// porism-tiny, in this program.
    Embedded,
    /// A folder in the published layout.
    Directory(PathBuf),
}

impl Model {
    /// A folder, a name in the Hugging Face cache, a name of the catalogue whose repository is in that cache, or
    /// `porism-tiny`; names in letters of any case.
    pub fn find(name: &str) -> porism_loader::Result<Self> {
        let error = match resolve_model(name) {
            Ok(folder) => return Ok(Self::Directory(folder)),
            Err(_) if name.eq_ignore_ascii_case(EMBEDDED_NAME) => return Ok(Self::Embedded),
            Err(error) => error,
        };
        match catalog::repository(name).map(resolve_model) {
            Some(Ok(folder)) => Ok(Self::Directory(folder)),
            _ => Err(error),
        }
    }

    /// The same of an argument that may be absent.
    pub fn find_or_embedded(name: Option<&str>) -> porism_loader::Result<Self> {
        name.map_or(Ok(Self::Embedded), Self::find)
    }

    /// A name for people.
    pub fn label(&self) -> String {
        match self {
            Self::Embedded => EMBEDDED_NAME.to_owned(),
            Self::Directory(folder) => folder.display().to_string(),
        }
    }

    /// Opens the weights.
    pub fn checkpoint(&self, options: Options) -> porism_loader::Result<Checkpoint> {
        match self {
            Self::Embedded => Checkpoint::from_memory(EMBEDDED.iter().copied(), options),
            Self::Directory(folder) => Checkpoint::open(folder, options),
        }
    }

    /// Reads the tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer, TextError> {
        match self {
            Self::Embedded => {
                let json = embedded("tokenizer.json").expect("the embedded model has a tokenizer");
                Tokenizer::from_bytes(json, embedded("tokenizer_config.json"))
            }
            Self::Directory(folder) => Tokenizer::from_dir(folder),
        }
    }

    /// Reads how prompts are written.
    pub fn chat_template(&self) -> Result<ChatTemplate, ChatError> {
        match self {
            Self::Embedded => {
                ChatTemplate::from_bytes(embedded("tokenizer_config.json"), embedded("chat_template.jinja"))
            }
            Self::Directory(folder) => ChatTemplate::from_dir(folder),
        }
    }

    /// The prompt set that comes with the model.
    pub fn prompts(&self) -> Result<Option<PromptSet>, PromptError> {
        match self {
            Self::Embedded => {
                let text = embedded(PROMPTS).map(String::from_utf8_lossy);
                let source = format!("{EMBEDDED_NAME}/{PROMPTS}");
                text.map(|text| PromptSet::from_toml(&text, &source)).transpose()
            }
            Self::Directory(folder) => match PromptSet::open(&folder.join(PROMPTS)) {
                Ok(prompts) => Ok(Some(prompts)),
                Err(PromptError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    Ok(None)
                }
                Err(error) => Err(error),
            },
        }
    }

    /// Tells models apart by all that their answers depend on: every file's name, length, beginning and end. Hundreds of
    /// gigabytes are not read for it.
    pub fn fingerprint(&self) -> Result<String> {
        let mut parts: Vec<Vec<u8>> = Vec::new();
        let mut add = |name: &str, length: u64, ends: &[&[u8]]| {
            parts.push(name.as_bytes().to_vec());
            parts.push(length.to_le_bytes().to_vec());
            parts.push(ends.concat());
        };
        match self {
            Self::Embedded => {
                for (name, bytes) in EMBEDDED.iter().filter(|(name, _)| *name != PROMPTS) {
                    add(name, bytes.len() as u64, &[bytes]);
                }
            }
            Self::Directory(folder) => {
                // What is no file (a folder, a pipe) is no part of the model.
                let mut names: Vec<String> = std::fs::read_dir(folder)
                    .with_context(|| format!("cannot read {}", folder.display()))?
                    .filter_map(|entry| entry.ok())
                    .filter(|entry| entry.path().is_file())
                    .filter_map(|entry| entry.file_name().into_string().ok())
                    .filter(|name| {
                        name.ends_with(".safetensors") || name.ends_with(".json") || name.ends_with(".jinja")
                    })
                    .collect();
                names.sort_unstable();
                for name in names {
                    let path = folder.join(&name);
                    let (length, begin, end) =
                        ends(&path).with_context(|| format!("cannot read {}", path.display()))?;
                    add(&name, length, &[&begin, &end]);
                }
            }
        }
        Ok(porism_prover::roles::fingerprint(parts.iter().map(Vec::as_slice)))
    }
}

/// The file of a prompt set.
const PROMPTS: &str = "prompts.toml";
/// Bytes of a file's beginning and end that tell it apart: a shard's header and its last tensor.
const ENDS: u64 = 1 << 16;

/// A file's length, beginning and end.
fn ends(path: &Path) -> std::io::Result<(u64, Vec<u8>, Vec<u8>)> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let (mut begin, mut end) = (Vec::new(), Vec::new());
    (&mut file).take(ENDS).read_to_end(&mut begin)?;
    file.seek(SeekFrom::Start(length.saturating_sub(ENDS)))?;
    file.take(ENDS).read_to_end(&mut end)?;
    Ok((length, begin, end))
}

fn embedded(name: &str) -> Option<&'static [u8]> {
    EMBEDDED.iter().find(|(file, _)| *file == name).map(|(_, bytes)| *bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_model_opens() {
        let model = Model::find_or_embedded(None).unwrap();
        let checkpoint = model.checkpoint(Options::default()).unwrap();
        let tokenizer = model.tokenizer().unwrap();
        assert!(tokenizer.vocab_size() <= checkpoint.config().vocab_size);
        model.chat_template().unwrap().ensure_vocabulary(&tokenizer).unwrap();
        for name in [EMBEDDED_NAME, "Porism-Tiny"] {
            assert_eq!(Model::find(name).unwrap(), Model::Embedded, "{name}");
        }
    }
}
