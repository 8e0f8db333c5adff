//! What is read of bodies, against what Go reads of them, and against a reader of whole JSON values.

use super::*;
use crate::session;
use proptest::prelude::*;
use serde_json::{Value, json};

#[track_caller]
fn check(body: &str, model: Option<&str>) {
    let ask = Ask::read(body.as_bytes()).unwrap();
    assert_eq!(ask.model_or_name().as_deref(), model, "{body}");
    for kind in KINDS {
        Ask::read_as(kind, body.as_bytes()).unwrap();
    }
}

const KINDS: [Kind; 6] = [
    Kind::Other,
    Kind::Generate,
    Kind::Chat,
    Kind::Responses,
    Kind::Embed,
    Kind::Embeddings,
];

fn facts(kind: Kind, body: &str) -> Facts {
    Ask::read_as(kind, body.as_bytes()).unwrap().facts
}

#[test]
fn finds_the_model_as_ollama_would() {
    check(r#"{"model":"a"}"#, Some("a"));
    let trailing = r#" {"messages":[{"model":"inner"}],"Model":"a"} trailing {"#;
    check(trailing, Some("a"));
    check(r#"{"model":"a","MODEL":"b"}"#, Some("b"));
    check(r#"{"model":"a","model":null}"#, Some("a"));
    check(r#"{"model":"","name":"n"}"#, Some("n"));
    check(r#"{"model":"m","name":"n"}"#, Some("m"));
    check(r#"{"model":"m","name":7}"#, Some("m"));
    check(r#"{"mod\u0065l":"\u0061"}"#, Some("a"));
    check(r"{}", None);
}

#[test]
fn odd_values_elsewhere_do_not_matter() {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_000));
    let odd = [
        &deep,
        &objects,
        "1e999999",
        "-0.0",
        r#""\ud800""#,
        "null",
        "true",
        "[[]]",
        "{}",
    ];
    for value in odd {
        for key in [
            "x",
            "name",
            "prompt",
            "messages",
            "input",
            "system",
            "tools",
            "options",
            "keep_alive",
            "metadata",
            "user",
            "prompt_cache_key",
            "\\ud800",
        ] {
            check_model(&format!(r#"{{"{key}":{value},"model":"a"}}"#));
            check_model(&format!(r#"{{"model":"a","{key}":[{value}]}}"#));
            check_model(&format!(r#"{{"options":{{"{key}":{value}}},"model":"a"}}"#));
        }
    }
}

#[track_caller]
fn check_model(body: &str) {
    for kind in KINDS {
        let ask = Ask::read_as(kind, body.as_bytes()).unwrap();
        assert_eq!(ask.model.as_deref(), Some("a"), "{body:.100}");
    }
}

#[test]
fn bytes_that_are_no_text_do_not_matter_in_strings() {
    let body = b"{\"messages\":[{\"content\":\"\xff\xfe\"}],\"\xc3\":1,\"model\":\"a\"}";
    for kind in KINDS {
        let ask = Ask::read_as(kind, body).unwrap();
        assert_eq!(ask.model.as_deref(), Some("a"));
        assert_eq!(ask.facts.prefixes.len(), usize::from(kind == Kind::Chat));
    }
    let mended = Ask::read(b"{\"model\":\"a\xff\"}").unwrap().model;
    assert_eq!(mended.as_deref(), Some("a\u{fffd}"));
    assert!(Ask::read(b"{\"model\":\"a\"\xff}").is_err());
    assert!(
        Ask::read(br#"{"model":"a\ud800"}"#)
            .unwrap()
            .model
            .is_some()
    );
}

#[test]
fn refuses_what_ollama_refuses() {
    for body in [
        "",
        "  ",
        "[]",
        "7",
        "\"model\"",
        "{",
        r#"{"model":7}"#,
        r#"{"model":["a"]}"#,
        r#"{"model":{}}"#,
        "\u{feff}{}",
        "{\"a\":tru}",
        "{\"messages\":[1,],\"model\":\"a\"}",
        "{\"options\":{\"num_ctx\":}}",
    ] {
        for kind in KINDS {
            assert!(Ask::read_as(kind, body.as_bytes()).is_err(), "{body}");
        }
    }
}

#[track_caller]
fn check_options(body: &str, expected: RunnerOptions) {
    assert_eq!(facts(Kind::Generate, body).runner, expected, "{body}");
}

#[test]
fn options_are_ollamas_map() {
    let none = RunnerOptions::default();
    let eight = RunnerOptions {
        num_ctx: Some(8192),
        ..none
    };
    check_options(r#"{"Options":{"num_ctx":8192,"temperature":0.5}}"#, eight);
    check_options(r#"{"options":{"num_ctx":8192.9}}"#, eight);
    check_options(r#"{"options":{"num_ctx":1,"num_ctx":8192}}"#, eight);
    check_options(
        r#"{"options":{"num_ctx":8192},"options":{"num_gpu":null}}"#,
        eight,
    );
    for body in [
        r#"{"options":{"NUM_CTX":8192}}"#,
        r#"{"options":{"num_ctx":8192,"num_ctx":null}}"#,
        r#"{"options":{"num_ctx":8192},"options":null}"#,
        r#"{"options":{"num_ctx":"8192","use_mmap":1,"num_gpu":true}}"#,
        r#"{"options":[8192]}"#,
        r#"{"options":"num_ctx"}"#,
        r#"{"num_ctx":8192}"#,
    ] {
        check_options(body, none);
    }
    let all = r#"{"options":{"num_ctx":1,"num_batch":2,"num_gpu":-1,"main_gpu":4,"use_mmap":false,"num_thread":6}}"#;
    let expected = RunnerOptions {
        num_ctx: Some(1),
        num_batch: Some(2),
        num_gpu: Some(-1),
        main_gpu: Some(4),
        use_mmap: Some(false),
        num_thread: Some(6),
    };
    check_options(all, expected);
    assert_eq!(facts(Kind::Other, all), Facts::default());
}

#[track_caller]
fn check_empty(kind: Kind, body: &str, empty: bool) {
    assert_eq!(facts(kind, body).is_empty, empty, "{kind:?} {body}");
}

#[test]
fn knows_when_there_is_no_text() {
    for (kind, key) in [
        (Kind::Generate, "prompt"),
        (Kind::Chat, "messages"),
        (Kind::Responses, "input"),
        (Kind::Embed, "input"),
        (Kind::Embeddings, "prompt"),
    ] {
        check_empty(kind, "{}", true);
        check_empty(kind, &format!(r#"{{"{key}":null}}"#), true);
        check_empty(
            kind,
            &format!(r#"{{"{}":["a"]}}"#, key.to_uppercase()),
            false,
        );
    }
    check_empty(Kind::Generate, r#"{"prompt":""}"#, true);
    check_empty(Kind::Generate, r#"{"prompt":"","messages":[1]}"#, true);
    check_empty(Kind::Generate, r#"{"prompt":"a","prompt":null}"#, false);
    check_empty(Kind::Generate, r#"{"prompt":" "}"#, false);
    check_empty(Kind::Chat, r#"{"messages":[ ]}"#, true);
    check_empty(Kind::Chat, r#"{"messages":[{}],"messages":[]}"#, true);
    check_empty(Kind::Chat, r#"{"messages":[{}],"messages":null}"#, true);
    check_empty(Kind::Chat, r#"{"prompt":"a"}"#, true);
    check_empty(Kind::Chat, r#"{"messages":"wrong"}"#, false);
    check_empty(Kind::Embed, r#"{"input":[ ]}"#, true);
    check_empty(Kind::Embed, r#"{"input":""}"#, true);
    check_empty(Kind::Embed, r#"{"input":[""]}"#, false);
}

#[track_caller]
fn check_session(body: &str, expected: Option<&str>) {
    let expected = expected.and_then(|name| session::hash(name.as_bytes()));
    assert_eq!(facts(Kind::Chat, body).session, expected, "{body}");
}

#[test]
fn the_session_is_the_most_deliberate_name() {
    let (key, id, user) = (
        r#""prompt_cache_key":"k""#,
        r#""metadata":{"x":1,"user_id":"i"}"#,
        r#""user":"u""#,
    );
    check_session(&format!("{{{user},{id},{key}}}"), Some("k"));
    check_session(&format!("{{{user},{id}}}"), Some("i"));
    check_session(&format!("{{{user}}}"), Some("u"));
    check_session(
        &format!(r#"{{"prompt_cache_key":"","metadata":{{"user_id":7}},{user}}}"#),
        Some("u"),
    );
    check_session(r#"{"user":null,"metadata":"user_id"}"#, None);
}

fn chat(messages: &[&str]) -> Facts {
    facts(
        Kind::Chat,
        &format!(r#"{{"messages":[{}],"model":"m"}}"#, messages.join(" , ")),
    )
}

#[test]
fn turns_of_a_conversation_share_their_beginning() {
    let (one, next) = (chat(&["1", "2"]), chat(&["1", "2", "3", "4"]));
    assert_eq!(one.prefixes[..], next.prefixes[..2]);
    assert_eq!(next.prefixes.len(), 4);
    assert_eq!(next.prompt_bytes, 4);
    assert_ne!(chat(&["2", "1"]).prefixes, one.prefixes);
    let same = [
        r#"{"model":"M:latest","messages":[1,2]}"#,
        r#"{"messages":[0],"messages":[1,2],"model":"m","user":"else"}"#,
    ];
    for body in same {
        assert_eq!(facts(Kind::Chat, body).prefixes, one.prefixes, "{body}");
    }
    let other = [
        r#"{"model":"n","messages":[1,2]}"#,
        r#"{"model":"m","system":"s","messages":[1,2]}"#,
        r#"{"model":"m","messages":[1,2],"tools":[]}"#,
    ];
    for body in other {
        assert_ne!(
            facts(Kind::Chat, body).prefixes[0],
            one.prefixes[0],
            "{body}"
        );
    }
    let items = facts(Kind::Responses, r#"{"model":"m","input":[1,2]}"#);
    assert_eq!(items.prefixes, one.prefixes);
}

#[test]
fn texts_share_their_blocks() {
    let text = "x".repeat(2500);
    for (kind, key) in [(Kind::Generate, "prompt"), (Kind::Responses, "input")] {
        let read = |text: &str| facts(kind, &format!(r#"{{"model":"m","{key}":"{text}"}}"#));
        let (one, next) = (read(&text), read(&format!("{text}y")));
        assert_eq!((one.prefixes.len(), next.prefixes.len()), (3, 3));
        assert_eq!(one.prefixes[..2], next.prefixes[..2]);
        assert_ne!(one.prefixes[2], next.prefixes[2]);
        assert_eq!(one.prompt_bytes, 2502);
    }
    assert!(facts(Kind::Embed, r#"{"input":"x"}"#).prefixes.is_empty());
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        Just(json!("0s")),
        Just(json!("")),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key(), inner), 0..4)
                .prop_map(|members| members.into_iter().collect()),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    const KNOWN: [&str; 15] = [
        "model",
        "name",
        "prompt",
        "messages",
        "input",
        "options",
        "num_ctx",
        "num_gpu",
        "use_mmap",
        "keep_alive",
        "user",
        "metadata",
        "user_id",
        "system",
        "tools",
    ];
    prop_oneof![4 => proptest::sample::select(&KNOWN[..]).prop_map(str::to_owned), 1 => ".{0,4}"]
}

/// What the reader is to find in an object without equal keys.
fn expected_options(body: &Value) -> RunnerOptions {
    #[expect(clippy::cast_possible_truncation, reason = "as in the reader")]
    let integer = |key: &str| body["options"][key].as_f64().map(|number| number as i64);
    RunnerOptions {
        num_ctx: integer("num_ctx"),
        num_gpu: integer("num_gpu"),
        use_mmap: body["options"]["use_mmap"].as_bool(),
        ..RunnerOptions::default()
    }
}

proptest! {
    #[test]
    fn reads_what_is_there(members in proptest::collection::btree_map(key(), json_value(), 0..8)) {
        let body: Value = members.into_iter().collect();
        let text = body.to_string();
        for kind in KINDS {
            let read = Ask::read_as(kind, text.as_bytes());
            let model = &body["model"];
            prop_assert_eq!(read.is_ok(), model.is_null() || model.is_string(), "{}", text);
            let Ok(ask) = read else { continue };
            prop_assert_eq!(ask.model.as_deref(), model.as_str());
            prop_assert_eq!(ask.name.as_deref(), body["name"].as_str());
            if kind == Kind::Other {
                prop_assert_eq!(ask.facts, Facts::default());
                continue;
            }
            prop_assert_eq!(ask.facts.runner, expected_options(&body));
            let text = &body[kind.text_key().unwrap()];
            let list = text.as_array();
            let empty = text.is_null() || text == "" || list.is_some_and(Vec::is_empty);
            prop_assert_eq!(ask.facts.is_empty, empty);
            let keep = &body["keep_alive"];
            prop_assert_eq!(ask.facts.keeps_nothing, keep == "0s" || keep.as_f64().is_some_and(|keep| (0.0..1e-9).contains(&keep)) || keep == "0");
        }
    }

    #[test]
    fn no_bytes_are_too_much(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        for kind in KINDS {
            let _ = Ask::read_as(kind, &body);
            let _ = Ask::read_as(kind, &[b"{\"options\":".as_slice(), &body].concat());
        }
    }
}
