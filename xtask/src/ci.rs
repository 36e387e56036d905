//! `cargo xtask ci`: everything a change has to pass, step by step, with what each step took. It may
//! not get or install anything: `cargo xtask tools` does.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::num::NonZero;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;

use crate::{stopwatch, workspace};

/// How many tests of a binary run at a time.
const THREADS: &str = "RUST_TEST_THREADS";

/// `cargo xtask ci [STEP...]`
#[derive(clap::Parser)]
pub(crate) struct Args {
    /// These steps only
    steps: Vec<Step>,
}

/// In the order in which they run: what fails soonest comes first, and the tests come last, so that
/// their results close the output.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Step {
    /// The code is formatted
    Fmt,
    /// No warnings from clippy: every target, then the binary with the features of the demo
    Clippy,
    /// Each pure crate builds alone: a workspace build lends it the features that others ask for
    Walls,
    /// Licences, sources and duplicates of what we link
    Deny,
    /// No warnings from rustdoc
    Doc,
    /// Each fuzz target for a short while
    Fuzz,
    /// Every test
    Test,
}

/// How long each fuzz target runs.
const FUZZ_SECONDS: u32 = 20;

const PURE: [&str; 4] = [
    "gatewright-names",
    "gatewright-routes",
    "gatewright-translate",
    "gatewright-garage",
];

/// What the fuzz targets are compiled with: coverage that libFuzzer reads, on the stable compiler.
const FUZZ_FLAGS: &str = "--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table";

pub(crate) fn run(args: Args) -> Result<()> {
    let steps = match args.steps.as_slice() {
        [] => Step::value_variants(),
        chosen => chosen,
    };
    let mut closing = Closing::default();
    for step in steps {
        eprintln!("=== {step:?}");
        let start = stopwatch::now();
        let result = step.run(&mut closing.unrun);
        closing.took.push((*step, start.elapsed()));
        if let Err(error) = result {
            eprintln!("error: {error:#}");
            closing.failed.push(*step);
        }
    }
    let in_ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
    eprint!("{}", closing.text());
    closing.verdict(in_ci)
}

impl Step {
    fn run(self, unrun: &mut Unrun) -> Result<()> {
        match self {
            Step::Fmt => {
                cargo(&["fmt", "--all", "--check"])?;
                let fuzz = "fuzz/Cargo.toml";
                cargo(&["fmt", "--manifest-path", fuzz, "--check"])
            }
            Step::Clippy => {
                let deny = ["--", "-D", "warnings"];
                let all = ["clippy", "--locked", "--workspace", "--all-targets"];
                cargo(&[&all[..], &deny].concat())?;
                let demo = [
                    "--package=gatewright",
                    "--no-default-features",
                    "--features=tunnel",
                ];
                cargo(&[&["clippy", "--locked"][..], &demo, &deny].concat())
            }
            Step::Walls => PURE
                .iter()
                .try_for_each(|name| cargo(&["check", "--locked", "--package", name])),
            Step::Deny => deny(unrun),
            Step::Doc => {
                let mut doc = workspace::cargo();
                doc.args(["doc", "--locked", "--workspace", "--no-deps"]);
                succeed(doc.env("RUSTDOCFLAGS", "-D warnings"))
            }
            Step::Fuzz => fuzz(),
            Step::Test => {
                let mut test = workspace::cargo();
                test.args(["test", "--locked", "--workspace", "--no-fail-fast"]);
                if std::env::var_os(THREADS).is_none() {
                    // Most of them wait: for a timeout, for Garage's next round.
                    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
                    test.env(THREADS, (3 * cores).to_string());
                }
                let found = watched(&mut test, std::io::stdout(), std::io::stderr())?;
                unrun.extend(found.unrun);
                found.succeeded
            }
        }
    }
}

fn cargo(args: &[&str]) -> Result<()> {
    succeed(workspace::cargo().args(args))
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} failed ({status})");
    Ok(())
}

/// deny.toml says what is checked, and why advisories are not among it here.
fn deny(unrun: &mut Unrun) -> Result<()> {
    let Some(program) = workspace::program("cargo-deny") else {
        let why = "deny: no cargo-deny; `cargo xtask tools cargo-deny` gets it";
        unrun.skipped.push(why.to_owned());
        return Ok(());
    };
    let mut deny = Command::new(program);
    deny.current_dir(workspace::root());
    deny.args(["--offline", "--locked", "--all-features", "check"]);
    succeed(deny.args(["bans", "licenses", "sources"]))
}

