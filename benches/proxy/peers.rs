//! What is compared: the nodes themselves, and each proxy as a child process in front of them.

use crate::load::{self, Question};
use crate::nodes::Nodes;
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a proxy may take until it answers.
const START: Duration = Duration::from_secs(10);

/// Connections that nginx and haproxy are set up for: enough for all streams, and few enough for the descriptors that
/// systems commonly allow.
const PEER_CONNECTIONS: usize = 9_000;

/// The program that was built with this bench.
pub const LLAMERO: &str = env!("CARGO_BIN_EXE_llamero");

/// Answers that a node writes at a time: more than are ever asked of it.
const SLOTS: usize = 1_024;

/// One way to the nodes.
pub struct Peer {
    /// What the table calls it.
    pub name: String,
    /// Where clients connect, in turn.
    pub addresses: Vec<SocketAddr>,
    child: Option<Child>,
}

impl Peer {
    /// No proxy at all.
    pub fn direct(nodes: &Nodes) -> Self {
        Self {
            name: "direct".to_owned(),
            addresses: nodes.addresses.clone(),
            child: None,
        }
    }

    /// llamero, other builds of it, and what it is measured against as far as that is installed.
    pub async fn proxies(nodes: &Nodes, also: &[String], dir: &Path) -> Result<Vec<Self>> {
        let mut peers = Vec::new();
        for program in std::iter::once(LLAMERO).chain(also.iter().map(String::as_str)) {
            peers.push(
                Self::llamero(nodes, program, dir)
                    .await
                    .context("llamero")?,
            );
        }
        for (name, started) in [
            ("nginx", Self::nginx(nodes, dir).await),
            ("haproxy", Self::haproxy(nodes, dir).await),
        ] {
            match started {
                Ok(Some(peer)) => peers.push(peer),
                Ok(None) => println!("{name}: not installed"),
                Err(error) => println!("{name}: left out: {error:#}"),
            }
        }
        Ok(peers)
    }

    /// llamero with nothing but its backends set. They take every request at once, as they do from the others.
    pub async fn llamero(nodes: &Nodes, program: &str, dir: &Path) -> Result<Self> {
        let [address, admin] = free_addresses()?;
        let mut config = String::new();
        for (index, node) in nodes.addresses.iter().enumerate() {
            writeln!(
                config,
                "[[backend]]\nname = \"node{index}\"\nurl = \"http://{node}\"\nslots = {SLOTS}"
            )?;
        }
        let file = dir.join("llamero.toml");
        fs::write(&file, config)?;
        let mut command = Command::new(program);
        command
            .env_clear()
            .args(["serve", "--log-format", "json"])
            .args(["--listen", &address.to_string()])
            .args(["--admin", &admin.to_string()])
            .arg("--config")
            .arg(file);
        let name = Path::new(program).file_name().unwrap_or_default();
        let name = name.to_string_lossy();
        let started = Self::start(&name, address, command, dir).await?;
        started.context("the program was not built")
    }

    /// nginx with one worker per core; none if it is not installed.
    async fn nginx(nodes: &Nodes, dir: &Path) -> Result<Option<Self>> {
        let [address] = free_addresses()?;
        let idle = nodes.addresses.len().max(64);
        let mut servers = String::new();
        for node in &nodes.addresses {
            writeln!(servers, "server {node};")?;
        }
        let config = format!(
            "daemon off; worker_processes 2; pid nginx.pid; error_log nginx.error;
            events {{ worker_connections {PEER_CONNECTIONS}; }}
            http {{
                access_log nginx.access;
                client_max_body_size 64m; client_body_buffer_size 2m; client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
                keepalive_requests 1000000;
                upstream nodes {{ {servers} keepalive {idle}; keepalive_requests 1000000; }}
                server {{
                    listen {address};
                    location / {{
                        proxy_pass http://nodes;
                        proxy_http_version 1.1;
                        proxy_set_header Connection '';
                        proxy_buffering off;
                    }}
                }}
            }}"
        );
        let file = dir.join("nginx.conf");
        fs::write(&file, config)?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(dir).arg("-c").arg(file);
        command.args(["-e", "nginx.error"]);
        Self::start("nginx", address, command, dir).await
    }

