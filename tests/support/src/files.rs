//! Temporary files.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// A directory of files that is removed on drop.
pub struct Files(PathBuf);

impl Files {
    #[allow(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("clustered-sessions-files-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        // One may be left from a process that had the same id.
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Files(dir)
    }

    /// Writes a file and returns its path.
    pub fn write(&self, name: &str, content: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Returns the path of a file, which need not exist.
    pub fn path(&self, name: &str) -> String {
        let path = self.0.join(name);
        path.to_str().expect("the path of a temporary file is Unicode").to_owned()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