/// Builds all fuzz targets and runs each on its seeds and on what libFuzzer makes of them.
fn fuzz() -> Result<()> {
    let host = workspace::output_of(Command::new("rustc").arg("-vV"))?;
    let host = host
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc tells no host")?;
    let folder = workspace::root().join("fuzz");
    let target = workspace::target_dir().join("fuzz");
    let mut build = workspace::cargo();
    build.current_dir(&folder).env("RUSTFLAGS", FUZZ_FLAGS);
    build.args(["build", "--locked", "--release", "--bins"]);
    // With a target named, the flags do not reach build scripts and macros, which link no libFuzzer.
    build
        .args(["--target", host])
        .arg("--target-dir")
        .arg(&target);
    succeed(&mut build)?;

    let names = fuzz_targets()?;
    ensure!(!names.is_empty(), "fuzz/Cargo.toml has no targets");
    let programs = target.join(host).join("release");
    // A target is one thread, and each has its time.
    let together = std::thread::available_parallelism().map_or(1, usize::from);
    for names in names.chunks(together) {
        std::thread::scope(|scope| {
            let (programs, folder, target) = (&programs, &folder, &target);
            let running: Vec<_> = names
                .iter()
                .map(|name| scope.spawn(move || fuzz_target(name, programs, folder, target)))
                .collect();
            running.into_iter().try_for_each(|one| match one.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
    }
    Ok(())
}

/// Runs one target, which is in `programs`, on the seeds in `folder`; what it finds is kept in `target`.
fn fuzz_target(name: &str, programs: &Path, folder: &Path, target: &Path) -> Result<()> {
    let corpus = target.join("corpus").join(name);
    let seeds = folder.join("corpus-seeds").join(name);
    let artifacts = target.join("artifacts").join(name);
    for made in [&corpus, &artifacts] {
        std::fs::create_dir_all(made)?;
    }
    let mut run = Command::new(programs.join(name));
    run.arg(format!("-max_total_time={FUZZ_SECONDS}"));
    run.args(["-verbosity=0", "-print_final_stats=1", "-timeout=5"]);
    run.arg(format!("-artifact_prefix={}/", artifacts.display()));
    run.arg(&corpus);
    if seeds.is_dir() {
        run.arg(&seeds);
    }
    let output = run
        .output()
        .with_context(|| format!("cannot start {name}"))?;
    // libFuzzer is wordy; only a finding is worth all of it.
    let said = String::from_utf8_lossy(&output.stderr);
    let found = format!("the fuzz target {name} found something: {said}");
    ensure!(output.status.success(), found);
    let inputs = said
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))
        .context("libFuzzer told no count of inputs")?;
    eprintln!("{name}: {} inputs", inputs.trim());
    Ok(())
}

/// The binaries of the fuzzing workspace.
fn fuzz_targets() -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    #[derive(serde::Deserialize)]
    struct Package {
        targets: Vec<Target>,
    }
    #[derive(serde::Deserialize)]
    struct Target {
        name: String,
        kind: Vec<String>,
    }
    let mut cargo = workspace::cargo();
    cargo.args(["metadata", "--no-deps", "--format-version", "1"]);
    cargo.args(["--manifest-path", "fuzz/Cargo.toml"]);
    let metadata: Metadata = serde_json::from_str(&workspace::output_of(&mut cargo)?)?;
    let targets = metadata.packages.into_iter().flat_map(|p| p.targets);
    let bins = targets.filter(|target| target.kind.iter().any(|kind| kind == "bin"));
    Ok(bins.map(|target| target.name).collect())
}

/// What did not run.
#[derive(Debug, Default, PartialEq)]
struct Unrun {
    /// Because a part is missing.
    skipped: Vec<String>,
    /// Because it is not for every run.
    left_out: Vec<String>,
}

impl Unrun {
    /// Another test's unfinished line may stand before the words.
    fn note(&mut self, line: &str) {
        if let Some((_, why)) = line.split_once("SKIPPED: ") {
            self.skipped.push(why.trim_end().to_owned());
        } else if let Some((_, when)) = line.split_once("LEFT OUT: ") {
            self.left_out.push(when.trim_end().to_owned());
        }
    }

    fn extend(&mut self, other: Self) {
        self.skipped.extend(other.skipped);
        self.left_out.extend(other.left_out);
    }
}

/// What a watched command came to.
struct Watched {
    unrun: Unrun,
    succeeded: Result<()>,
}

/// Runs `command`, passes its output on to `stdout` and `stderr`, and keeps the lines by which tests
/// say that they did not run.
fn watched(
    command: &mut Command,
    stdout: impl Write + Send,
    stderr: impl Write + Send,
) -> Result<Watched> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let (from_stdout, from_stderr) = (child.stdout.take(), child.stderr.take());
    let unrun = std::thread::scope(|scope| {
        let other = scope.spawn(move || from_stderr.map(|source| unrun_in(source, stderr)));
        let mut found = from_stdout.map_or_else(Unrun::default, |source| unrun_in(source, stdout));
        found.extend(other.join().ok().flatten().unwrap_or_default());
        found
    });
    let status = child.wait()?;
    let succeeded = match status.success() {
        true => Ok(()),
        false => Err(anyhow::anyhow!("{command:?} failed ({status})")),
    };
    Ok(Watched { unrun, succeeded })
}

