//! An interposer that executes writes whose caller was cancelled, as a server does with requests
//! that are in flight when the client disconnects.

use clustered_sessions::StoreError;
use clustered_sessions::testing::{BackendMethod, Interposer};

pub(crate) struct Late;

impl Interposer for Late {
    async fn around<R: Send + 'static>(
        &self,
        method: BackendMethod,
        call: impl Future<Output = Result<R, StoreError>> + Send + 'static,
    ) -> Result<R, StoreError> {
        match method {
            BackendMethod::Create
            | BackendMethod::Update
            | BackendMethod::Delete
            | BackendMethod::DeleteIf
            | BackendMethod::Touch
            | BackendMethod::Clear
            | BackendMethod::AddToOwner
            | BackendMethod::ExpireInOwner
            | BackendMethod::RemoveFromOwner => tokio::spawn(call).await.expect("no call panics"),
            _ => call.await,
        }
    }
}
