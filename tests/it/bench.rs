//! Load from `bench live` on simulated nodes: every request is accounted for, and the report says what happened.

use crate::support::gateway::{Proxy, config};
use crate::support::process::command;
use crate::support::soon;
use llamero::bench::live::{
    Amount, Api, Arrival, Driven, Lengths, Options, Planned, Progress, Sessions, Target, Workload,
    drive,
};
use llamero::bench::{Failure, Run};
use llamero::mock::{Fault, Kind, Model, Node, Profile};
use std::future::{pending, ready};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// Simulated nodes run so many times faster than their speeds say.
const SCALE: f64 = 50.0;

async fn node() -> Node {
    let profile = Profile {
        models: vec![Model::named("llama3.2"), Model::named("nomic-embed-text")],
        slots: 8,
        time_scale: SCALE,
        ..Profile::default()
    };
    let anywhere: SocketAddr = "127.0.0.1:0".parse().unwrap();
    Node::start(anywhere, profile).await.unwrap()
}

fn workload(requests: usize) -> Workload {
    Workload {
        arrival: Arrival::Poisson,
        rate: 5.0,
        amount: Amount::Requests(requests),
        models: vec![("llama3.2".into(), 1.0)],
        embeddings: None,
        prompt_tokens: Lengths::Uniform(20, 60),
        output_tokens: Lengths::Uniform(5, 30),
        sessions: None,
    }
}

fn options(timeout: Duration) -> Options {
    Options {
        scenario: "test".to_owned(),
        seed: 3,
        timeout,
        warmup: Duration::ZERO,
        time_scale: SCALE,
    }
}

/// Carries a plan out to its end.
async fn driven(url: &str, api: Api, planned: Vec<Planned>) -> Driven {
    let target = Arc::new(Target::new(url, api, 64).unwrap());
    let progress = Arc::new(Progress::default());
    let count = planned.len();
    let options = options(Duration::from_secs(600));
    let driven = soon(
        "the run",
        drive(&target, planned, &options, &progress, pending()),
    )
    .await;
    assert_eq!(driven.run.outcomes.len(), count);
    assert_eq!(driven.unfinished, 0);
    assert_eq!(progress.ended.load(SeqCst), count);
    driven
}

fn failures(run: &Run, kind: Failure) -> usize {
    let outcomes = run.outcomes.iter();
    outcomes
        .filter(|outcome| outcome.failure == Some(kind))
        .count()
}

#[tokio::test]
async fn every_request_is_accounted_for_in_both_apis_with_its_node_and_its_tokens() {
    let (a, b) = (node().await, node().await);
    let proxy = Proxy::start(&config("round_robin", &[a.url(), b.url()]));
    let mut workload = workload(40);
    workload.embeddings = Some(("nomic-embed-text".into(), 0.25));
    let planned = workload.plan(3);
    for api in [Api::Native, Api::Openai] {
        let driven = driven(&proxy.address().to_string(), api, planned.clone()).await;
        let run = driven.run;
        assert_eq!(run.nodes, ["a", "b"], "{:?}", driven.errors);
        for (outcome, planned) in run.outcomes.iter().zip(&planned) {
            assert_eq!(outcome.failure, None, "{:?}", driven.errors);
            assert_eq!(outcome.attempts, 1);
            assert_eq!(outcome.first_token.is_some(), !planned.embedding);
            assert!(
                outcome
                    .first_token
                    .is_none_or(|first| first <= outcome.total)
            );
            if api == Api::Native {
                assert_eq!(outcome.tokens, planned.output_tokens);
            }
            assert!(outcome.prompt_tokens >= planned.prompt_tokens);
            // A microsecond for the way from the plan's time to the clock's and back.
            assert!(outcome.intended.abs_diff(planned.at) < Duration::from_millis(1));
        }
        let of_a = run.outcomes.iter().filter(|o| o.node == Some(0)).count();
        assert!((15..=25).contains(&of_a), "{of_a} of 40");
        assert_eq!(run.lags.len(), 40);
        assert!(run.lags.is_sorted());
    }
}

