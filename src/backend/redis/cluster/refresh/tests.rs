use std::sync::Mutex;

use tokio::time::{sleep, timeout};

use super::super::super::config::{RedisAddress, RedisCluster, RedisConfig};
use super::super::super::scripted::{about_a_master, scripted};
use super::super::tests::{ONE, THREE, TWO, answer, cluster};
use super::*;

#[tokio::test]
async fn the_past_of_a_cluster_is_not_taken_for_its_present() {
    let cluster = cluster();
    let knows_better = |nodes: &[&str], epoch| {
        let answer = BestAnswer { description: answer(nodes, epoch), is_of_most: true };
        cluster.lock().knows_better_than(&answer, Duration::from_secs(1))
    };
    assert!(!knows_better(&[ONE, TWO], 0), "nothing is known yet");
    cluster.apply(&mut cluster.lock(), &answer(&[ONE, TWO], 5));
    assert!(knows_better(&[ONE, TWO], 4));
    assert!(!knows_better(&[ONE, TWO], 5));
    let new = THREE.replace("master", "myself,master");
    assert!(!knows_better(&[&new], 1), "the cluster was built again");
}

/// Returns a cluster of two masters, each of which says this about its cluster, and this current
/// epoch.
fn cluster_that_says(what: &Arc<Mutex<[(&'static str, u64); 2]>>) -> Arc<Cluster> {
    let what = what.clone();
    let seeds = RedisCluster::new([("10.0.0.1", 6379)]);
    let (config, _) = scripted(RedisConfig::cluster(seeds.clone()), move |address, words| {
        let (nodes, epoch) =
            what.lock().unwrap()[usize::from(*address != RedisAddress::tcp("10.0.0.1", 6379))];
        about_a_master(words, nodes, epoch)
    });
    Arc::new(Cluster::new(&config, &seeds, config.dialer().unwrap(), &Arc::default()))
}

async fn ids(cluster: &Cluster) -> Vec<String> {
    let (members, _) = cluster.discover().await.unwrap();
    members.iter().map(|member| member.id.as_deref().unwrap().to_owned()).collect()
}

const SEEN_BY_ONE: &str = "one 10.0.0.1:6379@16379 myself,master - 0 0 1 connected 0-8191\n\
     two 10.0.0.2:6379@16379 master - 0 0 2 connected 8192-16383";
const SEEN_BY_TWO: &str = "one 10.0.0.1:6379@16379 master - 0 0 1 connected 0-8191\n\
     two 10.0.0.2:6379@16379 myself,master - 0 0 2 connected 8192-16383";
const SEEN_BY_A_STRANGER: &str = "new 10.0.0.2:6379@16379 myself,master - 0 0 1 connected 0-16383";

#[tokio::test(start_paused = true)]
async fn a_server_of_another_cluster_at_the_address_of_a_master_is_not_believed() {
    let says = Arc::new(Mutex::new([(SEEN_BY_ONE, 2), (SEEN_BY_TWO, 2)]));
    let cluster = cluster_that_says(&says);
    assert_eq!(ids(&cluster).await, ["one", "two"]);
    says.lock().unwrap()[1] = (SEEN_BY_A_STRANGER, 9);
    assert_eq!(ids(&cluster).await, ["one", "two"]);
    says.lock().unwrap()[0] = (SEEN_BY_A_STRANGER, 9);
    assert_eq!(ids(&cluster).await, ["new"], "it is at a configured address");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_goes_back_to_earlier_data_is_believed_after_a_while() {
    let says = Arc::new(Mutex::new([(SEEN_BY_ONE, 9), (SEEN_BY_TWO, 9)]));
    let cluster = cluster_that_says(&says);
    assert_eq!(ids(&cluster).await, ["one", "two"]);
    let danger = cluster.elections().danger();
    let hides_a_master = |epoch| {
        let view = answer(&[ONE, TWO], epoch).view;
        cluster.elections().may_hide_a_master(&view, Instant::now().into_std())
    };
    assert!(hides_a_master(9), "nobody has won it");
    *says.lock().unwrap() = [(SEEN_BY_ONE, 4), (SEEN_BY_TWO, 4)];
    assert!(cluster.discover().await.is_err());
    sleep(danger).await;
    assert!(cluster.discover().await.is_err());
    sleep(Duration::from_secs(1)).await;
    assert_eq!(ids(&cluster).await, ["one", "two"]);
    assert!(hides_a_master(4), "an election since then");
}

#[tokio::test(start_paused = true)]
async fn a_minority_of_the_known_masters_is_not_believed_however_long_it_is_behind() {
    let says = Arc::new(Mutex::new([(SEEN_BY_ONE, 9), (SEEN_BY_TWO, 9)]));
    let cluster = cluster_that_says(&says);
    assert_eq!(ids(&cluster).await, ["one", "two"]);
    *says.lock().unwrap() = [(SEEN_BY_ONE, 4), ("unreadable", 4)];
    let danger = cluster.elections().danger();
    for _ in 0..3 {
        assert!(cluster.discover().await.is_err());
        sleep(danger).await;
    }
}

#[tokio::test]
async fn a_master_with_another_id_at_the_same_address_gets_connections_of_its_own() {
    let cluster = cluster();
    let two = || {
        let members = cluster.lock().members.all().to_vec();
        members[1].lanes.clone()
    };
    cluster.apply(&mut cluster.lock(), &answer(&[ONE, TWO], 2));
    let before = two();
    cluster.apply(&mut cluster.lock(), &answer(&[ONE, &TWO.replace("two", "xyz")], 3));
    assert!(!Arc::ptr_eq(&before, &two()));
}

/// Returns a cluster of which no server answers.
fn silent() -> Arc<Cluster> {
    let seeds = RedisCluster::new([("10.0.0.1", 6379)]);
    let config = RedisConfig::cluster(seeds.clone())
        .connector(|_| std::future::pending::<std::io::Result<tokio::io::DuplexStream>>());
    Arc::new(Cluster::new(&config, &seeds, config.dialer().unwrap(), &Arc::default()))
}

#[tokio::test(start_paused = true)]
async fn requests_that_fail_do_not_queue_up_questions_to_a_silent_cluster() {
    let cluster = silent();
    for _ in 0..20 {
        cluster.refresh();
        sleep(REFRESH_AFTER).await;
    }
    let asked = || cluster.lock().attempts;
    // A question takes a second, and these 20 requests came within 4 s.
    sleep(Duration::from_secs(60)).await;
    assert!((1..=5).contains(&asked()), "{} questions", asked());
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_is_not_polled_holds_up_no_other() {
    let cluster = silent();
    let mut unpolled = Box::pin(cluster.discovered());
    assert!(futures_util::poll!(&mut unpolled).is_pending());
    tokio::task::yield_now().await;
    let other = timeout(Duration::from_secs(10), cluster.discovered()).await;
    assert!(other.expect("it need not wait for the first").is_err());
}

async fn best_of(answers: Vec<Result<Description, StoreError>>, known: Option<u64>) -> Option<u64> {
    let asking: FuturesUnordered<_> = answers.into_iter().map(std::future::ready).collect();
    let answer = best(asking, known, Instant::now() + Duration::from_secs(1)).await;
    answer.ok().map(|(answer, _)| answer.view.current_epoch)
}

#[tokio::test]
async fn the_server_that_has_heard_of_the_latest_election_is_believed() {
    let answers = |epochs: &[u64]| {
        let answers = epochs.iter().map(|epoch| Ok(answer(&[ONE, TWO], *epoch)));
        answers.chain([Err(unavailable("it is down"))]).collect()
    };
    assert_eq!(best_of(answers(&[3, 5, 4]), Some(5)).await, Some(5));
    assert_eq!(best_of(answers(&[3, 4]), Some(5)).await, Some(4));
    assert_eq!(best_of(answers(&[]), Some(5)).await, None);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_the_others_once_there_is_news() {
    let answers: FuturesUnordered<_> = [Some(6), None]
        .map(|epoch| async move {
            match epoch {
                Some(epoch) => Ok(answer(&[ONE, TWO], epoch)),
                None => std::future::pending().await,
            }
        })
        .into_iter()
        .collect();
    let begun = Instant::now();
    let deadline = begun + Duration::from_secs(1);
    assert!(best(answers, Some(5), deadline).await.is_ok());
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn no_command_is_sent_to_another_server_at_the_address_of_a_master() {
    let says = Arc::new(Mutex::new([(SEEN_BY_ONE, 2), (SEEN_BY_A_STRANGER, 9)]));
    let cluster = cluster_that_says(&says);
    let (members, _) = cluster.discover().await.unwrap();
    let [one, two] = &members[..] else { panic!("two masters") };
    assert!(one.lanes.commands().connected().await.is_ok());
    let error = two.lanes.commands().connected().await.map(drop).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    says.lock().unwrap()[1] = (SEEN_BY_TWO, 2);
    assert!(two.lanes.commands().connected().await.is_ok());
}
