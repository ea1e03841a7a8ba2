//! What a server knows about its cluster: the replies to `CLUSTER NODES` and `CLUSTER INFO`. Pure.
//!
//! Source: the documentation of [`CLUSTER NODES`](https://redis.io/docs/latest/commands/cluster-nodes/).

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::super::server_info::field;
use super::slot::SLOTS;

/// Maximum number of servers of a cluster. Redis Cluster is made for up to 1,000.
const MAX_SERVERS: usize = 4096;

/// The identity of a server in its cluster, which it keeps when it is started again.
pub(in super::super) type MemberId = Arc<str>;

/// What a server knows about its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct View {
    /// The server itself.
    pub(super) myself: MemberId,
    /// The masters, those without slots included. A master that has failed and whose slots others
    /// have taken over is no master any more, although it is listed until an operator removes it.
    pub(super) masters: Vec<Master>,
    /// `true` if a slot is on its way from or to this server.
    pub(super) migrating: bool,
    /// `true` if the server accepts commands for keys, as far as the cluster is concerned.
    pub(super) is_ok: bool,
    /// The highest epoch of the cluster that the server has heard of. It grows when an election
    /// begins.
    pub(super) current_epoch: u64,
    /// The highest epoch that belongs to a server: that of the last election whose winner is known,
    /// or of the last change of slots.
    highest_epoch: u64,
    /// `true` if the server has voted in an election since it was started, or does not tell.
    has_voted: bool,
}

/// A master, as a server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Master {
    pub(super) id: MemberId,
    /// The IP address, or nothing if the server does not know its own.
    pub(super) ip: String,
    /// The host name, or nothing if it has none.
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) slots: Vec<RangeInclusive<u16>>,
}

impl View {
    /// Parses the replies to `CLUSTER NODES` and `CLUSTER INFO`. Returns `None` if they are not
    /// what this crate expects.
    pub(super) fn parse(nodes: &str, info: &str) -> Option<Self> {
        // A part of the servers would be worse than none.
        if nodes.lines().nth(MAX_SERVERS).is_some() {
            return None;
        }
        let lines: Vec<_> = nodes.lines().map(Line::parse).collect::<Option<_>>()?;
        let myself = lines.iter().find(|line| line.has("myself"))?;
        let is_target = |id: &str| myself.moves.iter().any(|mv| mv.ends_with(&format!(">-{id}]")));
        let masters = lines.iter().filter(|line| {
            // Another server has answered at the address of one with `noaddr`. It may never fail.
            let has_failed = line.has("fail") || line.has("noaddr");
            let is_gone = has_failed && line.slots.is_empty() && !is_target(line.id);
            line.has("master") && !line.has("handshake") && !is_gone
        });
        Some(View {
            myself: myself.id.into(),
            masters: masters.map(Line::master).collect::<Option<_>>()?,
            migrating: !myself.moves.is_empty(),
            is_ok: field(info, "cluster_state") == Some("ok"),
            current_epoch: field(info, "cluster_current_epoch")?.parse().ok()?,
            highest_epoch: lines.iter().map(|line| line.config_epoch).max()?,
            has_voted: has_voted(info),
        })
    }

    /// Returns the masters, by their ids.
    pub(super) fn ids(&self) -> BTreeSet<MemberId> {
        self.masters.iter().map(|master| master.id.clone()).collect()
    }

    /// Returns a master, if it is one.
    pub(super) fn master(&self, id: &str) -> Option<&Master> {
        self.masters.iter().find(|master| &*master.id == id)
    }

    /// Returns `true` if this is the view of the server with this id.
    pub(in super::super) fn is_by(&self, id: &MemberId) -> bool {
        self.myself == *id
    }

