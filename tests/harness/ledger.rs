//! Writers that know what they have written, through any failure of the server they write to.
//!
//! Each appends `(node, n)` to a ledger, n without a gap, and updates a hot row with it. If a COMMIT is in doubt the
//! writer looks whether its row is there. Afterwards every node must have exactly those rows, and the journal must
//! not know of any of them: a row applied twice would show there as `insert_exists`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

use super::{Cluster, Sql};

/// The tables that the writers need; `hot` has rows 0 to 9.
pub const LEDGER: &str = "
    CREATE TABLE ledger (node text, n bigint, note text NOT NULL, PRIMARY KEY (node, n));
    CREATE TABLE hot (id int PRIMARY KEY, value text NOT NULL);
    INSERT INTO hot SELECT i, 'start' FROM generate_series(0, 9) i;
";

/// One writer a node.
pub struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<(String, JoinHandle<u64>)>,
}

impl Writers {
    /// Starts to write at the nodes of these places.
    pub fn start(cluster: &Cluster, nodes: &[usize]) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = nodes.iter().map(|&node| {
            let name = cluster.name(node).to_owned();
            let dsn = cluster.dsn(node);
            let (stop, writer) = (stop.clone(), name.clone());
            (name, thread::spawn(move || write(&dsn, &writer, &stop)))
        });
        Writers { threads: threads.collect(), stop }
    }

    /// Stops them; each node's name and how many rows it has written.
    pub fn stop(mut self) -> Vec<(String, u64)> {
        self.stop.store(true, Ordering::SeqCst);
        let threads = std::mem::take(&mut self.threads);
        threads.into_iter().map(|(name, thread)| (name, thread.join().expect("a writer"))).collect()
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.drain(..).for_each(|(_, thread)| drop(thread.join()));
    }
}

/// Continues after what is there, so that writers can be started again.
fn write(dsn: &str, name: &str, stop: &AtomicBool) -> u64 {
    let mut written = None;
    let mut session = None;
    while !stop.load(Ordering::SeqCst) || written.is_none() {
        let Some(sql) = session.take().or_else(|| Sql::connect_to(dsn).ok()) else {
            sleep(Duration::from_millis(50));
            continue;
        };
        if written.is_none() {
            let last = format!("SELECT coalesce(max(n), 0) FROM ledger WHERE node = '{name}'");
            written = sql.try_rows(&last).ok().and_then(|rows| rows[0][0].as_ref()?.parse::<u64>().ok());
            session = written.is_some().then_some(sql);
            continue;
        }
        let n = written.expect("just looked") + 1;
        let result = sql.try_rows(&format!(
            "BEGIN; INSERT INTO ledger VALUES ('{name}', {n}, 'written at {name}');
             UPDATE hot SET value = '{name} {n}' WHERE id = {}; COMMIT",
            n % 10
        ));
        match result {
            Ok(_) => {
                written = Some(n);
                session = Some(sql);
            }
            Err(_) => written = None, // in doubt: look what is there
        }
    }
    written.expect("the loop ends with a number")
}
