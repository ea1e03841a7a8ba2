//! Several nodes over one backend that fails, under a paused clock: a seed decides everything that
//! happens.
//!
//! `SEEDS` sets the number of seeds that each test tries; `SEED` tries a single one.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a failure names its seed")]

mod cancellation;
mod checker;
mod coherence;
mod guards;
mod history;
mod late;
mod lifetimes;
mod limits;
mod owners;
mod owners_simulated;
mod promise;
mod race;
mod recovery;
#[cfg(feature = "redis")]
mod redis;
mod regeneration;
mod request;
#[cfg(feature = "redis")]
mod rollback;
mod thief;
#[cfg(feature = "redis")]
mod topologies;
mod watching;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::time::Duration;

use clustered_sessions::testing::{Faults, FaultyBackend, Interposed};
use clustered_sessions::{
    CircuitBreakerConfig, Clock, ClusterConfig, Encryption, MemoryBackend, OutagePolicy, Secret,
    SessionConfig, SessionConfigBuilder, SessionLayer, SessionStore,
};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use self::late::Late;

pub(crate) const MAX_STALENESS: Duration = Duration::from_millis(400);
/// Maximum age of a session that is served in an outage.
pub(crate) const MAX_AGE: Duration = Duration::from_millis(600);

/// Time for which a watch tries to read its session while that is in doubt.
pub(crate) const WATCH_GRACE: Duration = Duration::from_millis(300);

/// The session data: a counter that only increases, so a lower count is an older version, and the
/// owner.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Counter {
    pub(crate) count: u64,
    pub(crate) owner: Option<String>,
}

pub(crate) struct Node {
    pub(crate) layer: SessionLayer<Counter>,
    pub(crate) faults: Faults,
    /// The backend that all nodes share.
    pub(crate) memory: MemoryBackend,
}

impl Node {
    pub(crate) fn store(&self) -> &SessionStore<Counter> {
        self.layer.store()
    }
}

/// Nodes with a common backend, and the faults that can happen to them.
pub(crate) trait World: 'static {
    fn layers(&self) -> Vec<SessionLayer<Counter>>;

    /// Injects a random fault, or ends all of them.
    fn trouble(&self, dice: &Dice);

    /// Ends all faults.
    fn heal(&self);

    /// Returns `true` unless a fault is under way that ends by itself.
    fn is_calm(&self) -> bool {
        true
    }

    /// Describes the backend for the message of a failure.
    fn describe(&self) -> String {
        String::new()
    }

    /// Restarts the backend without its data: all sessions are gone, without an announcement.
    fn restart_empty(&self);

    /// Returns the number of sessions, and of operations of each client.
    fn size(&self) -> (usize, usize) {
        (3, 60)
    }

    /// Returns for how long a node may take a server for the master that is the master no more.
    fn max_doubt(&self) -> Duration {
        Duration::ZERO
    }
}

impl World for Vec<Node> {
    fn layers(&self) -> Vec<SessionLayer<Counter>> {
        self.iter().map(|node| node.layer.clone()).collect()
    }

    fn trouble(&self, dice: &Dice) {
        let faults = &dice.pick(self).faults;
        match dice.roll(11) {
            0 => faults.delay_by(Duration::ZERO..dice.millis(150)),
            1 => faults.fail_calls(0.3),
            2 => faults.lose_answers(0.2),
            3 => faults.cut_subscriptions(),
            4 => faults.stall_subscriptions(),
            5 => faults.refuse_subscriptions(),
            6 => faults.drop_announcements_briefly(),
            7 => faults.repeat_events(0.3),
            // Frozen: replies arrive after their callers have timed out.
            8 => faults.delay_calls_by(MAX_STALENESS..MAX_STALENESS * 4),
            9 => {
                faults.fail_calls(1.0);
                faults.refuse_subscriptions();
                faults.cut_subscriptions();
            }
            _ => faults.heal(),
        }
    }

    fn heal(&self) {
        self.iter().for_each(|node| node.faults.heal());
    }

    fn restart_empty(&self) {
        self[0].memory.restart_empty();
    }
}

/// Creates nodes that are configured as usual.
pub(crate) fn nodes(count: u64, seed: u64) -> Rc<Vec<Node>> {
    nodes_with(count, seed, as_usual)
}

/// Configures a node. All except the first encrypt records, and re-encrypt a plain record after a
/// request has used it.
pub(crate) fn as_usual(
    number: u64,
    config: SessionConfigBuilder<Counter>,
) -> SessionConfigBuilder<Counter> {
    config
        .encrypt_redis_data(if number == 0 { Encryption::Off } else { Encryption::Migrating })
        .cluster(cluster(number, MAX_STALENESS))
        .on_outage(OutagePolicy::ServeCached { max_age: MAX_AGE })
}

pub(crate) fn config() -> SessionConfigBuilder<Counter> {
    SessionConfig::builder(Secret::new([1; 32]).unwrap()).timeout(Duration::from_secs(3600))
}

/// Returns the options of a node between others.
pub(crate) fn cluster(number: u64, max_staleness: Duration) -> ClusterConfig {
    ClusterConfig::new()
        .node_id(format!("node-{number}"))
        .max_staleness(max_staleness)
        .watch_grace(WATCH_GRACE)
}

/// Sets the timeouts of the sessions in a history.
pub(crate) fn with_timeouts(
    config: SessionConfigBuilder<Counter>,
    seed: u64,
) -> SessionConfigBuilder<Counter> {
    match absolute_timeout(seed) {
        Some(timeout) => config.timeout(timeout).absolute_timeout(timeout),
        None => config,
    }
}

