//! The snapshot as OpenMetrics text: every number of [`Status`] under the name `pgconcord_*`.
//!
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::status::{LinkState, LinkStatus, NodeState, NodeStatus, Status};

/// Of the text.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The page for `status`, which is `age` old.
pub(super) fn render(status: Arc<Status>, age: Duration) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("pgconcord");
    registry.register_collector(Box::new(Snapshot { status, age }));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Snapshot {
    status: Arc<Status>,
    age: Duration,
}

type Labels<'a> = Vec<(&'static str, &'a str)>;

/// A gauge of the daemon: name, help, unit, value.
type Gauge = (&'static str, &'static str, Option<Unit>, f64);

/// A gauge of each node or link: name, help, unit, where its value stands.
type Column<T> = (&'static str, &'static str, Option<Unit>, fn(&T) -> Option<f64>);

/// A counter of each link: name, help, where its value stands.
type Counter = (&'static str, &'static str, fn(&LinkStatus) -> u64);

const BYTES: Option<Unit> = Some(Unit::Bytes);
const SECONDS: Option<Unit> = Some(Unit::Seconds);

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        page.daemon(&self.status, self.age)?;
        page.node_states(&self.status.nodes)?;
        page.nodes(&self.status.nodes)?;
        page.retained(&self.status.nodes)?;
        page.link_states(&self.status.links)?;
        page.links(&self.status.links)
    }
}

struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn daemon(&mut self, status: &Status, age: Duration) -> fmt::Result {
        let labels: Labels<'_> = vec![("version", &status.version), ("cluster", &status.cluster)];
        self.0.encode_descriptor("build", "The daemon", None, MetricType::Info)?.encode_info(&labels)?;
        let (window, journal) = (&status.window, &status.journal);
        let started = status.started_at.timestamp_micros() as f64 / 1e6;
        let gauges: [Gauge; 13] = [
            ("start_time", "When the daemon started, since 1970", SECONDS, started),
            ("snapshot_age", "Age of the numbers on this page", SECONDS, age.as_secs_f64()),
            ("ready", "1 while every node streams and every link applies", None, flag(status.ready)),
            ("window_keys", "Keys with changes that are not stable yet", None, window.keys as f64),
            ("window_transactions", "Transactions that are not stable yet", None, window.transactions as f64),
            ("window_memory", "What the window takes in memory", BYTES, window.bytes_in_memory as f64),
            ("window_disk", "What the window takes on disk", BYTES, window.bytes_on_disk as f64),
            ("journal_entries", "Conflicts in the journal", None, journal.entries as f64),
            ("journal_pending", "Conflicts whose batch is not known to be committed", None, journal.pending as f64),
            ("journal_held", "Rows whose conflicts wait for a person", None, journal.held as f64),
            ("journal_size", "What the journal takes on disk", BYTES, journal.bytes as f64),
            ("rules_pending", "Tables that wait for their new rule", None, status.rules_pending.len() as f64),
            ("journal_failing", "1 while the journal cannot be written", None, flag(journal.error.is_some())),
        ];
        gauges.into_iter().try_for_each(|(name, help, unit, value)| self.gauges(name, help, unit, [(vec![], value)]))
    }

    fn node_states(&mut self, nodes: &[NodeStatus]) -> fmt::Result {
        let rows = nodes.iter().flat_map(|node| {
            NodeState::ALL.map(|state| {
                let labels: Labels<'_> = vec![("node", &node.name), ("state", state.name())];
                (labels, flag(node.state == state))
            })
        });
        self.gauges("node_state", "1 for the state of the node's stream", None, rows)
    }

    fn nodes(&mut self, nodes: &[NodeStatus]) -> fmt::Result {
        let gauges: [Column<NodeStatus>; 5] = [
            ("node_received_lsn", "Log received, as a position", BYTES, |it| it.received_lsn.map(|lsn| lsn.0 as f64)),
            ("node_confirmed_lsn", "Log that the slot may forget, as a position", BYTES, |it| {
                it.confirmed_lsn.map(|lsn| lsn.0 as f64)
            }),
            ("node_flush_lsn", "Log flushed by the server, as a position", BYTES, |it| {
                it.server_flush_lsn.map(|lsn| lsn.0 as f64)
            }),
            ("node_retained", "Log that the server keeps for the slot", BYTES, |it| {
                it.retained_bytes.map(|bytes| bytes as f64)
            }),
            ("node_clock_skew", "The node's clock minus the daemon's", SECONDS, |it| {
                it.clock_skew_us.map(|skew| skew as f64 / 1e6)
            }),
        ];
        for (name, help, unit, read) in gauges {
            let row = |node| Some((vec![("node", node_name(node))], read(node)?));
            self.gauges(name, help, unit, nodes.iter().filter_map(row))?;
        }
        let rows = nodes.iter().map(|node| (vec![("node", node_name(node))], flag(node.resting)));
        self.gauges(
            "node_resting",
            "1 while enough of its transactions wait for its stream not to be read on",
            None,
            rows,
        )
    }

    fn retained(&mut self, nodes: &[NodeStatus]) -> fmt::Result {
        let rows = |read: fn(&crate::status::RetainedFor) -> f64| {
            nodes.iter().flat_map(move |node| {
                node.retained_for.iter().map(move |it| {
                    let labels: Labels<'_> = vec![("node", &node.name), ("for", &it.node)];
                    (labels, read(it))
                })
            })
        };
        self.gauges("node_retained_for", "Log that a node keeps for another", BYTES, rows(|it| it.bytes as f64))?;
        let help = "Age of the oldest transaction that a node keeps for another";
        self.gauges("node_retained_age", help, SECONDS, rows(|it| it.seconds))
    }

    fn link_states(&mut self, links: &[LinkStatus]) -> fmt::Result {
        let rows = links.iter().flat_map(|link| {
            LinkState::ALL.map(|state| {
                let mut labels = link_labels(link);
                labels.push(("state", state.name()));
                (labels, flag(link.state == state))
            })
        });
        self.gauges("link_state", "1 for the state of the link", None, rows)
    }

    fn links(&mut self, links: &[LinkStatus]) -> fmt::Result {
        let gauges: [Column<LinkStatus>; 5] = [
            ("link_received_lsn", "The source's log received, as a position", BYTES, |it| {
                it.received_lsn.map(|lsn| lsn.0 as f64)
            }),
            ("link_applied_lsn", "The source's log applied, as a position", BYTES, |it| {
                it.applied_lsn.map(|lsn| lsn.0 as f64)
            }),
            ("link_lag", "The source's log that is not applied yet", BYTES, |it| Some(it.lag_bytes as f64)),
            ("link_lag", "Age of the oldest transaction that is not applied yet", SECONDS, |it| Some(it.lag_seconds)),
            ("link_queued_transactions", "Transactions received and not applied yet", None, |it| {
                Some(it.queued_transactions as f64)
            }),
        ];
        for (name, help, unit, read) in gauges {
            self.gauges(name, help, unit, links.iter().filter_map(|it| Some((link_labels(it), read(it)?))))?;
        }
        let counters: [Counter; 7] = [
            ("link_transactions", "Source transactions applied", |it| it.transactions_total),
            ("link_changes", "Changes applied", |it| it.changes_total),
            ("link_batches", "Target transactions", |it| it.batches_total),
            ("link_conflicts", "Conflicts resolved", |it| it.conflicts_total),
            ("link_retries", "Batches tried again", |it| it.retries_total),
            ("link_reopened", "Decisions made again", |it| it.reopened_total),
            ("link_ahead", "Large transactions written while they came", |it| it.ahead_total),
        ];
        for (name, help, read) in counters {
            let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
            for link in links {
                family.encode_family(&link_labels(link))?.encode_counter::<Labels<'_>, _, u64>(&read(link), None)?;
            }
        }
        Ok(())
    }

    fn gauges<'l>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        rows: impl IntoIterator<Item = (Labels<'l>, f64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for (labels, value) in rows {
            if labels.is_empty() {
                family.encode_gauge(&value)?;
            } else {
                family.encode_family(&labels)?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }
}

fn node_name(node: &NodeStatus) -> &str {
    &node.name
}

fn link_labels(link: &LinkStatus) -> Labels<'_> {
    vec![("source", &link.source), ("target", &link.target)]
}

fn flag(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}
