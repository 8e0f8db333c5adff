//! `llamero demo`: the proxy at work in front of simulated nodes, so that a newcomer sees what it does.
#![expect(clippy::print_stdout, reason = "a demonstration for people")]

use super::serve::{Stop, explain};
use crate::config::{ContentHash, Settings};
use crate::gateway::Gateway;
use crate::link::{Link, Outgoing, RequestBody, RequestHead};
use crate::mock::{Node, Profile, demo_fleet};
use crate::pool::Origin;
use crate::upstream::read_up_to;
use anyhow::{Context as _, anyhow};
use http::Method;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What `demo` takes.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Where clients are answered; not Ollama's own port, which may be taken
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:11435")]
    listen: String,
    /// Where operators are answered
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:11436")]
    admin: String,
    /// How a node is chosen
    #[arg(long, value_name = "NAME", default_value = "adaptive")]
    strategy: String,
    /// Simulated nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    count: u16,
}

/// What is asked of the fleet, all at once: mostly a model that every node has.
const QUESTIONS: [(&str, &str); 12] = [
    ("llama3.2", "Why do llamas hum?"),
    ("llama3.2", "What does a llamero carry?"),
    ("qwen3:8b", "How high can llamas live?"),
    ("llama3.2", "Who walks first in a caravan?"),
    ("llama3.2", "How far in a day?"),
    ("gemma2:27b", "Tell a long story about salt."),
    ("llama3.2", "What is a cria?"),
    ("llama3.2", "Do llamas swim?"),
    ("llama3.2", "Name three camelids."),
    ("qwen3:8b", "What do llamas eat?"),
    ("llama3.2", "Why do they spit?"),
    ("llama3.2", "Good night."),
];
/// How long an answer of the demonstration may be, in tokens and in bytes.
const ANSWER_TOKENS: usize = 24;
const ANSWER_BYTES: usize = 1 << 20;
/// How long an answer of the demonstration may take.
const PATIENCE: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(2);

/// Runs the demonstration until a signal ends it.
///
/// # Errors
/// When an address cannot be listened on.
pub async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let mut stop = Stop::new().context("cannot take signals")?;
    let nodes = start_nodes(args.count).await?;
    let text = config_for(&args, &nodes);
    let settings = Settings::parse(&text, "demo").map_err(|faults| anyhow!("{faults}"))?;
    let gateway = match Gateway::start(settings, None, ContentHash::of(&text), fastrand::u64(..)) {
        Ok(gateway) => gateway,
        Err(error) => return Err(anyhow!(explain(&error).await)),
    };
    let address = *gateway
        .addresses()
        .first()
        .context("the proxy listens nowhere")?;
    println!(
        "llamero listens on http://{address} in front of {} simulated nodes:\n",
        nodes.len()
    );
    for (name, node, profile) in &nodes {
        let models: Vec<_> = profile
            .models
            .iter()
            .map(|model| model.name.as_str())
            .collect();
        let speed = profile.decode_tokens_per_second;
        println!(
            "  {name:<12} {:<24} {speed:>4.0} tokens/s   {}",
            node.url(),
            models.join(", ")
        );
    }
    tokio::select! {
        outcome = show(address, &nodes) => outcome?,
        () = stop.asked() => return Ok(ExitCode::SUCCESS),
    }
    println!("\nTry it yourself, while this runs:\n");
    println!(
        "  curl http://{address}/api/chat -d '{{\"model\":\"llama3.2\",\"messages\":[{{\"role\":\"user\",\"content\":\"hello\"}}]}}'"
    );
    println!("  OLLAMA_HOST={address} ollama run llama3.2");
    println!("  curl http://{}/api/v1/status", gateway.admin_address());
    println!("\nCtrl-C ends it.");
    stop.asked().await;
    gateway.shut_down(std::future::ready(())).await;
    Ok(ExitCode::SUCCESS)
}

async fn start_nodes(count: u16) -> anyhow::Result<Vec<(String, Node, Profile)>> {
    let fleet = demo_fleet();
    let mut nodes = Vec::new();
    for (at, (name, profile)) in (0..count).zip(fleet.iter().cycle()) {
        let round = usize::from(at) / fleet.len();
        let name = if round == 0 {
            name.clone()
        } else {
            format!("{name}-{}", round + 1)
        };
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        nodes.push((
            name,
            Node::start(anywhere, profile.clone()).await?,
            profile.clone(),
        ));
    }
    Ok(nodes)
}

fn config_for(args: &DemoArgs, nodes: &[(String, Node, Profile)]) -> String {
    let quoted = |text: &str| toml_string(text);
    let mut text = format!(
        "listen = {}\nstrategy = {}\nadmin.listen = {}\n",
        quoted(&args.listen),
        quoted(&args.strategy),
        quoted(&args.admin)
    );
    for (name, node, _) in nodes {
        text += &format!(
            "[[backend]]\nname = {}\nurl = {}\n",
            quoted(name),
            quoted(&node.url())
        );
    }
    text
}

/// JSON strings are TOML strings too.
fn toml_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Asks all questions at once and prints each answer as it comes, then who gave how many.
async fn show(address: SocketAddr, nodes: &[(String, Node, Profile)]) -> anyhow::Result<()> {
    let origin = Origin::parse(&address.to_string())?;
    let held = |name: &str| {
        nodes.iter().any(|(_, _, profile)| {
            profile
                .models
                .iter()
                .any(|model| model.name.starts_with(name))
        })
    };
    let questions: Vec<_> = QUESTIONS.iter().filter(|(model, _)| held(model)).collect();
    println!("\n{} questions at once:\n", questions.len());
    let mut asking = JoinSet::new();
    for (model, question) in questions {
        let origin = origin.clone();
        asking.spawn(async move { ask(&origin, model, question).await });
    }
    let mut shares: BTreeMap<String, usize> = BTreeMap::new();
    while let Some(answered) = asking.join_next().await {
        let (line, backend) = answered??;
        println!("{line}");
        *shares.entry(backend).or_default() += 1;
    }
    println!();
    for (backend, count) in shares {
        println!("  {backend:<12} {count:>3}  {}", "#".repeat(count));
    }
    Ok(())
}

async fn ask(origin: &Origin, model: &str, question: &str) -> anyhow::Result<(String, String)> {
    let started = Instant::now();
    let body = json!({
        "model": model, "stream": false, "options": { "num_predict": ANSWER_TOKENS },
        "messages": [{ "role": "user", "content": question }],
    });
    let link = Link::connect(origin, CONNECT).await?;
    let head = RequestHead {
        method: &Method::POST,
        prefix: "",
        target: "/api/chat",
        host: origin.authority(),
        lines: b"",
    };
    let request = Outgoing::new(&head, RequestBody::Kept(body.to_string().into()));
    let answer = link.send(request).await.map_err(|failed| failed.error)?;
    let backend = answer
        .headers()
        .get(crate::header::BACKEND)
        .and_then(|name| name.to_str().ok())
        .unwrap_or("?")
        .to_owned();
    let (text, _) = read_up_to(&mut answer.into_body(), ANSWER_BYTES, PATIENCE).await?;
    let text: serde_json::Value = serde_json::from_slice(&text)?;
    let content = text
        .pointer("/message/content")
        .and_then(|content| content.as_str())
        .unwrap_or_default();
    let short: String = content.chars().take(48).collect();
    let seconds = started.elapsed().as_secs_f64();
    Ok((
        format!("  {seconds:5.1} s  {model:<11} {backend:<12} {question:<32} {short}…"),
        backend,
    ))
}
