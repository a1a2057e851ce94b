//! Servers, the daemon, proxies, load, comparison.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use pgconcord::throwaway::Servers;
use tokio::runtime::Runtime;

mod cluster;
mod compare;
mod daemon;
mod ledger;
mod npm;
mod pgbench;
mod plan;
mod proxy;
mod role;
mod sql;

pub use cluster::Cluster;
pub use daemon::{Daemon, Output, command, run as pgconcord};
pub use ledger::{LEDGER, Writers};
pub use npm::Version;
pub use pgbench::Pgbench;
pub use plan::{Plan, Reach};
pub use proxy::Proxy;
pub use role::ordinary_role;
pub use sql::{Rows, Sql};

/// Limit for what should take a moment, on a slow machine.
pub const SOON: Duration = Duration::from_secs(60);
/// Limit for draining what a test piled up.
pub const LATER: Duration = Duration::from_secs(240);

/// Held by the one cluster that runs.
pub fn quiet() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner) // a failed test is no reason to fail the next
}

/// The directory of all servers of this run; cleaned up by its janitor when the process ends.
pub fn servers() -> &'static Servers {
    static SERVERS: OnceLock<Servers> = OnceLock::new();
    SERVERS.get_or_init(|| Servers::copying().expect("a directory for the servers"))
}

/// Where database clients of tests run.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().expect("a tokio runtime"))
}

/// Waits until `check` gives something; `what` names it when it does not.
pub fn wait_for<T>(what: &str, limit: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain until {what}");
        sleep(Duration::from_millis(50));
    }
}
