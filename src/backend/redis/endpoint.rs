//! Makes connections to the server, and learns what it says about itself.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{AsyncPushSender, MultiplexedConnection};
use redis::{Cmd, RedisResult, Value, cmd};
use tokio::time::Instant;

use super::cluster::{MemberId, ask_for_view};
use super::commands::{get_from_master, idle_key};
use super::config::{RedisAddress, RedisConfig};
use super::dialer::{Dialer, Mode, Wire, before};
use super::error::{cannot_save, is_read_only, needs_password, refuses_the_command, unreachable};
use super::findings::{Answers, Findings};
use super::sentinel::Sentinels;
use super::server_info::field;
use crate::clock::{self, ServerTime, Timestamp};
use crate::error::{StoreError, StoreErrorKind};

/// The beginning of the identity of a server that does not tell its run id, which is hexadecimal.
const UNKNOWN: &str = "unknown-";

/// Where the server is, and what a connection to it needs.
pub(super) struct Endpoint {
    target: Target,
    dialer: Dialer,
    connect_timeout: Duration,
    /// A command that changes nothing and that only a writable master carries out.
    probe: Cmd,
    server_time: Arc<ServerTime>,
    findings: Arc<Findings>,
}

/// Where the server is.
#[derive(Clone)]
pub(super) enum Target {
    Fixed(RedisAddress),
    /// At an address, where a cluster has a master with this id.
    Member(RedisAddress, MemberId),
    /// Where the sentinels say.
    Sentinel(Arc<Sentinels>),
}

/// A connection that runs many commands at once.
#[derive(Clone)]
pub(super) struct Link {
    address: RedisAddress,
    pub(super) wire: Wire,
    pub(super) server: ServerId,
    /// The role that the server reports.
    role: Option<String>,
}

/// What a server has said at the beginning of a connection.
struct Introduction {
    asked: Instant,
    answered: Instant,
    answers: Answers,
}

/// The identity of a server process.
///
/// It is the server's run id. A process that does not tell has an identity that equals no other,
/// so two connections to it are never taken for connections to the same server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerId(Arc<str>);

impl Endpoint {
    pub(super) fn new(
        config: &RedisConfig,
        target: Target,
        dialer: Dialer,
        server_time: Arc<ServerTime>,
        findings: Arc<Findings>,
    ) -> Self {
        Endpoint {
            target,
            dialer,
            connect_timeout: config.connect_timeout,
            probe: get_from_master(&idle_key(&config.key_prefix)),
            server_time,
            findings,
        }
    }

    /// Returns a command that changes nothing and that only a writable master carries out.
    pub(super) fn probe(&self) -> &Cmd {
        &self.probe
    }

    /// Returns the findings about the server, which each new connection adds to.
    pub(super) fn findings(&self) -> &Arc<Findings> {
        &self.findings
    }

    /// Looks out for another master at this interval, if sentinels say where it is.
    pub(super) fn confirm_every(&self, interval: Duration) {
        if let Target::Sentinel(sentinels) = &self.target {
            sentinels.ask_every(interval);
        }
    }

    /// Returns `true` unless sentinels say where the master is, and none has named the present one
    /// for this long.
    pub(super) fn is_confirmed_within(&self, limit: Duration) -> bool {
        match &self.target {
            Target::Fixed(_) | Target::Member(..) => true,
            Target::Sentinel(sentinels) => sentinels.have_confirmed_within(limit),
        }
    }

    /// Returns the server's time, which each new connection observes.
    pub(super) fn server_time(&self) -> &Arc<ServerTime> {
        &self.server_time
    }

    /// Closes the connections to sentinels, if there are any.
    pub(super) fn close(&self) {
        if let Target::Sentinel(sentinels) = &self.target {
            sentinels.close();
        }
    }

