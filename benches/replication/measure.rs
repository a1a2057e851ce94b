//! What a run takes of the machine.

use std::fs;
use std::time::Duration;

use serde::Serialize;

/// What one run came to.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Measured {
    /// From the start of the contender until the last row was seen, s.
    pub seconds: f64,
    /// CPU time of the source's processes, s.
    pub cpu_source: f64,
    /// Of the target's, s.
    pub cpu_target: f64,
    /// Of the daemon, s; 0 where there is none.
    pub cpu_daemon: f64,
    /// The daemon's most resident memory, MiB; 0 where there is none.
    pub memory: f64,
}

/// CPU time of a process in user and system mode, its dead children included where `children` says so; none if it has gone.
/// `proc_pid_stat(5)`
pub fn cpu(pid: u32, children: bool) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // the name before may have spaces; fields 14 to 17 count from 1 at the process id
    let fields: Vec<u64> = stat
        .rsplit_once(") ")
        .map(|(_, rest)| rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect())
        .unwrap_or_default();
    let ticks: u64 = fields.iter().skip(11).take(if children { 4 } else { 2 }).sum();
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    Duration::from_secs_f64(ticks as f64 / per_second as f64)
}

/// CPU time of a server: its first process, the children that have ended, and those that run.
pub fn cpu_of_server(postmaster: u32) -> Duration {
    let children = fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).unwrap_or_default();
    let running = children.split_whitespace().filter_map(|pid| pid.parse().ok()).map(|pid| cpu(pid, false));
    cpu(postmaster, true) + running.sum::<Duration>()
}

/// The most memory that a process has had resident so far, MiB.
pub fn peak_memory(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: f64 = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0.0);
    kib / 1024.0
}