/// Creates nodes that are configured by their number.
pub(crate) fn nodes_with(
    count: u64,
    seed: u64,
    configure: impl Fn(u64, SessionConfigBuilder<Counter>) -> SessionConfigBuilder<Counter>,
) -> Rc<Vec<Node>> {
    let clock = Clock::tokio();
    let memory = MemoryBackend::with_clock(clock.clone());
    let node = |number: u64| {
        let (backend, faults) = FaultyBackend::new(memory.clone(), seed * count + number);
        let config = config()
            .clock(clock.clone())
            .backend(Interposed::with_interposer(backend, Late))
            .owner(|data: &Counter| data.owner.clone());
        let config = resilience(configure(number, config), seed).build().unwrap();
        Node { layer: SessionLayer::new(config), faults, memory: memory.clone() }
    };
    Rc::new((0..count).map(node).collect())
}

/// Returns the absolute timeout of the sessions in a history. In most of them sessions live on.
pub(crate) fn absolute_timeout(seed: u64) -> Option<Duration> {
    (seed % 8 == 6).then_some(Duration::from_secs(2))
}

/// Disables retries for half of the seeds. Of the others, half have short timeouts and a circuit
/// breaker.
pub(crate) fn resilience(
    config: SessionConfigBuilder<Counter>,
    seed: u64,
) -> SessionConfigBuilder<Counter> {
    let breaker =
        CircuitBreakerConfig::new().failure_threshold(3).reset_timeout(Duration::from_millis(200));
    match seed % 4 {
        0 => config,
        2 => config
            .attempt_timeout(Duration::from_millis(120))
            .operation_timeout(Duration::from_millis(300))
            .circuit_breaker(breaker),
        _ => config.enable_retry(false),
    }
}

/// A source of random numbers that depends on the seed alone.
#[derive(Clone)]
pub(crate) struct Dice(Rc<RefCell<u64>>);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Dice(Rc::new(RefCell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)))
    }

    pub(crate) fn roll(&self, sides: u64) -> u64 {
        let mut state = self.0.borrow_mut();
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state % sides
    }

    pub(crate) fn pick<'a, V>(&self, from: &'a [V]) -> &'a V {
        &from[self.roll(from.len() as u64) as usize]
    }

    pub(crate) fn millis(&self, below: u64) -> Duration {
        Duration::from_millis(self.roll(below))
    }
}

/// Injects `rounds` faults, one after another.
pub(crate) async fn trouble<W: World + ?Sized>(world: Rc<W>, dice: Dice, rounds: usize) {
    for _ in 0..rounds {
        world.trouble(&dice);
        sleep(dice.millis(400)).await;
    }
}

/// Lets clients take `steps` steps each while `rounds` faults occur, and ends the faults.
pub(crate) async fn clients_in_trouble<F: Future<Output = ()> + 'static>(
    nodes: &Rc<Vec<Node>>,
    dice: &Dice,
    rounds: usize,
    (clients, steps): (usize, usize),
    step: impl Fn() -> F + Clone + 'static,
) {
    let mut tasks = vec![tokio::task::spawn_local(trouble(nodes.clone(), dice.clone(), rounds))];
    for _ in 0..clients {
        let (step, dice) = (step.clone(), dice.clone());
        tasks.push(tokio::task::spawn_local(async move {
            for _ in 0..steps {
                step().await;
                sleep(dice.millis(60)).await;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    calm(&**nodes).await;
}

/// Ends all faults and waits until the nodes have recovered.
pub(crate) async fn calm(world: &(impl World + ?Sized)) {
    world.heal();
    let layers = world.layers();
    let is_calm = || {
        let listens = |layer: &SessionLayer<Counter>| layer.store().coordinator().is_listening();
        world.is_calm() && layers.iter().all(listens)
    };
    // For longer than any pause or timeout of a node.
    let mut calm_seconds = 0;
    for _ in 0..60 {
        sleep(Duration::from_secs(1)).await;
        calm_seconds = if is_calm() { calm_seconds + 1 } else { 0 };
        if calm_seconds == 6 {
            return;
        }
    }
    let listening: Vec<_> =
        layers.iter().map(|layer| layer.store().coordinator().is_listening()).collect();
    panic!(
        "the world is not calm ({}), or not every node listens ({listening:?})\n{}",
        world.is_calm(),
        world.describe()
    );
}

/// Runs one simulation under a paused clock.
pub(crate) fn run<R>(simulation: impl Future<Output = R>) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, simulation)
}

/// Runs a simulation for many seeds on all processors, and prints the seed that fails. `SEEDS` sets
/// the number of seeds, `SEED` a single one.
pub(crate) fn run_all<R, F: Future<Output = R>>(
    default: u64,
    simulation: impl Fn(u64) -> F + Sync,
) {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(default),
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    std::thread::scope(|scope| {
        for first in 0..processors {
            let (seeds, simulation) = (seeds.clone(), &simulation);
            scope.spawn(move || {
                for seed in seeds.skip(first as usize).step_by(processors as usize) {
                    if let Err(panic) =
                        catch_unwind(AssertUnwindSafe(|| drop(run(simulation(seed)))))
                    {
                        eprintln!("to run it again: SEED={seed}");
                        resume_unwind(panic);
                    }
                }
            });
        }
    });
}
