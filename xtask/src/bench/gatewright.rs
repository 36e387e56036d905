//! Starts an edge and an agent as a user would, from files and commands. It may not measure.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::peers::{self, Ground, Peer};
use super::process::Group;
use crate::workspace;

/// The host of the small site; a name that no resolver has to know.
pub(crate) const HOST: &str = "app.bench.test";

/// One Ingress to write.
pub(crate) struct Site {
    pub(crate) name: String,
    pub(crate) host: String,
    pub(crate) path: String,
}

/// The one Ingress of the tunnel measurements.
pub(crate) fn small_site() -> Site {
    Site {
        name: "app".to_owned(),
        host: HOST.to_owned(),
        path: "/".to_owned(),
    }
}

/// Builds the binary that is measured: all features, with the profile `release`, as it ships.
pub(crate) fn build() -> Result<PathBuf> {
    let status = workspace::cargo()
        .args(["build", "--release", "--package", "gatewright"])
        .status()
        .context("cannot start cargo")?;
    anyhow::ensure!(status.success(), "gatewright does not build: {status}");
    Ok(workspace::target_dir().join("release/gatewright"))
}

/// Writes the origin's Service and one file per Ingress into the agent's directory.
pub(crate) fn write_manifests(ground: &Ground, work: &Path, sites: &[Site]) -> Result<()> {
    let folder = work.join("manifests");
    fs::create_dir_all(&folder)?;
    let service = peers::template(Peer::Gatewright.name(), "origin.yaml")?;
    let service = peers::fill(&service, &ground.values(work, 0))?;
    fs::write(folder.join("origin.yaml"), service)?;
    for site in sites {
        write_site(work, site)?;
    }
    Ok(())
}

/// Writes one Ingress so that the agent never sees half of it: beside the directory, then moved in.
pub(crate) fn write_site(work: &Path, site: &Site) -> Result<()> {
    let values = [
        ("name", site.name.clone()),
        ("host", site.host.clone()),
        ("path", site.path.clone()),
    ];
    let text = peers::template(Peer::Gatewright.name(), "ingress.yaml")?;
    let text = peers::fill(&text, &values.into())?;
    let draft = work.join("draft.yaml");
    let place = work.join("manifests").join(format!("{}.yaml", site.name));
    fs::write(&draft, text)?;
    fs::rename(&draft, &place).with_context(|| format!("cannot write {}", place.display()))
}

/// Starts the edge on `port` (its admin listener on the next), creates the cluster, starts the agent.
pub(crate) fn start(ground: &Ground, group: &mut Group, work: &Path, port: u16) -> Result<()> {
    let program = ground.required(Peer::Gatewright)?;
    let mut edge = Command::new(&program);
    edge.arg("edge").arg("--config");
    edge.arg(ground.render(Peer::Gatewright, "edge.yaml", port)?);
    group.spawn("gatewright edge", &edge, &work.join("edge.log"))?;
    peers::wait_until_open(group, port + 1)?;

    let mut create = Command::new(&program);
    create.args(["clusters", "create", "bench", "--hosts", "*.bench.test"]);
    create.args(["--admin", &format!("http://127.0.0.1:{}", port + 1)]);
    let token = workspace::output_of(&mut create)?;
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(work.join("token"))?
        .write_all(token.as_bytes())?;

    let mut agent = Command::new(&program);
    agent.arg("agent").arg("--config");
    agent.arg(ground.render(Peer::Gatewright, "agent.yaml", port)?);
    group.spawn("gatewright agent", &agent, &work.join("agent.log"))
}
