//! `porism tokenize`: text → token ids. Needs no weights.

use std::path::Path;

use anyhow::{Context as _, Result};
use porism_runtime::chat::conversation_from_json;

use crate::args::Tokenize;
use crate::model::Model;
use crate::settings::read_text;
use crate::ui::Ui;

pub fn run(args: &Tokenize, ui: &Ui) -> Result<u8> {
    let model = Model::find_or_embedded(args.model.as_deref())?;
    let tokenizer = model.tokenizer()?;
    let Some(file) = &args.chat else {
        let ids = tokenizer.encode(&read_text(Path::new("-"))?)?;
        ui.json(&ids)?;
        return Ok(0);
    };
    let json = read_text(file)?;
    let conversation =
        conversation_from_json(&json).with_context(|| format!("cannot use {}", file.display()))?;
    let template = model.chat_template()?;
    template.ensure_vocabulary(&tokenizer)?;
    let prompt = template.encode_messages(&conversation.messages, conversation.thinking)?;
    if args.text {
        ui.text(&prompt)?;
    } else {
        ui.json(&tokenizer.encode(&prompt)?)?;
    }
    Ok(0)
}
