//! The running proxy: its listeners, its tasks and the state that they share.

use crate::address::Address;
use crate::admin::Admin;
use crate::config::{ContentHash, Settings};
use crate::descriptors;
use crate::error::Error;
use crate::header;
use crate::overload::{Level, Overload};
use crate::probe;
use crate::proxy::Proxy;
use crate::reply::ReplyBody;
use crate::server::{self, Crowd, Door, Handler, Patience, Phase, Policy, Refusal};
use crate::state::State;
use crate::wire::Family;
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// A proxy at work. Dropping it stops everything at once; [`Gateway::shut_down`] lets requests end.
#[derive(Debug)]
pub struct Gateway {
    addresses: Vec<SocketAddr>,
    admin_address: SocketAddr,
    state: Arc<ArcSwap<State>>,
    proxy: Proxy,
    phase: watch::Sender<Phase>,
    servers: JoinSet<()>,
    /// Held for its drop, which ends the prober and the queue.
    _probe: JoinSet<()>,
}

/// An address that cannot be listened on.
#[derive(Debug, Error)]
#[error("cannot listen on {address}: {error}")]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// Why not.
    pub error: io::Error,
}

impl Gateway {
    /// Listens and begins to serve. `config_file` and `config_hash` are only shown to operators; all chance comes from
    /// the seed.
    ///
    /// # Errors
    /// When an address cannot be listened on; nothing runs then.
    pub fn start(
        settings: Settings,
        config_file: Option<PathBuf>,
        config_hash: ContentHash,
        seed: u64,
    ) -> Result<Self, ListenError> {
        let bind = |address: SocketAddr| {
            server::bind(address).map_err(|error| ListenError { address, error })
        };
        let listeners = settings
            .listen
            .iter()
            .copied()
            .map(bind)
            .collect::<Result<Vec<_>, _>>()?;
        let admin_listener = bind(settings.admin_listen)?;
        let bound =
            |listener: &tokio::net::TcpListener, wanted| listener.local_addr().unwrap_or(wanted);
        let addresses = listeners
            .iter()
            .zip(&settings.listen)
            .map(|(listener, wanted)| bound(listener, *wanted))
            .collect();
        let admin_address = bound(&admin_listener, settings.admin_listen);

        let policy = Policy {
            patience: Patience {
                idle: settings.timeouts.keep_alive,
                head: settings.timeouts.request_head,
                body: settings.timeouts.request_body,
                write: settings.timeouts.client_write,
            },
            head_bytes: settings.limits.head,
        };
        let configured = settings.limits.connections;
        let connections = descriptors::clients(configured, descriptors::allowed());
        if connections < configured {
            tracing::info!(
                connections,
                "fewer clients than limits.connections at one time: the system allows no more descriptors"
            );
        }
        let crowd = settings
            .limits
            .connections_per_address
            .map(|most| Crowd::new(most, settings.trusted_proxies.clone()));
        let overload = Arc::<Overload>::default();
        let door = Door::for_clients(connections, listeners.len(), crowd, Arc::clone(&overload));
        let state = Arc::new(ArcSwap::from_pointee(State::first(
            settings,
            config_hash,
            seed,
            Instant::now(),
        )));
        let (phase, watcher) = watch::channel(Phase::Serving);
        let proxy = Proxy::new(Arc::clone(&state));
        let admin = Admin::new(
            Arc::clone(&state),
            watcher.clone(),
            Arc::clone(&overload),
            config_file,
        );
        let mut servers = JoinSet::new();
        let (asked, first_round) = watch::channel(false);
        for listener in listeners {
            let (proxy, watcher) = (proxy.clone(), watcher.clone());
            let door = door.clone();
            let mut first_round = first_round.clone();
            servers.spawn(async move {
                // Clients wait in the kernel's backlog until it is known who has which model, but not for a node that
                // hangs.
                let _ = timeout(FIRST_ROUND, first_round.wait_for(|done| *done)).await;
                server::serve(listener, policy, door, proxy, watcher).await;
            });
        }
        let mut background = JoinSet::new();
        // Operators are answered to the very end, so their listener is not among those that a drain waits for.
        let (until_the_end, admin_phase) = watch::channel(Phase::Serving);
        background.spawn(async move {
            server::serve(
                admin_listener,
                policy,
                Door::for_operators(ADMIN_CONNECTIONS),
                admin,
                admin_phase,
            )
            .await;
            drop(until_the_end);
        });
        let waited_for = Arc::clone(&state);
        background.spawn(async move {
            let queue = Arc::clone(&waited_for.load().queue);
            queue.run(&waited_for).await;
        });
        let configured = Arc::clone(&state);
        background.spawn(async move {
            let memory = || {
                configured
                    .load()
                    .settings
                    .limits
                    .memory
                    .map(|bytes| bytes as u64)
            };
            overload.watch(memory).await;
        });
        background.spawn(probe::run(Arc::clone(&state), seed, asked));
        Ok(Self {
            addresses,
            admin_address,
            state,
            proxy,
            phase,
            servers,
            _probe: background,
        })
    }

    /// Where clients are answered; real ports where 0 was asked for.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where operators are answered.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// What is configured now.
    pub fn settings(&self) -> Settings {
        self.state.load().settings.clone()
    }

    /// Puts another configuration into force, for all requests that come from now on. Running requests go on under the
    /// one they began with. What needs a restart is not changed.
    pub fn reload(&self, settings: Settings, config_hash: ContentHash, seed: u64) {
        let next = self
            .state
            .load()
            .next(settings, config_hash, seed, Instant::now());
        let next = Arc::new(next);
        self.state.store(Arc::clone(&next));
        // There may be more room now.
        next.pool.bell().ring();
    }

    /// Stops accepting, lets running requests end for at most the configured time or until `hurry` is ready, then cuts
    /// the rest. Returns how many were cut.
    pub async fn shut_down(mut self, hurry: impl Future<Output = ()>) -> usize {
        let patience = self.state.load().settings.timeouts.drain;
        self.phase.send_replace(Phase::Draining);
        let ended = async { while self.servers.join_next().await.is_some() {} };
        tokio::select! {
            _ = timeout(patience, ended) => {}
            () = hurry => {}
        }
        let cut = self.proxy.active();
        self.phase.send_replace(Phase::Cutting);
        while self.servers.join_next().await.is_some() {}
        cut
    }
}

/// How long the first clients wait until every backend has said what it has.
const FIRST_ROUND: Duration = Duration::from_secs(1);
/// Operators' connections at one time.
const ADMIN_CONNECTIONS: usize = 256;

impl Handler for Proxy {
    type Body = ReplyBody;

    fn handle(
        &self,
        request: Request<Incoming>,
        peer: &Address,
        overload: Level,
    ) -> impl Future<Output = Response<ReplyBody>> + Send {
        Self::handle(self, request, peer, overload)
    }

    fn refuse(&self, refusal: Refusal, path: Option<&str>, head_bytes: usize) -> Response<Bytes> {
        let id = header::request_id(&HeaderMap::new());
        let family = path.map_or(Family::Native, |path| self.family_of(path));
        Error::of_refusal(refusal, head_bytes).into_response(family, &id)
    }
}
