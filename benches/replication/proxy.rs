//! Distance: forwards connections to a server and delays what goes either way by half a round trip, at any throughput. Each
//! piece is stamped when it comes and goes on when its time has come; a connection's first one waits for the round trip of
//! TCP's greeting, too.
//!
//! Threads, because the timers of tokio tick in whole milliseconds, and half a round trip may be less.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::Context;

/// So much may be under way in one direction: more than any real window of TCP (Linux lets one grow to some MB), and 300 MB a
/// second at 50 ms one way.
const WINDOW: usize = 16 << 20;
/// Room for one read.
const PIECE: usize = 256 << 10;
/// Between two reads: a reader that wakes for every message makes a walsender two to three times slower, and that would be the
/// proxy's doing, not the distance's.
const GATHER: Duration = Duration::from_micros(200);

/// Forwards to one port of this machine as long as the process lives.
pub struct Proxy {
    port: u16,
    round_trip: Arc<AtomicU64>,
}

impl Proxy {
    /// Begins to forward, without delay at first.
    pub fn open(to: u16) -> anyhow::Result<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("a port for the proxy")?;
        let port = listener.local_addr().context("the proxy's port")?.port();
        let round_trip = Arc::new(AtomicU64::new(0));
        let distance = round_trip.clone();
        spawn(move || {
            for near in listener.incoming().flatten() {
                // a server that is not there is a connection that ends
                let Ok(far) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                let _ = carry(near, far, &distance);
            }
        });
        Ok(Proxy { port, round_trip })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on, for all connections.
    pub fn set(&self, round_trip: Duration) {
        self.round_trip.store(u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// Both directions of one connection.
fn carry(near: TcpStream, far: TcpStream, round_trip: &Arc<AtomicU64>) -> std::io::Result<()> {
    let greeted = Instant::now() + Duration::from_micros(round_trip.load(Ordering::Relaxed));
    for (from, to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
        to.set_nodelay(true)?;
        let way = Arc::new(Way::default());
        let (reading, round_trip) = (way.clone(), round_trip.clone());
        spawn(move || reading.read(from, &round_trip, greeted));
        spawn(move || way.write(to));
    }
    Ok(())
}

/// What is under way in one direction, oldest first.
#[derive(Default)]
struct Way {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    pieces: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    /// Nobody reads any more, or nobody writes.
    ended: bool,
}

impl Way {
    fn read(&self, mut from: TcpStream, round_trip: &AtomicU64, greeted: Instant) {
        let mut buffer = vec![0; PIECE];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let half = Duration::from_micros(round_trip.load(Ordering::Relaxed) / 2);
            let due = Instant::now().max(greeted) + half;
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            while state.bytes >= WINDOW && !state.ended {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.ended {
                break;
            }
            state.bytes += length;
            state.pieces.push_back((due, buffer[..length].to_vec()));
            drop(state);
            self.changed.notify_all();
            sleep(GATHER);
        }
        self.end();
        let _ = from.shutdown(Shutdown::Read); // it may have gone
    }

    fn write(&self, mut to: TcpStream) {
        while let Some((due, piece)) = self.next() {
            sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&piece).is_err() {
                break;
            }
        }
        self.end();
        let _ = to.shutdown(Shutdown::Write); // likewise
    }

    /// The oldest piece; none once all are through and no more will come.
    fn next(&self) -> Option<(Instant, Vec<u8>)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some((due, piece)) = state.pieces.pop_front() {
                state.bytes -= piece.len();
                drop(state);
                self.changed.notify_all();
                return Some((due, piece));
            }
            if state.ended {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn end(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.changed.notify_all();
    }
}
