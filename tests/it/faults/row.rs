//! One row: a fault, what is asked, and what comes of it.

use super::node::{End, Fault};
use super::run::Fleet;
use crate::support::client::Answer;

/// What is asked of a faulty node.
#[derive(Debug, Clone, Copy)]
pub enum Ask {
    /// Text from Ollama's own API.
    Chat,
    /// Text as events.
    Events,
    /// Something that may not be asked twice.
    Once,
    /// The same with a long body, which is written to its end before anything is read.
    Upload,
    /// Text for a prompt that fills every buffer.
    Large,
}

/// What the client gets.
#[derive(Debug, Clone, PartialEq)]
pub enum Expected {
    /// A good answer.
    Served,
    /// This answer of the faulty node, whole.
    Whole(u16, &'static str),
    /// An error of the proxy.
    Refused(u16),
    /// The beginning of an answer, a record of an error with this in it, and a cut.
    Broken(&'static str),
    /// So much of an answer and a cut.
    Short(&'static str),
    /// Nothing, until it leaves.
    Hangs,
}

/// One fault.
#[derive(Debug)]
pub struct Row {
    pub name: &'static str,
    pub fault: Fault,
    pub ask: Ask,
    /// Configuration besides the fleet.
    pub keys: &'static str,
    pub alone: Expected,
    pub with_second: Expected,
    pub only_holder: Expected,
    /// Whether it is held against the node.
    pub is_blamed: bool,
}

impl Expected {
    /// Status and class in the log.
    pub fn logged(&self) -> (Option<u64>, &'static str) {
        match self {
            Self::Served => (Some(200), "complete"),
            Self::Whole(status, _) => (Some(u64::from(*status)), "complete"),
            Self::Refused(status) => (Some(u64::from(*status)), "refused"),
            Self::Broken(_) | Self::Short(_) => (Some(200), "backend_broke"),
            Self::Hangs => (None, "client_gone"),
        }
    }

    /// Looks at an answer that no healthy node gave.
    #[track_caller]
    pub fn check(&self, answer: &Answer) {
        // What a node says to its next hop alone, or that its answer names as such.
        for name in [
            "keep-alive",
            "proxy-authenticate",
            "proxy-connection",
            "trailer",
            "upgrade",
            "x-secret",
        ] {
            assert_eq!(answer.header(name), None, "{answer:?}");
        }
        // One length for all who read it.
        let framings = ["content-length", "transfer-encoding"].map(|name| answer.header(name));
        assert_ne!(framings.map(|it| it.is_some()), [true, true], "{answer:?}");
        let (status, body) = (answer.status, answer.body.as_str());
        match self {
            Self::Served | Self::Hangs => panic!("{answer:?}"),
            Self::Whole(wanted, text) => {
                assert_eq!(
                    (status, answer.whole, body),
                    (*wanted, true, *text),
                    "{answer:?}"
                );
            }
            Self::Refused(wanted) => {
                assert_eq!((status, answer.whole), (*wanted, true), "{answer:?}");
                assert!(answer.json()["error"].is_string(), "{answer:?}");
            }
            Self::Broken(record) => {
                assert_eq!((status, answer.whole), (200, false), "{answer:?}");
                assert!(body.contains(record), "{answer:?}");
            }
            Self::Short(text) => {
                assert_eq!(
                    (status, answer.whole, body),
                    (200, false, *text),
                    "{answer:?}"
                );
            }
        }
    }
}

impl Row {
    /// What is expected in a fleet.
    pub fn expected(&self, fleet: Fleet) -> &Expected {
        match fleet {
            Fleet::Alone => &self.alone,
            Fleet::WithSecond => &self.with_second,
            Fleet::OnlyHolder => &self.only_holder,
        }
    }

    /// Whether nothing on the node works, checks included.
    pub fn is_of_node(&self) -> bool {
        matches!(self.fault, Fault::Refuses | Fault::Nameless | Fault::Deaf)
    }

    pub fn is_nameless(&self) -> bool {
        matches!(self.fault, Fault::Nameless)
    }

    pub fn asking(mut self, ask: Ask) -> Self {
        self.ask = ask;
        self
    }

    pub fn with(mut self, keys: &'static str) -> Self {
        self.keys = keys;
        self
    }

    pub fn unblamed(mut self) -> Self {
        self.is_blamed = false;
        self
    }
}

/// A fault before any answer: another node answers instead, and where there is none, the proxy says what was wrong.
pub fn lost(name: &'static str, fault: Fault) -> Row {
    Row {
        name,
        fault,
        ask: Ask::Chat,
        keys: "",
        alone: Expected::Refused(502),
        with_second: Expected::Served,
        only_holder: Expected::Refused(502),
        is_blamed: true,
    }
}

/// A fault of which the client gets the same whoever else is there.
pub fn same(name: &'static str, fault: Fault, expected: Expected) -> Row {
    Row {
        alone: expected.clone(),
        with_second: expected.clone(),
        only_holder: expected,
        ..lost(name, fault)
    }
}

/// No fault for the client: it gets this answer.
pub fn passes(name: &'static str, fault: Fault, status: u16, body: &'static str) -> Row {
    same(name, fault, Expected::Whole(status, body)).unblamed()
}

pub fn says(text: impl Into<Vec<u8>>, end: End) -> Fault {
    Fault::Says(text.into(), end)
}

/// A whole answer of five bytes with these header lines.
pub fn five(headers: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{headers}content-length: 5\r\n\r\n[1,2]"
    )
}
