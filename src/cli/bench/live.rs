//! `llamero bench live`: load on a running proxy or node.

use super::output::Output;
use super::{bar, read_trace};
use crate::bench::live::{
    Amount, Api, Arrival, Driven, Lengths, Options, Progress, Sessions, Target, Workload, drive,
};
use crate::bench::{Kind, Measure, Report, Series, Summary, time};
use crate::sim::Row;
use anyhow::{Context as _, bail};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Errors that the report shows.
const ERRORS_SHOWN: usize = 5;
/// How long requests come if nothing is said.
const DURATION: Duration = Duration::from_secs(60);
/// How many a second, unless a trace says.
const RATE: f64 = 2.0;

/// Load on a running proxy or node.
///
/// Requests are sent at times that are drawn beforehand, whether or not earlier ones have been answered, and every latency
/// counts from when a request was meant to be sent.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct LiveArgs {
    /// The proxy or node, as OLLAMA_HOST would name it
    #[arg(long, value_name = "URL")]
    target: String,
    /// The API to speak
    #[arg(long, value_enum, default_value_t = Api::Native)]
    api: Api,
    /// Requests a second; with --sessions, sessions that begin in a second [default: 2, or the trace's own]
    #[arg(long, value_name = "N", value_parser = positive)]
    rate: Option<f64>,
    /// How long requests are sent [default: 60s, or the whole trace]
    #[arg(long, value_name = "TIME", value_parser = time::parse, conflicts_with_all = ["requests", "sessions"])]
    duration: Option<Duration>,
    /// How many requests are sent, instead of for how long
    #[arg(long, value_name = "N", conflicts_with = "sessions")]
    requests: Option<usize>,
    /// Take times and lengths from an Azure CSV or a Mooncake JSONL file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["arrival", "cv", "sessions", "prompt_tokens", "output_tokens"])]
    trace: Option<PathBuf>,
    /// How the gaps between requests are spread
    #[arg(long, value_enum, default_value_t = Gaps::Poisson)]
    arrival: Gaps,
    /// Coefficient of variation of the gaps of gamma arrivals: above 1 come bursts
    #[arg(long, value_name = "N", default_value_t = 3.0, value_parser = positive)]
    cv: f64,
    /// Requests sent in this time at the beginning do not count
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = time::parse)]
    warmup: Duration,
    /// Conversations instead of single requests: each waits for its answer before it goes on
    #[arg(long, value_name = "N")]
    sessions: Option<usize>,
    /// Turns of each conversation
    #[arg(long, value_name = "N", default_value_t = 4, requires = "sessions", value_parser = clap::value_parser!(u32).range(1..=1000))]
    turns: u32,
    /// Mean time between an answer and the next turn
    #[arg(long, value_name = "TIME", default_value = "5s", requires = "sessions", value_parser = time::parse)]
    think: Duration,
    /// A model and its share of the requests; may be given several times [default: the first that the target lists]
    #[arg(long, value_name = "NAME[=SHARE]", value_parser = weighted)]
    model: Vec<(String, f64)>,
    /// Length of the prompts in tokens: 200, 50-400, or lognormal:MEAN/P90
    #[arg(long, value_name = "LENGTHS", default_value = "lognormal:400/900")]
    prompt_tokens: Lengths,
    /// Length of the answers in tokens
    #[arg(long, value_name = "LENGTHS", default_value = "lognormal:150/330")]
    output_tokens: Lengths,
    /// Share of requests that ask for a vector instead of a text, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share, conflicts_with = "sessions")]
    embeddings: f64,
    /// The model for them [default: the first embedding model that the target lists]
    #[arg(long, value_name = "NAME")]
    embedding_model: Option<String>,
    /// How long a request may take; failed ones count as this long
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = time::parse)]
    timeout: Duration,
    /// Connections open at one time; requests beyond them wait, which counts as their latency
    #[arg(long, value_name = "N", default_value_t = 1024)]
    connections_limit: usize,
    /// Equal seeds send equal requests at equal times
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    output: Output,
}

const EXAMPLES: &str = "\
Examples:
  llamero bench live --target 127.0.0.1:11434 --rate 4 --duration 2m --html report.html
  llamero bench live --target gpu1 --arrival gamma --cv 4 --model llama3.2=3 --model qwen3:8b=1
  llamero bench live --target gpu1 --sessions 20 --turns 5 --think 10s --json
  llamero bench live --target gpu1 --trace azure.csv --requests 500 --rate 3";

/// How gaps are spread, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Gaps {
    /// As many independent users make them
    Poisson,
    /// In bursts, see --cv
    Gamma,
    /// All the same
    Constant,
}

/// Drives the load and reports.
///
/// # Errors
/// When the target does not answer at all, or the report cannot be written.
pub async fn run(args: LiveArgs) -> anyhow::Result<ExitCode> {
    if args
        .duration
        .is_some_and(|duration| duration <= args.warmup)
    {
        bail!("--warmup takes all of --duration: nothing would be measured");
    }
    args.output.check()?;
    let trace = args.trace.as_deref().map(read_trace).transpose()?;
    let target = Target::new(&args.target, args.api, args.connections_limit)?;
    let target = Arc::new(target);
    let workload = args.workload(&target.models().await?)?;
    let planned = match &trace {
        Some(trace) => workload.replay(trace, args.speed(trace), args.seed),
        None => workload.plan(args.seed),
    };
    let options = Options {
        scenario: args.scenario(),
        seed: args.seed,
        timeout: args.timeout,
        warmup: args.warmup,
        time_scale: 1.0,
    };
    let progress = Arc::new(Progress::default());
    let bar = bar::new(planned.len());
    let stop = async {
        // Without signals it runs to its end.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let driven = tokio::select! {
        driven = drive(&target, planned, &options, &progress, stop) => driven,
        never = bar::follow(&bar, &progress) => match never {},
    };
    bar.finish_and_clear();
    if driven.run.outcomes.is_empty() {
        bail!("nothing was measured: no request ended that counts");
    }
    args.output.write(&args.report(&target, &driven))?;
    Ok(ExitCode::SUCCESS)
}