    /// Makes a connection for commands.
    pub(super) async fn connect(&self) -> Result<Link, StoreError> {
        let deadline = Instant::now() + self.connect_timeout;
        match &self.target {
            Target::Fixed(address) => {
                let linking = self.link_to(address, Mode::commands(), deadline);
                let (link, introduction) = before(deadline, linking).await?;
                self.learn(&introduction);
                Ok(link)
            }
            Target::Member(address, id) => {
                let linking = self.link_to_member(address, id, deadline);
                before(deadline, linking).await
            }
            Target::Sentinel(sentinels) => self.link_to_master(sentinels, deadline).await,
        }
    }

    /// Makes a connection to the address of another one, for commands, that also passes each
    /// message from a channel to `messages`.
    pub(super) async fn connect_with_messages(
        &self,
        other: &Link,
        messages: impl AsyncPushSender,
    ) -> Result<Link, StoreError> {
        let deadline = Instant::now() + self.connect_timeout;
        let mode = Mode::with_messages(messages);
        let linking = self.link_to(&other.address, mode, deadline);
        let (link, introduction) = before(deadline, linking).await?;
        if !link.differs_from(other) {
            self.learn(&introduction);
        }
        Ok(link)
    }

    /// Makes a connection to the first of the named servers that is a master.
    ///
    /// One that cannot be reached, or refuses writes although it is a master, is not passed over:
    /// the next may be an old master, which acknowledges changes that are lost when it is demoted.
    async fn link_to_master(
        &self,
        sentinels: &Arc<Sentinels>,
        deadline: Instant,
    ) -> Result<Link, StoreError> {
        let mut refused = Vec::new();
        for candidate in sentinels.masters(deadline).await? {
            let linking = self.link_to_writable(&candidate.report.master, deadline);
            if let Some((link, introduction)) = before(deadline, linking).await? {
                self.learn(&introduction);
                sentinels.confirm(candidate, refused);
                return Ok(link);
            }
            refused.push(candidate.report);
        }
        Err(no_master())
    }

    /// Makes a connection to a server that reports that it is a master, and carries out a write.
    /// Returns `None` if it is a replica.
    async fn link_to_writable(
        &self,
        address: &RedisAddress,
        deadline: Instant,
    ) -> Result<Option<(Link, Introduction)>, StoreError> {
        let (mut link, introduction) = self.link_to(address, Mode::commands(), deadline).await?;
        if !link.may_be_a_master() {
            return Ok(None);
        }
        let reply = link.wire.commands.send_packed_command(&self.probe).await;
        match reply.and_then(Value::extract_error) {
            Err(error) if is_read_only(&error) => Ok(None),
            // Still the master: it only cannot save its data.
            Err(error) if !cannot_save(&error) => Err(unreachable(error)),
            _ => Ok(Some((link, introduction))),
        }
    }

    /// Makes a connection to a member of a cluster. A server of another cluster may have taken its
    /// address over.
    async fn link_to_member(
        &self,
        address: &RedisAddress,
        id: &MemberId,
        deadline: Instant,
    ) -> Result<Link, StoreError> {
        let (link, introduction) = self.link_to(address, Mode::commands(), deadline).await?;
        let view = ask_for_view(link.wire.commands.clone()).await.map_err(unreachable)?;
        if view.is_by(id) {
            self.learn(&introduction);
            return Ok(link);
        }
        Err(StoreError::from(StoreErrorKind::Unavailable)
            .with_source("the address leads to another server than the cluster says"))
    }

    /// Makes a connection to a server that may turn out to be another one than is meant.
    async fn link_to(
        &self,
        address: &RedisAddress,
        mode: Mode,
        deadline: Instant,
    ) -> Result<(Link, Introduction), StoreError> {
        let mut wire = self.dialer.dial(address, mode, deadline).await?;
        let asked = Instant::now();
        let answers = ask(&mut wire.commands).await.map_err(unreachable)?;
        let introduction = Introduction { asked, answered: Instant::now(), answers };
        let info = introduction.answers.info.as_deref().unwrap_or_default();
        let (server, role) = (ServerId::parse(info), field(info, "role").map(str::to_owned));
        Ok((Link { address: address.clone(), wire, server, role }, introduction))
    }

