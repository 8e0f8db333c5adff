//! Aligned columns in a terminal.

/// Columns of the terminal between two of a grid.
const GAP: usize = 2;

/// How it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Columns of the terminal; what does not fit is left out from the right.
    pub width: usize,
    /// Whether colours are understood and wanted.
    pub color: bool,
}

/// What a text looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ink {
    Plain,
    Bold,
    Dim,
    Good,
    Bad,
}

impl Style {
    /// A text in a colour, if colours are wanted.
    pub(super) fn paint(self, ink: Ink, text: &str) -> String {
        let code = match ink {
            Ink::Bold => "1",
            Ink::Dim => "2",
            Ink::Good => "32",
            Ink::Bad => "31",
            Ink::Plain => "",
        };
        if self.color && !code.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Rows of cells under a head. The first column is left-aligned, the others are right-aligned.
pub(super) struct Grid {
    head: Vec<String>,
    pub(super) rows: Vec<Vec<(String, Ink)>>,
}

impl Grid {
    pub(super) fn new(head: &[&str]) -> Self {
        Self {
            head: head.iter().map(|&title| title.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// Columns that have nothing in any row are not shown.
    fn widths(&self) -> Vec<usize> {
        let column = |(at, title): (usize, &String)| {
            let cells = self.rows.iter().filter_map(|row| row.get(at));
            let widest = cells.map(|(text, _)| text.chars().count()).max();
            match widest.unwrap_or(0) {
                0 => 0,
                widest => widest.max(title.chars().count()),
            }
        };
        self.head.iter().enumerate().map(column).collect()
    }

    /// Writes what fits the width.
    pub(super) fn write(&self, style: Style, to: &mut String) {
        let mut left = style.width;
        let mut fits = true;
        let widths: Vec<usize> = self
            .widths()
            .into_iter()
            .map(|width| {
                fits &= width <= left;
                left = left.saturating_sub(width + GAP);
                if fits { width } else { 0 }
            })
            .collect();
        let head = self.head.iter().map(|title| (title.clone(), Ink::Dim));
        let head: Vec<_> = head.collect();
        for row in std::iter::once(&head).chain(&self.rows) {
            let mut line = String::new();
            for (at, ((text, ink), &width)) in row.iter().zip(&widths).enumerate() {
                if width == 0 {
                    continue;
                }
                let pad = " ".repeat(width.saturating_sub(text.chars().count()));
                let gap = " ".repeat(if at == 0 { 0 } else { GAP });
                let text = style.paint(*ink, text);
                if at == 0 {
                    line += &format!("{text}{pad}");
                } else {
                    line += &format!("{gap}{pad}{text}");
                }
            }
            *to += line.trim_end();
            to.push('\n');
        }
    }
}
