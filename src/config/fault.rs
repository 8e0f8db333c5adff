//! What is wrong with a configuration: every fault with its place, shown the way rustc shows errors.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use std::fmt::{self, Write};
use std::ops::Range;
use std::sync::Arc;

/// Faults shown in full; a file with more is not a configuration gone slightly wrong.
const SHOWN: usize = 50;

/// Longest message, in characters: it may quote what a file says.
const MESSAGE_CHARS: usize = 300;

/// A text that configuration was read from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Text {
    /// What users call it: a path, or a flag and its variable.
    pub name: String,
    pub content: String,
}

/// Bytes of a [`Text`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub text: Arc<Text>,
    pub span: Range<usize>,
}

impl Place {
    pub(super) fn new(text: &Arc<Text>, span: Range<usize>) -> Self {
        Self {
            text: Arc::clone(text),
            span,
        }
    }

    /// Line and column, both from 1; a column is a character.
    fn position(&self) -> (usize, usize) {
        let content = &self.text.content;
        let before = content.get(..self.span.start).unwrap_or(content);
        let line = before.rsplit('\n').next().unwrap_or(before);
        (before.matches('\n').count() + 1, line.chars().count() + 1)
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    message: String,
    place: Option<Place>,
    label: Option<String>,
    related: Option<(Place, String)>,
    help: Vec<String>,
}

impl Fault {
    pub(super) fn new(message: impl Into<String>) -> Self {
        let mut message = message.into();
        if let Some((end, _)) = message.char_indices().nth(MESSAGE_CHARS) {
            message.truncate(end);
            message.push('…');
        }
        Self {
            message,
            place: None,
            label: None,
            related: None,
            help: Vec::new(),
        }
    }

    pub(super) fn at(self, place: Place) -> Self {
        Self {
            place: Some(place),
            ..self
        }
    }

    /// Says something right at the place.
    pub(super) fn label(self, label: impl Into<String>) -> Self {
        Self {
            label: Some(label.into()),
            ..self
        }
    }

    /// A second place that has to do with it.
    pub(super) fn related(self, place: Place, label: impl Into<String>) -> Self {
        Self {
            related: Some((place, label.into())),
            ..self
        }
    }

    /// What to do about it; may be said more than once.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    pub(super) fn render(&self, color: bool) -> String {
        let renderer = if color {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let mut group = Level::ERROR.primary_title(&self.message).elements(
            self.snippets(), // none for what is not in a text
        );
        for help in &self.help {
            group = group.element(Level::HELP.message(help));
        }
        renderer.render(&[group])
    }

    fn order(&self) -> (bool, &str, usize) {
        match &self.place {
            Some(place) => (false, &place.text.name, place.span.start),
            None => (true, "", 0),
        }
    }

    fn snippets(&self) -> Vec<Snippet<'_, annotate_snippets::Annotation<'_>>> {
        let Some(place) = &self.place else {
            return Vec::new();
        };
        let primary = AnnotationKind::Primary
            .span(place.span.clone())
            .label(self.label.as_deref());
        let first = snippet(&place.text).annotation(primary);
        let Some((other, label)) = &self.related else {
            return vec![first];
        };
        let context = AnnotationKind::Context
            .span(other.span.clone())
            .label(label.as_str());
        if other.text == place.text {
            vec![first.annotation(context)]
        } else {
            vec![first, snippet(&other.text).annotation(context)]
        }
    }
}

fn snippet(text: &Text) -> Snippet<'_, annotate_snippets::Annotation<'_>> {
    Snippet::source(&text.content).path(&text.name)
}

/// One line: `file:line:column: message (help)`.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            let (line, column) = place.position();
            write!(f, "{}:{line}:{column}: ", place.text.name.escape_debug())?;
        }
        f.write_str(&self.message)?;
        let hints: Vec<_> = self
            .label
            .iter()
            .chain(&self.help)
            .map(String::as_str)
            .collect();
        if hints.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", hints.join("; "))
    }
}

/// Everything that is wrong, never nothing, in the order of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// `None` if nothing is wrong.
    pub(super) fn collect(mut faults: Vec<Fault>) -> Option<Self> {
        // Stable, and what has no place comes last.
        faults.sort_by(|a, b| a.order().cmp(&b.order()));
        (!faults.is_empty()).then_some(Self(faults))
    }

    /// How many there are, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// One at a time; each shows itself in one line, for logs.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Fault> {
        self.0.iter()
    }

    /// All faults with the lines they are in, for people; coloured for a terminal if asked.
    pub fn render(&self, color: bool) -> String {
        let mut shown = String::new();
        for fault in self.0.iter().take(SHOWN) {
            shown += &fault.render(color);
            shown += "\n\n";
        }
        if let Some(more) = self.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            // Writing to a string cannot fail.
            let _ = write!(shown, "and {more} more");
        }
        shown.truncate(shown.trim_end().len());
        shown
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Faults {}
