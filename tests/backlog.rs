//! A backlog of many small transactions: each batch is made while the one before it is written.

use std::thread::sleep;
use std::time::Duration;

use crate::harness::Plan;

const EAST: usize = 0;
const WEST: usize = 1;

#[test]
fn a_backlog_with_conflicts_here_and_there_is_applied_once() {
    let schema = "CREATE TABLE items (id int PRIMARY KEY, v text NOT NULL);
         INSERT INTO items SELECT i, 'start' FROM generate_series(-8, -1) i;
         INSERT INTO items SELECT i, 'start' FROM generate_series(20001, 24000) i";
    let mut cluster = Plan::two().schema(schema).run();
    // several times the changes of a batch, some of them of the same rows, across batches too
    let many = "DO $$ BEGIN FOR i IN 1..20000 LOOP
             INSERT INTO items VALUES (i, 'east ' || i); COMMIT;
             IF i % 3 = 0 THEN UPDATE items SET v = v || ' again' WHERE id = i - 1; COMMIT; END IF;
             IF i % 5 = 0 THEN DELETE FROM items WHERE id = 20000 + i / 5; COMMIT; END IF;
             IF i % 2500 = 0 THEN UPDATE items SET v = 'east' WHERE id = i / -2500; COMMIT; END IF;
             IF i % 1000 = 0 THEN UPDATE items SET v = 'late' WHERE id = i / 1000 * 5 + 3; COMMIT; END IF;
         END LOOP; END $$";
    // with these rows the east does nothing more
    let few = "INSERT INTO items SELECT 1000 + 3000 * i, 'west' FROM generate_series(0, 6) i;
         UPDATE items SET v = 'west' WHERE id < 0";
    let held = cluster.hold_link(EAST, WEST);
    cluster.rows(EAST, many);
    cluster.rows(WEST, few);
    cluster.settle_applied_from(WEST, EAST);
    sleep(Duration::from_secs(3)); // what the west wrote is older than what is known of it by then
    drop(held);
    cluster.settle();
    cluster.wait_journal_settled();
    cluster.assert_everywhere("SELECT count(*) FROM items WHERE v = 'west'", "15");
    cluster.assert_everywhere("SELECT count(*) FROM items", "20008");
    assert_eq!(cluster.conflicts(&[]).len(), 30, "one of each key at each node");
    cluster.without_seeing(&[(EAST, "DELETE FROM items WHERE id > 10000"), (EAST, "UPDATE items SET v = v || '!'")]);
    cluster.assert_everywhere("SELECT count(*) FROM items WHERE v LIKE '%!'", "10008");
    assert_eq!(cluster.conflicts(&[]).len(), 30);
}
