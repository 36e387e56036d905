//! A folder that goes when the test goes, also when the test is killed. It may not be used to keep anything.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// Removes the folder when stdin ends. Processes that are dying at the same moment may still write into
/// it, hence the tries.
const REMOVE: &str = r#"
read -r _
n=0
while [ -e "$1" ] && [ "$n" -lt 100 ]; do rm -rf -- "$1" 2>/dev/null || sleep 0.1; n=$((n+1)); done
"#;

/// A temporary folder of mode 0700.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    shell: Child,
    pipe: Option<ChildStdin>,
}

impl Scratch {
    /// A fresh folder under the system's temporary folder (`TMPDIR`), with `prefix` in its name.
    pub fn new(prefix: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix(&format!("gatewright-{prefix}-"))
            .tempdir()
            .unwrap_or_else(|e| panic!("cannot make a temporary folder: {e}"));
        let mut shell = Command::new("sh")
            .args(["-c", REMOVE, "scratch"])
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start sh: {e}"));
        let pipe = shell.stdin.take();
        Self {
            path: dir.keep(),
            shell,
            pipe,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.pipe = None;
        let _ = self.shell.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_with_its_content() {
        let scratch = Scratch::new("scratch");
        let path = scratch.path().to_owned();
        std::fs::create_dir_all(path.join("a/b")).unwrap();
        std::fs::write(path.join("a/b/c"), "x").unwrap();
        drop(scratch);
        assert!(!path.exists());
    }
}
