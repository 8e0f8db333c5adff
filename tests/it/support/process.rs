//! The program itself, as users run it.

use super::soon;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// A running `llamero`, killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    news: watch::Receiver<usize>,
}

/// The program with arguments, as a command that can be adjusted; nothing of the test's environment leaks in.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llamero"));
    command
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command.current_dir(std::env::temp_dir());
    command
}

const SERVE: [&str; 7] = [
    "serve",
    "--listen",
    "127.0.0.1:0",
    "--admin",
    "127.0.0.1:0",
    "--log-format",
    "json",
];

impl Process {
    pub fn start(arguments: &[&str]) -> Self {
        Self::run(command(arguments))
    }

    fn run(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (said, news) = watch::channel(0);
        collect(
            child.stdout.take().unwrap(),
            Arc::clone(&lines),
            said.clone(),
        );
        collect(child.stderr.take().unwrap(), Arc::clone(&lines), said);
        Self { child, lines, news }
    }

    /// A proxy on free ports that logs JSON, and where it listens.
    pub async fn serve(arguments: &[&str]) -> (Self, SocketAddr) {
        Self::listening(command(&[&SERVE, arguments].concat())).await
    }

    /// The same with so many descriptors from the start.
    pub async fn serve_within(descriptors: usize, arguments: &[&str]) -> (Self, SocketAddr) {
        let mut shell = Command::new("/bin/sh");
        shell
            .arg("-c")
            .arg(format!("ulimit -n {descriptors} && exec \"$0\" \"$@\""))
            .arg(env!("CARGO_BIN_EXE_llamero"))
            .args([&SERVE, arguments].concat())
            .env_clear()
            .stdin(Stdio::null())
            .kill_on_drop(true);
        Self::listening(shell).await
    }

    async fn listening(command: Command) -> (Self, SocketAddr) {
        let mut process = Self::run(command);
        let line = process.line_with("listening for clients").await;
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        (process, line["address"].as_str().unwrap().parse().unwrap())
    }

    /// A simulated node, and where it listens; port 0 for any.
    pub async fn mock(port: u16, arguments: &[&str]) -> (Self, SocketAddr) {
        let port = port.to_string();
        let mut process = Self::start(&[&["mock", "--port", &port], arguments].concat());
        let line = process.line_with("http://").await;
        let address = line
            .trim_start_matches("http://")
            .split(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        (process, address)
    }

    /// Waits for a line with this text.
    pub async fn line_with(&mut self, text: &str) -> String {
        loop {
            if let Some(line) = self
                .lines
                .lock()
                .unwrap()
                .iter()
                .find(|line| line.contains(text))
            {
                return line.clone();
            }
            let more = soon(text, self.news.changed()).await;
            assert!(
                more.is_ok(),
                "it ended without saying {text:?}, but {:?}",
                self.lines.lock().unwrap()
            );
        }
    }

    pub fn lines_with(&self, text: &str) -> usize {
        self.lines
            .lock()
            .unwrap()
            .iter()
            .filter(|line| line.contains(text))
            .count()
    }

    /// All that it has said so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    pub fn signal(&self, name: &str) {
        let id = self.child.id().expect("it runs").to_string();
        assert!(
            std::process::Command::new("kill")
                .args([name, &id])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Allows it only so many descriptors from now on.
    #[cfg(target_os = "linux")]
    pub fn allow_descriptors(&self, descriptors: usize) {
        let id = self.child.id().expect("it runs").to_string();
        let limit = format!("--nofile={descriptors}");
        let done = std::process::Command::new("prlimit")
            .args(["--pid", &id, &limit])
            .status();
        assert!(done.unwrap().success());
    }

    /// The descriptors that it has now.
    #[cfg(target_os = "linux")]
    pub fn descriptors(&self) -> usize {
        let id = self.child.id().expect("it runs");
        std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count()
    }

    /// Where it answers operators.
    pub async fn admin(&mut self) -> SocketAddr {
        let line = self.line_with("listening for operators").await;
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        line["address"].as_str().unwrap().parse().unwrap()
    }

    /// The most memory that it has had so far, in bytes.
    #[cfg(target_os = "linux")]
    pub fn peak_bytes(&self) -> usize {
        self.memory("VmHWM:")
    }

    /// The memory that it has now, in bytes.
    #[cfg(target_os = "linux")]
    pub fn resident_bytes(&self) -> usize {
        self.memory("VmRSS:")
    }

    #[cfg(target_os = "linux")]
    fn memory(&self, kind: &str) -> usize {
        let id = self.child.id().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with(kind));
        let kibibytes = line
            .and_then(|line| line.split_whitespace().nth(1))
            .unwrap();
        kibibytes.parse::<usize>().unwrap() << 10
    }

    /// The processor time that all its threads have had so far.
    #[cfg(target_os = "linux")]
    pub fn processor_time(&self) -> Duration {
        let id = self.child.id().expect("it runs");
        let threads = std::fs::read_dir(format!("/proc/{id}/task")).unwrap();
        let nanoseconds = threads.flatten().filter_map(|thread| {
            let spent = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            spent.split_whitespace().next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanoseconds.sum())
    }

    /// Waits for its end and returns the exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        soon("the process ends", self.child.wait())
            .await
            .unwrap()
            .code()
    }
}

fn collect(
    from: impl AsyncRead + Unpin + Send + 'static,
    lines: Arc<Mutex<Vec<String>>>,
    said: watch::Sender<usize>,
) {
    tokio::spawn(async move {
        let mut reader = BufReader::new(from).lines();
        while let Ok(Some(line)) = reader.next_line().await {
            lines.lock().unwrap().push(line);
            said.send_modify(|count| *count += 1);
        }
    });
}
