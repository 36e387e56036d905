//! `gatewright demo`: edge, agent and a sample backend in one process, joined by a real tunnel on
//! loopback. It is the product with a configuration of its own, not another one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use gatewright_agent::{Agent, AgentConfig};
use gatewright_edge::{Edge, EdgeConfig, NewCluster};
use gatewright_names::{HostPattern, WildcardMode};
use serde_json::json;

mod backend;

use crate::{agent, edge, signals, usage};

/// Flags of the demo.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where users connect.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where the status page is.
    #[arg(long, default_value = "127.0.0.1:9090")]
    admin: SocketAddr,
    /// Where the sample backend listens; the manifests name it.
    #[arg(long, default_value = "127.0.0.1:8081")]
    backend: SocketAddr,
    /// Folder of manifests; changes count within a second.
    #[arg(long, default_value = "examples/demo")]
    manifests: PathBuf,
    /// Print a line for each request.
    #[arg(long)]
    access_log: bool,
}

/// Names under which the demo's routes may lie.
const HOSTS: &str = "*.demo.gateway.localhost";

/// Runs until a signal, then drains.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("cannot make a folder for the demo's data")?;
    let backend = tokio::net::TcpListener::bind(args.backend)
        .await
        .with_context(|| format!("cannot listen on {} for the sample backend; is another process using the port? (--backend ADDRESS, and the same in the manifests)", args.backend))
        .map_err(usage)?;
    let edge_config: EdgeConfig = serde_json::from_value(json!({
        "listen": {"http": args.listen, "admin": args.admin},
        "domain": "gateway.localhost",
        "store": {"path": folder.path().join("edge")},
        "access_log": if args.access_log { "stdout" } else { "off" },
        "timeouts": {"drain": 5},
    }))
    .context("the demo's own configuration")?;
    let edge = Edge::start(edge_config).await.map_err(edge::start_error)?;
    let hosts = vec![
        HostPattern::parse(HOSTS, WildcardMode::ManyLabels)
            .context("the demo's own host pattern")?,
    ];
    let new = NewCluster {
        name: "demo".to_owned(),
        tenant: None,
        hosts,
    };
    let (_, token) = edge.clusters().create(new).await?;
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, token.reveal()).context("cannot write the demo's token")?;
    let agent_config: AgentConfig = serde_json::from_value(json!({
        "edges": [format!("ws://{}", edge.http_address())],
        "token_file": token_file,
        "source": {"directory": args.manifests},
        "timeouts": {"drain": 5},
    }))
    .context("the demo's own configuration")?;
    let agent = Agent::start(agent_config)
        .await
        .map_err(agent::start_error)?;
    let serving = tokio::spawn(backend::serve(backend));
    let printing = tokio::spawn(print_routes(
        edge.http_address(),
        edge.admin_address(),
        agent.offered(),
        agent.status(),
    ));
    signals::stop().await?;
    println!("\nDraining.");
    agent.drain().await;
    edge.drain().await;
    printing.abort();
    serving.abort();
    Ok(())
}

/// Prints a URL for each route, and again whenever they change.
async fn print_routes(
    users: SocketAddr,
    admin: SocketAddr,
    mut offered: tokio::sync::watch::Receiver<Vec<gatewright_agent::Offered>>,
    mut status: tokio::sync::watch::Receiver<gatewright_agent::AgentStatus>,
) -> anyhow::Result<()> {
    let wait = status.wait_for(|status| status.in_sync.values().any(|in_sync| *in_sync));
    tokio::time::timeout(Duration::from_secs(10), wait)
        .await
        .map_err(|_| anyhow!("the agent did not reach the edge"))??;
    println!("Gatewright demo: edge, agent and a sample backend, joined by a tunnel.\n");
    let mut first = true;
    loop {
        let routes = offered.borrow_and_update().clone();
        println!(
            "{}",
            if first {
                "Routes:"
            } else {
                "\nThe manifests changed. Routes:"
            }
        );
        for route in &routes {
            println!(
                "  http://{}:{}{}  ->  {}",
                route.host,
                users.port(),
                route.path,
                route.service
            );
        }
        if routes.is_empty() {
            println!("  (none)");
        }
        if first {
            println!("\nStatus page:\n  http://{admin}/\n\nStop with Ctrl-C.");
            first = false;
        }
        offered.changed().await?;
        // The edge serves what the agent offers once it has answered.
        let wait = status.wait_for(|status| status.in_sync.values().any(|in_sync| *in_sync));
        tokio::time::timeout(Duration::from_secs(10), wait)
            .await
            .ok();
    }
}
