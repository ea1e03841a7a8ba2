//! The bus between the servers of a cluster: it delays, and loses what a broken link should have
//! carried.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::member::Claim;
use crate::Dice;

/// What servers tell each other.
#[derive(Clone)]
pub(in super::super) enum Packet {
    /// A message for subscribers.
    Publish(Vec<u8>, Vec<u8>),
    Claim(Claim),
    /// What a third server says about itself. It is not answered.
    Update(Claim),
}

/// The links from each server to each other one.
pub(super) struct Bus {
    links: Vec<Vec<BusLink>>,
}

struct BusLink {
    packets: mpsc::UnboundedSender<Packet>,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, Default)]
struct State {
    is_cut: bool,
    delay: Duration,
}

impl Bus {
    /// Creates the links between this number of servers. Each packet that arrives is handed to
    /// `deliver`, with the numbers of its sender and its receiver.
    pub(super) fn new(
        servers: usize,
        deliver: impl Fn(usize, usize, Packet) + Send + Sync + 'static,
    ) -> Self {
        let deliver = Arc::new(deliver);
        let link = |from: usize, to: usize| {
            let (packets, mut arriving) = mpsc::unbounded_channel();
            let (state, deliver) = (watch::Sender::new(State::default()), deliver.clone());
            let passing = state.subscribe();
            tokio::spawn(async move {
                while let Some(packet) = arriving.recv().await {
                    let delay = passing.borrow().delay;
                    if !delay.is_zero() {
                        sleep(delay).await;
                    }
                    if !passing.borrow().is_cut {
                        deliver(from, to, packet);
                    }
                }
            });
            BusLink { packets, state }
        };
        let links = |from| (0..servers).map(|to| link(from, to)).collect();
        Bus { links: (0..servers).map(links).collect() }
    }

    /// Sends a packet to all other servers.
    pub(super) fn broadcast(&self, from: usize, packet: &Packet) {
        for to in (0..self.links.len()).filter(|to| *to != from) {
            self.send(from, to, packet.clone());
        }
    }

    pub(super) fn send(&self, from: usize, to: usize, packet: Packet) {
        // Fails if the simulation has ended.
        let _ = self.links[from][to].packets.send(packet);
    }

    /// Waits for as long as a packet takes from one server to the other. Returns `false` if it is
    /// lost.
    pub(super) async fn passes(&self, from: usize, to: usize) -> bool {
        let delay = self.links[from][to].state.borrow().delay;
        sleep(delay).await;
        !self.links[from][to].state.borrow().is_cut
    }

    /// Cuts or repairs all links of a server.
    pub(super) fn isolate(&self, server: usize, is_cut: bool) {
        for other in 0..self.links.len() {
            for link in [&self.links[server][other], &self.links[other][server]] {
                link.state.send_modify(|state| state.is_cut = is_cut);
            }
        }
    }

    /// Cuts a random pair of servers from each other, or delays what passes from one to the other.
    pub(super) fn trouble(&self, dice: &Dice) {
        let servers = self.links.len() as u64;
        let (from, to) = (dice.roll(servers) as usize, dice.roll(servers) as usize);
        if dice.roll(2) == 0 {
            for link in [&self.links[from][to], &self.links[to][from]] {
                link.state.send_modify(|state| state.is_cut = true);
            }
        } else {
            self.delay_from(from, dice.millis(900));
        }
    }

    /// Delays what a server tells the others.
    pub(super) fn delay_from(&self, server: usize, delay: Duration) {
        for link in &self.links[server] {
            link.state.send_modify(|state| state.delay = delay);
        }
    }

    pub(super) fn heal(&self) {
        for link in self.links.iter().flatten() {
            link.state.send_replace(State::default());
        }
    }
}
