//! Lines on their way to a terminal or a disk: gathered for a moment and written together by a thread of their own, since a
//! write and a wake-up for each would cost more than the request that it tells of.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What may wait for a slow terminal or disk, in bytes; further lines are lost rather than delay a request.
const WAITING_BYTES: usize = 16 << 20;
/// How long lines are gathered before they are written together.
const GATHER: Duration = Duration::from_millis(20);
/// Room for lines that is kept after a burst of them, in bytes.
const KEPT_BYTES: usize = 64 << 10;

/// Takes lines, and never blocks on where they go.
#[derive(Debug, Default)]
pub struct Waiting {
    text: Mutex<Text>,
    /// There is a first line.
    begun: Condvar,
    /// There will be no more.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Text {
    bytes: Vec<u8>,
    is_over: bool,
}

/// Writes what waits when it is dropped, and ends the thread.
#[derive(Debug)]
pub struct Lines {
    waiting: Arc<Waiting>,
    thread: Option<JoinHandle<()>>,
}

/// Starts the thread that writes.
pub fn start(to: impl Write + Send + 'static) -> (Arc<Waiting>, Lines) {
    let waiting = Arc::new(Waiting::default());
    let read = Arc::clone(&waiting);
    let thread = thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || read.write_all_to(to));
    // Without the thread there is nobody to write, and what comes is lost as it is when the disk is full.
    let thread = thread.ok();
    (Arc::clone(&waiting), Lines { waiting, thread })
}

impl Waiting {
    fn write_all_to(&self, mut to: impl Write) {
        let mut taken = Vec::new();
        loop {
            let text = self.lock();
            let empty = |text: &mut Text| text.bytes.is_empty() && !text.is_over;
            let text = self.begun.wait_while(text, empty);
            let text = text.unwrap_or_else(PoisonError::into_inner);
            let more = |text: &mut Text| !text.is_over;
            let text = self.ended.wait_timeout_while(text, GATHER, more);
            let (mut text, _) = text.unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut taken, &mut text.bytes);
            let is_over = text.is_over;
            drop(text);
            // Who cannot be written to cannot be told of it either.
            let _ = to.write_all(&taken).and_then(|()| to.flush());
            if is_over {
                return;
            }
            taken.clear();
            taken.shrink_to(KEPT_BYTES);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Text> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for &Waiting {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut text = self.lock();
        let is_first = text.bytes.is_empty();
        if text.bytes.len() + line.len() <= WAITING_BYTES {
            text.bytes.extend_from_slice(line);
        }
        drop(text);
        if is_first {
            self.begun.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.waiting.lock().is_over = true;
        self.waiting.begun.notify_one();
        self.waiting.ended.notify_one();
        if let Some(thread) = self.thread.take() {
            // It panics only if what it writes to does.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn all_lines_come_out_in_order_before_the_guard_is_gone() {
        let written = Written::default();
        let (waiting, guard) = start(written.clone());
        for at in 0..1000 {
            writeln!(&*waiting, "{at}").unwrap();
        }
        drop(guard);
        let written = written.0.lock().unwrap();
        let lines = std::str::from_utf8(&written).unwrap().lines();
        assert!(lines.eq((0..1000).map(|at| at.to_string())));
    }
}
