//! A report as one page that needs nothing else: its style, its script and its data are in it.

use super::report::Report;
use super::series::Series;
use serde::Serialize;

const PAGE: &str = include_str!("report.html");
const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

/// What the page's script draws from.
#[derive(Serialize)]
struct Data<'a> {
    #[serde(flatten)]
    report: &'a Report,
    series: &'a Option<Series>,
}

impl Report {
    /// The report as a page.
    ///
    /// # Errors
    /// Never for a report made by [`Report::new`]; serde leaves the possibility open.
    pub fn html(&self) -> serde_json::Result<String> {
        let data = serde_json::to_string(&Data {
            report: self,
            series: &self.series,
        })?;
        let title = self.title.replace('&', "&amp;").replace('<', "&lt;");
        // The data go last, so that nothing in them is taken for a placeholder.
        Ok(PAGE
            .replace("{{title}}", &title)
            .replace("{{style}}", STYLE)
            .replace("{{script}}", SCRIPT)
            // In JSON a "<" only stands in strings; escaped, it cannot end the script element.
            .replacen("{{data}}", &data.replace('<', "\\u003c"), 1))
    }
}
