//! Everything that can be wrong with a backend: a table, each row run in three fleets.
//!
//! Whatever the fault and the fleet: no panic, every descriptor, task and place is given back, the processor rests, the
//! next request is answered, other traffic does not notice, and the log has one line of the right class.

mod coming; // nodes that go and come back
mod node; // a node that does one thing wrong
mod row; // a fault, what is asked, and what comes of it
mod rows; // all of them
mod run; // one fault in one fleet
mod watched; // a proxy at work, and what of it must come to rest again

use run::Fleet;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use watched::Place;

/// Rows at one time: most of a row is waiting.
const AT_ONCE: usize = 12;

/// Runs all rows in a fleet, and names those that fail.
async fn check(fleet: Fleet, place: Place) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    let mut names = HashMap::new();
    for row in rows::all() {
        let (room, name) = (Arc::clone(&room), row.name);
        let task = running.spawn(async move {
            let _place = room.acquire().await.unwrap();
            run::run(&row, fleet, place).await;
        });
        names.insert(task.id(), name);
    }
    let mut failed = Vec::new();
    while let Some(ended) = running.join_next().await {
        if let Err(error) = ended {
            failed.push(names[&error.id()]);
        }
    }
    assert!(failed.is_empty(), "{fleet:?}: {failed:#?}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_faulty_node_alone() {
    check(Fleet::Alone, Place::Process).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_faulty_node_with_a_healthy_one() {
    check(Fleet::WithSecond, Place::Process).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_faulty_node_that_alone_holds_the_model() {
    check(Fleet::OnlyHolder, Place::Process).await;
}

#[tokio::test]
async fn no_fault_leaves_a_task_behind() {
    check(Fleet::WithSecond, Place::Here).await;
}