#[tokio::test]
async fn a_node_without_a_proxy_is_named_by_its_address() {
    let node = node().await;
    let driven = driven(&node.url(), Api::Native, workload(5).plan(1)).await;
    assert_eq!(driven.run.nodes, [node.addr().to_string()]);
    assert_eq!(driven.run.strategy, node.url());
}

#[tokio::test]
async fn a_session_waits_for_each_answer_and_says_all_that_was_said() {
    let node = node().await;
    let mut workload = workload(3);
    workload.sessions = Some(Sessions {
        turns: 4,
        think: Duration::from_secs(1),
    });
    let driven = driven(&node.url(), Api::Native, workload.plan(5)).await;
    let prompts: u32 = driven.run.outcomes.iter().map(|o| o.prompt_tokens).sum();
    let alone: u32 = workload.plan(5).iter().map(|p| p.prompt_tokens).sum();
    assert!(
        prompts > alone * 2,
        "{prompts} tokens of prompts, {alone} of them new"
    );
    assert!(node.log().iter().all(|record| record.completed));
}

#[track_caller]
fn check(driven: &Driven, kind: Failure, count: usize, error: &str) {
    let errors = &driven.errors;
    assert_eq!(failures(&driven.run, kind), count, "{errors:?}");
    assert!(
        errors
            .iter()
            .any(|(text, n)| *n == count && text.contains(error)),
        "{errors:?}"
    );
}

#[tokio::test]
async fn what_goes_wrong_is_told_apart() {
    let node = node().await;
    for (fault, kind, error) in [
        (Kind::Busy503, Failure::Refused, "503: "),
        (Kind::Error500, Failure::Answered, "500: "),
        (Kind::ResetMidStream, Failure::Broken, ""),
        (Kind::CleanEndWithoutDone, Failure::Broken, "no end"),
        (Kind::ErrorInStream, Failure::Broken, ""),
    ] {
        for api in [Api::Native, Api::Openai] {
            node.faults().set(Fault::new(fault).times(3));
            let driven = driven(&node.url(), api, workload(12).plan(1)).await;
            check(&driven, kind, 3, error);
            let failed = driven.run.outcomes.iter().filter(|o| o.failure.is_some());
            assert_eq!(failed.count(), 3, "{fault:?}");
        }
    }
}

#[tokio::test]
async fn a_request_that_takes_too_long_ends_at_its_timeout() {
    let node = node().await;
    node.faults()
        .set(Fault::new(Kind::HangBeforeHeaders).times(2));
    let target = Arc::new(Target::new(&node.url(), Api::Native, 64).unwrap());
    let options = options(Duration::from_secs(50));
    let progress = Arc::new(Progress::default());
    let driving = drive(&target, workload(6).plan(1), &options, &progress, pending());
    let driven = soon("the run", driving).await;
    check(&driven, Failure::TimedOut, 2, "timed out");
    for outcome in driven.run.outcomes.iter().filter(|o| o.failure.is_some()) {
        assert!(outcome.total.abs_diff(options.timeout) < Duration::from_millis(1));
    }
}

#[tokio::test]
async fn a_run_that_is_stopped_tells_what_it_has() {
    let node = node().await;
    let target = Arc::new(Target::new(&node.url(), Api::Native, 64).unwrap());
    let options = options(Duration::from_secs(600));
    let progress = Arc::new(Progress::default());
    let planned = workload(100_000).plan(1);
    let stop = node.until(|log| log.len() >= 10);
    let driven = soon(
        "the run",
        drive(&target, planned, &options, &progress, stop),
    )
    .await;
    let ended = driven.run.outcomes.len();
    assert_eq!(ended + driven.unfinished, 100_000);
    assert!(ended < 1000, "{ended}");
    let driven = drive(&target, workload(9).plan(1), &options, &progress, ready(())).await;
    assert_eq!((driven.run.outcomes.len(), driven.unfinished), (0, 9));
}

