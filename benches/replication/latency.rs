//! Latency without a backlog: a writer commits single rows at a fixed rate, and a watcher at the target notes when each is
//! seen. From the moment when COMMIT has returned at the source; the watcher looks about every [`LOOK`].

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_postgres::Client;

use crate::contender::Contender;
use crate::plan::Plan;
use crate::site::Site;
use crate::workload::{Backlog, Workload};

/// Commits a second.
const RATES: [u32; 2] = [100, 1_000];
/// How long each rate is kept up at scale 1.
const SPAN: Duration = Duration::from_secs(20);
/// Rows before those that count, once a first one has been seen: connections, caches and statements are warm then.
const WARM_UP: usize = 200;
/// How often the target is asked.
const LOOK: Duration = Duration::from_micros(500);
/// A row that is not seen by then is lost.
const PATIENCE: Duration = Duration::from_secs(30);

const TICKS: Workload = Workload {
    name: "latency",
    what: "single commits at a fixed rate",
    size: 1,
    rows: 1,
    base: "CREATE TABLE tick (id bigint PRIMARY KEY, note text)",
    backlog: Backlog::Sql(&[]),
};

/// Runs the contenders in turns at each rate and prints what share of the rows was seen by when.
///
/// # Errors
/// If a run fails or a row is not seen.
pub async fn compare(contenders: &[Contender], plan: &Plan) -> anyhow::Result<()> {
    let span = SPAN.mul_f64(plan.scale);
    println!(
        "\n| commits a second | contender | p50 ms | p99 ms | p99.9 ms | greatest ms |\n|---|---|---|---|---|---|"
    );
    for rate in RATES {
        let mut all = vec![Vec::new(); contenders.len()];
        let site = Site::open(&TICKS, plan).await?;
        for (run, place) in plan.turns(contenders.len()) {
            let contender = contenders[place];
            let source = site.connect(None).await?;
            source.batch_execute("TRUNCATE tick").await.context("the source")?; // the target is as at the beginning
            site.enter(contender, run, None).await?;
            let daemon = site.start(contender, run).await?;
            let target = site.connect(Some((contender, run))).await?;
            let measured = measure(source, target, rate, span).await;
            drop(daemon);
            site.finish(contender, run).await?;
            all[place].extend(measured.with_context(|| format!("{} at {rate}/s", contender.name()))?);
        }
        for (contender, mut seen) in contenders.iter().zip(all) {
            seen.sort_unstable();
            let ms = |share: f64| {
                let place = ((seen.len() - 1) as f64 * share).round() as usize;
                seen[place].as_secs_f64() * 1e3
            };
            let name = contender.name();
            let (middle, late, later, last) = (ms(0.5), ms(0.99), ms(0.999), ms(1.0));
            println!("| {rate} | {name} | {middle:.2} | {late:.2} | {later:.2} | {last:.2} |");
        }
    }
    Ok(())
}

/// How long each row took from its commit until it was seen.
async fn measure(source: Client, target: Client, rate: u32, span: Duration) -> anyhow::Result<Vec<Duration>> {
    let insert = "INSERT INTO tick VALUES ($1, 'a row')";
    // Else nothing leaves the source before its WAL writer comes by.
    source.batch_execute("SET synchronous_commit = on").await.context("the source")?;
    source.execute(insert, &[&-1_i64]).await.context("the source")?;
    let start = Instant::now();
    while target.query_opt("SELECT FROM tick", &[]).await.context("the target")?.is_none() {
        ensure!(start.elapsed() < PATIENCE, "the first row is not there after {PATIENCE:?}");
        sleep(Duration::from_millis(10)).await;
    }
    let count = (span.as_secs_f64() * f64::from(rate)) as usize + WARM_UP;
    let watcher = spawn_blocking(move || watch(&target, count));
    let insert = source.prepare(insert).await.context("the source")?;
    let mut clock = interval(Duration::from_secs(1) / rate);
    clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut committed = Vec::with_capacity(count);
    for id in (0_i64..).take(count) {
        clock.tick().await;
        source.execute(&insert, &[&id]).await.context("the source")?;
        committed.push(Instant::now());
    }
    let seen = watcher.await.context("the watcher")??;
    let latency = seen.iter().zip(&committed).map(|(seen, committed)| seen.saturating_duration_since(*committed));
    Ok(latency.skip(WARM_UP).collect())
}

/// When each of the rows was seen; they come in order.
fn watch(target: &Client, count: usize) -> anyhow::Result<Vec<Instant>> {
    let runtime = tokio::runtime::Handle::current();
    let query = runtime.block_on(target.prepare("SELECT max(id) FROM tick")).context("the target")?;
    let mut seen = Vec::with_capacity(count);
    let mut last = Instant::now();
    while seen.len() < count {
        let row = runtime.block_on(target.query_one(&query, &[])).context("the target")?;
        let now = Instant::now();
        let greatest: Option<i64> = row.get(0);
        let there = greatest.and_then(|id| usize::try_from(id + 1).ok()).unwrap_or(0);
        if there > seen.len() {
            seen.resize(there, now);
            last = now;
        }
        ensure!(last.elapsed() < PATIENCE, "{} of {count} rows were seen, then none for {PATIENCE:?}", seen.len());
        thread::sleep(LOOK);
    }
    Ok(seen)
}
