//! The sessions that are attached to a request, in one extension.

use std::any::Any;
use std::sync::Arc;

use http::Extensions;

use super::request::RequestSession;
use crate::record::SessionData;

/// The sessions of the layers that a request has passed, outermost first. One layer needs no
/// allocation but that of the extension.
#[derive(Clone)]
pub(crate) struct Attachments {
    first: Arc<dyn Attachment>,
    others: Vec<Arc<dyn Attachment>>,
}

/// A [`RequestSession`] of any data type.
trait Attachment: Any + Send + Sync {
    /// Returns the address of the store, which tells stores apart whatever their data type.
    fn store_address(&self) -> usize;

    fn cookie_name(&self) -> &str;
}

impl<T: SessionData> Attachment for RequestSession<T> {
    fn store_address(&self) -> usize {
        self.store().address()
    }

    fn cookie_name(&self) -> &str {
        self.layer().signer.name()
    }
}

impl Attachments {
    /// Attaches the session of a further layer.
    pub(crate) fn add<T: SessionData>(
        extensions: &mut Extensions,
        session: Arc<RequestSession<T>>,
    ) {
        match extensions.get_mut::<Attachments>() {
            Some(attachments) => attachments.others.push(session),
            None => {
                drop(extensions.insert(Attachments { first: session, others: Vec::new() }));
            }
        }
    }

    /// Returns the session of the innermost layer for this type of data.
    pub(super) fn get<T: SessionData>(&self) -> Option<Arc<RequestSession<T>>> {
        let of_type = |attachment: &&Arc<dyn Attachment>| {
            let any: &dyn Any = &***attachment;
            any.is::<RequestSession<T>>()
        };
        let found: Arc<dyn Any + Send + Sync> = self.iter().rev().find(of_type)?.clone();
        found.downcast().ok()
    }

    /// Returns `true` if a layer with this store has attached its session.
    pub(crate) fn of_store(&self, address: usize) -> bool {
        self.iter().any(|attachment| attachment.store_address() == address)
    }

    /// Returns `true` if a layer that uses this cookie has attached its session.
    pub(crate) fn of_cookie(&self, name: &str) -> bool {
        self.iter().any(|attachment| attachment.cookie_name() == name)
    }

    fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<dyn Attachment>> {
        std::iter::once(&self.first).chain(&self.others)
    }
}