impl LiveArgs {
    fn arrival(&self) -> Arrival {
        match self.arrival {
            Gaps::Poisson => Arrival::Poisson,
            Gaps::Gamma => Arrival::Gamma(self.cv),
            Gaps::Constant => Arrival::Constant,
        }
    }

    /// How many times faster a trace is sent than it was.
    fn speed(&self, trace: &[Row]) -> f64 {
        let span = trace.last().map_or(0.0, |row| row.at.as_secs_f64());
        match self.rate {
            Some(rate) if span > 0.0 => rate * span / trace.len() as f64,
            _ => 1.0,
        }
    }

    /// What was offered, in words.
    fn scenario(&self) -> String {
        let rate = self.rate.unwrap_or(RATE);
        if let Some(trace) = &self.trace {
            let name = trace.file_name().unwrap_or(trace.as_os_str());
            let name = name.to_string_lossy();
            return match self.rate {
                Some(rate) => format!("{name} at {rate}/s"),
                None => name.into_owned(),
            };
        }
        let gaps = match self.arrival {
            Gaps::Poisson => "poisson".to_owned(),
            Gaps::Gamma => format!("gamma cv {}", self.cv),
            Gaps::Constant => "constant".to_owned(),
        };
        match self.sessions {
            Some(sessions) => format!("{sessions} sessions, {gaps} {rate}/s"),
            None => format!("{gaps} {rate}/s"),
        }
    }

    fn workload(&self, listed: &[String]) -> anyhow::Result<Workload> {
        let is_embedding = |name: &str| name.contains("embed") || name.contains("minilm");
        let listed = |embedding| listed.iter().find(|name| is_embedding(name) == embedding);
        let mut models: Vec<(Arc<str>, f64)> = self
            .model
            .iter()
            .map(|(name, share)| (name.as_str().into(), *share))
            .collect();
        if models.is_empty() && self.embeddings < 1.0 {
            let first =
                listed(false).context("the target lists no model: name one with --model")?;
            models.push((first.as_str().into(), 1.0));
        }
        let embeddings = if self.embeddings > 0.0 {
            let model = self.embedding_model.as_ref().or_else(|| listed(true));
            let model = model
                .context("the target lists no embedding model: name one with --embedding-model")?;
            Some((model.as_str().into(), self.embeddings))
        } else {
            None
        };
        Ok(Workload {
            arrival: self.arrival(),
            rate: self.rate.unwrap_or(RATE),
            amount: match (self.sessions.or(self.requests), self.duration, &self.trace) {
                (Some(count), _, _) => Amount::Requests(count),
                (None, Some(duration), _) => Amount::For(duration),
                (None, None, Some(_)) => Amount::Requests(usize::MAX),
                (None, None, None) => Amount::For(DURATION),
            },
            models,
            embeddings,
            prompt_tokens: self.prompt_tokens,
            output_tokens: self.output_tokens,
            sessions: self.sessions.map(|_| Sessions {
                turns: self.turns,
                think: self.think,
            }),
        })
    }

    fn report(&self, target: &Target, driven: &Driven) -> Report {
        let by = Measure {
            timeout: self.timeout,
            slo: self.output.slo,
        };
        let run = &driven.run;
        let lengths = match self.trace {
            Some(_) => String::new(),
            None => format!(
                ", prompts of {} and answers of {} tokens",
                self.prompt_tokens, self.output_tokens
            ),
        };
        let subtitle = format!(
            "{}, {} API, {}{lengths}, seed {}",
            target.url(),
            match self.api {
                Api::Native => "native",
                Api::Openai => "OpenAI",
            },
            run.scenario,
            self.seed,
        );
        let summary = Summary::of(run, &by);
        let title = "llamero bench live";
        let mut report = Report::new(Kind::Live, title, subtitle, &by, vec![summary], None);
        report.series = Some(Series::of(run, &by));
        if driven.unfinished > 0 {
            report.notes.push(format!(
                "Stopped early: {} requests were not sent or not waited for, and do not count.",
                driven.unfinished
            ));
        }
        for (error, count) in driven.errors.iter().take(ERRORS_SHOWN) {
            report.notes.push(format!("{count} × {error}"));
        }
        report
    }
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok();
    number
        .filter(|number: &f64| number.is_finite() && *number > 0.0)
        .ok_or_else(|| "has to be a number above 0".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    let number = text.parse().ok();
    number
        .filter(|number| (0.0..=1.0).contains(number))
        .ok_or_else(|| "has to be a number from 0 to 1".to_owned())
}

/// `NAME` or `NAME=SHARE`.
fn weighted(text: &str) -> Result<(String, f64), String> {
    let (name, share) = match text.rsplit_once('=') {
        Some((name, share)) => (
            name,
            positive(share).map_err(|why| format!("the share {why}"))?,
        ),
        None => (text, 1.0),
    };
    if name.is_empty() {
        return Err("a model has a name".to_owned());
    }
    Ok((name.to_owned(), share))
}
