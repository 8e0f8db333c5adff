//! How many sockets the process may have, and what of that is for clients.

/// Kept for everything but requests: listeners, checks, operators, files.
const RESERVE: u64 = 256;

/// Has the system allow as many descriptors as it ever will. Returns how many that are.
#[cfg(unix)]
pub fn raise() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let whole = Rlimit {
        current: maximum,
        maximum,
    };
    // Refused by systems that say there is no limit and have one; then it stays as it was.
    let _ = setrlimit(Resource::Nofile, whole);
    allowed()
}

/// How many descriptors the process may have now.
#[cfg(unix)]
pub fn allowed() -> u64 {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many it has now, where the system says so.
#[cfg(target_os = "linux")]
pub fn used() -> Option<u64> {
    const OPEN: &str = "/proc/self/fd";
    match std::fs::metadata(OPEN).ok()?.len() {
        // Before 6.2 they have to be counted, which takes one more.
        0 => match std::fs::read_dir(OPEN) {
            Ok(open) => Some(open.count() as u64),
            Err(error) => is_exhausted(&error).then(allowed),
        },
        open => Some(open),
    }
}

/// Elsewhere nobody says.
#[cfg(not(target_os = "linux"))]
pub fn used() -> Option<u64> {
    None
}

/// Whether something failed since the process, or the whole system, has no descriptor left.
pub fn is_exhausted(error: &std::io::Error) -> bool {
    /// The same two numbers on every Unix.
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

/// Elsewhere the system sets no such limit.
#[cfg(not(unix))]
pub fn raise() -> u64 {
    u64::MAX
}

/// Elsewhere the system sets no such limit.
#[cfg(not(unix))]
pub fn allowed() -> u64 {
    u64::MAX
}

/// How many clients there can be, each of which may need a second descriptor for a backend.
pub fn clients(configured: usize, descriptors: u64) -> usize {
    // Where there is hardly more than the reserve, half of what there is has to do for that. Where there is much more, all
    // clients at work must still be no overload.
    let most = (descriptors.saturating_sub(RESERVE) / 2).max(descriptors / 4);
    let most = most.min(descriptors / 5 * 2);
    configured.min(usize::try_from(most).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_room_for_backends_and_the_rest() {
        for (configured, descriptors, expected) in [
            (16384, u64::MAX, 16384),
            (16384, 1_048_576, 16384),
            (16384, 4096, 1638),
            (16384, 1024, 384),
            (16384, 64, 16),
            (100, 1024, 100),
        ] {
            assert_eq!(clients(configured, descriptors), expected, "{descriptors}");
        }
    }
}
