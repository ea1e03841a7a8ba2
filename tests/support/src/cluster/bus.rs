//! The cluster bus, through proxies that can cut the links between two members.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

/// The members bind their outgoing connections to addresses from this one on, by which the proxies
/// tell them apart.
const FIRST_SOURCE: u32 = Ipv4Addr::new(127, 0, 0, 2).to_bits();

/// Two members, the smaller index first.
type Pair = (usize, usize);

/// The links of all members. Dropping it closes them.
pub(super) struct Bus {
    cut: watch::Sender<BTreeSet<Pair>>,
    /// Runs in a thread of its own, so that a test may block its thread while members exchange
    /// heartbeats.
    runtime: Handle,
}

impl Bus {
    pub(super) fn start() -> Self {
        let (cut, mut watched) = watch::channel(BTreeSet::new());
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        std::thread::spawn(move || {
            runtime.block_on(async { while watched.changed().await.is_ok() {} });
        });
        Bus { cut, runtime: handle }
    }

    /// Opens a port that stands in for a member's bus port.
    pub(super) fn listen(&self, member: usize) -> Link {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        Link { member, listener, cut: self.cut.subscribe(), runtime: self.runtime.clone() }
    }

    /// Closes the links of a pair, and new ones as soon as they are accepted.
    pub(super) fn cut(&self, one: usize, other: usize) {
        self.cut.send_if_modified(|cut| cut.insert(pair(one, other)));
    }

    pub(super) fn heal(&self, one: usize, other: usize) {
        self.cut.send_if_modified(|cut| cut.remove(&pair(one, other)));
    }
}

/// A port that stands in for a member's bus port.
pub(super) struct Link {
    member: usize,
    listener: std::net::TcpListener,
    cut: watch::Receiver<BTreeSet<Pair>>,
    runtime: Handle,
}

impl Link {
    pub(super) fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// Returns the address to which the member must bind its outgoing connections.
    pub(super) fn source(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(FIRST_SOURCE + u32::try_from(self.member).unwrap())
    }

    /// Passes connections on to the member's bus port, unless the pair is cut.
    pub(super) fn lead_to(self, bus_port: u16) {
        let Link { member, listener, cut, runtime } = self;
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (link, from) = listener.accept().await.unwrap();
                // Who takes the port for that of another server is no member.
                if let Some(peer) = member_at(from.ip()) {
                    tokio::spawn(pass(link, bus_port, pair(peer, member), cut.clone()));
                }
            }
        });
    }
}

fn member_at(source: IpAddr) -> Option<usize> {
    let IpAddr::V4(source) = source else { return None };
    source.to_bits().checked_sub(FIRST_SOURCE)?.try_into().ok()
}

fn pair(one: usize, other: usize) -> Pair {
    (one.min(other), one.max(other))
}

async fn pass(
    mut link: TcpStream,
    bus_port: u16,
    pair: Pair,
    mut cut: watch::Receiver<BTreeSet<Pair>>,
) {
    let relay = async {
        let mut to_member = TcpStream::connect((Ipv4Addr::LOCALHOST, bus_port)).await?;
        link.set_nodelay(true)?;
        to_member.set_nodelay(true)?;
        copy_bidirectional(&mut link, &mut to_member).await
    };
    tokio::select! {
        biased;
        _ = cut.wait_for(|cut| cut.contains(&pair)) => {}
        _ = relay => {}
    }
}
