//! Reports of runs whose numbers are known.

use super::{Failure, Kind, Measure, Outcome, Report, Run, Series, Slo, Style, Summary};
use std::time::Duration;

const MEASURE: Measure = Measure {
    timeout: Duration::from_secs(60),
    slo: Slo {
        ttft: Duration::from_secs(2),
        tpot: Duration::from_millis(50),
    },
};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A whole answer of `tokens` tokens on node 0.
fn served(at: u64, first: u64, total: u64, tokens: u32) -> Outcome {
    Outcome {
        intended: ms(at),
        first_token: Some(ms(first)),
        total: ms(total),
        tokens,
        prompt_tokens: 100,
        cached_tokens: 25,
        node: Some(0),
        attempts: 1,
        failure: None,
    }
}

fn failed(at: u64, total: u64, failure: Failure) -> Outcome {
    Outcome {
        first_token: None,
        tokens: 0,
        cached_tokens: 0,
        node: None,
        failure: Some(failure),
        ..served(at, 0, total, 0)
    }
}

fn run(outcomes: Vec<Outcome>) -> Run {
    Run {
        scenario: "homog".to_owned(),
        strategy: "adaptive".to_owned(),
        load: Some(0.7),
        seed: 1,
        nodes: vec!["a".to_owned(), "b".to_owned()],
        outcomes,
        loads: Some(3),
        lags: Vec::new(),
    }
}

#[track_caller]
fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
}

#[test]
fn a_run_is_measured_as_by_hand() {
    let mut retried = served(1000, 3000, 5000, 101);
    (retried.node, retried.attempts) = (Some(1), 3);
    let embedding = Outcome {
        first_token: None,
        tokens: 0,
        ..served(1500, 0, 40, 0)
    };
    let run = run(vec![
        served(0, 500, 1500, 11),   // 100 ms a token: too slow
        served(500, 500, 1500, 51), // 20 ms a token
        retried,                    // 20 ms a token, but 3 s to the first
        embedding,
        failed(2000, 4, Failure::Refused),
    ]);
    let summary = Summary::of(&run, &MEASURE);
    assert_eq!(summary.requests, 5);
    close(summary.seconds, 6.0);
    let ttft = summary.ttft.unwrap();
    assert_eq!(ttft.count, 4);
    close(ttft.mean, (0.5 + 0.5 + 3.0 + 60.0) / 4.0);
    close(ttft.p50, 0.5);
    close(ttft.max, 60.0);
    let tpot = summary.tpot.unwrap();
    assert_eq!(tpot.count, 3);
    close(tpot.mean, (0.1 + 0.02 + 0.02) / 3.0);
    let e2e = summary.e2e.unwrap();
    close(e2e.mean, (1.5 + 1.5 + 5.0 + 0.04 + 60.0) / 5.0);
    close(e2e.p50, 1.5);
    close(e2e.p99, 60.0);
    close(summary.goodput, 2.0 / 5.0);
    close(summary.errors.share, 0.2);
    assert_eq!((summary.errors.refused, summary.errors.count()), (1, 1));
    assert_eq!(summary.retries, 2);
    close(summary.cached_prompt_share, 100.0 / 500.0);
    close(summary.loads_per_1000.unwrap(), 600.0);
    close(summary.tokens_per_second, 163.0 / 6.0);
    let shares: Vec<usize> = summary.nodes.iter().map(|node| node.requests).collect();
    assert_eq!(shares, [3, 1]);
    close(summary.jain.unwrap(), 16.0 / 20.0);
    assert_eq!((summary.lag, summary.invalid), (None, None));
}

#[track_caller]
fn check_failed(total: u64, failure: Failure, expected: f64) {
    let summary = Summary::of(&run(vec![failed(0, total, failure)]), &MEASURE);
    close(summary.e2e.unwrap().p50, expected);
    close(summary.ttft.unwrap().p50, expected);
    close(summary.goodput, 0.0);
    close(summary.errors.share, 1.0);
}

#[test]
fn a_quick_failure_is_no_fast_answer() {
    check_failed(4, Failure::Refused, 60.0);
    check_failed(4, Failure::Answered, 60.0);
    check_failed(5000, Failure::Broken, 60.0);
    check_failed(60_000, Failure::TimedOut, 60.0);
    check_failed(70_000, Failure::TimedOut, 70.0);
}

#[track_caller]
fn check_lag(lag: u64, service: u64, is_valid: bool) {
    let run = Run {
        lags: vec![ms(lag)],
        ..run(vec![served(0, 1, service, 2)])
    };
    let summary = Summary::of(&run, &MEASURE);
    assert_eq!(summary.invalid.is_none(), is_valid, "{:?}", summary.invalid);
    let report = report(&[run]);
    assert_eq!(report.notes.is_empty(), is_valid);
}

#[test]
fn a_late_generator_spoils_a_run() {
    check_lag(10, 5000, true);
    check_lag(11, 5000, false);
    check_lag(2, 200, true);
    check_lag(3, 200, false);
}