/// Copies `source` to `sink` line by line; returns what follows `SKIPPED: ` and `LEFT OUT: `.
fn unrun_in(source: impl Read, mut sink: impl Write) -> Unrun {
    let mut reader = BufReader::new(source);
    let mut line = Vec::new();
    let mut found = Unrun::default();
    while matches!(reader.read_until(b'\n', &mut line), Ok(read) if read > 0) {
        // Nobody may be left to read it; the command is to go on all the same.
        let _ = sink.write_all(&line);
        found.note(&String::from_utf8_lossy(&line));
        line.clear();
    }
    found
}

/// What is said at the end.
#[derive(Default)]
struct Closing {
    took: Vec<(Step, Duration)>,
    failed: Vec<Step>,
    unrun: Unrun,
}

impl Closing {
    fn text(&self) -> String {
        let mut text = "=== ci\n".to_owned();
        for (step, took) in &self.took {
            let verdict = match self.failed.contains(step) {
                true => "FAILED",
                false => "ok",
            };
            let name = format!("{step:?}").to_lowercase();
            text.push_str(&format!(
                "{name:<8} {:>5.0} s  {verdict}\n",
                took.as_secs_f64()
            ));
        }
        let total: Duration = self.took.iter().map(|(_, took)| *took).sum();
        text.push_str(&format!("total    {:>5.0} s\n", total.as_secs_f64()));
        for when in &self.unrun.left_out {
            text.push_str(&format!("LEFT OUT: {when}\n"));
        }
        for why in &self.unrun.skipped {
            text.push_str(&format!("SKIPPED: {why}\n"));
        }
        if !self.unrun.skipped.is_empty() {
            text.push_str(&format!("{} skipped\n", self.unrun.skipped.len()));
        }
        text
    }

    /// In CI a skip is a failure: nobody is there to install what is missing.
    fn verdict(&self, in_ci: bool) -> Result<()> {
        if !self.failed.is_empty() {
            bail!("failed: {:?}", self.failed);
        }
        let skipped = self.unrun.skipped.len();
        if in_ci && skipped > 0 {
            bail!("{skipped} skipped, and under CI=true nothing is");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_are_found_on_both_streams_and_all_output_passes() {
        let mut shell = Command::new("sh");
        shell.args([
            "-c",
            "echo 'SKIPPED: a: no b'; echo 'test x ... SKIPPED: c: no d' >&2; echo 'LEFT OUT: e: not f'",
        ]);
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let watched = watched(&mut shell, &mut stdout, &mut stderr).expect("it starts");
        assert_eq!(watched.unrun.skipped, ["a: no b", "c: no d"]);
        assert_eq!(watched.unrun.left_out, ["e: not f"]);
        assert!(watched.succeeded.is_ok());
        assert_eq!(stdout, b"SKIPPED: a: no b\nLEFT OUT: e: not f\n");
        assert_eq!(stderr, b"test x ... SKIPPED: c: no d\n");
    }

    #[test]
    fn skips_count_also_when_the_tests_fail() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo 'SKIPPED: e'; exit 3"]);
        let watched = watched(&mut shell, Vec::new(), Vec::new()).expect("it starts");
        assert_eq!(watched.unrun.skipped, ["e"]);
        let error = watched.succeeded.expect_err("it fails").to_string();
        assert!(error.contains("exit status: 3"), "{error}");
    }

    #[test]
    fn a_skip_passes_at_home_and_fails_in_ci() {
        let mut closing = Closing::default();
        closing.took.push((Step::Fmt, Duration::from_secs(1)));
        closing.unrun.left_out.push("soak: at night".to_owned());
        assert!(closing.verdict(true).is_ok());
        let missing = "apiserver: missing".to_owned();
        closing.unrun.skipped.push(missing);
        assert!(closing.verdict(false).is_ok());
        assert!(closing.verdict(true).is_err());
        let text = closing.text();
        assert!(
            text.ends_with("LEFT OUT: soak: at night\nSKIPPED: apiserver: missing\n1 skipped\n"),
            "{text}"
        );
    }

    #[test]
    fn a_failed_step_is_named_and_the_others_are_not() {
        let closing = Closing {
            took: vec![
                (Step::Fmt, Duration::from_secs(1)),
                (Step::Test, Duration::from_secs(61)),
            ],
            failed: vec![Step::Test],
            unrun: Unrun::default(),
        };
        let text = closing.text();
        assert!(text.contains("fmt          1 s  ok\n"), "{text}");
        assert!(text.contains("test        61 s  FAILED\n"), "{text}");
        let error = closing.verdict(false).expect_err("one failed");
        assert_eq!(error.to_string(), "failed: [Test]");
    }

    #[test]
    fn the_pure_crates_are_those_of_the_workspace() {
        let root = workspace::root();
        for name in PURE {
            let folder = name.trim_start_matches("gatewright-");
            let places = [
                format!("crates/{folder}"),
                format!("crates/tunnel/{folder}"),
                format!("crates/{folder}/core"),
            ];
            assert!(places.iter().any(|p| root.join(p).is_dir()), "{name}");
        }
    }
}
