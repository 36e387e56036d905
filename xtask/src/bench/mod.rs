//! Benchmarks: the tunnel beside its peers, the route table, route changes, the operator. They may not be tests:
//! nothing here passes or fails by a time.

mod gatewright;
mod hol;
mod http;
mod operator;
mod peers;
mod process;
mod report;
mod route_change;
mod routes;
mod tunnel;
mod wrk;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace;

/// `cargo xtask bench WHAT`
#[derive(Parser)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Requests through the tunnel, and through each peer, interleaved in rounds
    Tunnel(tunnel::Args),
    /// Lookups in a table of a million routes
    Routes(routes::Args),
    /// From a changed Ingress file to the edge that serves it
    RouteChange(route_change::Args),
    /// Memory, CPU and calls of the operator with many Garage clusters at rest
    Operator(operator::Args),
}

pub(crate) fn run(args: Args) -> Result<()> {
    match args.what {
        What::Tunnel(args) => tunnel::run(&args),
        What::Routes(args) => routes::run(&args),
        What::RouteChange(args) => route_change::run(&args),
        What::Operator(args) => operator::run(&args),
    }
}

/// What every measurement that starts processes takes.
#[derive(Parser)]
pub(crate) struct Common {
    /// Where documents, configurations, logs and raw results go [default: TARGET/bench]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The first of the loopback ports; about eighty above it are used too
    #[arg(long, value_name = "PORT", default_value_t = 28_400)]
    first_port: u16,
    /// A gatewright to measure in place of one built here
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Put the result into docs/benchmarks.md
    #[arg(long)]
    save: bool,
}

impl Common {
    fn out(&self) -> PathBuf {
        let default = || workspace::target_dir().join("bench");
        self.out.clone().unwrap_or_else(default)
    }

    /// The binary to measure: the given one, or a fresh build.
    fn gatewright(&self) -> Result<PathBuf> {
        match &self.binary {
            Some(binary) => Ok(std::path::absolute(binary)?),
            None => gatewright::build(),
        }
    }
}
