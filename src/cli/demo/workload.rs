//! The shop's life on both sides: orders and clerks everywhere, and now and then both sides at the same row.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::site::Site;

/// Customers of sql/demo.sql.
const CUSTOMERS: u64 = 200;
/// Articles of sql/demo.sql.
const ARTICLES: u64 = 40;
/// Sessions a side that place orders.
const SHOPPERS: u64 = 3;
/// A person needs a moment between two orders.
const PAUSE: Duration = Duration::from_millis(4);
/// How often the sides are made to meet.
const MEETING: Duration = Duration::from_millis(120);
/// How often progress is printed.
const NEWS: Duration = Duration::from_secs(4);

/// Committed transactions of one side.
#[derive(Clone, Copy, Debug)]
pub struct SideDone {
    /// All of them.
    pub all: u64,
    /// Those that were made to meet the other side's.
    pub deliberate: u64,
}

#[derive(Default)]
struct Counters {
    all: [AtomicU64; 2],
    deliberate: [AtomicU64; 2],
}

/// What the workload has committed.
pub struct Done(Arc<Counters>);

impl Done {
    /// Of each side.
    pub fn sides(&self) -> [SideDone; 2] {
        [0, 1].map(|side| SideDone {
            all: self.0.all[side].load(Ordering::Relaxed),
            deliberate: self.0.deliberate[side].load(Ordering::Relaxed),
        })
    }
}

/// Writes on both sides for that long.
pub async fn run(site: &Site, length: Duration) -> anyhow::Result<Done> {
    let counters = Arc::new(Counters::default());
    let end = Instant::now() + length;
    let mut tasks = JoinSet::new();
    for side in [0, 1] {
        for shopper in 0..SHOPPERS {
            let seed = side as u64 * 100 + shopper;
            tasks.spawn(shop(site.session(side).await?, side, seed, end, counters.clone()));
        }
    }
    tasks.spawn(meet(site.sessions().await?, end, counters.clone()));
    let done = Done(counters);
    tell_news(site, &done, end).await;
    while let Some(result) = tasks.join_next().await {
        result??;
    }
    Ok(done)
}

async fn tell_news(site: &Site, done: &Done, end: Instant) {
    let start = Instant::now();
    while Instant::now() + NEWS < end {
        sleep(NEWS).await;
        let [east, west] = done.sides().map(|side| side.all);
        let [east_name, west_name] = site.names();
        let seconds = start.elapsed().as_secs();
        println!("  {seconds:>3} s   {east_name} {east} transactions, {west_name} {west}");
    }
}

