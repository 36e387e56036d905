//! `bench routes`: runs the route table's own benchmark and keeps what it says.

use anyhow::Result;
use clap::Parser;

use super::report;
use crate::workspace;

/// `cargo xtask bench routes`
#[derive(Parser)]
pub(crate) struct Args {
    /// Put the result into docs/benchmarks.md
    #[arg(long)]
    save: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut bench = workspace::cargo();
    bench.args(["bench", "--quiet", "--package", "gatewright-routes"]);
    bench.args(["--bench", "lookup"]);
    let said = workspace::output_of(&mut bench)?;
    anyhow::ensure!(!said.is_empty(), "the benchmark `lookup` printed nothing");
    let preamble = report::preamble(&report::command_line())?;
    let text = format!("{preamble}\n```text\n{said}\n```\n");
    report::publish("routes", &text, args.save)
}
