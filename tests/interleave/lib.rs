//! No room that comes free is slept through, no count of requests in flight is wrong, and no task misses what woke it,
//! whatever the order.
//!
//! The bell and the wakers of a connection are the real ones. What it stands between is kept to the steps that touch shared memory: a lease, as the pool
//! counts it, and the line before the fleet, as the queue keeps it.

#![cfg(test)]

#[path = "../../src/pool/bell.rs"]
mod bell;
mod sync;
#[path = "../../src/server/waking.rs"]
mod waking;

use bell::Bell;
use loom::future::block_on;
use loom::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use loom::sync::{Arc, Mutex};
use loom::thread;
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use sync::Notify;
use waking::{Eager, Lazy};

/// A node with so many slots, and those who wait for one.
struct Fleet {
    bell: Bell,
    slots: usize,
    /// What the node is known to work on, under its lock.
    at_work: Mutex<usize>,
    in_flight: AtomicUsize,
    line: Mutex<Line>,
}

#[derive(Default)]
struct Line {
    waiting: usize,
    admitted: usize,
}

impl Fleet {
    /// One on which all slots are taken.
    fn full(slots: usize) -> Arc<Self> {
        Arc::new(Self {
            bell: Bell::default(),
            slots,
            at_work: Mutex::new(slots),
            in_flight: AtomicUsize::new(slots),
            line: Mutex::default(),
        })
    }

    fn lock<'a, T>(mutex: &'a Mutex<T>) -> loom::sync::MutexGuard<'a, T> {
        mutex.lock().expect("nobody panics")
    }

    fn has_room(&self) -> bool {
        *Self::lock(&self.at_work) < self.slots
    }

    /// Takes a slot, as a choice does.
    fn lease(&self) {
        *Self::lock(&self.at_work) += 1;
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// Gives one back, as the drop of a lease does.
    fn release(&self) {
        *Self::lock(&self.at_work) -= 1;
        let before = self.in_flight.fetch_sub(1, Relaxed);
        assert!(before > 0, "less than none in flight");
        self.bell.ring();
    }

    /// Joins the line, as a request does that finds no room.
    fn join(&self) {
        let mut line = Self::lock(&self.line);
        let was_empty = line.waiting == 0;
        line.waiting += 1;
        self.bell.set_waiting(line.waiting);
        if was_empty {
            self.bell.ring();
        }
        if self.has_room() {
            self.settle(&mut line);
        }
    }

    /// Gives up a place that is still held.
    fn leave(&self) {
        let mut line = Self::lock(&self.line);
        if line.waiting > 0 {
            line.waiting -= 1;
            self.bell.set_waiting(line.waiting);
        }
    }

    fn settle(&self, line: &mut Line) {
        while line.waiting > 0 && self.has_room() {
            self.lease();
            line.waiting -= 1;
            line.admitted += 1;
        }
        self.bell.set_waiting(line.waiting);
    }

    /// Gives room away whenever it rings, until so many were admitted.
    fn run(&self, until: usize) {
        loop {
            block_on(self.bell.rung());
            let mut line = Self::lock(&self.line);
            self.settle(&mut line);
            if line.admitted >= until {
                return;
            }
        }
    }

    /// Whether who listened now would hear it.
    fn is_rung(&self) -> bool {
        let mut rung = pin!(self.bell.rung());
        let mut cx = Context::from_waker(Waker::noop());
        rung.as_mut().poll(&mut cx).is_ready()
    }

    /// Ends the leases of all who were admitted, and asserts that nothing is left.
    fn finish(&self) {
        let admitted = Self::lock(&self.line).admitted;
        (0..admitted).for_each(|_| self.release());
        assert_eq!(self.in_flight.load(Relaxed), 0);
        assert_eq!(*Self::lock(&self.at_work), 0);
    }
}

