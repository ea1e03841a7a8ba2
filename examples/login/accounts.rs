//! Accounts and their passwords.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use tokio::sync::Semaphore;

#[derive(Clone)]
struct Account {
    hash: String,
    /// Incremented with every password change. Sessions of a former version are not logged in.
    version: u64,
}

/// An in-memory substitute for a database. Clones share the accounts.
#[derive(Clone)]
pub(crate) struct Accounts {
    accounts: Arc<Mutex<HashMap<String, Account>>>,
    /// Verified against when the name is unknown, so that the response takes equally long.
    dummy: Arc<Account>,
    hashing: Arc<Semaphore>,
}

impl Accounts {
    /// Creates accounts whose passwords are hashed with a permit of `hashing` each.
    pub(crate) async fn new(hashing: Arc<Semaphore>) -> Result<Self, HashError> {
        let hash = hash("the password of no account".to_owned(), &hashing).await?;
        let dummy = Arc::new(Account { hash, version: 0 });
        Ok(Accounts { accounts: Arc::default(), dummy, hashing })
    }

    fn find(&self, name: &str) -> Option<Account> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Returns the current version of the account's password, or `None` if there is no such
    /// account.
    pub(crate) fn version(&self, name: &str) -> Option<u64> {
        self.find(name).map(|account| account.version)
    }

    /// Returns the version of the account's password if `password` is correct.
    pub(crate) async fn verify(
        &self,
        name: &str,
        password: String,
    ) -> Result<Option<u64>, HashError> {
        let found = self.find(name);
        let account = found.clone().unwrap_or_else(|| (*self.dummy).clone());
        let permit = self.hashing.clone().acquire_owned().await.map_err(HashError::new)?;
        let verified = tokio::task::spawn_blocking(move || {
            // Held until the hash is computed, even if the request has been cancelled by then.
            let _permit = permit;
            let hash = PasswordHash::new(&account.hash)?;
            Argon2::default().verify_password(password.as_bytes(), &hash)
        });
        let is_correct = verified.await.map_err(HashError::new)?.is_ok();
        Ok(found.filter(|_| is_correct).map(|account| account.version))
    }

    /// Creates an account, or replaces the one of that name.
    pub(crate) async fn register(&self, name: &str, password: &str) -> Result<(), HashError> {
        let hash = hash(password.to_owned(), &self.hashing).await?;
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let version = accounts.get(name).map_or(0, |account| account.version) + 1;
        accounts.insert(name.to_owned(), Account { hash, version });
        Ok(())
    }

    /// Sets a new password if the current one still has the given version, and returns its version.
    ///
    /// Returns `None` without a change otherwise: of two concurrent changes, one wins.
    pub(crate) async fn replace_password(
        &self,
        name: &str,
        version: u64,
        password: String,
    ) -> Result<Option<u64>, HashError> {
        let hash = hash(password, &self.hashing).await?;
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        match accounts.get_mut(name) {
            Some(account) if account.version == version => {
                *account = Account { hash, version: version + 1 };
                Ok(Some(account.version))
            }
            _ => Ok(None),
        }
    }
}

/// Hashes a password with Argon2id and a random salt, with the parameters recommended by OWASP's
/// Password Storage Cheat Sheet: 19 MiB and two passes.
async fn hash(password: String, hashing: &Arc<Semaphore>) -> Result<String, HashError> {
    let permit = hashing.clone().acquire_owned().await.map_err(HashError::new)?;
    let hashed = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        Argon2::default().hash_password(password.as_bytes())
    });
    let hash = hashed.await.map_err(HashError::new)?.map_err(HashError::new)?;
    Ok(hash.to_string())
}

/// An error while hashing a password.
#[derive(Debug)]
pub(crate) struct HashError(String);

impl HashError {
    fn new(error: impl fmt::Display) -> Self {
        HashError(error.to_string())
    }
}

impl fmt::Display for HashError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for HashError {}