    /// Records what the server that is meant has said.
    fn learn(&self, Introduction { asked, answered, answers }: &Introduction) {
        self.findings.connected(answers);
        if let Some(time) = answers.time {
            self.server_time.observe(asked.into_std(), answered.into_std(), time);
        }
    }
}

impl Link {
    /// Returns `true` if the other connection leads to another server process, as both report.
    pub(super) fn differs_from(&self, other: &Link) -> bool {
        let are_reported = self.server.is_reported() && other.server.is_reported();
        are_reported && self.server != other.server
    }

    /// Returns `false` if the server reports that it is no master.
    pub(super) fn may_be_a_master(&self) -> bool {
        self.role.as_deref().is_none_or(|role| role == "master")
    }
}

/// Asks the server about itself, and for its time.
async fn ask(commands: &mut MultiplexedConnection) -> RedisResult<Answers> {
    let mut command = cmd("INFO");
    command.arg(&["server", "memory", "stats", "replication"]);
    let info: Option<String> = unless_refused(command.query_async(commands).await)?;
    if let Some(time) = info.as_deref().and_then(clock::parse_info) {
        return Ok(Answers { info, time: Some(time) });
    }
    let time: Option<(u64, u64)> = unless_refused(cmd("TIME").query_async(commands).await)?;
    let time = time.map(|(seconds, micros)| seconds * 1000 + micros / 1000);
    Ok(Answers { info, time: time.map(Timestamp::from_millis) })
}

/// Returns a reply, or `None` if the server refuses this command and not all.
fn unless_refused<R>(reply: RedisResult<R>) -> RedisResult<Option<R>> {
    match reply {
        Err(error) if refuses_the_command(&error) && !needs_password(&error) => Ok(None),
        reply => reply.map(Some),
    }
}

fn no_master() -> StoreError {
    StoreError::from(StoreErrorKind::Unavailable)
        .with_source("no server that the sentinels name is a master")
}

impl ServerId {
    /// Returns `true` if the server has told it.
    pub(super) fn is_reported(&self) -> bool {
        !self.0.starts_with(UNKNOWN)
    }

    /// Returns `true` if this is its text.
    pub(super) fn is(&self, text: &str) -> bool {
        *self.0 == *text
    }

    fn parse(info: &str) -> Self {
        // Some compatible servers report nothing, or zeros alone.
        let is_digit = |digit: char| digit.is_ascii_hexdigit() && digit != '0';
        let says_something = |run_id: &&str| run_id.contains(is_digit);
        match field(info, "run_id").filter(says_something) {
            Some(run_id) => ServerId(run_id.into()),
            None => {
                let random: u128 = u128::from_ne_bytes(crate::random::random_bytes());
                ServerId(format!("{UNKNOWN}{random:032x}").into())
            }
        }
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_its_run_id() {
        let info = "# Server\r\nredis_version:7.0.15\r\nrun_id:0123abcd\r\ntcp_port:6379\r\n";
        assert_eq!(ServerId::parse(info), ServerId("0123abcd".into()));
        assert_eq!(ServerId::parse(info).to_string(), "0123abcd");
    }

    #[test]
    fn a_server_that_does_not_tell_is_never_the_same() {
        assert_ne!(ServerId::parse(""), ServerId::parse(""));
        for run_id in ["", "0000000000000000000000000000000000000000"] {
            let info = format!("# Server\r\nrun_id:{run_id}\r\ntcp_port:6379\r\n");
            assert_ne!(ServerId::parse(&info), ServerId::parse(&info), "{info}");
            assert!(!ServerId::parse(&info).is_reported(), "{info}");
        }
    }
}
