//! Where the real parts that tests run against are. It may not install or build any: `cargo xtask tools` does.

use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The pinned versions, shared with `cargo xtask tools` so that both mean the same folders.
const VERSIONS: &str = include_str!("../../../xtask/tools/versions");

/// The folder of the built part `name`, which may not exist: `${GATEWRIGHT_TOOLS}/<name>-<version>`,
/// by default under `~/.cache/gatewright/tools`. Panics if no such part is pinned.
pub fn folder(name: &str) -> PathBuf {
    let version = pinned_version(VERSIONS, name)
        .unwrap_or_else(|| panic!("no part is called {name}: see xtask/tools/versions"));
    tools_root().join(format!("{name}-{version}"))
}

fn tools_root() -> PathBuf {
    if let Some(root) = std::env::var_os("GATEWRIGHT_TOOLS") {
        return root.into();
    }
    let home = std::env::var_os("HOME").unwrap_or_else(|| "/".into());
    Path::new(&home).join(".cache/gatewright/tools")
}

fn pinned_version<'a>(versions: &'a str, name: &str) -> Option<&'a str> {
    versions
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(' '))
        .find(|(pinned, _)| *pinned == name)
        .map(|(_, version)| version.trim())
}

/// The executable `name` if this machine has it: a Kubernetes binary from `KUBEBUILDER_ASSETS`, a built
/// part from its tools folder, or anything from PATH and the system's `sbin` folders.
pub fn find(name: &str) -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    let kubernetes = name.starts_with("kube");
    if kubernetes || name == "etcd" {
        folders.extend(std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from));
    }
    if kubernetes {
        // Not from PATH: a kube-apiserver of another version is another server.
        folders.push(folder("kubernetes"));
    } else {
        if pinned_version(VERSIONS, name).is_some() {
            folders.push(folder(name));
        }
        folders.extend(std::env::split_paths(
            &std::env::var_os("PATH").unwrap_or_default(),
        ));
        folders.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    }
    folders
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The executable `name`, or `None` after a line on stderr that names the skipped test.
///
/// ```no_run
/// # fn test() {
/// let Some(nginx) = gatewright_testkit::part("nginx") else { return };
/// # }
/// ```
/// Under `CI=true` a missing part is a panic.
pub fn part(name: &str) -> Option<PathBuf> {
    let found = find(name);
    if found.is_none() {
        skip(&format!(
            "{name} is not on this machine; `cargo xtask tools` gets it"
        ));
    }
    found
}

/// Reports that the running test skips, and why. The caller then returns.
///
/// The line begins with `SKIPPED: `; `cargo xtask ci` counts such lines. Under `CI=true` it panics instead.
pub fn skip(why: &str) {
    let current = std::thread::current();
    let test = current.name().unwrap_or("a test");
    if std::env::var_os("CI").is_some_and(|ci| ci == "true") {
        panic!("{test} cannot run, and under CI=true nothing is skipped: {why}");
    }
    // Not `eprintln!`: the test harness keeps back what a passing test prints.
    let _ = writeln!(std::io::stderr().lock(), "SKIPPED: {test}: {why}");
}

/// Reports that the running test is not for every run, and when it is. The caller then returns.
///
/// The line begins with `LEFT OUT: `; `cargo xtask ci` lists such lines at its end, and they are no failure.
pub fn leave_out(until: &str) {
    let current = std::thread::current();
    let test = current.name().unwrap_or("a test");
    let _ = writeln!(std::io::stderr().lock(), "LEFT OUT: {test}: {until}");
}

/// `skip!("kube-apiserver")` returns from the test when that part is missing; with several names, when one is.
#[macro_export]
macro_rules! skip {
    ($($part:expr),+ $(,)?) => {
        $( if $crate::part($part).is_none() { return; } )+
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_by_name() {
        let text = "# kubernetes 0\nkubernetes 1.2.3\nenvoy 4\n";
        assert_eq!(pinned_version(text, "kubernetes"), Some("1.2.3"));
        assert_eq!(pinned_version(text, "envoy"), Some("4"));
        assert_eq!(pinned_version(text, "kube"), None);
        assert_eq!(pinned_version(text, "#"), None);
    }

    #[test]
    fn every_pinned_part_has_a_version() {
        for name in ["kubernetes", "coredns", "envoy", "rathole"] {
            assert!(
                pinned_version(VERSIONS, name).is_some_and(|v| !v.is_empty()),
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_on_path_is_found_and_what_is_nowhere_is_not() {
        assert!(find("sh").is_some());
        assert_eq!(find("no-such-part-as-this"), None);
    }
}
