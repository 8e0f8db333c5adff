//! The shape of answers in every family.

use super::client::{Client, ask, post, quick, soon, start};
use crate::mock::Profile;
use serde_json::{Value, json};

fn chat(stream: bool) -> Value {
    json!({"model": "llama3.2", "messages": [{"role": "user", "content": "hola"}], "stream": stream, "max_tokens": 100})
}

#[tokio::test]
async fn native_streams_have_one_object_per_chunk() {
    let node = start(quick()).await;
    for (path, prompt) in [
        (
            "/api/generate",
            json!({"model": "LLAMA3.2:latest", "prompt": "hola", "options": {"num_predict": 5}}),
        ),
        (
            "/api/chat",
            json!({"model": "LLAMA3.2:latest", "messages": [{"role": "user", "content": "hola"}], "options": {"num_predict": 5}}),
        ),
    ] {
        let reply = post(&node, path, &prompt).await;
        assert_eq!((reply.status, reply.broken), (200, None), "{path}");
        assert_eq!(reply.header("content-type"), Some("application/x-ndjson"));
        assert_eq!(reply.chunks.len(), 6, "{path}");
        for chunk in &reply.chunks {
            let text = str::from_utf8(chunk).unwrap();
            assert_eq!(text.find('\n'), Some(text.len() - 1), "{text:?}");
            assert!(
                text.starts_with("{\"model\":\"LLAMA3.2:latest\",\"created_at\":"),
                "{text:?}"
            );
        }
        let lines = reply.lines();
        let last = lines.last().unwrap();
        assert_eq!(last["done"], true);
        assert_eq!(last["done_reason"], "length");
        assert_eq!(last["eval_count"], 5);
        for metric in [
            "total_duration",
            "load_duration",
            "prompt_eval_count",
            "prompt_eval_duration",
            "eval_duration",
        ] {
            assert!(last[metric].as_u64() > Some(0), "{metric}: {last}");
        }
        assert!(
            lines[..5]
                .iter()
                .all(|line| line["done"] == false && line.get("eval_count").is_none())
        );
    }
}

