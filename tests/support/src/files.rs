//! Temporary files.

use std::path::PathBuf;

use crate::redis::free_port;

/// A directory of files that is removed on drop.
pub struct Files(PathBuf);

impl Files {
    #[allow(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Self {
        let name = format!("clustered-sessions-files-{}-{}", std::process::id(), free_port());
        let dir = std::env::temp_dir().join(name);
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
