//! How much memory the process has, and how much it may have.

use std::fs;
use std::path::Path;

/// Where Linux shows the limits of groups of processes.
const GROUPS: &str = "/sys/fs/cgroup";

/// The memory that the process has now, in bytes, where the system says so.
///
/// Of its own alone: what others in its group have does not shrink when this process refuses work.
pub fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes << 10)
}

/// The least that any group of the process may have, in bytes; `None` if there is no limit.
pub fn allowed() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    limit(&groups, |file| {
        fs::read_to_string(Path::new(GROUPS).join(file)).ok()
    })
}

/// The least limit of the groups that are listed, and of those that they are in.
fn limit(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let mut least = None;
    for line in groups.lines() {
        // `0::/path` in version 2, `4:memory:/path` in version 1.
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (folder, file) = match controllers {
            "" => ("", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        // In a container the path may be the host's; then only the root of what is mounted has the file.
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            let text = read(&Path::new(folder).join(group).join(file));
            let limit = text.and_then(|text| text.trim().parse().ok());
            // Version 1 says that there is none by a number that no machine has.
            let limit = limit.filter(|limit| *limit < 1 << 60);
            least = least.into_iter().chain(limit).min();
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(groups: &str, files: &[(&str, &str)], expected: Option<u64>) {
        let read = |path: &Path| {
            let file = files.iter().find(|(name, _)| Path::new(name) == path);
            file.map(|(_, text)| (*text).to_owned())
        };
        assert_eq!(limit(groups, read), expected, "{groups:?}");
    }

    #[test]
    fn the_least_limit_on_the_way_up_counts() {
        let two = "0::/system.slice/llamero.service\n";
        check(two, &[], None);
        check(two, &[("memory.max", "max\n")], None);
        let own = ("system.slice/llamero.service/memory.max", "2048\n");
        let slice = ("system.slice/memory.max", "1024\n");
        check(two, &[own], Some(2048));
        check(two, &[own, slice], Some(1024));
        // A container whose own group is the root of what it sees.
        check("0::/\n", &[("memory.max", "4096\n")], Some(4096));
        let one = "5:cpu:/\n4:memory:/docker/1\n0::/\n";
        let none = ("memory/memory.limit_in_bytes", "9223372036854771712\n");
        check(one, &[none], None);
        check(one, &[("memory/memory.limit_in_bytes", "512\n")], Some(512));
        let deep = ("memory/docker/1/memory.limit_in_bytes", "256\n");
        check(one, &[deep, none], Some(256));
        check("nonsense\n4:memory\n", &[none], None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_has_some() {
        let bytes = resident().expect("Linux says so");
        assert!(bytes > 1 << 20, "{bytes}");
    }
}
