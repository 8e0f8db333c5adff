//! Where the report of a benchmark goes.

use crate::bench::{Report, Slo, Style};
use anyhow::Context as _;
use console::Term;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

/// The name that stands for stdout.
const STDOUT: &str = "-";

/// What all benchmarks take about their report.
#[derive(Debug, clap::Args)]
pub(super) struct Output {
    /// What a good answer keeps: time to first token, and time per further token
    #[arg(long, value_name = "LIMITS", default_value = "ttft=2s,tpot=50ms")]
    pub(super) slo: Slo,
    /// Write the report as JSON, to stdout instead of the table if no file is named
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = STDOUT)]
    json: Option<PathBuf>,
    /// Write the report as one page with charts
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl Output {
    /// Fails before a long run if its report could not be written after it.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let json = self
            .json
            .as_deref()
            .filter(|path| *path != Path::new(STDOUT));
        for path in [json, self.html.as_deref()].into_iter().flatten() {
            let mut open = std::fs::OpenOptions::new();
            open.create(true)
                .append(true)
                .open(path)
                .with_context(|| cannot(path))?;
        }
        Ok(())
    }

    /// Writes the report everywhere it was asked for.
    pub(super) fn write(&self, report: &Report) -> anyhow::Result<()> {
        if let Some(path) = &self.html {
            std::fs::write(path, report.html()?).with_context(|| cannot(path))?;
        }
        let mut text = report.table(style());
        match self.json.as_deref() {
            Some(path) if path == Path::new(STDOUT) => text = report.json()?,
            Some(path) => std::fs::write(path, report.json()?).with_context(|| cannot(path))?,
            None => {}
        }
        // Whoever reads may have read enough.
        let _ = io::stdout().write_all(text.as_bytes());
        Ok(())
    }
}

fn cannot(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

/// A file or a pipe takes lines of any length.
fn style() -> Style {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
    let width = Term::stdout()
        .size_checked()
        .map(|(_, columns)| columns.into());
    Style {
        width: width
            .filter(|_| io::stdout().is_terminal())
            .unwrap_or(usize::MAX),
        color: set("CLICOLOR_FORCE") || (io::stdout().is_terminal() && !set("NO_COLOR")),
    }
}