#[test]
fn nothing_can_be_summed_up() {
    let summary = Summary::of(&run(Vec::new()), &MEASURE);
    assert_eq!(
        (summary.e2e, summary.ttft, summary.requests),
        (None, None, 0)
    );
    close(summary.goodput, 0.0);
    let nothing = Series::of(&run(Vec::new()), &MEASURE);
    assert_eq!((nothing.dots.len(), nothing.buckets.len()), (0, 0));
}

fn report(runs: &[Run]) -> Report {
    let summaries = runs.iter().map(|run| Summary::of(run, &MEASURE)).collect();
    Report::new(
        Kind::Sim,
        "bench </script>",
        "of \"<b>\"",
        &MEASURE,
        summaries,
        None,
    )
}

/// Two strategies, two seeds each; the second takes twice as long.
fn comparison() -> Report {
    let run = |strategy: &str, seed, total| Run {
        strategy: strategy.to_owned(),
        seed,
        ..run(vec![served(0, 100, total, 10)])
    };
    report(&[
        run("round_robin", 1, 2000),
        run("round_robin", 2, 4000),
        run("adaptive", 1, 1000),
        run("adaptive", 2, 2000),
    ])
}

#[test]
fn runs_that_differ_in_their_seed_are_taken_together() {
    let report = comparison();
    let cells: Vec<_> = report
        .cells
        .iter()
        .map(|cell| {
            (
                cell.strategy.as_str(),
                cell.seeds.len(),
                cell.ratio.unwrap(),
            )
        })
        .collect();
    assert_eq!(cells, [("round_robin", 2, 2.0), ("adaptive", 2, 1.0)]);
    let mean = report.cells[0].e2e_mean.unwrap();
    assert_eq!((mean.mean, mean.low, mean.high), (3.0, 2.0, 4.0));
}

#[test]
fn the_json_keeps_its_names() {
    let json: serde_json::Value = serde_json::from_str(&comparison().json().unwrap()).unwrap();
    for path in [
        "/llamero",
        "/kind",
        "/slo/ttft",
        "/slo/tpot",
        "/timeout",
        "/runs/0/e2e/p99",
        "/runs/0/ttft/p50",
        "/runs/0/tpot/mean",
        "/runs/0/errors/timed_out",
        "/runs/0/nodes/0/share",
        "/cells/0/e2e_mean/low",
    ] {
        assert!(
            json.pointer(path).is_some_and(|value| !value.is_null()),
            "{path}"
        );
    }
    assert_eq!(json["kind"], "sim");
    assert_eq!(json["slo"]["tpot"], 0.05);
    assert!(json.get("series").is_none());
}

#[test]
fn the_page_needs_nothing_else_and_no_text_breaks_it() {
    let run = run(vec![
        served(0, 100, 2000, 10),
        failed(400, 4, Failure::Broken),
    ]);
    let mut report = report(std::slice::from_ref(&run));
    report.series = Some(Series::of(&run, &MEASURE));
    let page = report.html().unwrap();
    for outside in [
        "http:", "https:", "//www", "src=", "href=", "url(", "@import", "{{",
    ] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!(
        page.matches("</script>").count(),
        2,
        "the data and the script"
    );
    let data = page.split("type=\"application/json\">").nth(1).unwrap();
    let data = data.split("</script>").next().unwrap();
    let data: serde_json::Value = serde_json::from_str(data).unwrap();
    assert_eq!(data["title"], "bench </script>");
    assert_eq!(data["series"]["dots"].as_array().unwrap().len(), 2);
    assert_eq!(
        data["series"]["buckets"][0]["failed"],
        serde_json::json!([0, 0, 1, 0])
    );
}

#[track_caller]
fn check_width(width: usize, has: &[&str], has_not: &[&str]) {
    let style = Style {
        width,
        color: false,
    };
    let table = comparison().table(style);
    for line in table.lines().skip(2) {
        assert!(line.chars().count() <= width, "{width}: {line:?}");
    }
    assert!(has.iter().all(|text| table.contains(text)), "{table}");
    assert!(!has_not.iter().any(|text| table.contains(text)), "{table}");
    assert!(!table.contains('\x1b'));
}

#[test]
fn a_narrow_terminal_shows_the_first_columns() {
    check_width(
        200,
        &["adaptive", "1.50 s", "× best", "fairness", "loads/1k"],
        &[],
    );
    check_width(80, &["adaptive", "× best", "p99"], &["fairness"]);
    check_width(40, &["adaptive", "mean"], &["p99", "fairness"]);
}

#[test]
fn the_best_comes_first_and_is_coloured_if_colours_are_wanted() {
    let style = Style {
        width: 120,
        color: true,
    };
    let table = comparison().table(style);
    let place = |text: &str| table.find(text).unwrap();
    assert!(place("adaptive") < place("round_robin"), "{table}");
    assert!(table.contains("\x1b[32madaptive\x1b[0m"), "{table}");
}
