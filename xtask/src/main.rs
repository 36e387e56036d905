//! `cargo xtask TASK`: what contributors run. It may not be needed to build or to run the product.

mod bench;
mod ci;
mod cluster;
mod stopwatch;
mod tools;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Tasks for contributors")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Get every real part that tests and benchmarks run against
    Tools(tools::Args),
    /// A real single-node Kubernetes on this machine
    Cluster(cluster::Args),
    /// Everything a change has to pass; `make test` runs it
    Ci(ci::Args),
    /// Measure the tunnel beside its peers, the route table, route changes, and the operator
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Tools(args) => tools::run(args),
        Task::Cluster(args) => cluster::run(args),
        Task::Ci(args) => ci::run(args),
        Task::Bench(args) => bench::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
