//! State transitions of a request's session, without a runtime.

use std::sync::Arc;

use super::super::SessionError;
use super::super::batch::{Batch, apply_all};
use super::*;
use crate::clock::{Clock, Timestamp};
use crate::error::{StoreError, StoreErrorKind};
use crate::id::{SessionId, SessionToken};
use crate::record::{Meta, Revision};

/// The data is a list of the changes that were applied to it.
type Data = Vec<&'static str>;

fn record_with(id: SessionId) -> Record<Data> {
    let start = Timestamp::from_millis(0);
    let meta = Meta::new(Revision::first(), start, start, id);
    Record::new(Clock::system().moment(), id, meta, vec!["stored"], 0)
}

fn default_data() -> Snapshot<Data> {
    Snapshot::new(vec!["default"])
}

fn id() -> SessionId {
    SessionId::from_bytes([1; 16])
}

fn seen(at: u64) -> Seen {
    Seen { at: Millis(at), alive_at: Millis(at) }
}

/// Records that the handler has been told of all losses.
fn tell(state: &mut RequestState<Data>) {
    let nothing = RequestState::<Data>::new().losses().told();
    let told = state.losses().unknown_to(nothing).map(|(_, told)| told);
    state.losses().tell(told.unwrap());
}

fn live() -> RequestState<Data> {
    loaded(Loaded::Live(record_with(id())))
}

fn loaded(loaded: Loaded<Data>) -> RequestState<Data> {
    let mut state = RequestState::new();
    assert!(state.set_loaded(loaded, seen(0)).is_none(), "there are no changes to rebase");
    state
}

fn change(name: &'static str) -> Change<Data> {
    Arc::new(move |data: &mut Data| data.push(name))
}

fn push(state: &mut RequestState<Data>, name: &'static str) {
    if state.data().is_none() {
        state.provide_default(default_data());
    }
    let Versioned { version, data } = state.versioned().unwrap();
    let data = apply_all(&*data, &[change(name)]);
    assert!(state.push_change(version, &change(name), data));
}

fn take_batch(state: &mut RequestState<Data>) -> Batch<Data> {
    state.request_commit();
    state.take_batch()
}

#[test]
fn a_commit_from_before_the_load_does_not_undo_it() {
    let mut state = live();
    assert!(state.set_loaded(Loaded::NotYet, seen(1)).is_none());
    assert!(state.is_loaded() && state.live_record().is_some());
}

#[test]
fn data_computed_from_an_older_version_is_not_stored() {
    let mut state = live();
    let old = state.versioned().unwrap();
    push(&mut state, "first");
    let second = change("second");
    let stale = apply_all(&*old.data, std::slice::from_ref(&second));
    assert!(!state.push_change(old.version, &second, stale));
    let newer = state.versioned().unwrap();
    assert_eq!(*newer.data, ["stored", "first"]);
    let data = apply_all(&*newer.data, std::slice::from_ref(&second));
    assert!(state.push_change(newer.version, &second, data));
    assert_eq!(*state.data().unwrap(), ["stored", "first", "second"]);
}

#[test]
fn a_rebase_that_a_change_overtakes_is_computed_again() {
    let mut state = RequestState::new();
    push(&mut state, "first");
    let live = Loaded::Live(record_with(id()));
    let rebase = state.set_loaded(live, seen(0)).unwrap();
    let data = apply_all(&*rebase.base.unwrap(), &rebase.changes);
    push(&mut state, "second");
    let rebase = state.finish_rebase(rebase.version, data).unwrap();
    let data = apply_all(&*rebase.base.unwrap(), &rebase.changes);
    assert!(state.finish_rebase(rebase.version, data).is_none());
    assert_eq!(*state.data().unwrap(), ["stored", "first", "second"]);
}

