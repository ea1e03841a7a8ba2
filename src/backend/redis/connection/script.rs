//! Runs scripts.

use redis::{RedisResult, Value};

use super::super::request::{Arguments, Request};
use super::super::scripts::{Script, is_unknown_script};
use super::{Connected, SharedConnection};
use crate::error::StoreError;

impl SharedConnection {
    /// Runs a script in one round trip, or in two if the server does not know it yet. Returns the
    /// server's reply, which may be an error.
    pub(super) async fn send_script(
        &self,
        connected: &Connected,
        request: &Request<'_>,
        script: &Script,
        arguments: &Arguments<'_>,
    ) -> Result<RedisResult<Value>, StoreError> {
        let mut reply = {
            let record = request.record.map_or(0, |(_, size)| size);
            let command = script.by_digest(record, arguments);
            self.send(connected, &command, request.effect).await?
        };
        if reply.as_ref().is_err_and(is_unknown_script) {
            let command = script.by_code(arguments);
            reply = self.send(connected, &command, request.effect).await?;
        }
        Ok(reply.map_err(|error| script.name_the_command(error)))
    }
}
