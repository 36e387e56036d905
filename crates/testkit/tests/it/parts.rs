//! A missing part is a skip that is counted, and under `CI=true` a failure.

use std::process::{Command, Output};

/// A test of this binary that needs the apiserver.
const NEEDY: &str = "cluster::objects_are_kept_and_namespaces_are_fresh";

/// Runs it where there is no apiserver.
fn run_without_parts(ci: &str) -> Output {
    Command::new(std::env::current_exe().expect("our own path"))
        .args(["--exact", NEEDY])
        .env("GATEWRIGHT_TOOLS", "/nowhere")
        .env_remove("KUBEBUILDER_ASSETS")
        .env("CI", ci)
        .output()
        .expect("it starts")
}

#[test]
fn a_missing_part_skips_the_test_and_is_told_past_the_harness() {
    let output = run_without_parts("");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{told}");
    let line = format!("SKIPPED: {NEEDY}: kube-apiserver is not on this machine");
    assert_eq!(told.matches(&line).count(), 1, "{told}");
}

#[test]
fn under_ci_a_missing_part_fails_the_test() {
    let output = run_without_parts("true");
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(!output.status.success(), "{told}");
    assert!(told.contains("under CI=true nothing is skipped"), "{told}");
}
