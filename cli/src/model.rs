//! Where a model comes from.

use std::path::PathBuf;

use porism_loader::{Checkpoint, Options, resolve_model};
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
    /// A folder, a name in the Hugging Face cache, or `porism-tiny`.
    pub fn find(name: &str) -> porism_loader::Result<Self> {
        match resolve_model(name) {
            Ok(folder) => Ok(Self::Directory(folder)),
            Err(_) if name == EMBEDDED_NAME => Ok(Self::Embedded),
            Err(error) => Err(error),
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
        assert_eq!(Model::find(EMBEDDED_NAME).unwrap(), Model::Embedded);
    }
}
