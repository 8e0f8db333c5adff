//! A report as a table in a terminal.

use super::estimate::Estimate;
use super::grid::{Grid, Ink, Style};
use super::ratio::Ratios;
use super::report::{Cell, Kind, Report};
use super::spread::Spread;
use super::summary::{NodeShare, Summary};
use super::time;

/// The longest bar of a node's share, in columns.
const BAR: usize = 24;

impl Report {
    /// The report for a terminal.
    pub fn table(&self, style: Style) -> String {
        let mut text = format!(
            "{}\n{}\n",
            style.paint(Ink::Bold, &self.title),
            style.paint(Ink::Dim, &self.subtitle)
        );
        match (self.kind, self.runs.as_slice()) {
            (Kind::Live, [run]) => self.live(run, style, &mut text),
            _ if self.ratios.is_empty() => self.comparison(style, &mut text),
            _ => self.fleets(style, &mut text),
        }
        for note in &self.notes {
            text += &format!("\n{}\n", style.paint(Ink::Bad, note));
        }
        text
    }

    fn live(&self, run: &Summary, style: Style, to: &mut String) {
        to.push('\n');
        let mut grid = Grid::new(&["", "p50", "p90", "p99", "mean", "p95", "max"]);
        for (name, spread) in [
            ("time to first token", run.ttft),
            ("time per token", run.tpot),
            ("whole answer", run.e2e),
        ] {
            let cells = |s: Spread| [s.p50, s.p90, s.p99, s.mean, s.p95, s.max].map(time::text);
            let cells = spread.map_or_else(|| [const { String::new() }; 6], cells);
            let mut row = vec![(name.to_owned(), Ink::Plain)];
            row.extend(cells.map(|cell| (cell, Ink::Plain)));
            grid.rows.push(row);
        }
        grid.write(style, to);
        to.push('\n');
        let mut fact = |name: &str, ink, text: &str| {
            *to += &format!("{name:<13}{}\n", style.paint(ink, text));
        };
        let rate = run.requests as f64 / run.seconds.max(1e-9);
        fact(
            "requests",
            Ink::Plain,
            &format!(
                "{} in {}, {rate:.2} and {:.0} tokens a second",
                run.requests,
                time::text(run.seconds),
                run.tokens_per_second
            ),
        );
        let goodput = format!("{} ({})", percent(run.goodput), self.slo);
        fact("goodput", Ink::Plain, &goodput);
        let errors = run.errors;
        let text = if errors.count() == 0 {
            "none".to_owned()
        } else {
            format!(
                "{}: {} refused, {} answered with an error, {} broken, {} timed out; each counts as {}",
                percent(errors.share),
                errors.refused,
                errors.answered,
                errors.broken,
                errors.timed_out,
                time::text(self.timeout),
            )
        };
        let ink = if errors.count() == 0 {
            Ink::Plain
        } else {
            Ink::Bad
        };
        fact("errors", ink, &text);
        if run.retries > 0 {
            fact("retries", Ink::Plain, &run.retries.to_string());
        }
        if run.cached_prompt_share > 0.0 {
            let text = format!("{} of the prompts", percent(run.cached_prompt_share));
            fact("cached", Ink::Plain, &text);
        }
        if let Some(lag) = run.lag {
            let text = format!(
                "sent {} late at p50, {} at p99",
                time::text(lag.p50),
                time::text(lag.p99)
            );
            fact("generator", Ink::Dim, &text);
        }
        to.push('\n');
        let mut grid = Grid::new(&["node", "requests", "share", "", "p50", "p99", "tokens"]);
        let most = run.nodes.iter().map(|node| node.share).fold(0.0, f64::max);
        grid.rows
            .extend(run.nodes.iter().map(|node| node_row(node, most)));
        grid.write(style, to);
    }

    fn fleets(&self, style: Style, to: &mut String) {
        to.push('\n');
        let against = format!("× {}", self.baseline.as_deref().unwrap_or_default());
        let mut grid = Grid::new(&[
            &against, "strategy", "geo-mean", "95 %", "worst", "fleet", "> 1.05",
        ]);
        grid.rows.extend(self.ratios.iter().map(ratio_row));
        grid.write(style, to);
    }

