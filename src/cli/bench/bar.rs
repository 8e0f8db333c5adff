//! The progress of a benchmark.

use crate::bench::live::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::convert::Infallible;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// How often the bar moves.
const TICK: Duration = Duration::from_millis(100);

/// A bar of so many requests. It draws on a terminal only.
pub(super) fn new(requests: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(requests as u64), ProgressDrawTarget::stderr());
    let template = "{elapsed:>4} {wide_bar:.cyan/blue} {pos}/{len} {msg}";
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style.progress_chars("━╸─")),
        Err(_) => bar,
    }
}

/// Moves the bar, for as long as it is polled.
pub(super) async fn follow(bar: &ProgressBar, progress: &Progress) -> Infallible {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
        let ended = progress.ended.load(Relaxed);
        let open = progress.sent.load(Relaxed).saturating_sub(ended);
        bar.set_position(ended as u64);
        bar.set_message(format!(
            "{open} open, {} failed",
            progress.failed.load(Relaxed)
        ));
    }
}
