//! Models listed, pulled, made, copied, deleted.

use super::client::{ask, post, quick, start};
use crate::mock::{Node, demo_fleet};
use serde_json::{Value, json};

async fn names(node: &Node) -> Vec<String> {
    let tags = ask(node, "GET", "/api/tags", "").await.json();
    let name = |model: &Value| model["name"].as_str().unwrap().to_owned();
    tags["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(name)
        .collect()
}

#[tokio::test]
async fn tags_and_models_agree() {
    let node = start(quick()).await;
    let tags = ask(&node, "GET", "/api/tags", "").await.json();
    let first = &tags["models"][0];
    assert_eq!(first["name"], "llama3.2:latest");
    assert_eq!(first["model"], first["name"]);
    assert_eq!(first["digest"].as_str().unwrap().len(), 64);
    assert_eq!(first["details"]["family"], "llama");
    let models = ask(&node, "GET", "/v1/models", "").await.json();
    let ids: Vec<&str> = models["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, names(&node).await);
    let one = ask(&node, "GET", "/v1/models/llama3.2", "").await.json();
    assert_eq!(one, models["data"][0]);
    let empty = start(crate::mock::Profile {
        models: Vec::new(),
        ..quick()
    })
    .await;
    assert_eq!(
        ask(&empty, "GET", "/v1/models", "").await.json()["data"],
        Value::Null
    );
}

#[tokio::test]
async fn show_tells_about_a_model_under_either_key() {
    let node = start(quick()).await;
    let shown = post(
        &node,
        "/api/show",
        &json!({"model": "", "name": "library/llama3.2"}),
    )
    .await
    .json();
    assert_eq!(shown["model_info"]["general.architecture"], "llama");
    assert_eq!(shown["capabilities"][0], "completion");
    let shown = post(&node, "/api/show", &json!({"model": "nomic-embed-text"}))
        .await
        .json();
    assert_eq!(shown["capabilities"], json!(["embedding"]));
    assert_eq!(post(&node, "/api/show", &json!({})).await.status, 400);
    assert_eq!(
        post(&node, "/api/show", &json!({"model": "nope"}))
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn a_pull_reports_progress_and_adds_the_model() {
    let node = start(quick()).await;
    let reply = post(
        &node,
        "/api/pull",
        &json!({"model": "", "name": "qwen3:8b"}),
    )
    .await;
    assert_eq!(reply.header("content-type"), Some("application/x-ndjson"));
    let lines = reply.lines();
    assert_eq!(lines.len(), reply.chunks.len());
    let mut steps: Vec<&str> = lines
        .iter()
        .map(|line| line["status"].as_str().unwrap())
        .collect();
    steps.dedup();
    assert_eq!(steps[0], "pulling manifest");
    assert!(
        steps[1].starts_with("pulling ") && steps[1].len() == 20,
        "{steps:?}"
    );
    assert_eq!(
        steps[2..],
        ["verifying sha256 digest", "writing manifest", "success"]
    );
    let completed: Vec<u64> = lines
        .iter()
        .filter_map(|line| line["completed"].as_u64())
        .collect();
    assert!(completed.is_sorted());
    assert_eq!(completed.last().copied(), lines[1]["total"].as_u64());
    assert_eq!(names(&node).await[0], "qwen3:8b");

    let lines = post(&node, "/api/pull", &json!({"model": "missing"}))
        .await
        .lines();
    assert_eq!(
        lines,
        [
            json!({"status": "pulling manifest"}),
            json!({"error": "pull model manifest: file does not exist"})
        ]
    );
    let whole = post(
        &node,
        "/api/pull",
        &json!({"model": "missing", "stream": false}),
    )
    .await;
    assert_eq!(whole.status, 500);
    let whole = post(&node, "/api/pull", &json!({"model": "x", "stream": false})).await;
    assert_eq!(whole.json(), json!({"status": "success"}));
}

#[tokio::test]
async fn models_are_copied_and_deleted() {
    let node = start(quick()).await;
    let copy = post(
        &node,
        "/api/copy",
        &json!({"source": "llama3.2", "destination": "me/mine"}),
    )
    .await;
    assert_eq!((copy.status, copy.text().as_str()), (200, ""));
    assert_eq!(copy.header("content-length"), Some("0"));
    assert_eq!(names(&node).await[0], "me/mine:latest");
    let delete = json!({"model": "", "name": "me/mine"}).to_string();
    assert_eq!(
        ask(&node, "DELETE", "/api/delete", &delete).await.status,
        200
    );
    assert_eq!(
        ask(&node, "DELETE", "/api/delete", &delete).await.status,
        404
    );
    let copy = post(
        &node,
        "/api/copy",
        &json!({"source": "nope", "destination": "x"}),
    )
    .await;
    assert_eq!(
        (copy.status, copy.json()),
        (404, json!({"error": "model \"nope\" not found"}))
    );
}

#[tokio::test]
async fn a_model_is_made_from_blobs() {
    let node = start(quick()).await;
    let digest = format!("sha256:{}", "ab".repeat(32));
    let path = format!("/api/blobs/{digest}");
    assert_eq!(ask(&node, "HEAD", &path, "").await.status, 404);
    let create = json!({"model": "mine", "files": {"m.gguf": digest}});
    assert_eq!(post(&node, "/api/create", &create).await.status, 400);
    assert_eq!(ask(&node, "POST", &path, "12345").await.status, 201);
    assert_eq!(ask(&node, "POST", &path, "12345").await.status, 200);
    assert_eq!(
        ask(&node, "HEAD", &path.replace("sha256:", "sha256-"), "")
            .await
            .status,
        200
    );
    assert_eq!(
        ask(&node, "HEAD", "/api/blobs/sha256:ab", "").await.status,
        400
    );
    let lines = post(&node, "/api/create", &create).await.lines();
    assert_eq!(lines.last(), Some(&json!({"status": "success"})));
    let tags = ask(&node, "GET", "/api/tags", "").await.json();
    assert_eq!(
        (&tags["models"][0]["name"], &tags["models"][0]["size"]),
        (&json!("mine:latest"), &json!(5))
    );
    let lines = post(
        &node,
        "/api/create",
        &json!({"model": "other", "from": "mine"}),
    )
    .await
    .lines();
    assert_eq!(lines.last(), Some(&json!({"status": "success"})));
}

#[tokio::test]
async fn the_demo_fleet_starts() {
    for (name, profile) in demo_fleet() {
        for model in &profile.models {
            let load = model.size_bytes as f64 / profile.load_bytes_per_second;
            assert!(load <= 3.0, "{name} loads {} in {load} s", model.name);
        }
        let listed = profile.models.len();
        assert_eq!(names(&start(profile).await).await.len(), listed);
    }
}

#[tokio::test]
async fn a_profile_without_speed_is_refused() {
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    for profile in [
        crate::mock::Profile {
            decode_tokens_per_second: 0.0,
            ..quick()
        },
        crate::mock::Profile {
            time_scale: f64::NAN,
            ..quick()
        },
        crate::mock::Profile {
            slots: 0,
            ..quick()
        },
        crate::mock::Profile {
            models: vec![crate::mock::Model::named("a b")],
            ..quick()
        },
    ] {
        let error = Node::start(any, profile).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    }
}