#[test]
fn a_batch_that_is_put_back_comes_before_later_changes() {
    let mut state = live();
    push(&mut state, "before");
    state.regenerate();
    let mut batch = take_batch(&mut state);
    let extra = change("extra");
    let data = apply_all(&**batch.data.as_ref().unwrap(), std::slice::from_ref(&extra));
    batch.push_extra(extra, data);
    assert_eq!(**batch.data.as_ref().unwrap(), ["stored", "before", "extra"]);
    push(&mut state, "after");
    batch.drop_extra();
    state.put_back(&mut batch);
    assert_eq!(*apply_all(&Vec::new(), &state.changes), ["before", "after"]);
    assert_eq!(state.plan(), Plan::Regenerate);
}

#[test]
fn a_logout_during_a_commit_voids_the_batch() {
    let mut state = live();
    push(&mut state, "before");
    let mut batch = take_batch(&mut state);
    state.destroy();
    push(&mut state, "after");
    state.put_back(&mut batch);
    assert_eq!(*apply_all(&Vec::new(), &state.changes), ["after"]);
    assert_eq!(state.plan(), Plan::Replace);
}

#[test]
fn a_logout_hides_the_session_and_is_not_discarded() {
    let mut state = live();
    push(&mut state, "before");
    state.destroy();
    state.discard();
    assert!(state.record().is_none() && !state.has_changes());
    assert_eq!(state.data(), None, "default data has not been made");
    assert_eq!(state.plan(), Plan::Delete);
}

#[test]
fn an_aborted_request_keeps_nothing_but_its_logout() {
    let mut state = live();
    state.destroy();
    push(&mut state, "after");
    let logout = state.abort().unwrap();
    assert_eq!(logout.ids(), [id()]);
    assert_eq!((state.plan(), state.live_record().is_some()), (Plan::Nothing, false));
    assert!(state.has_work(), "the next commit reports the change that is lost");
    tell(&mut state);
    assert!(!state.has_work());
    assert!(state.abort().is_none(), "the logout is taken once");
}

#[test]
fn an_aborted_request_leaves_everything_to_a_pending_commit() {
    let mut state = live();
    push(&mut state, "before");
    state.destroy();
    state.request_commit();
    assert!(state.abort().is_none());
    assert_eq!(state.take_batch().plan, Plan::Delete);
}

#[test]
fn an_aborted_request_gets_its_logout_back_from_the_last_commit_that_is_withdrawn() {
    let mut state = live();
    state.destroy();
    state.request_commit();
    state.request_commit();
    assert!(state.withdraw_commit().is_none(), "the request goes on");
    assert!(state.abort().is_none());
    assert_eq!(state.withdraw_commit().unwrap().ids(), [id()]);
}

#[test]
fn what_was_discarded_during_a_commit_is_not_put_back() {
    let mut state = live();
    push(&mut state, "before");
    state.regenerate();
    let mut batch = take_batch(&mut state);
    state.discard();
    state.put_back(&mut batch);
    assert_eq!((state.plan(), &**state.data().unwrap()), (Plan::Nothing, &["stored"][..]));
    assert!(!state.has_work(), "it was discarded on purpose");

    state.replace(Snapshot::new(vec!["login"]), change("login"));
    let mut batch = take_batch(&mut state);
    state.discard();
    state.put_back(&mut batch);
    assert_eq!((state.plan(), &**state.data().unwrap()), (Plan::Nothing, &["stored"][..]));

    state.destroy();
    let mut batch = take_batch(&mut state);
    state.discard();
    state.put_back(&mut batch);
    assert_eq!(state.plan(), Plan::Delete, "a logout stands");
}

