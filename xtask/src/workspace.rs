//! Where the workspace's folders and programs are. It may not start anything.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

/// The pinned versions, shared with `cargo xtask tools`.
const VERSIONS: &str = include_str!("../tools/versions");

/// The folder that holds the workspace's Cargo.toml: as cargo, which starts us, says, else the current one.
pub(crate) fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let root = here.as_deref().and_then(Path::parent);
    root.unwrap_or(Path::new(".")).to_path_buf()
}

/// Cargo's target folder: `CARGO_TARGET_DIR` (relative to the root) or `target`.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// The cargo that started us, in the workspace's root.
pub(crate) fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(program);
    cargo.current_dir(root());
    cargo
}

/// The program `name`: what the variable `NAME` (upper case) says, else a built part in the tools
/// folder, else by name on PATH or in the system's `sbin` folders.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let variable = name.to_uppercase().replace('-', "_");
    if let Some(chosen) = std::env::var_os(variable) {
        let chosen = PathBuf::from(chosen);
        return is_program(&chosen).then_some(chosen);
    }
    let mut folders: Vec<PathBuf> = pinned_folder(name).into_iter().collect();
    folders.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    folders.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|path| is_program(path))
}

fn pinned_folder(name: &str) -> Option<PathBuf> {
    let version = version_of(name)?;
    Some(tools_root().ok()?.join(format!("{name}-{version}")))
}

/// Where built parts are: `GATEWRIGHT_TOOLS`, or `tools` in the [`cache`].
pub(crate) fn tools_root() -> Result<PathBuf> {
    match std::env::var_os("GATEWRIGHT_TOOLS") {
        Some(tools) => Ok(tools.into()),
        None => Ok(cache()?.join("tools")),
    }
}

/// What outlives a clone: `~/.cache/gatewright`.
pub(crate) fn cache() -> Result<PathBuf> {
    let home = std::env::var_os("HOME").context("HOME is not set, so there is no cache folder")?;
    Ok(PathBuf::from(home).join(".cache/gatewright"))
}

/// The pinned version of the built part `name`.
pub(crate) fn version_of(name: &str) -> Option<&'static str> {
    pinned_version(VERSIONS, name)
}

/// The version that `text` (lines of `name version`, `#` for remarks) gives for `name`.
fn pinned_version<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(' '))
        .find(|(pinned, _)| *pinned == name)
        .map(|(_, version)| version.trim())
}

/// Whether `path` is a file that may be executed.
pub(crate) fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// What `command` prints on stdout, without the white space around it; an error unless it succeeds.
pub(crate) fn output_of(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command
        .output()
        .with_context(|| format!("cannot start {shown}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{shown} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_version_is_found_by_its_whole_name() {
        let text = "# envoy 0\nenvoy 1.40.0\nenvoy-gateway 1.9.0\n";
        assert_eq!(pinned_version(text, "envoy"), Some("1.40.0"));
        assert_eq!(pinned_version(text, "envoy-gateway"), Some("1.9.0"));
        assert_eq!(pinned_version(text, "env"), None);
    }

    #[test]
    fn the_root_is_where_the_workspace_is() {
        let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("the manifest");
        assert!(manifest.starts_with("[workspace]"));
    }
}
