//! A TCP proxy before a server that can cut connections in the middle of a message, or refuse them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A connection on which nothing is said for this long is cut between messages instead.
const MERCY: Duration = Duration::from_millis(300);
/// How often a quiet connection looks whether it is to be cut.
const LOOK: Duration = Duration::from_millis(20);

/// Forwards to one server until dropped.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Every connection older than this number's last change is to be cut.
    cuts: AtomicU64,
    /// Connections that were cut within a message.
    cut_inside: AtomicU64,
    refusing: AtomicBool,
    closed: AtomicBool,
}

impl Proxy {
    /// Starts to forward to `target` on this machine.
    pub fn to(target: u16) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port for the proxy");
        listener.set_nonblocking(true).expect("a listener that can be asked");
        let port = listener.local_addr().expect("its address").port();
        let shared = Arc::new(Shared::default());
        let accepting = shared.clone();
        thread::spawn(move || accept(&listener, target, &accepting));
        Proxy { port, shared }
    }

    /// Where to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts every connection, within the next message of each.
    pub fn cut(&self) {
        self.shared.cuts.fetch_add(1, Ordering::SeqCst);
    }

    /// How many connections have been cut within a message so far.
    pub fn cut_inside(&self) -> u64 {
        self.shared.cut_inside.load(Ordering::SeqCst)
    }

    /// Cuts every connection and takes no new ones: the node is down for whoever comes this way.
    pub fn refuse(&self) {
        self.shared.refusing.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// Takes connections again.
    pub fn accept(&self) {
        self.shared.refusing.store(false, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.cut();
    }
}

fn accept(listener: &TcpListener, target: u16, shared: &Arc<Shared>) {
    while !shared.closed.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((client, _)) if !shared.refusing.load(Ordering::SeqCst) => connect(client, target, shared),
            Ok(_) => {} // dropped: the client sees its connection closed
            Err(_) => thread::sleep(LOOK),
        }
    }
}

fn connect(client: TcpStream, target: u16, shared: &Arc<Shared>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { return };
    let born = shared.cuts.load(Ordering::SeqCst);
    for stream in [&client, &server] {
        stream.set_nonblocking(false).expect("a blocking stream");
        stream.set_nodelay(true).expect("no delay");
        stream.set_read_timeout(Some(LOOK)).expect("a read limit");
    }
    for (from, to) in [(&client, &server), (&server, &client)] {
        let from = from.try_clone().expect("a second handle");
        let to = to.try_clone().expect("a second handle");
        let shared = shared.clone();
        thread::spawn(move || forward(from, to, &shared, born));
    }
}

/// Forwards until an end closes or a cut is due. Of the message that is cut the other end gets a half.
fn forward(mut from: TcpStream, mut to: TcpStream, shared: &Shared, born: u64) {
    let mut buffer = vec![0; 64 << 10];
    let mut due: Option<Instant> = None;
    loop {
        let read = from.read(&mut buffer);
        if due.is_none() && shared.cuts.load(Ordering::SeqCst) > born {
            due = Some(Instant::now());
        }
        match read {
            Ok(0) => break,
            Ok(length) if due.is_some() && length > 1 => {
                let _ = to.write_all(&buffer[..length / 2]);
                shared.cut_inside.fetch_add(1, Ordering::SeqCst);
                break;
            }
            Ok(length) => {
                if to.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if due.is_some_and(|since| since.elapsed() > MERCY) {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
