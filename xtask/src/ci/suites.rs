//! Builds all tests and runs them: what `cargo test` does, but for one suite that mostly waits and runs
//! beside the others.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Watched, watched};
use crate::workspace;

/// The longest suite. It asks the machine for little at a time, and holds no time limit that others
/// could make it miss.
const BESIDE: &str = "crates/garage/operator it";

/// Suites that hold limits against what the machine can do, and so have it for themselves.
const ALONE: [&str; 2] = ["crates/cli e2e", "crates/cli idle"];

/// One test binary.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Suite {
    /// Folder of its package in the workspace, and the name of its target.
    name: String,
    folder: PathBuf,
    program: PathBuf,
}

/// The order in which suites run.
#[derive(Debug, PartialEq, Eq)]
struct Order {
    alone: Vec<Suite>,
    beside: Suite,
    others: Vec<Suite>,
}

/// Runs every test, `threads` of a suite at a time. All of them run also when one has failed; what they
/// skipped goes to `skipped`.
pub(super) fn run(threads: &str, skipped: &mut Vec<String>) -> Result<()> {
    let order = order(build()?)?;
    let mut ran = Ran::default();
    for suite in &order.alone {
        ran.add(suite, suite.run(threads));
    }
    std::thread::scope(|scope| {
        let beside = scope.spawn(|| order.beside.run(threads));
        for suite in &order.others {
            ran.add(suite, suite.run(threads));
        }
        match beside.join() {
            Ok(result) => ran.add(&order.beside, result),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    let mut documented = workspace::cargo();
    documented.args(["test", "--locked", "--workspace", "--no-fail-fast", "--doc"]);
    let documented = watched(&mut documented, std::io::stdout(), std::io::stderr())?;
    skipped.extend(ran.skipped);
    skipped.extend(documented.skipped);
    ensure!(ran.failed.is_empty(), "failed: {}", ran.failed.join(", "));
    documented.succeeded
}

/// Builds all test binaries.
fn build() -> Result<Vec<Suite>> {
    let mut build = workspace::cargo();
    build.args(["test", "--locked", "--workspace", "--no-run"]);
    build.arg("--message-format=json-render-diagnostics");
    let output = build
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {build:?}"))?;
    let status = output.status;
    ensure!(status.success(), "{build:?} failed ({status})");
    suites(&String::from_utf8(output.stdout)?, &workspace::root())
}

/// The test binaries among what cargo says that it has built (one JSON object a line; "External tools"
/// in the Cargo book).
fn suites(messages: &str, root: &Path) -> Result<Vec<Suite>> {
    #[derive(serde::Deserialize)]
    struct Message {
        manifest_path: Option<PathBuf>,
        target: Option<Target>,
        profile: Option<Profile>,
        executable: Option<PathBuf>,
    }
    #[derive(serde::Deserialize)]
    struct Target {
        name: String,
    }
    #[derive(serde::Deserialize)]
    struct Profile {
        test: bool,
    }
    let mut suites = Vec::new();
    for line in messages.lines() {
        let message: Message = serde_json::from_str(line).context("cargo's message")?;
        let (Some(manifest), Some(target)) = (message.manifest_path, message.target) else {
            continue;
        };
        let is_test = message.profile.is_some_and(|profile| profile.test);
        let Some(program) = message.executable.filter(|_| is_test) else {
            continue;
        };
        let folder = manifest.parent().context("a manifest is in a folder")?;
        let package = folder.strip_prefix(root).unwrap_or(folder);
        suites.push(Suite {
            name: format!("{} {}", package.display(), target.name),
            folder: folder.to_owned(),
            program,
        });
    }
    Ok(suites)
}

fn order(mut suites: Vec<Suite>) -> Result<Order> {
    let mut take = |name: &str| {
        let at = suites.iter().position(|suite| suite.name == name);
        let at = at.with_context(|| format!("there is no suite {name}"))?;
        Ok::<_, anyhow::Error>(suites.remove(at))
    };
    let alone = ALONE.iter().map(|name| take(name)).collect::<Result<_>>()?;
    let beside = take(BESIDE)?;
    if suites.is_empty() {
        bail!("cargo has built no other suite");
    }
    Ok(Order {
        alone,
        beside,
        others: suites,
    })
}

impl Suite {
    /// Runs it in the folder of its package, as cargo does, and shows its output when it is whole.
    fn run(&self, threads: &str) -> Result<Watched> {
        let mut test = Command::new(&self.program);
        test.current_dir(&self.folder);
        test.env("CARGO_MANIFEST_DIR", &self.folder);
        test.env(super::THREADS, threads);
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let watched = watched(&mut test, &mut stdout, &mut stderr)?;
        let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
        // Nobody may be left to read it; the tests count all the same.
        let _ = writeln!(
            err,
            "     Running {} ({})",
            self.name,
            self.program.display()
        );
        let _ = out.write_all(&stdout).and_then(|()| out.flush());
        let _ = err.write_all(&stderr);
        Ok(watched)
    }
}

/// What suites came to.
#[derive(Default)]
struct Ran {
    skipped: Vec<String>,
    failed: Vec<String>,
}

impl Ran {
    fn add(&mut self, suite: &Suite, result: Result<Watched>) {
        let succeeded = result.and_then(|watched| {
            self.skipped.extend(watched.skipped);
            watched.succeeded
        });
        if let Err(error) = succeeded {
            eprintln!("error: {}: {error:#}", suite.name);
            self.failed.push(suite.name.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suite(name: &str) -> Suite {
        Suite {
            name: name.to_owned(),
            folder: PathBuf::new(),
            program: PathBuf::new(),
        }
    }

    #[test]
    fn test_binaries_are_found_among_cargos_messages() {
        let messages = [
            r#"{"reason":"compiler-artifact","manifest_path":"/w/crates/a/Cargo.toml","target":{"name":"a"},"profile":{"test":false},"executable":"/t/a"}"#,
            r#"{"reason":"compiler-artifact","manifest_path":"/w/crates/a/Cargo.toml","target":{"name":"it"},"profile":{"test":true},"executable":"/t/it-1"}"#,
            r#"{"reason":"compiler-artifact","manifest_path":"/r/serde/Cargo.toml","target":{"name":"serde"},"profile":{"test":false},"executable":null}"#,
            r#"{"reason":"build-finished","success":true}"#,
        ];
        let found = suites(&messages.join("\n"), Path::new("/w")).expect("messages");
        let expected = Suite {
            name: "crates/a it".to_owned(),
            folder: "/w/crates/a".into(),
            program: "/t/it-1".into(),
        };
        assert_eq!(found, [expected]);
        assert!(suites("no json", Path::new("/w")).is_err());
    }

    #[test]
    fn a_suite_that_is_named_and_gone_is_an_error() {
        let all = ["crates/cli idle", BESIDE, "crates/x it", "crates/cli e2e"].map(suite);
        let found = order(all.to_vec()).expect("an order");
        assert_eq!(found.alone, ALONE.map(suite));
        assert_eq!(found.beside, suite(BESIDE));
        assert_eq!(found.others, [suite("crates/x it")]);
        let error = order(all[1..].to_vec()).expect_err("one is missing");
        assert_eq!(error.to_string(), "there is no suite crates/cli idle");
    }

    #[test]
    fn a_failed_suite_is_named_and_its_skips_count() {
        let mut ran = Ran::default();
        let result = |status: Result<()>| {
            Ok(Watched {
                skipped: vec!["etcd".to_owned()],
                succeeded: status,
            })
        };
        ran.add(&suite("a it"), result(Ok(())));
        ran.add(&suite("b it"), result(Err(anyhow::anyhow!("exit 101"))));
        ran.add(&suite("c it"), Err(anyhow::anyhow!("cannot start")));
        assert_eq!(ran.failed, ["b it", "c it"]);
        assert_eq!(ran.skipped, ["etcd", "etcd"]);
    }
}
