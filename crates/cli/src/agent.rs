//! `gatewright agent`: starts an agent and waits for a signal.

use gatewright_agent::{Agent, AgentConfig};

use crate::{config, signals};

/// Runs until a signal, then drains.
pub(crate) async fn run(args: &config::Args) -> anyhow::Result<()> {
    let config: AgentConfig = config::load(args, AgentConfig::KEYS)?;
    let agent = Agent::start(config).await.map_err(start_error)?;
    signals::stop().await?;
    tracing::info!("draining");
    agent.drain().await;
    Ok(())
}

/// Marks errors that another configuration would avoid.
pub(crate) fn start_error(error: gatewright_agent::Error) -> anyhow::Error {
    if error.is_configuration() {
        crate::usage(error)
    } else {
        error.into()
    }
}
