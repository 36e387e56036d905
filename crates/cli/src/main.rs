//! The one binary: reads flags and configuration, sets up logging and signals, builds the parts and
//! waits. It decides nothing about requests, routes or clusters.

mod config;
mod logging;
mod signals;

#[cfg(feature = "tunnel")]
mod agent;
#[cfg(feature = "tunnel")]
mod client;
#[cfg(feature = "garage")]
mod crds;
#[cfg(feature = "tunnel")]
mod demo;
#[cfg(feature = "tunnel")]
mod edge;
#[cfg(feature = "garage")]
mod operator;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Looks after the gates of Kubernetes clusters.
#[derive(Debug, Parser)]
#[command(
    name = "gatewright",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
struct Cli {
    /// How log lines look: JSON by default off a terminal.
    #[arg(long, global = true, value_enum, env = "GATEWRIGHT_LOG_FORMAT")]
    log_format: Option<logging::Format>,
    /// Which log lines: a level, or directives such as `info,gatewright_edge=debug`.
    #[arg(long, global = true, env = "GATEWRIGHT_LOG", default_value = "info")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run edge, agent and a sample backend in one process; no cluster needed.
    #[cfg(feature = "tunnel")]
    Demo(demo::Args),
    /// Run an edge: accept users and agents.
    #[cfg(feature = "tunnel")]
    Edge(config::Args),
    /// Run an agent: dial edges and forward to Services.
    #[cfg(feature = "tunnel")]
    Agent(config::Args),
    /// Create, list and delete clusters at an edge.
    #[cfg(feature = "tunnel")]
    Clusters(client::ClustersArgs),
    /// Show the routes that an edge has.
    #[cfg(feature = "tunnel")]
    Routes(client::RoutesArgs),
    /// Show the state of an edge.
    #[cfg(feature = "tunnel")]
    Status(client::StatusArgs),
    /// Explain what an edge would do, and why.
    #[cfg(feature = "tunnel")]
    Explain(client::ExplainArgs),
    /// Run the controllers: Garage storage and gateway clusters.
    #[cfg(feature = "garage")]
    Operator(operator::Args),
    /// Print the CRDs of the controllers.
    #[cfg(feature = "garage")]
    Crds(crds::Args),
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // TLS may be used from the first line on; a second installation would be a bug of ours.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    if let Err(error) = logging::start(cli.log_format, &cli.log) {
        return fail(&error);
    }
    raise_file_limit();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("cannot start a runtime")),
    };
    let outcome = runtime.block_on(run(cli.command));
    // What is still running then has had its time to drain.
    runtime.shutdown_timeout(std::time::Duration::from_millis(100));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Takes as many file descriptors as the process may have: each user's connection needs one, and the
/// usual soft limit of 1,024 is for programs that use select(2).
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if setrlimit(Resource::Nofile, raised).is_err() {
        tracing::warn!(
            "the limit of open files cannot be raised; many users at once may be refused"
        );
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        #[cfg(feature = "tunnel")]
        Command::Demo(args) => demo::run(args).await,
        #[cfg(feature = "tunnel")]
        Command::Edge(args) => edge::run(&args).await,
        #[cfg(feature = "tunnel")]
        Command::Agent(args) => agent::run(&args).await,
        #[cfg(feature = "tunnel")]
        Command::Clusters(args) => client::clusters(args).await,
        #[cfg(feature = "tunnel")]
        Command::Routes(args) => client::routes(args).await,
        #[cfg(feature = "tunnel")]
        Command::Status(args) => client::status(args).await,
        #[cfg(feature = "tunnel")]
        Command::Explain(args) => client::explain(args).await,
        #[cfg(feature = "garage")]
        Command::Operator(args) => Box::pin(operator::run(args)).await,
        #[cfg(feature = "garage")]
        Command::Crds(args) => crds::run(&args),
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Cli::command(),
                "gatewright",
                &mut std::io::stdout(),
            );
            Ok(())
        }
    }
}

/// A failure that a different invocation or configuration would avoid: exit code 2.
#[derive(Debug)]
struct Usage(anyhow::Error);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Usage {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// Marks an error as one of usage.
fn usage(error: impl Into<anyhow::Error>) -> anyhow::Error {
    anyhow::Error::new(Usage(error.into()))
}

/// Prints the chain on one line.
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("gatewright: {error:#}");
    let is_usage = error.chain().any(|cause| cause.is::<Usage>());
    ExitCode::from(if is_usage { 2 } else { 1 })
}
