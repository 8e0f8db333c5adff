//! A flag of the command line, or its environment variable, as a text that values and faults have places in.

use super::fault::Text;
use super::value::Node;
use std::ops::Range;
use std::sync::Arc;
use toml::de::{DeArray, DeValue};

/// What was given for one setting.
pub(super) struct Flag<'f> {
    /// Without the dashes.
    pub name: &'static str,
    pub variable: &'static str,
    /// What separates items of a list.
    pub separators: &'static [char],
    pub values: &'f [String],
}

impl Flag<'_> {
    /// The text as it could have been typed, and where its items are. An empty value, as compose files leave behind for
    /// variables that are not set, has none.
    pub(super) fn items(&self) -> (Arc<Text>, Vec<Range<usize>>) {
        let mut content = String::new();
        let mut items = Vec::new();
        for value in self.values {
            if !content.is_empty() {
                content.push(' ');
            }
            content.extend(["--", self.name, " "]);
            for part in value.split_inclusive(self.separators) {
                let start = content.len() + part.len() - part.trim_start().len();
                let item = part.trim_end_matches(self.separators).trim();
                if !item.is_empty() {
                    items.push(start..start + item.len());
                }
                content += part;
            }
        }
        let name = format!("command line or {}", self.variable);
        (Arc::new(Text { name, content }), items)
    }
}

/// Part of a text as a string.
pub(super) fn node(text: &Text, span: Range<usize>) -> Node<'_> {
    let part = text.content.get(span.clone()).unwrap_or_default();
    Node::new(span, DeValue::String(part.into()))
}

/// Parts of a text as a list of strings.
pub(super) fn list<'t>(text: &'t Text, items: &[Range<usize>]) -> Node<'t> {
    let mut list = DeArray::new();
    for item in items {
        list.push(node(text, item.clone()));
    }
    Node::new(0..text.content.len(), DeValue::Array(list))
}