    /// haproxy with one thread per core; none if it is not installed.
    async fn haproxy(nodes: &Nodes, dir: &Path) -> Result<Option<Self>> {
        let [address] = free_addresses()?;
        let mut config = format!(
            "global\n nbthread 2\n maxconn {PEER_CONNECTIONS}\n log stdout format raw local0\n\
             defaults\n mode http\n log global\n option httplog\n option http-no-delay\n http-reuse always\n\
             \x20timeout connect 2s\n timeout client 300s\n timeout server 300s\n\
             frontend clients\n bind {address}\n default_backend nodes\n\
             backend nodes\n balance roundrobin\n"
        );
        for (index, node) in nodes.addresses.iter().enumerate() {
            writeln!(config, " server node{index} {node}")?;
        }
        let file = dir.join("haproxy.cfg");
        fs::write(&file, config)?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(file);
        Self::start("haproxy", address, command, dir).await
    }

    /// Starts a program, its output in a file, and waits until it proxies.
    async fn start(
        name: &str,
        address: SocketAddr,
        mut command: Command,
        dir: &Path,
    ) -> Result<Option<Self>> {
        let path = dir.join(format!("{name}.out"));
        let output = File::create(&path)?;
        command.stdout(output.try_clone()?).stderr(output);
        let child = match command.current_dir(dir).spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            spawned => spawned?,
        };
        let mut peer = Self {
            name: name.to_owned(),
            addresses: vec![address],
            child: Some(child),
        };
        let deadline = Instant::now() + START;
        while let Err(error) = load::closed_loop(&peer.addresses, &Question::small(), 1, 1).await {
            let ended = peer.child.as_mut().map(Child::try_wait).transpose()?;
            if ended.flatten().is_some() || Instant::now() > deadline {
                bail!("{error:#}\n{}", fs::read_to_string(&path)?);
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(Some(peer))
    }

    /// Time on a core so far, of all threads of all its processes.
    pub fn cpu(&self) -> Result<Duration> {
        let mut nanos = 0;
        for pid in self.processes()? {
            for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                // A thread can end between being listed and being read.
                let line = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
                nanos += number(&line).unwrap_or_default();
            }
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// Resident memory of all its processes, in KiB.
    pub fn rss_kib(&self) -> Result<u64> {
        let mut kib = 0;
        for pid in self.processes()? {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            kib += line.and_then(number).context("no VmRSS")?;
        }
        Ok(kib)
    }

    fn processes(&self) -> Result<Vec<u32>> {
        let Some(child) = &self.child else {
            return Ok(Vec::new());
        };
        let pid = child.id();
        let workers = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let workers = workers.split_whitespace().map(str::parse);
        std::iter::once(Ok(pid))
            .chain(workers)
            .map(|pid| Ok(pid?))
            .collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let workers = self.processes().is_ok_and(|all| all.len() > 1);
        let Some(child) = &mut self.child else { return };
        // A master that is told to stop ends its workers first; one that is killed leaves them running.
        let pid = child.id().to_string();
        let told = workers
            && Command::new("kill")
                .arg(pid)
                .status()
                .is_ok_and(|s| s.success());
        if !told {
            drop(child.kill());
        }
        drop(child.wait());
    }
}

/// The first word of a text, as a number.
fn number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// Different ports that were free a moment ago: nginx and haproxy cannot say which one they were given.
fn free_addresses<const N: usize>() -> Result<[SocketAddr; N]> {
    let mut addresses = [SocketAddr::from(([127, 0, 0, 1], 0)); N];
    let mut held = Vec::new();
    for address in &mut addresses {
        let listener = TcpListener::bind(*address)?;
        *address = listener.local_addr()?;
        held.push(listener);
    }
    Ok(addresses)
}