#[test]
fn what_a_request_has_dropped_during_a_commit_is_lost_and_not_put_back() {
    let drops: [fn(&mut RequestState<Data>); 2] = [
        |state| assert!(state.abort().is_none()),
        |state| state.discard_after(SessionError::HeadSent),
    ];
    for drop in drops {
        let mut state = live();
        push(&mut state, "before");
        let mut batch = take_batch(&mut state);
        drop(&mut state);
        assert!(!state.has_work(), "the commit may succeed");
        state.put_back(&mut batch);
        assert_eq!((state.plan(), &**state.data().unwrap()), (Plan::Nothing, &["stored"][..]));
        assert!(state.has_work(), "the next commit reports the loss");
        tell(&mut state);

        state.destroy();
        let mut batch = take_batch(&mut state);
        drop(&mut state);
        state.put_back(&mut batch);
        assert_eq!(state.plan(), Plan::Delete);
        let told = state.losses().told();
        assert!(state.losses().unknown_to(told).is_none());
    }
}

#[test]
fn no_token_is_sent_for_a_session_that_is_gone() {
    let token = || CookieChange::Set(SessionToken::random());
    let gone = [Loaded::EndedMeanwhile(id()), Loaded::Missing(id()), Loaded::Moved(id())];
    for gone in gone {
        let mut state = live();
        state.set_cookie(token());
        assert!(state.set_loaded(gone, seen(1)).is_none());
        assert_eq!(state.send_head(), None);
    }
    let mut state = live();
    state.set_cookie(CookieChange::Remove);
    assert!(state.set_loaded(Loaded::NoSession, seen(1)).is_none());
    assert_eq!(state.send_head(), Some(CookieChange::Remove));
}

#[test]
fn a_session_that_was_there_earlier_in_the_request_has_ended_meanwhile() {
    let (other, live) = (SessionId::from_bytes([2; 16]), Loaded::Live(record_with(id())));
    for now in [Loaded::Missing, Loaded::Moved] {
        assert!(matches!(now(id()).after(&live), Loaded::EndedMeanwhile(it) if it == id()));
        assert!(!matches!(now(other).after(&live), Loaded::EndedMeanwhile(_)));
        assert!(!matches!(now(id()).after(&Loaded::Missing(id())), Loaded::EndedMeanwhile(_)));
    }
    let record = record_with(id());
    assert!(matches!(Loaded::Live(record).after(&live), Loaded::Live(_)));
}

#[test]
fn a_failed_commit_is_given_up_if_a_retry_could_do_harm() {
    use StoreErrorKind::{Corrupt, Gone, OutcomeUnknown, Timeout};
    let ended = |loaded: Option<Loaded<_>>| matches!(loaded, Some(Loaded::EndedMeanwhile(_)));
    let same = |loaded: Option<Loaded<_>>| matches!(loaded, Some(Loaded::Live(_)));
    let mut state = live();
    push(&mut state, "change");
    let batch = take_batch(&mut state);
    assert!(ended(batch.give_up_after(Gone)));
    assert!(same(batch.give_up_after(Corrupt)) && same(batch.give_up_after(OutcomeUnknown)));
    assert!(batch.give_up_after(Timeout).is_none());
    state.destroy();
    let logout = take_batch(&mut state);
    for kind in [Gone, Corrupt, OutcomeUnknown, Timeout] {
        assert!(logout.give_up_after(kind).is_none(), "{kind:?}");
    }
}

#[test]
fn the_record_that_was_seen_is_kept_with_the_time_at_which_it_existed() {
    let seen_at = |state: &mut _| take_batch(state).last_seen.map(|seen| seen.at());
    let mut state = live();
    assert_eq!(seen_at(&mut state), Some(Some(Millis(0))));
    assert!(state.set_loaded(Loaded::EndedMeanwhile(id()), seen(1)).is_none());
    assert_eq!(seen_at(&mut state), Some(Some(Millis(0))), "it did not exist later");
    let mut state = live();
    let same = state.loaded().clone();
    assert!(state.set_loaded(same, seen(1)).is_none());
    assert_eq!(seen_at(&mut state), Some(Some(Millis(0))), "it was not read again");
    assert!(state.set_loaded(Loaded::Live(record_with(id())), seen(2)).is_none());
    assert_eq!(seen_at(&mut state), Some(Some(Millis(2))));
    let error = StoreError::from(StoreErrorKind::Unavailable);
    let mut state = loaded(Loaded::Stale(error, record_with(id())));
    assert_eq!(seen_at(&mut state), Some(None), "it may have ended long ago");
}

