//! What is told of what members say, case by case and over random interleavings.

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
fn check(line: &str, report: Option<&Report>) {
    assert_eq!(Report::read(line.as_bytes()).as_ref(), report, "{line}");
}

#[test]
fn reads_what_a_server_writes() {
    check(r#"{"status":"success"}"#, Some(&Report::Success));
    check(r#"{"error":"no"}"#, Some(&Report::Error("no".to_owned())));
    check(
        r#"{"status":"writing manifest","more":[]}"#,
        Some(&Report::At(plain("writing manifest"))),
    );
    check(
        r#"{"status":"pulling 000000000007","digest":"sha256:000000000007","total":100}"#,
        Some(&Report::At(file(7, 0))),
    );
    check(
        r#"{"status":"s","digest":"short","total":1}"#,
        Some(&Report::At(plain("s"))),
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
            let lines = if let Some(station) = walk.next().filter(|_| !fails) {
                said[member] += 1;
                if let Some(file) = &station.file {
                    let at = usize::from(file.digest.ends_with('2'));
                    has[member][at] = file.completed.max(has[member][at]);
                }
                progress.at(member, station)
            } else {
                walks[member] = None;
                done[member] = Some(!fails);
                progress.ended(member, !fails)
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