    fn comparison(&self, style: Style, to: &mut String) {
        let mut groups: Vec<(&str, Option<f64>)> = Vec::new();
        for cell in &self.cells {
            let key = (cell.scenario.as_str(), cell.load);
            if !groups.contains(&key) {
                groups.push(key);
            }
        }
        let against = self.baseline.as_deref().unwrap_or("best");
        let against = format!("× {against}");
        for (scenario, load) in groups {
            let title = match load {
                Some(load) => format!("{scenario} at {} load", percent(load)),
                None => scenario.to_owned(),
            };
            *to += &format!("\n{}\n", style.paint(Ink::Bold, &title));
            let mut grid = Grid::new(&[
                "strategy",
                "mean",
                "± 95 %",
                &against,
                "p50",
                "p95",
                "p99",
                "TTFT p50",
                "TTFT p99",
                "per token",
                "goodput",
                "errors",
                "cached",
                "loads/1k",
                "retries/1k",
                "fairness",
            ]);
            let mut cells: Vec<&Cell> = self
                .cells
                .iter()
                .filter(|cell| cell.scenario == scenario && cell.load == load)
                .collect();
            let mean = |cell: &Cell| cell.e2e_mean.map_or(f64::INFINITY, |e2e| e2e.mean);
            cells.sort_by(|a, b| mean(a).total_cmp(&mean(b)));
            let best = cells.first().map_or(f64::INFINITY, |cell| mean(cell));
            for cell in cells {
                let ink = if mean(cell) <= best {
                    Ink::Good
                } else {
                    Ink::Plain
                };
                grid.rows.push(cell_row(cell, ink));
            }
            grid.write(style, to);
        }
    }
}

fn node_row(node: &NodeShare, most: f64) -> Vec<(String, Ink)> {
    let part = if most > 0.0 { node.share / most } else { 0.0 };
    let filled = (0..BAR)
        .filter(|at| (*at as f64) < part * BAR as f64)
        .count();
    let bar = format!("{}{}", "█".repeat(filled), " ".repeat(BAR - filled));
    let time = |part: fn(&Spread) -> f64| {
        node.e2e
            .as_ref()
            .map_or_else(String::new, |e2e| time::text(part(e2e)))
    };
    vec![
        (node.name.clone(), Ink::Plain),
        (node.requests.to_string(), Ink::Plain),
        (percent(node.share), Ink::Plain),
        (bar, Ink::Good),
        (time(|e2e| e2e.p50), Ink::Plain),
        (time(|e2e| e2e.p99), Ink::Plain),
        (node.tokens.to_string(), Ink::Plain),
    ]
}

fn ratio_row(ratios: &Ratios) -> Vec<(String, Ink)> {
    let ink = if ratios.geo_mean < 1.0 {
        Ink::Good
    } else {
        Ink::Plain
    };
    vec![
        (ratios.quantity.name().to_owned(), Ink::Plain),
        (ratios.strategy.clone(), Ink::Plain),
        (format!("{:.3}", ratios.geo_mean), ink),
        (format!("{:.2}", ratios.p95), Ink::Plain),
        (format!("{:.2}", ratios.worst), Ink::Plain),
        (ratios.worst_seed.to_string(), Ink::Dim),
        (percent(ratios.worse), Ink::Plain),
    ]
}

fn cell_row(cell: &Cell, ink: Ink) -> Vec<(String, Ink)> {
    let show = |estimate: Option<Estimate>, text: fn(f64) -> String| {
        estimate.map_or_else(String::new, |estimate| text(estimate.mean))
    };
    let width = cell
        .e2e_mean
        .filter(|_| cell.seeds.len() > 1)
        .map(|mean| time::text((mean.high - mean.low) / 2.0));
    let failing = cell.errors.is_some_and(|errors| errors.mean > 0.0);
    let number = |number: f64| format!("{number:.1}");
    vec![
        (cell.strategy.clone(), ink),
        (show(cell.e2e_mean, time::text), ink),
        (width.unwrap_or_default(), Ink::Dim),
        (
            cell.ratio
                .map_or_else(String::new, |ratio| format!("{ratio:.2}")),
            ink,
        ),
        (show(cell.e2e_p50, time::text), Ink::Plain),
        (show(cell.e2e_p95, time::text), Ink::Plain),
        (show(cell.e2e_p99, time::text), Ink::Plain),
        (show(cell.ttft_p50, time::text), Ink::Plain),
        (show(cell.ttft_p99, time::text), Ink::Plain),
        (show(cell.tpot_p50, time::text), Ink::Plain),
        (show(cell.goodput, percent), Ink::Plain),
        (
            show(cell.errors, percent),
            if failing { Ink::Bad } else { Ink::Plain },
        ),
        (show(cell.cached_prompt_share, percent), Ink::Plain),
        (show(cell.loads_per_1000, number), Ink::Plain),
        (show(cell.retries_per_1000, number), Ink::Plain),
        (show(cell.jain, |index| format!("{index:.2}")), Ink::Plain),
    ]
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}