/// Tries every order of a model's steps, but for those that preempt threads more often than finds anything.
fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// The queue's task waits for the bell and is woken by whatever comes free; loom fails if it sleeps for ever.
#[test]
fn room_that_comes_free_wakes_who_waits() {
    check(|| {
        let fleet = Fleet::full(1);
        let freeing = Arc::clone(&fleet);
        let waiting = Arc::clone(&fleet);
        let free = thread::spawn(move || freeing.release());
        let wait = thread::spawn(move || waiting.join());
        // Whoever admitted it, the bell has rung: once for the line, or for the room.
        fleet.run(1);
        free.join().expect("no panic");
        wait.join().expect("no panic");
        fleet.finish();
    });
}

#[test]
fn two_slots_that_come_free_at_once_are_both_given_away() {
    check(|| {
        let fleet = Fleet::full(2);
        fleet.join();
        fleet.join();
        let frees: Vec<_> = (0..2)
            .map(|_| {
                let fleet = Arc::clone(&fleet);
                thread::spawn(move || fleet.release())
            })
            .collect();
        fleet.run(2);
        for free in frees {
            free.join().expect("no panic");
        }
        fleet.finish();
    });
}

#[test]
fn who_leaves_takes_no_room_and_leaves_no_count() {
    check(|| {
        let fleet = Fleet::full(1);
        fleet.join();
        let freeing = Arc::clone(&fleet);
        let leaving = Arc::clone(&fleet);
        let free = thread::spawn(move || freeing.release());
        let leave = thread::spawn(move || leaving.leave());
        free.join().expect("no panic");
        leave.join().expect("no panic");
        let mut line = Fleet::lock(&fleet.line);
        fleet.settle(&mut line);
        assert_eq!(line.waiting, 0);
        drop(line);
        fleet.finish();
    });
}

/// Without the second look after the line is joined, some order loses room: which shows that loom tries that order.
#[test]
fn without_a_second_look_room_would_be_slept_through() {
    static LOST: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    check(|| {
        let fleet = Fleet::full(1);
        let freeing = Arc::clone(&fleet);
        let free = thread::spawn(move || freeing.release());
        let is_full = !fleet.has_room();
        if is_full {
            fleet.bell.set_waiting(1);
        }
        free.join().expect("no panic");
        if is_full && !fleet.is_rung() {
            LOST.store(true, Relaxed);
        }
    });
    assert!(LOST.load(Relaxed));
}

/// Polls with a copy of loom's waker: the original does not know its copies for what they are.
fn same<R>(waker: &Waker, poll: impl FnOnce(&mut Context<'_>) -> R) -> R {
    poll(&mut Context::from_waker(&waker.clone()))
}

/// What another thread wakes, one after the other.
fn woken_twice() -> (Arc<[Notify; 2]>, thread::JoinHandle<()>) {
    let notifies = Arc::new([Notify::default(), Notify::default()]);
    let waking = Arc::clone(&notifies);
    let wake = thread::spawn(move || waking.iter().for_each(Notify::notify_one));
    (notifies, wake)
}

/// Twice, since the first time nobody sleeps yet.
#[test]
fn an_eager_future_sleeps_through_nothing() {
    check(|| {
        let (notifies, wake) = woken_twice();
        let mut eager = Eager::default();
        let mut both = pin!(async {
            for notify in &*notifies {
                let mut has_rested = false;
                // Wakes itself, as hyper does.
                poll_fn(|cx| {
                    if std::mem::replace(&mut has_rested, true) {
                        return Poll::Ready(());
                    }
                    cx.waker().wake_by_ref();
                    Poll::Pending
                })
                .await;
                notify.notified().await;
            }
        });
        block_on(poll_fn(|cx| {
            same(cx.waker(), |cx| eager.poll(both.as_mut(), cx))
        }));
        wake.join().expect("no panic");
    });
}

#[test]
fn a_lazy_future_sleeps_through_nothing_though_its_task_is_woken_by_others() {
    check(|| {
        let (notifies, wake) = woken_twice();
        let mut lazy = Lazy::default();
        let [one, other] = &*notifies;
        let mut one = pin!(one.notified());
        let mut other = pin!(other.notified());
        let mut is_one_done = false;
        block_on(poll_fn(|cx| {
            is_one_done = is_one_done || one.as_mut().poll(cx).is_ready();
            same(cx.waker(), |cx| lazy.poll(other.as_mut(), cx))
        }));
        wake.join().expect("no panic");
    });
}
