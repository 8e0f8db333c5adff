//! Loads, slots, and clients that leave.

use super::client::{Client, ask, post, quick, soon, start};
use crate::mock::{Model, Node, Profile};
use serde_json::{Value, json};

/// So slow that nothing ends by itself in a test.
fn endless() -> Profile {
    Profile {
        decode_tokens_per_second: 1e-3,
        time_scale: 1.0,
        prefill_tokens_per_second: 1e9,
        load_bytes_per_second: 1e18,
        ..quick()
    }
}

fn generate(model: &str) -> Value {
    json!({"model": model, "prompt": "hola"})
}

async fn send(node: &Node, body: &Value) -> Client {
    let mut client = Client::connect(node).await.unwrap();
    client
        .send("POST", "/api/generate", &body.to_string())
        .await;
    client
}

async fn ps(node: &Node) -> Vec<Value> {
    ask(node, "GET", "/api/ps", "").await.json()["models"]
        .as_array()
        .unwrap()
        .clone()
}

#[tokio::test]
async fn a_model_is_loaded_once_and_then_hot() {
    let node = start(Profile {
        load_bytes_per_second: 4e6, // 50 ms of sped-up time for the 2 GB of the model
        ..quick()
    })
    .await;
    assert_eq!(ps(&node).await, Vec::<Value>::new());
    let mut request = generate("llama3.2");
    request["stream"] = json!(false);
    let cold = post(&node, "/api/generate", &request).await.json();
    let hot = post(&node, "/api/generate", &request).await.json();
    assert!(cold["load_duration"].as_u64() > Some(50_000_000), "{cold}");
    assert!(hot["load_duration"].as_u64() < Some(50_000_000), "{hot}");
    let loaded = ps(&node).await;
    assert_eq!(loaded.len(), 1);
    assert_eq!(loaded[0]["name"], "llama3.2:latest");
    assert_eq!(loaded[0]["digest"].as_str().unwrap().len(), 64);
    assert_eq!(loaded[0]["context_length"], 4096);
    assert_eq!(node.loaded(), ["llama3.2:latest"]);
}

#[tokio::test]
async fn an_empty_request_loads_and_unloads() {
    let node = start(quick()).await;
    let load = post(&node, "/api/generate", &json!({"model": "llama3.2"})).await;
    assert_eq!(
        load.header("content-type"),
        Some("application/json; charset=utf-8")
    );
    assert_eq!(
        (&load.json()["done_reason"], &load.json()["response"]),
        (&json!("load"), &json!(""))
    );
    assert_eq!(node.loaded().len(), 1);
    let unload = json!({"model": "llama3.2", "messages": [], "keep_alive": 0});
    let unload = post(&node, "/api/chat", &unload).await.json();
    assert_eq!(
        (&unload["done_reason"], &unload["done"]),
        (&json!("unload"), &json!(true))
    );
    assert_eq!(node.loaded().len(), 0);
    let mut once = generate("llama3.2");
    once["keep_alive"] = json!("0s");
    post(&node, "/api/generate", &once).await;
    soon(node.until(|log| log.iter().all(|record| record.completed))).await;
    assert_eq!(node.loaded().len(), 0);
}

#[tokio::test]
async fn the_idle_model_used_longest_ago_makes_room() {
    let node = start(Profile {
        models: ["a", "b", "c"].map(Model::named).into(),
        loaded_limit: 2,
        ..quick()
    })
    .await;
    for model in ["a", "b", "a", "c"] {
        post(&node, "/api/generate", &generate(model)).await;
    }
    assert_eq!(node.loaded(), ["a:latest", "c:latest"]);
}

#[tokio::test]
async fn a_load_waits_for_a_model_to_fall_idle() {
    let node = start(Profile {
        models: ["a", "b"].map(Model::named).into(),
        loaded_limit: 1,
        ..endless()
    })
    .await;
    let mut first = send(&node, &generate("a")).await;
    soon(first.head()).await.unwrap();
    let mut short = generate("b");
    short["options"] = json!({"num_predict": 1});
    let mut second = send(&node, &short).await;
    soon(node.until(|log| log.len() == 2)).await;
    assert_eq!(node.loaded(), ["a:latest"]);
    drop(first);
    assert_eq!(soon(second.reply("POST")).await.unwrap().lines().len(), 2);
    assert_eq!(node.loaded(), ["b:latest"]);
}