#[tokio::test]
async fn no_more_connections_are_opened_than_allowed_and_each_is_used_again() {
    let node = node().await;
    let target = Arc::new(Target::new(&node.url(), Api::Native, 2).unwrap());
    let options = options(Duration::from_secs(600));
    let mut workload = workload(30);
    workload.rate = 1000.0;
    let mut planned = workload.plan(1);
    planned[0].client = Some([10, 0, 0, 7].into());
    let progress = Arc::new(Progress::default());
    let driven = soon(
        "the run",
        drive(&target, planned, &options, &progress, pending()),
    )
    .await;
    assert_eq!(driven.run.outcomes.len(), 30);
    assert!((1..=2).contains(&node.open_connections()));
    let latest = driven.run.lags.last().unwrap();
    assert!(
        *latest > Duration::from_secs(1),
        "waiting for a connection is lag: {latest:?}"
    );
    let log = node.log();
    let clients = log
        .iter()
        .filter_map(|record| record.headers.get("x-forwarded-for"));
    assert_eq!(clients.collect::<Vec<_>>(), ["10.0.0.7"]);
}

#[tokio::test]
async fn warm_up_is_sent_and_does_not_count() {
    let node = node().await;
    let target = Arc::new(Target::new(&node.url(), Api::Native, 64).unwrap());
    let mut options = options(Duration::from_secs(600));
    let planned = workload(20).plan(1);
    options.warmup = (planned[4].at + planned[5].at) / 2;
    let progress = Arc::new(Progress::default());
    let driven = soon(
        "the run",
        drive(&target, planned, &options, &progress, pending()),
    )
    .await;
    assert_eq!(driven.run.outcomes.len(), 15);
    assert_eq!((driven.run.lags.len(), driven.unfinished), (15, 0));
    assert_eq!(node.log().len(), 20);
}

