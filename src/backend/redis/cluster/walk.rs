//! A walk over the keys of all masters.
//!
//! The masters are visited in the order of their ids, each by `SCAN`. That includes those without
//! slots: a master that is importing its first slot has some of its keys already.
//!
//! A key that is moved from a master that the walk has yet to visit to one that it has left already
//! would be missed. So each page also asks the master for its view. If slots have changed hands, or
//! are about to, the walk visits all masters once more. It misses only keys that move in both
//! rounds. If there are other masters by then, it starts again: one that has failed over has
//! another id, which may come before those that are still to be visited.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::super::connection::{Connected, SharedConnection};
use super::super::error::{Effect, unreachable};
use super::super::keys::{Keys, scan};
use super::discovery::ask_for_view;
use super::members::Member;
use super::view::View;
use super::{Cluster, unavailable};
use crate::backend::Cursor;
use crate::error::StoreError;

/// The position of a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
struct WalkPosition {
    round: Round,
    /// A digest of the view with which the round began: of which master has which slots, and in the
    /// other round of the masters alone.
    beginning: String,
    master: String,
    /// The server process of that master.
    server: String,
    /// The server's own cursor.
    position: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// No slot has changed hands since the beginning.
    Quiet,
    /// Slots have changed hands since the beginning, so there is another round.
    Disturbed,
    /// The other round begins.
    Again,
    Last,
}

impl WalkPosition {
    fn parse(cursor: &Cursor) -> Option<Self> {
        let mut parts = cursor.as_str().split(':');
        let [round, beginning, master, server, position] = [(); 5].map(|()| parts.next());
        let round = match round? {
            "quiet" => Round::Quiet,
            "disturbed" => Round::Disturbed,
            "again" => Round::Again,
            "last" => Round::Last,
            _ => return None,
        };
        Some(WalkPosition {
            round,
            beginning: beginning?.to_owned(),
            master: master?.to_owned(),
            server: server?.to_owned(),
            position: position?.parse().ok()?,
        })
    }

    fn to_cursor(&self) -> Cursor {
        let WalkPosition { round, beginning, master, server, position } = self;
        let round = match round {
            Round::Quiet => "quiet",
            Round::Disturbed => "disturbed",
            Round::Again => "again",
            Round::Last => "last",
        };
        Cursor::new(format!("{round}:{beginning}:{master}:{server}:{position}"))
    }

    /// Returns `true` if the masters are others than at the beginning of the other round.
    fn has_other_masters(&self, view: &View) -> bool {
        matches!(self.round, Round::Again | Round::Last) && masters(view) != self.beginning
    }

    /// Returns the place of the next page, or `None` at the end, after a page that was read here,
    /// and after which the server has returned this cursor and had this view.
    fn after(self, position: u64, view: &View) -> Option<Self> {
        let round = match self.round {
            Round::Quiet if view.migrating || slots(view) != self.beginning => Round::Disturbed,
            Round::Again => Round::Last,
            round => round,
        };
        if position != 0 {
            return Some(WalkPosition { round, position, ..self });
        }
        let next = view.ids().into_iter().find(|id| **id > *self.master);
        let (round, beginning, master) = match (next, round) {
            (Some(next), round) => (round, self.beginning, next),
            (None, Round::Disturbed) => {
                (Round::Again, masters(view), view.ids().into_iter().next()?)
            }
            (None, _) => return None,
        };
        let (master, server) = (master.to_string(), String::new());
        Some(WalkPosition { round, beginning, master, server, position })
    }
}

/// Asks a server for its view, over the connection that all commands share.
async fn view_of(commands: &SharedConnection, connected: &Connected) -> Result<View, StoreError> {
    let asking = async { ask_for_view(connected.commands()).await.map_err(unreachable) };
    commands.within_timeout(asking).await
}

/// Returns a short text that is another one when a slot has another master.
fn slots(view: &View) -> String {
    digest(view.ids().into_iter().map(|id| {
        let slots = view.master(&id).map(|master| &master.slots);
        format!("{id} {slots:?}")
    }))
}

/// Returns a short text that is another one when there are other masters.
fn masters(view: &View) -> String {
    digest(view.ids().into_iter().map(|id| id.to_string()))
}