#[tokio::test]
async fn native_answers_without_a_stream_are_one_object() {
    let node = start(quick()).await;
    let reply = post(&node, "/api/chat", &chat(false)).await;
    assert_eq!(
        reply.header("content-type"),
        Some("application/json; charset=utf-8")
    );
    assert!(reply.text().ends_with('}'));
    let body = reply.json();
    assert_eq!(body["done"], true);
    assert!(!body["message"]["content"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn thinking_and_tools_are_answered() {
    let node = start(quick()).await;
    let mut request = chat(true);
    request["think"] = json!(true);
    let lines = post(&node, "/api/chat", &request).await.lines();
    assert!(lines[0]["message"]["thinking"].is_string(), "{}", lines[0]);
    assert!(lines[4]["message"]["thinking"].is_null(), "{}", lines[4]);

    let mut request = chat(true);
    request["tools"] = json!([{"type": "function", "function": {"name": "weather"}}]);
    let lines = post(&node, "/api/chat", &request).await.lines();
    assert_eq!(lines.len(), 2);
    assert_eq!(
        lines[0]["message"]["tool_calls"][0]["function"]["name"],
        "weather"
    );
    assert_eq!(
        lines[0]["message"]["tool_calls"][0]["function"]["arguments"],
        json!({})
    );
    let body = post(&node, "/v1/chat/completions", &{
        request["stream"] = json!(false);
        request.clone()
    })
    .await
    .json();
    assert_eq!(body["choices"][0]["finish_reason"], "tool_calls");
    let body = post(&node, "/v1/messages", &request).await.json();
    assert_eq!(body["stop_reason"], "tool_use");
    assert_eq!(body["content"][0]["name"], "weather");

    request["messages"] =
        json!([{"role": "user", "content": "x"}, {"role": "tool", "content": "sunny"}]);
    let body = post(&node, "/api/chat", &request).await.json();
    assert!(body["message"].get("tool_calls").is_none());
}

/// The JSON of an event stream's frames, each of which has to be a chunk of its own.
#[track_caller]
fn frames(chunks: &[bytes::Bytes]) -> Vec<Value> {
    chunks
        .iter()
        .map(|chunk| {
            let text = str::from_utf8(chunk).unwrap();
            let frame = text.strip_suffix("\n\n").unwrap();
            let (event, data) = match frame.strip_prefix("event: ") {
                Some(rest) => {
                    let (event, data) = rest.split_once('\n').unwrap();
                    (Some(event), data)
                }
                None => (None, frame),
            };
            let value: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            assert_eq!(event, event.and(value["type"].as_str()));
            value
        })
        .collect()
}

#[tokio::test]
async fn openai_streams_end_with_done() {
    let node = start(quick()).await;
    for (path, mut request) in [
        ("/v1/chat/completions", chat(true)),
        (
            "/v1/completions",
            json!({"model": "llama3.2", "prompt": "hola", "stream": true}),
        ),
    ] {
        request["stream_options"] = json!({"include_usage": true});
        let mut reply = post(&node, path, &request).await;
        assert_eq!(reply.header("content-type"), Some("text/event-stream"));
        assert_eq!(reply.chunks.pop().unwrap(), "data: [DONE]\n\n");
        let frames = frames(&reply.chunks);
        let [.., last, usage] = &frames[..] else {
            panic!("{frames:?}")
        };
        assert_eq!(last["choices"][0]["finish_reason"], "stop", "{path}");
        assert_eq!(usage["choices"], json!([]));
        assert_eq!(usage["usage"]["completion_tokens"], frames.len() - 2);
        request["stream"] = json!(false);
        let body = post(&node, path, &request).await.json();
        assert_eq!(
            body["usage"]["completion_tokens"],
            frames.len() - 2,
            "{path}"
        );
    }
}

#[tokio::test]
async fn anthropic_streams_have_named_events() {
    let node = start(quick()).await;
    let reply = post(&node, "/v1/messages", &chat(true)).await;
    let frames = frames(&reply.chunks);
    let mut types: Vec<&str> = frames
        .iter()
        .map(|frame| frame["type"].as_str().unwrap())
        .collect();
    types.dedup();
    assert_eq!(
        types,
        [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
    let text: String = frames
        .iter()
        .filter_map(|frame| frame["delta"]["text"].as_str())
        .collect();
    let body = post(&node, "/v1/messages", &chat(false)).await.json();
    assert_eq!(body["content"][0]["text"], text);
    assert_eq!(body["stop_reason"], "end_turn");
}

#[tokio::test]
async fn responses_stream_to_completed() {
    let node = start(quick()).await;
    let mut request = json!({"model": "llama3.2", "input": "hola", "stream": true});
    let frames = frames(&post(&node, "/v1/responses", &request).await.chunks);
    assert_eq!(frames[0]["type"], "response.created");
    let last = frames.last().unwrap();
    assert_eq!(last["type"], "response.completed");
    let text: String = frames
        .iter()
        .filter_map(|frame| frame["delta"].as_str())
        .collect();
    assert_eq!(last["response"]["output"][0]["content"][0]["text"], text);
    request["stream"] = json!(false);
    let body = post(&node, "/v1/responses", &request).await.json();
    assert_eq!(body["output"], last["response"]["output"]);
}

#[tokio::test]
async fn equal_seeds_give_equal_answers() {
    let text = async |seed, prompt: &str| {
        let node = start(Profile { seed, ..quick() }).await;
        let request = json!({"model": "llama3.2", "prompt": prompt, "stream": false, "options": {"num_predict": 20}});
        post(&node, "/api/generate", &request).await.json()["response"].clone()
    };
    assert_eq!(text(7, "hola").await, text(7, "hola").await);
    assert_ne!(text(7, "hola").await, text(8, "hola").await);
    assert_ne!(text(7, "hola").await, text(7, "adiós").await);
}

#[tokio::test]
async fn headers_wait_for_the_first_token() {
    // Reading the prompt takes longer than any test.
    let node = start(Profile {
        prefill_tokens_per_second: 1e-3,
        time_scale: 1.0,
        load_bytes_per_second: 1e18,
        ..quick()
    })
    .await;
    let mut client = Client::connect(&node).await.unwrap();
    client
        .send("POST", "/api/chat", &chat(true).to_string())
        .await;
    soon(node.until(|log| log.len() == 1)).await;
    // Another connection gets its answers, so bytes would have come through.
    ask(&node, "GET", "/api/version", "").await;
    let head = tokio::select! {
        biased;
        head = client.head() => Some(head),
        () = tokio::task::yield_now() => None,
    };
    assert!(head.is_none(), "{head:?}");
}