#[test]
fn a_plan_that_needs_a_cookie_fails_after_the_head() {
    let mut state = live();
    assert_eq!(state.send_head(), None);
    push(&mut state, "change");
    assert!(take_batch(&mut state).check().is_ok(), "an update sends no cookie");
    state.regenerate();
    assert!(matches!(take_batch(&mut state).check(), Err(SessionError::HeadSent)));
}

#[test]
fn a_change_during_an_outage_is_refused_with_its_error() {
    let error = StoreError::from(StoreErrorKind::Unavailable);
    let mut state = loaded(Loaded::Stale(error, record_with(id())));
    assert!(take_batch(&mut state).check().is_ok());
    push(&mut state, "change");
    assert!(matches!(take_batch(&mut state).check(), Err(SessionError::ReadOnly(_))));
}

#[test]
fn default_data_is_made_once_for_each_session_of_a_request() {
    let mut state = loaded(Loaded::NoSession);
    assert!(state.data().is_none() && state.versioned().is_none());
    state.provide_default(default_data());
    state.provide_default(Snapshot::new(vec!["another"]));
    assert_eq!(state.data(), Some(default_data()));
    push(&mut state, "change");
    state.discard();
    assert_eq!(state.data(), Some(default_data()), "the visitor has seen it");
    assert!(state.set_loaded(Loaded::Live(record_with(id())), seen(0)).is_none());
    state.destroy();
    assert_eq!(state.data(), None, "a later session does not inherit from the earlier one");
}

#[test]
fn a_replacement_drops_earlier_changes_and_keeps_an_earlier_logout() {
    let mut state = live();
    push(&mut state, "before");
    state.destroy();
    let login: Change<Data> = Arc::new(|data: &mut Data| *data = vec!["login"]);
    state.replace(Snapshot::new(vec!["login"]), login);
    push(&mut state, "after");
    assert_eq!(**state.data().unwrap(), ["login", "after"]);
    assert_eq!((state.plan(), state.record().is_none()), (Plan::Replace, true));
    state.discard();
    assert_eq!(state.plan(), Plan::Delete);
}

#[test]
fn of_the_sessions_that_several_cookies_name_the_only_one_that_exists_is_chosen() {
    let [one, two] = [1, 2].map(|byte| SessionId::from_bytes([byte; 16]));
    let live = |id| Loaded::Live(record_with(id));
    let corrupt = || Loaded::Unreadable(StoreErrorKind::Corrupt.into(), two);
    let unreachable = || Loaded::Unavailable(StoreErrorKind::Unavailable.into(), two);
    let stale = |id| Loaded::Stale(StoreErrorKind::Unavailable.into(), record_with(id));
    for (named, expected) in [
        (vec![Loaded::Missing(two), live(one)], "Live"),
        (vec![live(one), Loaded::Moved(two)], "Live"),
        (vec![live(one), corrupt()], "Live"),
        (vec![live(one), live(two)], "Ambiguous"),
        (vec![live(one), unreachable()], "Unavailable"),
        (vec![live(one), stale(two)], "Unavailable"),
        (vec![stale(one), stale(two)], "Unavailable"),
        (vec![Loaded::Missing(one), stale(two)], "Stale"),
        (vec![Loaded::Missing(one), unreachable()], "Unavailable"),
        (vec![Loaded::Moved(one), corrupt()], "Unreadable"),
        (vec![Loaded::Moved(one), Loaded::Missing(two)], "Moved"),
        (vec![Loaded::Missing(one), Loaded::Missing(two)], "Missing"),
        (vec![], "NoSession"),
    ] {
        let chosen = format!("{:?}", Loaded::choose(named.clone()));
        assert!(chosen.starts_with(expected), "{named:?}: {chosen}");
    }
}