fn digest(lines: impl Iterator<Item = String>) -> String {
    let mut hash = Sha256::new();
    for line in lines {
        hash.update(line + "\n");
    }
    hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Cluster {
    /// Returns the keys with a prefix on a page, or `None` if the cursor is no longer valid.
    pub(in super::super) async fn keys(
        self: &Arc<Self>,
        prefix: &str,
        cursor: Option<&Cursor>,
    ) -> Result<Option<Keys>, StoreError> {
        let place = match cursor {
            Some(cursor) => WalkPosition::parse(cursor),
            None => self.beginning().await?,
        };
        let Some(mut place) = place else { return Ok(None) };
        let Some(member) = self.master(&place.master).await? else { return Ok(None) };
        let commands = member.lanes.commands();
        let connected = commands.connected().await?;
        let server = connected.server().to_string();
        if place.position != 0 && place.server != server {
            return Ok(None);
        }
        place.server = server;
        let command = scan(prefix, place.position);
        let (position, keys) = commands.run_on(&connected, &command, Effect::Idempotent).await?;
        // A key that had moved before the page was read shows in a view that is later.
        let view = view_of(commands, &connected).await?;
        let is_there = *view.myself == *place.master && view.master(&view.myself).is_some();
        if !is_there || place.has_other_masters(&view) {
            return Ok(None);
        }
        let again = place.round == Round::Again;
        let next = place.after(position, &view).as_ref().map(WalkPosition::to_cursor);
        Ok(Some(Keys { keys, next, again }))
    }

    /// Returns the place where a walk begins.
    async fn beginning(self: &Arc<Self>) -> Result<Option<WalkPosition>, StoreError> {
        let owners = self.owners().await?;
        let first = owners.iter().min_by_key(|member| member.id.clone());
        let first = first.ok_or_else(|| unavailable("no master of the cluster has a slot"))?;
        let commands = first.lanes.commands();
        let connected = commands.connected().await?;
        let view = view_of(commands, &connected).await?;
        Ok(view.ids().first().map(|master| WalkPosition {
            round: if view.migrating { Round::Disturbed } else { Round::Quiet },
            beginning: slots(&view),
            master: master.to_string(),
            server: String::new(),
            position: 0,
        }))
    }

    /// Returns a master, if it is one. Asks the cluster if the node has not heard of it.
    async fn master(self: &Arc<Self>, id: &str) -> Result<Option<Arc<Member>>, StoreError> {
        let named = |member: &&Arc<Member>| member.id.as_deref() == Some(id);
        self.discovered().await?;
        if let Some(member) = self.lock().members.all().iter().find(named) {
            return Ok(Some(member.clone()));
        }
        let (members, _) = self.discover().await?;
        Ok(members.iter().find(named).cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::config::{RedisCluster, RedisConfig};
    use super::super::super::scripted::{about_the_only_master, scripted};
    use super::*;

    const SAME: [&str; 2] = ["0-9999", "10000-16383"];

    /// Returns what the first or second of two masters says about their slots.
    fn view(myself: usize, slots: [&str; 2]) -> View {
        let line = |index: usize| {
            let (id, myself) =
                (["aaa", "bbb"][index], if index == myself { "myself," } else { "" });
            format!("{id} 10.0.0.1:1@2 {myself}master - 0 0 1 connected {}", slots[index])
                .trim_end()
                .to_owned()
        };
        let info = "cluster_state:ok\r\ncluster_current_epoch:1\r\n";
        View::parse(&format!("{}\n{}\n", line(0), line(1)), info).unwrap()
    }

    fn start() -> WalkPosition {
        WalkPosition {
            round: Round::Quiet,
            beginning: slots(&view(0, SAME)),
            master: "aaa".into(),
            server: "run".into(),
            position: 0,
        }
    }

    /// Returns the rounds and the masters of all pages of a walk in which each master has one page,
    /// and says this about the slots.
    fn pages(slots: &[[&str; 2]]) -> Vec<(Round, String)> {
        let (mut place, mut pages) = (Some(start()), Vec::new());
        while let Some(at) = place {
            let myself = if at.master == "aaa" { 0 } else { 1 };
            let slots = slots.get(pages.len()).copied().unwrap_or(SAME);
            pages.push((at.round, at.master.clone()));
            place = at.after(0, &view(myself, slots));
        }
        pages
    }

    #[test]
    fn each_master_is_visited_once_if_nothing_moves() {
        let expected = [(Round::Quiet, "aaa"), (Round::Quiet, "bbb")];
        assert_eq!(pages(&[]), expected.map(|(round, id)| (round, id.to_owned())));
    }

    #[test]
    fn all_masters_are_visited_again_if_slots_move() {
        let flagged = ["0-9999", "10000-16383 [10000->-aaa]"];
        let moved = ["0-10000", "10001-16383"];
        for slots in [&[SAME, flagged][..], &[SAME, moved]] {
            let expected = [
                (Round::Quiet, "aaa"),
                (Round::Quiet, "bbb"),
                (Round::Again, "aaa"),
                (Round::Last, "bbb"),
            ];
            assert_eq!(pages(slots), expected.map(|(round, id)| (round, id.to_owned())));
        }
        let early = [(Round::Quiet, "aaa"), (Round::Disturbed, "bbb")];
        assert_eq!(pages(&[moved])[..2], early.map(|(round, id)| (round, id.to_owned())));
    }

    #[test]
    fn a_master_that_imports_its_first_slot_is_visited() {
        let importing = ["0-16383 [0->-bbb]", ""];
        let masters = pages(&[importing; 4]).into_iter().map(|(_, master)| master);
        assert_eq!(masters.collect::<Vec<_>>(), ["aaa", "bbb", "aaa", "bbb"]);
    }

    #[test]
    fn the_other_round_starts_again_if_a_master_has_another_id() {
        let moved = view(1, ["0-10000", "10001-16383"]);
        let disturbed = WalkPosition { master: "bbb".into(), ..start() };
        assert!(!disturbed.has_other_masters(&moved));
        let again = disturbed.after(0, &moved).unwrap();
        assert_eq!(again.round, Round::Again);
        assert!(!again.has_other_masters(&view(0, SAME)), "slots may move once more");
        let only = "aaa 10.0.0.1:1@2 myself,master - 0 0 1 connected 0-16383\n";
        let info = "cluster_state:ok\r\ncluster_current_epoch:2\r\n";
        let failed_over = View::parse(only, info).unwrap();
        assert!(again.has_other_masters(&failed_over));
        let last = again.after(0, &view(0, SAME)).unwrap();
        assert!(last.has_other_masters(&failed_over));
    }

    #[test]
    fn a_walk_goes_on_at_the_cursor_of_its_server() {
        let next = start().after(42, &view(0, SAME)).unwrap();
        assert_eq!(next, WalkPosition { position: 42, ..start() });
        let restored = WalkPosition::parse(&next.to_cursor()).unwrap();
        assert_eq!(restored, next);
        for other in ["", "quiet", "quiet:1:2:3", "quiet:1:2:3:x", "loud:1:2:3:4"] {
            assert_eq!(WalkPosition::parse(&Cursor::new(other)), None, "{other}");
        }
    }

    /// Returns the cluster of a single master, whose run id is `1`, and which has no keys.
    fn of_one_master() -> Arc<Cluster> {
        let seeds = RedisCluster::new([("10.0.0.1", 6379)]);
        let (config, _) = scripted(RedisConfig::cluster(seeds.clone()), |_, words| {
            let page = (words[0] == "SCAN").then(|| "*2\r\n+0\r\n*0\r\n".to_owned());
            page.or_else(|| about_the_only_master(words, 1))
        });
        let dialer = config.dialer().unwrap();
        Arc::new(Cluster::new(&config, &seeds, dialer, &Arc::default()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_cursor_of_the_other_round_is_not_used_if_there_are_other_masters() {
        let cluster = of_one_master();
        for (round, is_used) in [(Round::Disturbed, true), (Round::Last, false)] {
            let place = WalkPosition { round, master: "one".into(), ..start() };
            let keys = cluster.keys("session:", Some(&place.to_cursor())).await.unwrap();
            assert_eq!(keys.is_some(), is_used, "{round:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_cursor_of_another_server_process_is_not_used() {
        let cluster = of_one_master();
        let keys = async |server: &str, position: u64| {
            let place = WalkPosition { master: "one".into(), server: server.into(), ..start() };
            let cursor = WalkPosition { position, ..place }.to_cursor();
            cluster.keys("session:", Some(&cursor)).await.unwrap()
        };
        assert!(keys("1", 42).await.is_some());
        assert!(keys("2", 42).await.is_none());
        assert!(keys("2", 0).await.is_some(), "a page that begins there belongs to none");
    }
}
