//! What a node saw: one record per inference request.

use super::door::Cut;
use bytes::Bytes;
use http::HeaderMap;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio::time::Instant;

/// Records kept; the oldest go first.
const RECORDS: usize = 4096;
/// Bytes of request bodies kept in all records together.
const BODY_BYTES: usize = 256 << 20;

/// An inference request as the node saw it.
#[derive(Debug, Clone)]
pub struct Record {
    /// The path, without the query.
    pub path: String,
    /// The model as the client wrote it; empty if there was none.
    pub model: String,
    /// The body, byte for byte.
    pub body: Bytes,
    /// The headers, names in lower case.
    pub headers: HeaderMap,
    /// Whether the answer was handed over to its end.
    pub completed: bool,
    /// When the client was found to have left before that. `None` too if a fault cut the connection.
    pub client_gone: Option<Instant>,
}

/// The records of one node.
#[derive(Debug)]
pub(super) struct Log {
    kept: Mutex<Kept>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Kept {
    records: VecDeque<Record>,
    /// Number of the oldest record that is kept.
    first: u64,
    bytes: usize,
    in_flight: usize,
}

impl Log {
    pub(super) fn new() -> Self {
        Self {
            kept: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn records(&self) -> Vec<Record> {
        self.kept().records.iter().cloned().collect()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.kept().in_flight
    }

    /// Ends when the records are as wanted.
    pub(super) async fn until(&self, mut wanted: impl FnMut(&[Record]) -> bool) {
        let mut changes = self.changed.subscribe();
        while !wanted(&self.records()) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Begins a record, which stays open until what is returned is dropped.
    pub(super) fn begin(self: &Arc<Self>, record: Record, cut: Arc<Cut>) -> Seen {
        let mut kept = self.kept();
        kept.bytes += record.body.len();
        kept.records.push_back(record);
        kept.in_flight += 1;
        while kept.records.len() > RECORDS || (kept.bytes > BODY_BYTES && kept.records.len() > 1) {
            let oldest = kept.records.pop_front();
            kept.bytes -= oldest.map_or(0, |oldest| oldest.body.len());
            kept.first += 1;
        }
        let number = kept.first + kept.records.len() as u64 - 1;
        drop(kept);
        self.changed.send_replace(());
        Seen {
            log: Arc::clone(self),
            cut,
            number,
            completed: false,
        }
    }
}

/// An open record. It is dropped with the answer it belongs to, and so learns how that ended.
#[derive(Debug)]
pub(super) struct Seen {
    log: Arc<Log>,
    cut: Arc<Cut>,
    number: u64,
    completed: bool,
}

impl Seen {
    pub(super) fn complete(mut self) {
        self.completed = true;
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        let mut kept = self.log.kept();
        kept.in_flight -= 1;
        let place = self.number.checked_sub(kept.first);
        let place = place.and_then(|place| usize::try_from(place).ok());
        if let Some(record) = place.and_then(|place| kept.records.get_mut(place)) {
            record.completed = self.completed;
            if !self.completed && !self.cut.is_pulled() {
                record.client_gone = Some(Instant::now());
            }
        }
        drop(kept);
        self.log.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(bytes: usize) -> Record {
        Record {
            path: "/api/chat".to_owned(),
            model: String::new(),
            body: Bytes::from(vec![0; bytes]),
            headers: HeaderMap::new(),
            completed: false,
            client_gone: None,
        }
    }

    #[test]
    fn the_oldest_records_go_first() {
        let log = Arc::new(Log::new());
        let cut = Arc::new(Cut::default());
        let mut open: Vec<Seen> = (0..=RECORDS)
            .map(|_| log.begin(record(1), Arc::clone(&cut)))
            .collect();
        assert_eq!(
            (log.records().len(), log.in_flight()),
            (RECORDS, RECORDS + 1)
        );
        open.remove(1).complete();
        drop(open.remove(0));
        let completed = log
            .records()
            .iter()
            .filter(|record| record.completed)
            .count();
        assert!(log.records()[0].completed && completed == 1);
        let _large = log.begin(record(BODY_BYTES), cut);
        assert_eq!(log.records().len(), 1);
        drop(open);
        assert_eq!(log.in_flight(), 1);
    }
}
