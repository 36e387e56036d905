//! `gatewright edge`: starts an edge and waits for a signal.

use gatewright_edge::{Edge, EdgeConfig};

use crate::{config, signals};

/// Runs until a signal, then drains.
pub(crate) async fn run(args: &config::Args) -> anyhow::Result<()> {
    let config: EdgeConfig = config::load(args, EdgeConfig::KEYS)?;
    let edge = Edge::start(config).await.map_err(start_error)?;
    tracing::info!(
        http = %edge.http_address(),
        admin = %edge.admin_address(),
        tunnel = edge.tunnel_address().map(tracing::field::display),
        "the edge listens"
    );
    signals::stop().await?;
    tracing::info!("draining");
    edge.drain().await;
    Ok(())
}

/// Marks errors that another configuration would avoid.
pub(crate) fn start_error(error: gatewright_edge::Error) -> anyhow::Error {
    if error.is_configuration() {
        crate::usage(error)
    } else {
        error.into()
    }
}