    /// Returns `true` if the server, or one of the masters that it knows, has one of these ids.
    pub(super) fn is_of<'a>(&self, mut ids: impl Iterator<Item = &'a MemberId>) -> bool {
        ids.any(|id| *id == self.myself || self.master(id).is_some())
    }

    /// Returns `true` if the server may have voted in an election whose winner it does not know.
    ///
    /// That the current epoch is the highest is no sign of an election by itself: it is, in a
    /// cluster whose replicas were given epochs of their own when it was built.
    pub(super) fn awaits_winner(&self) -> bool {
        self.has_voted && self.current_epoch > self.highest_epoch
    }
}

/// Returns `true` if the server has voted since it was started, or does not tell. It leaves out the
/// numbers of messages that it has not sent.
fn has_voted(info: &str) -> bool {
    let tells = field(info, "cluster_stats_messages_sent").is_some();
    !tells || field(info, "cluster_stats_messages_auth-ack_sent").is_some_and(|votes| votes != "0")
}

/// A line of the reply to `CLUSTER NODES`.
struct Line<'a> {
    id: &'a str,
    address: &'a str,
    flags: &'a str,
    config_epoch: u64,
    slots: Vec<RangeInclusive<u16>>,
    /// The slots that are on their way from or to the server itself.
    moves: Vec<&'a str>,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split(' ');
        let [id, address, flags, _, _, _, epoch, _] = [(); 8].map(|()| words.next());
        let (moves, slots): (Vec<_>, Vec<_>) = words.partition(|word| word.starts_with('['));
        Some(Line {
            id: id.filter(|id| !id.is_empty())?,
            address: address?,
            flags: flags?,
            config_epoch: epoch?.parse().ok()?,
            slots: slots.into_iter().map(parse_slots).collect::<Option<_>>()?,
            moves,
        })
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.split(',').any(|it| it == flag)
    }

    /// Parses the address, `ip:port@bus-port[,hostname[,key=value]…]`, and returns the master.
    fn master(&self) -> Option<Master> {
        let mut parts = self.address.split(',');
        let (ip, port) = parts.next()?.split('@').next()?.rsplit_once(':')?;
        Some(Master {
            id: self.id.into(),
            ip: ip.to_owned(),
            name: parts.next().unwrap_or_default().to_owned(),
            port: port.parse().ok()?,
            slots: self.slots.clone(),
        })
    }
}

