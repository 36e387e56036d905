//! Load from wrk, and what it reports. It may not know what it loads.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::workspace;

/// What wrk counted; latencies in milliseconds.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Load {
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    pub(crate) connect_errors: u64,
    pub(crate) read_errors: u64,
    pub(crate) write_errors: u64,
    pub(crate) status_errors: u64,
    pub(crate) timeouts: u64,
}

impl Load {
    pub(crate) fn per_second(&self) -> f64 {
        self.requests as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// What went wrong, in words; `None` when nothing did.
    pub(crate) fn fault(&self) -> Option<String> {
        if self.requests == 0 {
            return Some("no answers".to_owned());
        }
        let kinds = [
            (self.connect_errors, "connect"),
            (self.read_errors, "read"),
            (self.write_errors, "write"),
            (self.status_errors, "status"),
            (self.timeouts, "timeout"),
        ];
        let errors: Vec<String> = kinds
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, kind)| format!("{count} {kind}"))
            .collect();
        if errors.is_empty() {
            return None;
        }
        Some(format!(
            "{} (of {} requests)",
            errors.join(", "),
            self.requests
        ))
    }
}

/// How to load: GET `path` at a loopback port for some seconds.
pub(crate) struct Target<'a> {
    pub(crate) port: u16,
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
}

/// What the client does after an answer.
#[derive(Clone, Copy)]
pub(crate) enum Connections {
    KeptAlive(u32),
    OnePerRequest(u32),
}

/// Runs wrk with one thread.
pub(crate) fn load(target: &Target<'_>, connections: Connections, seconds: u32) -> Result<Load> {
    let wrk =
        workspace::program("wrk").context("wrk is missing: `cargo xtask tools bench` gets it")?;
    let count = match connections {
        Connections::KeptAlive(count) | Connections::OnePerRequest(count) => count,
    };
    let mut command = Command::new(wrk);
    command
        .args(["--threads", "1", "--latency", "--timeout", "5s"])
        .args(["--connections", &count.to_string()])
        .args(["--duration", &format!("{seconds}s")])
        .arg("--script")
        .arg(script())
        .args(["--header", &format!("Host: {}", target.host)]);
    if matches!(connections, Connections::OnePerRequest(_)) {
        command.args(["--header", "Connection: close"]);
    }
    command.arg(format!("http://127.0.0.1:{}{}", target.port, target.path));
    parse(&workspace::output_of(&mut command)?)
}

fn script() -> std::path::PathBuf {
    workspace::root().join(Path::new("bench/wrk-report.lua"))
}

/// Finds the line that bench/wrk-report.lua adds to wrk's own report.
fn parse(output: &str) -> Result<Load> {
    let line = output
        .lines()
        .find_map(|line| line.strip_prefix("report: "))
        .with_context(|| format!("wrk reported nothing: {output}"))?;
    serde_json::from_str(line).with_context(|| format!("cannot read wrk's report: {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"report: {"requests":1000,"seconds":2.0,"p50_ms":0.5,"p99_ms":1.5,"max_ms":9,"connect_errors":0,"read_errors":2,"write_errors":0,"status_errors":0,"timeouts":1}"#;

    #[test]
    fn the_report_is_found_among_other_lines() {
        let load = parse(&format!("Running 5s test\n{LINE}\n  1 threads\n")).expect("a report");
        assert_eq!(load.per_second(), 500.0);
        assert_eq!(
            load.fault().as_deref(),
            Some("2 read, 1 timeout (of 1000 requests)")
        );
        assert!(parse("Running 5s test\n").is_err());
    }

    #[test]
    fn a_run_without_answers_is_a_fault_and_a_clean_one_is_none() {
        assert_eq!(Load::default().fault().as_deref(), Some("no answers"));
        let clean = Load {
            requests: 1,
            ..Load::default()
        };
        assert_eq!(clean.fault(), None);
    }
}