/// One session that places orders, changes prices and packs parcels.
async fn shop(client: Client, side: usize, seed: u64, end: Instant, counters: Arc<Counters>) -> anyhow::Result<()> {
    let mut dice = Dice(seed);
    while Instant::now() < end {
        let sql = match dice.roll(10) {
            0 => change_price(&mut dice),
            1 => pack(&mut dice),
            2 => fill_cart(&mut dice),
            _ => place_order(&mut dice),
        };
        if commit(&client, &sql).await? {
            counters.all[side].fetch_add(1, Ordering::Relaxed);
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Both sides write to the same row at the same moment.
async fn meet(clients: [Client; 2], end: Instant, counters: Arc<Counters>) -> anyhow::Result<()> {
    let mut dice = Dice(4711);
    let mut number = 0;
    while Instant::now() < end {
        number += 1;
        let [east, west] = meeting(number, &mut dice);
        let (east, west) = tokio::join!(commit(&clients[0], &east), commit(&clients[1], &west));
        for (side, committed) in [east?, west?].into_iter().enumerate().filter(|(_, committed)| *committed) {
            counters.all[side].fetch_add(u64::from(committed), Ordering::Relaxed);
            counters.deliberate[side].fetch_add(1, Ordering::Relaxed);
        }
        sleep(MEETING).await;
    }
    Ok(())
}

/// What the sides do in the meeting of that number.
fn meeting(number: u64, dice: &mut Dice) -> [String; 2] {
    let customer = customer(dice);
    match number % 5 {
        0 => ["east", "west"].map(|side| {
            format!(
                "INSERT INTO customer VALUES (gen_random_uuid(), 'new{number}@example.org', 'Signed up in the {side}',
                 clock_timestamp())"
            )
        }),
        1 => [25, 40]
            .map(|percent| format!("INSERT INTO deal_of_the_hour VALUES ({number}, '{}', {percent})", article(dice))),
        2 => [
            format!("DELETE FROM cart WHERE customer = {customer}"),
            format!("UPDATE cart SET items = items || '[\"{}\"]' WHERE customer = {customer}", article(dice)),
        ],
        _ => {
            let sku = article(dice);
            ["1.10", "0.90"].map(|factor| {
                format!("UPDATE inventory SET price = round(greatest(price, 1) * {factor}, 2) WHERE sku = '{sku}'")
            })
        }
    }
}

fn place_order(dice: &mut Dice) -> String {
    let customer = customer(dice);
    let mut articles = [dice.roll(ARTICLES), dice.roll(ARTICLES)];
    articles.sort_unstable(); // everybody locks articles in the same order
    let order = format!("md5('{} {}')::uuid", dice.roll(u64::MAX), dice.0);
    let mut sql = format!("BEGIN; INSERT INTO orders VALUES ({order}, {customer}, clock_timestamp(), 'placed');");
    for (line, article) in articles.iter().enumerate().filter(|(line, article)| *line == 0 || **article != articles[0])
    {
        let sku = sku(*article);
        sql.push_str(&format!(
            "INSERT INTO order_line SELECT {order}, {line}, sku, {}, price FROM inventory WHERE sku = '{sku}';",
            1 + dice.roll(3)
        ));
    }
    sql.push_str("COMMIT");
    sql
}

fn change_price(dice: &mut Dice) -> String {
    format!(
        "UPDATE inventory SET price = {}.50, stock = {} WHERE sku = '{}'",
        2 + dice.roll(9),
        500 + dice.roll(500),
        article(dice)
    )
}

fn pack(dice: &mut Dice) -> String {
    format!(
        "UPDATE orders SET status = 'packed' WHERE id IN
         (SELECT id FROM orders WHERE status = 'placed' AND customer = {} LIMIT 3)",
        customer(dice)
    )
}

fn fill_cart(dice: &mut Dice) -> String {
    format!(
        "INSERT INTO cart VALUES ({}, '[\"{}\"]') ON CONFLICT (customer) DO UPDATE SET items = excluded.items",
        customer(dice),
        article(dice)
    )
}

fn customer(dice: &mut Dice) -> String {
    format!("md5('customer {}')::uuid", 1 + dice.roll(CUSTOMERS))
}

fn article(dice: &mut Dice) -> String {
    sku(dice.roll(ARTICLES))
}

fn sku(number: u64) -> String {
    format!("TEA-{:02}", number + 1)
}

/// Whether it was committed; a duplicate key or a lost lock race is part of a shop's life, anything else an error.
async fn commit(client: &Client, sql: &str) -> anyhow::Result<bool> {
    let Err(error) = client.batch_execute(sql).await else { return Ok(true) };
    let usual = [SqlState::UNIQUE_VIOLATION, SqlState::T_R_DEADLOCK_DETECTED, SqlState::T_R_SERIALIZATION_FAILURE];
    if error.code().is_some_and(|code| usual.contains(code)) {
        client.batch_execute("ROLLBACK").await?;
        return Ok(false);
    }
    Err(anyhow::Error::new(error).context(format!("the shop cannot run: {sql}")))
}

/// Random enough for a shop, and the same in every demo: SplitMix64.
struct Dice(u64);

impl Dice {
    /// A number below `sides`.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}