/// Parses `7` or `7-9`.
fn parse_slots(word: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && last < SLOTS).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INFO: &str = "cluster_state:ok\r\ncluster_current_epoch:6\r\ncluster_my_epoch:2\r\n";

    fn view(nodes: &[&str]) -> View {
        View::parse(&(nodes.join("\n") + "\n"), INFO).unwrap()
    }

    fn ids(view: &View) -> Vec<String> {
        view.ids().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_view_has_the_masters_with_and_without_slots() {
        let view = view(&[
            "07c3 127.0.0.1:30004@31004,host4 slave e7d1 0 1426238317239 4 connected",
            "67ed 127.0.0.1:30002@31002,host2 master - 0 14262383162 2 connected 5461-10922",
            "6ec2 127.0.0.1:30005@31005,host5,shard-id=6 slave 67ed 0 142623831623 5 connected",
            "292f :30003@31003,host3 master - 0 142623831823 0 connected",
            "e7d1 ::1:30001@31001 myself,master - 0 0 1 connected 0-5460 5462 [93->-292f]",
        ]);
        assert_eq!(ids(&view), ["292f", "67ed", "e7d1"]);
        let myself = view.master(&view.myself).unwrap();
        assert_eq!(&*myself.id, "e7d1");
        assert_eq!(myself.slots, [0..=5460, 5462..=5462]);
        assert_eq!((&*myself.ip, &*myself.name, myself.port), ("::1", "", 30001));
        let other = view.master("292f").unwrap();
        assert_eq!((&*other.ip, &*other.name, other.port), ("", "host3", 30003));
        assert!(view.master("07c3").is_none(), "it is a replica");
        assert!(view.migrating && view.is_ok && view.awaits_winner());
    }

    #[test]
    fn a_failed_master_whose_slots_were_taken_over_is_none() {
        let dead = "dead 127.0.0.1:1@2 master,fail - 1 1 1 connected";
        let taken = "next 127.0.0.1:3@4 myself,master - 0 0 6 connected 0-16383";
        assert_eq!(ids(&view(&[dead, taken])), ["next"]);
        let target = format!("{taken} [7->-dead]");
        assert_eq!(ids(&view(&[dead, &target])), ["dead", "next"], "it is about to get a slot");
        let replaced = "dead :0@0 master,noaddr - 1 1 1 disconnected";
        assert_eq!(ids(&view(&[replaced, taken])), ["next"], "another server has its address");
        let suspect = "dead 127.0.0.1:1@2 master,fail? - 1 1 1 connected";
        assert_eq!(ids(&view(&[suspect, taken])), ["dead", "next"]);
        let with_slots = format!("{dead} 1-7");
        assert_eq!(ids(&view(&[&with_slots, taken])), ["dead", "next"]);
    }

    #[test]
    fn a_node_that_is_being_introduced_does_not_count() {
        let new = "f00d 127.0.0.1:1@2 handshake,master - 1 1 0 connected";
        let own = "beef :3@4 myself,master - 0 0 6 connected 0-16383";
        assert_eq!(ids(&view(&[new, own])), ["beef"]);
    }

    #[test]
    fn an_election_without_a_winner_shows_in_epochs_and_votes() {
        let line = |epoch| format!("beef :3@4 myself,master - 0 0 {epoch} connected 0-16383");
        for (epoch, awaits) in [(5, true), (6, false), (7, false)] {
            assert_eq!(view(&[&line(epoch)]).awaits_winner(), awaits, "{epoch}");
        }
        for (votes, awaits) in [
            ("cluster_stats_messages_ping_sent:7\r\ncluster_stats_messages_sent:7\r\n", false),
            ("cluster_stats_messages_auth-ack_sent:1\r\ncluster_stats_messages_sent:8\r\n", true),
            ("cluster_stats_messages_auth-ack_sent:0\r\ncluster_stats_messages_sent:8\r\n", false),
            ("", true),
        ] {
            let view = View::parse(&line(5), &format!("{INFO}{votes}")).unwrap();
            assert_eq!(view.awaits_winner(), awaits, "{votes}");
        }
    }

    #[test]
    fn other_replies_are_refused() {
        let line = "beef :3@4 myself,master - 0 0 6 connected 0-16383";
        assert!(View::parse(line, INFO).is_some());
        for (nodes, info) in [
            ("", INFO),
            ("ERR", INFO),
            (line, ""),
            (line, "cluster_state:ok\r\ncluster_current_epoch:many\r\n"),
            ("beef :3@4 master - 0 0 6 connected 0-16383", INFO),
            ("beef :3@4 myself,master - 0 0 6 connected 0-16384", INFO),
            ("beef :3@4 myself,master - 0 0 6 connected 7-6", INFO),
            ("beef :3@4 myself,master - 0 0 high connected", INFO),
            ("beef 3 myself,master - 0 0 6 connected", INFO),
        ] {
            assert_eq!(View::parse(nodes, info), None, "{nodes} {info}");
        }
        let other = "f00d 10.0.0.1:3@4 master - 0 0 6 connected\n";
        let most = other.repeat(MAX_SERVERS - 1);
        assert!(View::parse(&format!("{most}{line}"), INFO).is_some());
        assert_eq!(View::parse(&format!("{most}{other}{line}"), INFO), None, "there are too many");
    }

    proptest! {
        #[test]
        fn no_reply_makes_the_parser_panic(nodes in "(\\PC*\n)*", info in "\\PC*") {
            let _ = View::parse(&nodes, &info);
        }

        #[test]
        fn a_line_of_any_words_makes_no_parser_panic(
            line in "[a-f]{2} [0-9.:@,a]* (myself,)?(master|slave) - 0 0 [0-9]* connected( [0-9\\[\\]<>-]*)*",
        ) {
            let _ = View::parse(&line, INFO);
        }
    }
}
