//! State transitions of a request's session, without a runtime.

use super::super::SessionError;
use super::super::batch::apply_all;
use super::*;
use crate::clock::{Clock, Timestamp};
use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;
use crate::record::{Meta, Revision};

/// The data is a list of the changes that were applied to it.
type Data = Vec<&'static str>;

fn record_with(id: SessionId) -> Record<Data> {
    let meta = Meta {
        revision: Revision::first(),
        created_at: Timestamp::from_millis(0),
        deadline: Timestamp::from_millis(0),
        origin: id,
    };
    Record::new(&Clock::system(), id, meta, Arc::new(vec!["stored"]))
}

fn default_data() -> Arc<Data> {
    Arc::new(vec!["default"])
}

fn id() -> SessionId {
    SessionId::from_bytes([1; 16])
}

fn live() -> RequestState<Data> {
    loaded(Loaded::Live(record_with(id())))
}

fn loaded(loaded: Loaded<Data>) -> RequestState<Data> {
    let mut state = RequestState::new(&default_data());
    assert!(
        state.set_loaded(loaded, Millis(0), &default_data()).is_none(),
        "there are no changes to rebase"
    );
    state
}

fn change(name: &'static str) -> Change<Data> {
    Arc::new(move |data: &mut Data| data.push(name))
}

fn push(state: &mut RequestState<Data>, name: &'static str) {
    let Snapshot { version, data } = state.snapshot();
    let data = apply_all(&*data, &[change(name)]);
    assert!(state.push_change(version, &change(name), data).is_ok());
}

fn take_batch(state: &mut RequestState<Data>) -> Batch<Data> {
    state.request_commit();
    state.take_batch()
}

#[test]
fn data_computed_from_an_older_version_is_not_stored() {
    let mut state = live();
    let old = state.snapshot();
    push(&mut state, "first");
    let second = change("second");
    let stale = apply_all(&*old.data, std::slice::from_ref(&second));
    let newer = state.push_change(old.version, &second, stale).unwrap_err();
    assert_eq!(*newer.data, ["stored", "first"]);
    let data = apply_all(&*newer.data, std::slice::from_ref(&second));
    assert!(state.push_change(newer.version, &second, data).is_ok());
    assert_eq!(**state.data(), ["stored", "first", "second"]);
}

#[test]
fn a_rebase_that_a_change_overtakes_is_computed_again() {
    let mut state = RequestState::new(&default_data());
    push(&mut state, "first");
    let live = Loaded::Live(record_with(id()));
    let rebase = state.set_loaded(live, Millis(0), &default_data()).unwrap();
    let data = apply_all(&*rebase.base, &rebase.changes);
    push(&mut state, "second");
    let rebase = state.finish_rebase(rebase.version, data, &default_data()).unwrap();
    let data = apply_all(&*rebase.base, &rebase.changes);
    assert!(state.finish_rebase(rebase.version, data, &default_data()).is_none());
    assert_eq!(**state.data(), ["stored", "first", "second"]);
}

#[test]
fn a_batch_that_is_put_back_comes_before_later_changes() {
    let mut state = live();
    push(&mut state, "before");
    state.regenerate();
    let mut batch = take_batch(&mut state);
    batch.push_extra(change("extra"));
    assert_eq!(*batch.data, ["stored", "before", "extra"]);
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
    state.destroy(&default_data());
    push(&mut state, "after");
    state.put_back(&mut batch);
    assert_eq!(*apply_all(&Vec::new(), &state.changes), ["after"]);
    assert_eq!(state.plan(), Plan::Replace);
}

#[test]
fn a_logout_hides_the_session_and_is_not_discarded() {
    let mut state = live();
    push(&mut state, "before");
    state.destroy(&default_data());
    state.discard(&default_data());
    assert!(state.record().is_none() && !state.has_changes());
    assert_eq!(state.data(), &default_data());
    assert_eq!(state.plan(), Plan::Delete);
}

#[test]
fn an_aborted_request_keeps_nothing_but_its_logout() {
    let mut state = live();
    state.destroy(&default_data());
    push(&mut state, "after");
    let logout = state.abort(&default_data()).unwrap();
    assert_eq!(logout.ids(), [id()]);
    assert!(!state.has_work() && state.live_record().is_none());
    assert!(state.abort(&default_data()).is_none(), "the logout is taken once");
}

#[test]
fn an_aborted_request_leaves_everything_to_a_pending_commit() {
    let mut state = live();
    push(&mut state, "before");
    state.destroy(&default_data());
    state.request_commit();
    assert!(state.abort(&default_data()).is_none());
    assert_eq!(state.take_batch().plan, Plan::Delete);
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
    state.destroy(&default_data());
    let logout = take_batch(&mut state);
    for kind in [Gone, Corrupt, OutcomeUnknown, Timeout] {
        assert!(logout.give_up_after(kind).is_none(), "{kind:?}");
    }
}

#[test]
fn a_plan_that_needs_a_cookie_fails_after_the_head() {
    let mut state = live();
    assert_eq!(state.send_head(None), None);
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
fn only_a_live_session_under_its_own_old_cookie_is_signed_again() {
    let token = SessionToken::random();
    let old = VerifiedCookie { token: token.clone(), needs_resigning: true };
    let current = VerifiedCookie { token: token.clone(), needs_resigning: false };
    let own = Loaded::Live(record_with(token.session_id()));
    let signed_again = |loaded_as: Loaded<_>, verified| loaded(loaded_as).send_head(verified);
    assert_eq!(signed_again(own.clone(), Some(&old)), Some(CookieChange::Set(token.clone())));
    assert_eq!(signed_again(own.clone(), Some(&current)), None);
    assert_eq!(signed_again(own, None), None);
    assert_eq!(signed_again(Loaded::Live(record_with(id())), Some(&old)), None);
    assert_eq!(signed_again(Loaded::Missing(token.session_id()), Some(&old)), None);
}
