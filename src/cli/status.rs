//! `pgconcord status`: the running daemon's snapshot as tables; where none runs, what the servers know.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use crate::cli::Global;
use crate::cli::text::{Align, Paint, bytes, emit, seconds, shown, table};
use crate::config::Config;
use crate::http::client::{self, ClientError};
use crate::model::Lsn;
use crate::status::{LinkStatus, NodeStatus, Status};

mod servers;

/// Arguments of `pgconcord status`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The daemon's address, instead of [http] listen of the configuration
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Again every so many seconds, until stopped
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = clap::value_parser!(u32).range(1..))]
    watch: Option<u32>,
    /// The snapshot as JSON; one line each with --watch
    #[arg(long)]
    json: bool,
}

/// Clears the screen and goes to its first line.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Runs the command: 0 if all is well, 1 if something is not or no daemon answers.
pub async fn run(global: Global, args: Args) -> anyhow::Result<ExitCode> {
    let config = match global.load() {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    let listen = args.listen.or(config.http);
    let Some(every) = args.watch else {
        let (page, code) = page(&config, listen, args.json).await?;
        emit(&page)?;
        return Ok(code);
    };
    let clear = if std::io::stdout().is_terminal() && !args.json { CLEAR } else { "" };
    loop {
        // A daemon that is just being started again must not end a watch.
        let (page, _) = page(&config, listen, args.json).await?;
        let gap = if clear.is_empty() && !args.json { "\n" } else { "" };
        if !emit(&format!("{clear}{page}{gap}"))? {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(Duration::from_secs(every.into())).await;
    }
}

/// What the daemon tells, or the servers where none answers.
async fn page(config: &Config, listen: Option<SocketAddr>, json: bool) -> anyhow::Result<(String, ExitCode)> {
    let paint = Paint::for_stdout();
    let reason = match listen {
        None => "the configuration has no [http] listen, so a daemon can't be asked".to_owned(),
        Some(listen) => match client::status(listen).await {
            Ok(status) => {
                let code = if status.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE };
                return Ok((render(&status, json, paint)?, code));
            }
            Err(error @ ClientError::NotADaemon { .. }) => return Err(error.into()),
            Err(error @ ClientError::NoAnswer { .. }) => error.to_string(),
        },
    };
    let servers = servers::ask(config).await;
    let text = match json {
        true => serde_json::to_string(&servers)? + "\n",
        false => servers.text(&reason, paint),
    };
    Ok((text, ExitCode::FAILURE))
}

fn render(status: &Status, json: bool, paint: Paint) -> serde_json::Result<String> {
    if json { Ok(serde_json::to_string(status)? + "\n") } else { Ok(text(status, paint)) }
}

fn text(status: &Status, paint: Paint) -> String {
    let up = (status.now - status.started_at).num_milliseconds() as f64 / 1e3;
    let ready = if status.ready { "ready".to_owned() } else { paint.notice("not ready") };
    let Status { cluster, version, window, journal, .. } = status;
    let mut out = format!("cluster {cluster}, {ready}; pgconcord {version}, up {}\n\n", seconds(up.max(0.0)));
    out += &nodes(&status.nodes, paint);
    out.push('\n');
    out += &links(&status.links, paint);
    out += &format!(
        "\nwindow   {} keys of {} transactions, {} in memory, {} on disk\n",
        window.keys,
        window.transactions,
        bytes(window.bytes_in_memory),
        bytes(window.bytes_on_disk)
    );
    out += &format!("journal  {} conflicts, {} pending, {}\n", journal.entries, journal.pending, bytes(journal.bytes));
    if journal.held > 0 {
        let rows = if journal.held == 1 { "row waits" } else { "rows wait" };
        out += &format!("held     {} {rows} for a person: pgconcord conflicts list --status held\n", journal.held);
    }
    if !status.rules_pending.is_empty() {
        let tables = status.rules_pending.join(", ");
        out += &format!("rules    decided as before until nothing of that is under way: {}\n", shown(&tables));
    }
    for node in status.nodes.iter().filter(|node| node.resting) {
        let name = shown(&node.name);
        out += &format!(
            "resting  {name} keeps what comes next itself: enough of its transactions wait for who is to have them\n"
        );
    }
    let complaints = status.complaints();
    if !complaints.is_empty() {
        out.push('\n');
        complaints.iter().for_each(|complaint| out += &format!("{}\n", paint.notice(&shown(complaint))));
    }
    out
}

fn nodes(nodes: &[NodeStatus], paint: Paint) -> String {
    let headings = [
        ("NODE", Align::Left),
        ("STATE", Align::Left),
        ("SERVER", Align::Left),
        ("FLUSHED", Align::Right),
        ("RECEIVED", Align::Right),
        ("CONFIRMED", Align::Right),
        ("RETAINED", Align::Right),
        ("CLOCK", Align::Right),
        ("RETAINED FOR", Align::Left),
    ];
    let row = |node: &NodeStatus| {
        let waiting =
            node.retained_for.iter().map(|it| format!("{} {}, {}", it.node, bytes(it.bytes), seconds(it.seconds)));
        vec![
            shown(&node.name),
            node.state.name().to_owned(),
            known(node.server_version.as_ref(), |version| shown(version)),
            known(node.server_flush_lsn, |lsn| lsn.to_string()),
            known(node.received_lsn, |lsn| position(lsn, node.server_flush_lsn)),
            known(node.confirmed_lsn, |lsn| position(lsn, node.server_flush_lsn)),
            known(node.retained_bytes, bytes),
            known(node.clock_skew_us, |skew| format!("{:+.1} ms", skew as f64 / 1e3)),
            waiting.collect::<Vec<_>>().join("; "),
        ]
    };
    table(&headings, &nodes.iter().map(row).collect::<Vec<_>>(), paint)
}

fn links(links: &[LinkStatus], paint: Paint) -> String {
    let headings = [
        ("LINK", Align::Left),
        ("STATE", Align::Left),
        ("RECEIVED", Align::Right),
        ("APPLIED", Align::Right),
        ("LAG", Align::Right),
        ("QUEUED", Align::Right),
        ("TRANSACTIONS", Align::Right),
        ("CHANGES", Align::Right),
        ("CONFLICTS", Align::Right),
        ("RETRIES", Align::Right),
    ];
    let row = |link: &LinkStatus| {
        vec![
            format!("{} → {}", shown(&link.source), shown(&link.target)),
            link.state.name().to_owned(),
            known(link.received_lsn, |lsn| lsn.to_string()),
            known(link.applied_lsn, |lsn| lsn.to_string()),
            format!("{}, {}", bytes(link.lag_bytes), seconds(link.lag_seconds)),
            link.queued_transactions.to_string(),
            link.transactions_total.to_string(),
            link.changes_total.to_string(),
            link.conflicts_total.to_string(),
            link.retries_total.to_string(),
        ]
    };
    table(&headings, &links.iter().map(row).collect::<Vec<_>>(), paint)
}

/// A position, and how far it lies behind what the server has.
fn position(lsn: Lsn, flushed: Option<Lsn>) -> String {
    match flushed.map(|flushed| flushed.bytes_since(lsn)) {
        None | Some(0) => lsn.to_string(),
        Some(behind) => format!("{lsn} (-{})", bytes(behind)),
    }
}

fn known<T>(value: Option<T>, show: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tests::example;

    #[test]
    fn the_page_shows_nodes_links_lag_and_what_is_wrong() {
        let expected = "\
cluster shop, not ready; pgconcord 0.1.0, up 1 h 2 min

NODE  STATE      SERVER      FLUSHED     RECEIVED               CONFIRMED  RETAINED    CLOCK  RETAINED FOR
east  streaming  18.4    16/B374D848  16/B374D848  16/B3740000 (-54.1 kB)    5.0 MB  -1.5 ms  west 54.1 kB, 12 s
west  down       18.4    16/B374D848            -  16/B3740000 (-54.1 kB)    5.0 MB  -1.5 ms  west 54.1 kB, 12 s

LINK         STATE        RECEIVED      APPLIED            LAG  QUEUED  TRANSACTIONS  CHANGES  CONFLICTS  RETRIES
east → west  retrying  16/B374D848  16/B3740000  54.1 kB, 12 s       3          1000     4000          7        2
west → east  idle      16/B374D848  16/B3740000  54.1 kB, 12 s       3          1000     4000          7        2

window   12 keys of 3 transactions, 2.0 kB in memory, 0 B on disk
journal  9 conflicts, 1 pending, 96.0 kB
held     2 rows wait for a person: pgconcord conflicts list --status held
resting  east keeps what comes next itself: enough of its transactions wait for who is to have them

node west is down: connection refused: start the server
link east → west is retrying
";
        assert_eq!(text(&example(), Paint::Plain), expected);
    }

    #[test]
    fn json_is_the_snapshot_on_one_line() {
        let line = render(&example(), true, Paint::Colour).unwrap();
        assert_eq!(line.lines().count(), 1);
        assert_eq!(serde_json::from_str::<Status>(&line).unwrap(), example());
    }
}
