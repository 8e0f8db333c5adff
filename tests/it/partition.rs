//! Nodes behind a network that swallows packets: nothing refuses, nothing answers.

use crate::support::backend::{Backend, Call};
use crate::support::gateway::{Proxy, config};
use crate::support::{eventually, soon};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

const CHAT: &str = r#"{"model":"m"}"#;
/// Until a node takes a connection.
const CONNECT: Duration = Duration::from_millis(500);
/// What a request may take besides.
const REST: Duration = Duration::from_secs(1);

/// A node that answers until it is swallowed: from then on the kernel has no room for another connection to it, and drops
/// what asks for one.
struct Node {
    address: SocketAddr,
    swallow: watch::Sender<bool>,
    task: JoinHandle<TcpListener>,
}

impl Node {
    fn start() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(8).unwrap();
        let address = listener.local_addr().unwrap();
        let (swallow, mut swallowed) = watch::channel(false);
        let task = tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    _ = swallowed.wait_for(|swallowed| *swallowed) => return listener,
                    accepted = listener.accept() => accepted.unwrap().0,
                };
                tokio::spawn(async move {
                    if let Some(mut call) = Call::read(stream).await {
                        let text = r#"{"version":"0.33.0","models":[{"name":"m"}]}"#;
                        call.answer("200 OK", "application/json", text).await;
                    }
                });
            }
        });
        Self {
            address,
            swallow,
            task,
        }
    }

    /// Swallows everything from now on. What is returned keeps it so.
    async fn vanish(self) -> (TcpListener, Vec<TcpStream>) {
        self.swallow.send_replace(true);
        let listener = soon("it stops accepting", self.task).await.unwrap();
        let mut waiting = Vec::new();
        let long = Duration::from_millis(300);
        while let Ok(stream) = timeout(long, TcpStream::connect(self.address)).await {
            waiting.push(stream.unwrap());
        }
        (listener, waiting)
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_vanishes_is_noticed_and_its_requests_go_elsewhere() {
    let vanishing = Node::start();
    let good = Backend::saying(&["m"], "{}").await;
    let urls = [format!("http://{}", vanishing.address), good.url()];
    // Checks that come so seldom notice nothing in the time of this test.
    let keys = "timeouts.connect = \"500ms\"\n";
    let text = config("round_robin", &urls).replace("\"1s\"", "\"60s\"");
    let proxy = std::sync::Arc::new(Proxy::start(&format!("{keys}{text}")));
    for _ in 0..2 {
        assert_eq!(proxy.post("/api/chat", CHAT).await.status, 200);
    }
    assert_eq!(good.calls(), 1, "the other one went to the node");
    let swallowed = vanishing.vanish().await;
    let began = Instant::now();
    let asking: Vec<_> = (0..4)
        .map(|_| {
            let proxy = std::sync::Arc::clone(&proxy);
            tokio::spawn(async move { proxy.post("/api/chat", CHAT).await })
        })
        .collect();
    for answer in asking {
        let answer = soon("an answer", answer).await.unwrap();
        assert_eq!((answer.status, answer.backend()), (200, "b"));
        assert!(began.elapsed() < CONNECT + REST, "{:?}", began.elapsed());
    }
    assert_ne!(proxy.backend("a").await["state"], "up");
    assert!(began.elapsed() < CONNECT + REST, "{:?}", began.elapsed());
    // From now on nobody waits for it.
    let (began, calls) = (Instant::now(), good.calls());
    for _ in 0..10 {
        let answer = proxy.post("/api/chat", CHAT).await;
        assert_eq!(answer.header("x-llamero-attempts"), Some("1"));
    }
    assert!(began.elapsed() < CONNECT, "{:?}", began.elapsed());
    eventually("all went elsewhere", || good.calls() == calls + 10).await;
    proxy.until_idle().await;
    drop(swallowed);
}
