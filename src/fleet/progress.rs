//! How several backends get on, told as if there were one: a pure merging of their progress lines.
//!
//! What a backend says is a walk along stations: `pulling manifest`, each file, `verifying sha256 digest`, and so on. The
//! merged story is at the station that the slowest backend has reached, and of a file as much is there as the backend
//! with the least of it has. So lines come in the order of a single server, and nothing runs backwards.

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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    const TOTAL: u64 = 100;

    fn plain(status: &str) -> Station {
        Station {
            status: status.to_owned(),
            file: None,
        }
    }

    fn file(number: usize, completed: u64) -> Station {
        let digest = format!("sha256:{number:012}");
        Station {
            status: format!("pulling {number:012}"),
            file: Some(File {
                digest,
                total: TOTAL,
                completed,
            }),
        }
    }

    fn texts(lines: &[Bytes]) -> Vec<Value> {
        let text = |line: &Bytes| serde_json::from_slice(line).unwrap();
        lines.iter().map(text).collect()
    }

    #[track_caller]
    fn check(line: &str, report: Option<Report>) {
        assert_eq!(Report::read(line.as_bytes()), report, "{line}");
    }

    #[test]
    fn reads_what_a_server_writes() {
        check(r#"{"status":"success"}"#, Some(Report::Success));
        check(r#"{"error":"no"}"#, Some(Report::Error("no".to_owned())));
        check(
            r#"{"status":"writing manifest","more":[]}"#,
            Some(Report::At(plain("writing manifest"))),
        );
        check(
            r#"{"status":"pulling 000000000007","digest":"sha256:000000000007","total":100}"#,
            Some(Report::At(file(7, 0))),
        );
        check(
            r#"{"status":"s","digest":"short","total":1}"#,
            Some(Report::At(plain("s"))),
        );
        for odd in ["", "[]", "{}", "7", "<html>", r#"{"status":7}"#] {
            check(odd, None);
        }
        let long = format!(r#"{{"status":"{}"}}"#, "ä".repeat(TEXT_BYTES));
        assert!(
            matches!(Report::read(long.as_bytes()), Some(Report::At(at)) if at.status.len() <= TEXT_BYTES)
        );
    }

    #[test]
    fn the_first_stop_is_told_at_once_and_the_others_when_all_are_there() {
        let mut progress = Progress::of(2);
        assert_eq!(progress.at(0, plain("one")).len(), 1);
        assert!(progress.at(0, plain("two")).is_empty());
        assert!(progress.at(0, plain("three")).is_empty());
        assert!(progress.at(1, plain("one")).is_empty());
        assert_eq!(
            texts(&progress.at(1, plain("two"))),
            [json!({"status":"two"})]
        );
        assert_eq!(
            texts(&progress.ended(1, false)),
            [json!({"status":"three"})],
            "who failed is not waited for"
        );
    }

    #[test]
    fn who_takes_another_way_holds_nobody_up() {
        let mut progress = Progress::of(2);
        progress.at(0, plain("manifest"));
        progress.at(0, file(1, TOTAL));
        progress.at(0, plain("existing"));
        progress.at(0, plain("writing"));
        progress.at(1, plain("manifest"));
        assert!(progress.at(1, plain("new")).len() == 1);
        let told: Vec<_> = texts(&progress.at(1, plain("writing")))
            .iter()
            .map(|line| line["status"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(told, ["pulling 000000000001", "existing", "writing"]);
    }

    #[test]
    fn there_is_an_end_to_what_is_kept() {
        let mut progress = Progress::of(1);
        for number in 0..2 * STATIONS {
            progress.at(0, file(number, 0));
        }
        assert_eq!(progress.stops.len(), STATIONS);
    }

    /// What one member says of a pull of two files, with any steps in between, some of them backwards.
    fn walk() -> impl Strategy<Value = Vec<Station>> {
        let steps = || prop::collection::vec(0..=TOTAL, 0..6);
        (steps(), steps()).prop_map(|(first, second)| {
            let mut walk = vec![plain("manifest")];
            for (number, steps) in [(1, first), (2, second)] {
                let all = [0].into_iter().chain(steps).chain([TOTAL]);
                walk.extend(all.map(|completed| file(number, completed)));
            }
            walk.extend([plain("verifying"), plain("writing")]);
            walk
        })
    }

    proptest! {
        #[test]
        fn any_interleaving_reads_as_one_server(
            walks in prop::collection::vec(walk(), 1..5),
            ends in prop::collection::vec(prop::option::of(0..10_usize), 4),
            turns in prop::collection::vec(0..4_usize, 0..200),
        ) {
            let members = walks.len();
            let mut progress = Progress::of(members);
            let mut walks: Vec<_> = walks.into_iter().map(|walk| Some(walk.into_iter())).collect();
            let mut told = Vec::new();
            // How much each member has of each file by its own words, and which have ended.
            let mut has = vec![[0, 0]; members];
            let mut said = vec![0; members];
            let mut done = vec![None; members];
            let turns = turns.into_iter().chain((0..members).cycle().take(members * 40));
            for member in turns.map(|turn| turn % members) {
                let Some(walk) = &mut walks[member] else { continue };
                let fails = ends[member].is_some_and(|end| end == said[member]);
                let lines = match walk.next().filter(|_| !fails) {
                    Some(station) => {
                        said[member] += 1;
                        if let Some(file) = &station.file {
                            let at = usize::from(file.digest.ends_with('2'));
                            has[member][at] = file.completed.max(has[member][at]);
                        }
                        progress.at(member, station)
                    }
                    None => {
                        walks[member] = None;
                        done[member] = Some(!fails);
                        progress.ended(member, !fails)
                    }
                };
                for line in texts(&lines) {
                    if let Some(completed) = line["completed"].as_u64() {
                        let at = usize::from(line["digest"].as_str().unwrap().ends_with('2'));
                        for (member, has) in has.iter().enumerate() {
                            prop_assert!(done[member].is_some() || completed <= has[at], "{line}");
                        }
                    }
                    told.push(line);
                }
            }
            prop_assert!(done.iter().all(Option::is_some));
            let mut statuses: Vec<_> = told.iter().map(|line| line["status"].as_str().unwrap()).collect();
            statuses.dedup();
            let order = ["manifest", "pulling 000000000001", "pulling 000000000002", "verifying", "writing"];
            if done.contains(&Some(true)) {
                prop_assert_eq!(&statuses[..], &order[..]);
            } else {
                prop_assert_eq!(&statuses[..], &order[..statuses.len()]);
            }
            for file in &order[1..3] {
                let of = told.iter().filter(|line| line["status"] == *file);
                let completed: Vec<_> = of.map(|line| line["completed"].as_u64().unwrap()).collect();
                prop_assert!(completed.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", completed);
                if done.contains(&Some(true)) {
                    prop_assert_eq!(completed.last(), Some(&TOTAL));
                }
            }
        }
    }
}
