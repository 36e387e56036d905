//! `gatewright crds`: prints the CRDs of controllers as one YAML stream.

use std::io::Write as _;

use anyhow::Context as _;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use crate::operator::Controller;

/// `gatewright crds`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Of which controllers.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "garage")]
    controllers: Vec<Controller>,
}

/// The CRDs of some controllers.
pub(crate) fn of(controllers: &[Controller]) -> Vec<CustomResourceDefinition> {
    let mut crds = Vec::new();
    for controller in controllers {
        match controller {
            Controller::Garage => crds.extend(gatewright_garage::api::crds()),
        }
    }
    crds.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    crds.dedup_by(|a, b| a.metadata.name == b.metadata.name);
    crds
}

/// Prints them.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for crd in of(&args.controllers) {
        let name = crd.metadata.name.clone().unwrap_or_default();
        let text = serde_saphyr::to_string(&crd)
            .with_context(|| format!("cannot write the CRD {name} as YAML"))?;
        match write!(out, "---\n{text}") {
            // Whoever read it has had enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.context("cannot print the CRDs")?,
        }
    }
    Ok(())
}