#[tokio::test]
async fn the_program_writes_a_table_json_and_a_page_that_needs_nothing_else() {
    let (a, b) = (node().await, node().await);
    let proxy = Proxy::start(&config("round_robin", &[a.url(), b.url()]));
    a.faults()
        .set(Fault::new(Kind::ErrorInStream).text("what a pity"));
    let folder = tempfile::tempdir().unwrap();
    let (json, html) = (folder.path().join("r.json"), folder.path().join("r.html"));
    let target = proxy.address().to_string();
    let run = command(&[
        "bench",
        "live",
        "--target",
        &target,
        "--rate",
        "100",
        "--requests",
        "30",
        "--prompt-tokens",
        "20",
        "--output-tokens",
        "5-10",
        "--timeout",
        "10s",
    ])
    .args([std::ffi::OsStr::new("--json"), json.as_os_str()])
    .args([std::ffi::OsStr::new("--html"), html.as_os_str()])
    .output();
    let output = soon("the program", run).await.unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{output:?}",
        output = output.stderr
    );
    assert!(
        table.contains("whole answer") && table.contains("what a pity"),
        "{table}"
    );
    assert!(!table.contains('\x1b'), "no terminal, no colours");
    assert!(output.stderr.is_empty(), "no terminal, no progress bar");
    let json = std::fs::read_to_string(json).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let run = &json["runs"][0];
    assert_eq!(
        (&json["kind"], &run["requests"]),
        (&"live".into(), &30.into())
    );
    let broken = run["errors"]["broken"].as_u64().unwrap();
    assert!((10..=20).contains(&broken), "about half of 30: {run}");
    assert_eq!(run["e2e"]["max"], 10.0, "a failure counts as the timeout");
    let page = std::fs::read_to_string(html)
        .unwrap()
        .replace(&format!("http://{target}"), "");
    for outside in ["http:", "https:", "src=", "href=", "url(", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

/// What the program says of a trace, sent so much faster that it takes no time.
async fn replayed(name: &str, trace: &str, arguments: &[&str]) -> (serde_json::Value, Vec<String>) {
    let node = node().await;
    let proxy = Proxy::start(&config("adaptive", &[node.url()]));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    std::fs::write(&file, trace).unwrap();
    let (target, file) = (proxy.address().to_string(), file.to_str().unwrap());
    let start = [
        "bench", "live", "--json", "--target", &target, "--trace", file,
    ];
    let run = command(&[&start[..], arguments].concat()).output();
    let output = soon("the program", run).await.unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{error}");
    let json = serde_json::from_slice(&output.stdout).unwrap();
    let asked = node.log().into_iter().map(|record| record.path);
    (json, asked.collect())
}

#[tokio::test]
async fn an_azure_trace_is_sent_to_a_proxy_at_its_times() {
    let trace = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n\
        2023-11-16 18:15:46.0000000,374,44\r\n\
        2023-11-16 18:15:46.2000000,40,10\r\n\
        2023-11-16 18:15:46.6000000,7,3\r\n";
    let (json, asked) = replayed("azure.csv", trace, &[]).await;
    let run = &json["runs"][0];
    assert_eq!(asked, ["/api/chat"; 3]);
    assert_eq!(
        (&run["scenario"], &run["requests"]),
        (&"azure.csv".into(), &3.into())
    );
    assert_eq!(run["errors"]["share"], 0.0);
    let (seconds, rate) = (&run["seconds"], &run["tokens_per_second"]);
    let tokens = seconds.as_f64().unwrap() * rate.as_f64().unwrap();
    assert!((tokens - 57.0).abs() < 1e-6, "{tokens} tokens");
    assert!(seconds.as_f64().unwrap() >= 0.6, "{seconds} seconds");
}

#[tokio::test]
async fn a_mooncake_trace_is_cut_and_sent_at_another_rate() {
    let line = |at: u32, output: u32| {
        format!(
            "{{\"timestamp\":{at},\"input_length\":600,\"output_length\":{output},\"hash_ids\":[1,{at}]}}\n"
        )
    };
    let trace = [line(0, 5), line(600_000, 6), line(1_200_000, 7)].concat();
    let arguments = ["--rate", "100", "--requests", "2", "--api", "openai"];
    let (json, asked) = replayed("mooncake.jsonl", &trace, &arguments).await;
    let run = &json["runs"][0];
    assert_eq!(asked, ["/v1/chat/completions"; 2]);
    assert_eq!(run["scenario"], "mooncake.jsonl at 100/s");
    assert_eq!(
        (&run["requests"], &run["errors"]["share"]),
        (&2.into(), &0.0.into())
    );
}

#[tokio::test]
async fn a_trace_that_is_none_is_named_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.csv");
    std::fs::write(&file, "TIMESTAMP,ContextTokens,GeneratedTokens\nnoon,1,1\n").unwrap();
    let file = file.to_str().unwrap();
    let run = command(&["bench", "live", "--target", "127.0.0.1:1", "--trace", file]).output();
    let output = soon("the program", run).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("t.csv") && error.contains("line 2: \"noon\""),
        "{error}"
    );
}

#[tokio::test]
async fn json_goes_to_stdout_alone_and_nobody_at_the_target_is_an_error() {
    let node = node().await;
    let arguments = [
        "bench",
        "live",
        "--rate",
        "100",
        "--requests",
        "5",
        "--json",
        "--target",
    ];
    let run = command(&[&arguments[..], &[&node.url()]].concat()).output();
    let output = soon("the program", run).await.unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["runs"][0]["errors"]["share"], 0.0);
    let nobody = crate::support::backend::dead_address().await.to_string();
    let run = command(&[&arguments[..], &[&nobody]].concat()).output();
    let output = soon("the program", run).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains(&format!("{nobody} does not answer")),
        "{error}"
    );
}
