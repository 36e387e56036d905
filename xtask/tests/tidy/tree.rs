//! Reads the workspace: its packages from cargo, its files from the disk. It may not judge them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde::Deserialize;

/// A package as `cargo metadata` describes it.
#[derive(Clone, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) targets: Vec<Target>,
    #[serde(rename = "manifest_path")]
    pub(crate) manifest: PathBuf,
}

/// One line of its dependencies.
#[derive(Clone, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `None` is an ordinary one, else `dev` or `build`.
    pub(crate) kind: Option<String>,
    /// Where a crate of the workspace is.
    pub(crate) path: Option<PathBuf>,
}

/// A library, a binary, a test, a benchmark.
#[derive(Clone, Deserialize)]
pub(crate) struct Target {
    pub(crate) src_path: PathBuf,
}

/// A text file, its path relative to the root.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

pub(crate) fn root() -> &'static Path {
    // A test's working folder is that of its package.
    static ROOT: LazyLock<PathBuf> =
        LazyLock::new(|| Path::new("..").canonicalize().expect("the workspace"));
    &ROOT
}

/// The path as complaints show it: relative to the root.
pub(crate) fn shown(path: &Path) -> String {
    let path = path.strip_prefix(root()).unwrap_or(path);
    path.display().to_string()
}

/// The packages of the workspace.
pub(crate) fn packages() -> Vec<Package> {
    metadata(&root().join("Cargo.toml"))
}

/// Those of the fuzzing workspace.
pub(crate) fn fuzz_packages() -> Vec<Package> {
    let manifest = root().join("fuzz/Cargo.toml");
    match manifest.exists() {
        true => metadata(&manifest),
        false => Vec::new(),
    }
}

fn metadata(manifest: &Path) -> Vec<Package> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    let mut cargo = cargo();
    cargo.args(["metadata", "--no-deps", "--format-version", "1"]);
    cargo.arg("--manifest-path").arg(manifest);
    let metadata: Metadata = serde_json::from_str(&stdout(&mut cargo)).expect("cargo's metadata");
    metadata.packages
}

/// The names of all crates that `package` links, itself included: ordinary dependencies only, with
/// the features that it alone asks for.
pub(crate) fn closure_of(package: &str) -> Vec<String> {
    let mut cargo = cargo();
    cargo.args(["tree", "--package", package, "--edges", "normal"]);
    cargo.args(["--prefix", "none", "--format", "{p}"]);
    let names = stdout(&mut cargo);
    let names = names.lines().filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}

fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(program);
    cargo.current_dir(root());
    cargo
}

fn stdout(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// Every text file that belongs to the project.
pub(crate) fn files() -> Vec<Source> {
    let mut files = Vec::new();
    collect(root(), &mut files);
    files
}

fn collect(folder: &Path, files: &mut Vec<Source>) {
    // Cargo marks its target folders with this file, whatever they are called.
    if folder.join("CACHEDIR.TAG").exists() {
        return;
    }
    let mut entries: Vec<_> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if !is_foreign(&name) {
                collect(&path, files);
            }
        } else if let Ok(text) = fs::read_to_string(&path) {
            let path = shown(&path);
            files.push(Source { path, text });
        }
    }
}

/// Folders of what is made and not written, as .gitignore has them.
fn is_foreign(name: &str) -> bool {
    matches!(
        name,
        ".git" | "target" | "out" | "edge-data" | "__pycache__" | "corpus" | "artifacts"
    )
}
