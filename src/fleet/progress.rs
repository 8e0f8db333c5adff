//! How several backends get on, told as if there were one: a pure merging of their progress lines.
//!
//! What a backend says is a walk along stations: `pulling manifest`, each file, `verifying sha256 digest`, and so on. The
//! merged story is at the station that the slowest backend has reached, and of a file as much is there as the backend
//! with the least of it has. So lines come in the order of a single server, and nothing runs backwards.

#[cfg(test)]
mod tests;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

/// Different lines that are told apart; what comes on top is not shown.
const STATIONS: usize = 4096;
/// The longest status or error text that is kept, in bytes.
const TEXT_BYTES: usize = 16 << 10;
/// Clients cut a piece of this length out of a digest, and fall over a shorter one.
const DIGEST_BYTES: usize = 19;

/// What one line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// A station, and how far the file of this digest is there.
    At(Station),
    /// `success`, which holds only if nothing follows.
    Success,
    /// It has failed.
    Error(String),
}

/// A step of the work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Station {
    status: String,
    file: Option<File>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct File {
    digest: String,
    total: u64,
    completed: u64,
}

impl Report {
    /// Reads a line. `None` if it is no JSON object, or has neither a status nor an error.
    pub fn read(line: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Line {
            status: Option<String>,
            error: Option<String>,
            digest: Option<String>,
            total: Option<u64>,
            completed: Option<u64>,
        }
        let line: Line = serde_json::from_slice(line).ok()?;
        if let Some(error) = line.error {
            return Some(Self::Error(cut(error)));
        }
        let status = line.status?;
        if status == "success" {
            return Some(Self::Success);
        }
        let digest = line.digest.filter(|digest| digest.len() >= DIGEST_BYTES);
        let file = digest.map(|digest| File {
            digest: cut(digest),
            total: line.total.unwrap_or(0),
            completed: line.completed.unwrap_or(0),
        });
        let status = cut(status);
        Some(Self::At(Station { status, file }))
    }
}

fn cut(mut text: String) -> String {
    let mut end = TEXT_BYTES.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// The merged story so far.
#[derive(Debug)]
pub struct Progress {
    stops: Vec<Stop>,
    members: Vec<Member>,
    /// Stops that were told.
    shown: usize,
}

#[derive(Debug, Clone, Copy)]
struct Member {
    /// Stops that it has reached or passed.
    reached: usize,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Working,
    Done,
    Failed,
}

#[derive(Debug)]
struct Stop {
    status: String,
    file: Option<Shared>,
}

#[derive(Debug)]
struct Shared {
    digest: String,
    total: u64,
    /// How much each member said that it has.
    completed: Vec<Option<u64>>,
    told: Option<u64>,
}

impl Progress {
    /// Nothing was said yet by so many members.
    pub fn of(members: usize) -> Self {
        let member = Member {
            reached: 0,
            stage: Stage::Working,
        };
        Self {
            stops: Vec::new(),
            members: vec![member; members],
            shown: 0,
        }
    }

    /// Takes in what a member says, and returns the lines to tell.
    pub fn at(&mut self, member: usize, station: Station) -> Vec<Bytes> {
        let Some(at) = self.place(member, station) else {
            return Vec::new();
        };
        let mut lines = Vec::new();
        if at < self.shown {
            lines.extend(self.tell_more(at));
        }
        self.show(&mut lines);
        lines
    }

    /// Takes in that a member has ended, well or not, and returns the lines to tell.
    pub fn ended(&mut self, member: usize, well: bool) -> Vec<Bytes> {
        if let Some(member) = self.members.get_mut(member) {
            member.stage = if well { Stage::Done } else { Stage::Failed };
        }
        // The others may be further than it was.
        let mut lines: Vec<_> = (0..self.shown)
            .filter_map(|at| self.tell_more(at))
            .collect();
        self.show(&mut lines);
        lines
    }

    /// Finds or makes the stop of a station, and notes that the member is there.
    fn place(&mut self, member: usize, station: Station) -> Option<usize> {
        let members = self.members.len();
        let reached = self.members.get(member)?.reached;
        let digest = station.file.as_ref().map(|file| &file.digest);
        let known = self.stops.iter().position(|stop| {
            stop.status == station.status
                && stop.file.as_ref().map(|shared| &shared.digest) == digest
        });
        let at = match known {
            Some(at) => at,
            None if self.stops.len() == STATIONS => return None,
            None => {
                // Right after where the member is; nothing was told yet of what comes behind that.
                let stop = Stop {
                    status: station.status,
                    file: station.file.as_ref().map(|file| Shared {
                        digest: file.digest.clone(),
                        total: file.total,
                        completed: vec![None; members],
                        told: None,
                    }),
                };
                let at = reached.max(self.shown);
                self.stops.insert(at, stop);
                for other in &mut self.members {
                    other.reached += usize::from(other.reached > at);
                }
                at
            }
        };
        if let (Some(shared), Some(file)) = (self.stops.get_mut(at)?.file.as_mut(), station.file) {
            shared.total = shared.total.max(file.total);
            *shared.completed.get_mut(member)? = Some(file.completed);
        }
        let member = self.members.get_mut(member)?;
        member.reached = member.reached.max(at + 1);
        Some(at)
    }

    /// Tells the stops that all members at work have reached. The very first is told at once: it says that work began.
    fn show(&mut self, lines: &mut Vec<Bytes>) {
        let working = self
            .members
            .iter()
            .filter(|member| member.stage == Stage::Working);
        let done = self
            .members
            .iter()
            .any(|member| member.stage == Stage::Done);
        let common = working.map(|member| member.reached).min();
        let common = common.unwrap_or(if done { self.stops.len() } else { 0 });
        let until = common.max(1).min(self.stops.len());
        while self.shown < until {
            let at = self.shown;
            self.shown += 1;
            match self.stops.get(at) {
                Some(Stop { status, file: None }) => lines.push(line(&json!({ "status": status }))),
                _ => lines.extend(self.tell_more(at)),
            }
        }
    }

    /// The line of a file that was told less of, or nothing.
    fn tell_more(&mut self, at: usize) -> Option<Bytes> {
        let Stop {
            status,
            file: Some(shared),
        } = self.stops.get_mut(at)?
        else {
            return None;
        };
        let has = |(member, said): (&Member, &Option<u64>)| match (member.stage, said) {
            (Stage::Done | Stage::Failed, _) => None,
            (Stage::Working, Some(said)) => Some(*said),
            // It went on without a word of this file, so it has no need of it.
            (Stage::Working, None) => Some(if member.reached > at { shared.total } else { 0 }),
        };
        let least = self
            .members
            .iter()
            .zip(&shared.completed)
            .filter_map(has)
            .min();
        let done = self
            .members
            .iter()
            .any(|member| member.stage == Stage::Done);
        let completed = match least {
            Some(least) => least.min(shared.total),
            None if done => shared.total,
            None => return None,
        };
        if shared.told.is_some_and(|told| completed <= told) {
            return None;
        }
        shared.told = Some(completed);
        let (digest, total) = (&shared.digest, shared.total);
        Some(line(
            &json!({ "status": status, "digest": digest, "total": total, "completed": completed }),
        ))
    }
}

/// The last line of work that all members have done.
pub fn success() -> Bytes {
    line(&json!({ "status": "success" }))
}

/// The last line of work that failed.
pub fn failure(text: &str) -> Bytes {
    line(&json!({ "error": text }))
}

fn line(value: &serde_json::Value) -> Bytes {
    format!("{value}\n").into()
}
