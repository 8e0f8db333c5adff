//! What depends on the very moment: who goes first when nobody has told the queue yet, and that nothing is told late.

use super::*;
use crate::config::{ContentHash, Settings};
use crate::pool::Inventory;
use http::{HeaderValue, Method};
use std::net::{IpAddr, Ipv4Addr};
use std::pin::{Pin, pin};
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll, Waker};

/// A fleet of one node with one slot.
struct Scene {
    state: Arc<ArcSwap<State>>,
    demand: Demand,
}

impl Scene {
    fn new(more: &str) -> Self {
        let text = format!("{more}\n[[backend]]\nname = 'a'\nurl = '127.0.0.1:1'\nslots = 1");
        let settings = Settings::parse(&text, "test.toml").unwrap();
        let state = State::first(settings, ContentHash::of(&text), 7, Instant::now());
        let models = Inventory::from_tags(br#"{"models":[{"name":"m"}]}"#).unwrap();
        state.pool.learn(&state.pool.backends()[0], models);
        Self {
            state: Arc::new(ArcSwap::from_pointee(state)),
            demand: Demand::new(ModelKey::parse("m"), IpAddr::V4(Ipv4Addr::LOCALHOST)),
        }
    }

    /// Asks for a slot; also returns how long it waited for that.
    async fn ask(&self) -> (Result<Option<Lease>, Error>, Option<Duration>) {
        let active = Arc::new(AtomicUsize::new(0));
        let id = HeaderValue::from_static("id");
        let mut access = Access::begin(id, self.demand.client.into(), Method::POST, &active);
        let state = self.state.load_full();
        let urgency = Urgency {
            class: Class::Interactive,
            patience: None,
        };
        let admitted = state
            .queue
            .admit(&state, &self.demand, urgency, &[], &mut access);
        let outcome = admitted.await;
        (outcome, access.queued)
    }

    /// Gives room away in the background.
    fn run(&self) -> tokio::task::JoinHandle<()> {
        let state = Arc::clone(&self.state);
        tokio::spawn(async move {
            let queue = Arc::clone(&state.load().queue);
            queue.run(&state).await;
        })
    }
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn a_newcomer_does_not_overtake_those_who_wait_although_nobody_told_them_yet() {
    let scene = Scene::new("");
    let (first, queued) = scene.ask().await;
    assert_eq!(queued, None, "it need not wait");
    let mut waiting = pin!(scene.ask());
    assert!(poll(waiting.as_mut()).is_pending());
    drop(first);
    let mut newcomer = pin!(scene.ask());
    assert!(poll(newcomer.as_mut()).is_pending());
    let Poll::Ready((Ok(Some(lease)), Some(_))) = poll(waiting.as_mut()) else {
        panic!("the slot was free, and its turn");
    };
    assert!(poll(newcomer.as_mut()).is_pending());
    assert_eq!(lease.backend().in_flight(), 1);
}

#[tokio::test]
async fn a_slot_on_its_way_to_one_who_leaves_is_given_back() {
    let scene = Scene::new("");
    let (first, _) = scene.ask().await;
    {
        let mut leaves = pin!(scene.ask());
        assert!(poll(leaves.as_mut()).is_pending());
        drop(first);
        let state = scene.state.load_full();
        let queue = &state.queue;
        queue.settle(&mut queue.lock(), &state, Instant::now());
        assert_eq!(state.pool.backends()[0].in_flight(), 1, "on its way");
    }
    let state = scene.state.load_full();
    assert_eq!(state.pool.backends()[0].in_flight(), 0);
    assert!(matches!(scene.ask().await, (Ok(Some(_)), None)));
}

#[tokio::test(start_paused = true)]
async fn room_is_given_away_when_it_rings_and_not_when_somebody_looks() {
    let scene = Scene::new("");
    let background = scene.run();
    let (first, _) = scene.ask().await;
    let mut waiting = pin!(scene.ask());
    assert!(poll(waiting.as_mut()).is_pending());
    // Neither just after a look nor just before one.
    tokio::time::sleep(LOOK / 3).await;
    let freed = Instant::now();
    drop(first);
    let (outcome, queued) = waiting.await;
    assert!(matches!(outcome, Ok(Some(_))));
    assert_eq!(freed.elapsed(), Duration::ZERO);
    assert_eq!(
        queued.map(|queued| queued.as_millis()),
        Some(LOOK.as_millis() / 3 + 1)
    );
    background.abort();
}

#[tokio::test(start_paused = true)]
async fn who_waits_in_vain_is_told_to_the_moment() {
    let scene = Scene::new("queue.timeout = '1234ms'");
    let background = scene.run();
    let (_first, _) = scene.ask().await;
    let (outcome, queued) = scene.ask().await;
    let Err(Error::Busy { text, .. }) = outcome else {
        panic!("there was no room");
    };
    assert!(text.ends_with("(queue 0/512, waited 1.2 s)"), "{text}");
    assert!(
        (1234..=1236).contains(&queued.unwrap().as_millis()),
        "{queued:?}"
    );
    background.abort();
}