#[tokio::test]
async fn slots_go_to_who_came_first() {
    let node = start(endless()).await;
    // Who comes during a load may be overtaken by who comes at its end, so the model is in memory first.
    let mut first = send(&node, &generate("llama3.2")).await;
    assert_eq!(soon(first.head()).await.unwrap().status, 200);
    let mut line = Vec::new();
    for number in 1..5 {
        line.push(send(&node, &generate("llama3.2")).await);
        soon(node.until(|log| log.len() > number)).await;
    }
    // One of those who wait leaves, and nobody has to wait for its turn.
    drop(line.remove(1));
    soon(node.until(|log| log[2].client_gone.is_some())).await;
    drop(first);
    for mut client in line {
        assert_eq!(soon(client.head()).await.unwrap().status, 200);
    }
    soon(node.until(|log| log.iter().all(|record| record.client_gone.is_some()))).await;
    assert_eq!(node.in_flight(), 0);
}

#[tokio::test]
async fn slots_are_shared_at_the_same_time() {
    let node = start(Profile {
        slots: 2,
        ..endless()
    })
    .await;
    let mut first = send(&node, &generate("llama3.2")).await;
    let mut second = send(&node, &generate("llama3.2")).await;
    soon(first.head()).await.unwrap();
    soon(second.head()).await.unwrap();
    assert_eq!(node.in_flight(), 2);
}

#[tokio::test]
async fn a_client_that_leaves_stops_the_work_at_every_stage() {
    #[track_caller]
    fn check(node: &Node) {
        let log = node.log();
        assert!(!log[0].completed && log[0].client_gone.is_some(), "{log:?}");
        assert_eq!(node.in_flight(), 0);
    }
    let gone = |log: &[crate::mock::Record]| {
        log.first()
            .is_some_and(|record| record.client_gone.is_some())
    };
    let loading = Profile {
        load_bytes_per_second: 1e-3,
        ..endless()
    };
    let reading = Profile {
        prefill_tokens_per_second: 1e-3,
        ..endless()
    };
    for before_headers in [loading, reading] {
        let node = start(before_headers).await;
        let client = send(&node, &generate("llama3.2")).await;
        soon(node.until(|log| log.len() == 1)).await;
        drop(client);
        soon(node.until(gone)).await;
        check(&node);
    }
    let node = start(endless()).await;
    let mut client = send(&node, &generate("llama3.2")).await;
    soon(client.head()).await.unwrap();
    soon(client.chunk()).await.unwrap();
    drop(client);
    soon(node.until(gone)).await;
    check(&node);
}

#[tokio::test]
async fn an_aborted_load_leaves_nothing_behind() {
    let node = start(Profile {
        models: vec![
            Model {
                name: "slow".into(),
                size_bytes: 1 << 40,
            },
            Model {
                name: "small".into(),
                size_bytes: 1,
            },
        ],
        load_bytes_per_second: 1e3,
        ..endless()
    })
    .await;
    let slow = send(&node, &generate("slow")).await;
    soon(node.until(|log| log.len() == 1)).await;
    let mut small = send(
        &node,
        &json!({"model": "small", "prompt": "x", "options": {"num_predict": 1}}),
    )
    .await;
    soon(node.until(|log| log.len() == 2)).await;
    assert!(node.loaded().is_empty());
    drop(slow);
    assert_eq!(soon(small.reply("POST")).await.unwrap().status, 200);
    assert_eq!(node.loaded(), ["small:latest"]);
}

#[tokio::test(start_paused = true)]
async fn pace_follows_the_speeds() {
    use crate::mock::duration::Keep;
    use crate::mock::library::Library;
    use crate::mock::runner::Runners;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::time::Instant;

    let profile = Profile {
        models: vec![Model {
            name: "m".into(),
            size_bytes: 4_000_000_000,
        }],
        ..Profile::default()
    };
    let entry = Library::new(&profile.models).find("m").unwrap();
    let runners = Arc::new(Runners::new(profile));
    let began = Instant::now();
    let lease = runners.join(&entry, None).await.unwrap();
    assert_eq!(began.elapsed().as_millis(), 2000);
    drop(lease);
    let began = Instant::now();
    drop(
        runners
            .join(&entry, Some(Keep::Until(Duration::from_secs(9))))
            .await
            .unwrap(),
    );
    assert_eq!(began.elapsed(), Duration::ZERO);
    tokio::time::advance(Duration::from_secs(8)).await;
    assert_eq!(runners.loaded().len(), 1);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(runners.loaded().len(), 0);
}
