//! `cargo xtask cluster`: a real single-node Kubernetes, with pods, on one Linux machine as root. It may not touch
//! the host beyond one network link, its routes, one cgroup and its own folder, all of which go with `down`.
//!
//! Everything runs below one process in namespaces of its own (pid, mount, network, host name, IPC): killing that
//! one process ends the cluster. No container engine, no registry, no way out of the cluster's network.

mod components;
mod conf;
mod holder;
mod image;
mod lifecycle;
mod network;
mod pki;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{tools, workspace};
use holder::Holder;

/// The arguments of `cargo xtask cluster`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Bring it up, if it is not; prints KUBECONFIG=...
    Up,
    /// End it and remove all its state
    Down,
    /// Show its components, node and pods
    Status,
    /// Make an image of binaries with their shared libraries, on a busybox base, and import it
    Image {
        /// For instance gatewright:dev; pods use it with imagePullPolicy Never
        name: String,
        /// Where the binaries are in the image
        #[arg(long, default_value = "/usr/bin")]
        folder: String,
        /// The first one is the entry point
        binaries: Vec<PathBuf>,
    },
    /// Run kubectl as the administrator
    Kubectl {
        /// What kubectl is to do
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run a command inside the node's namespaces
    Exec {
        /// Program and arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
}

/// Runs `cargo xtask cluster`.
pub(crate) fn run(args: Args) -> Result<()> {
    let node = Node::new()?;
    match args.action {
        Action::Up => lifecycle::up(&node),
        Action::Down => lifecycle::down(&node),
        Action::Status => lifecycle::status(&node),
        Action::Image {
            name,
            folder,
            binaries,
        } => add_image(&node, &name, &folder, &binaries),
        Action::Kubectl { arguments } => pass_on(node.kubectl()?.args(arguments)),
        Action::Exec { command } => {
            let (program, arguments) = command.split_first().context("no command is given")?;
            pass_on(node.holder()?.command(program).args(arguments))
        }
    }
}

fn add_image(node: &Node, name: &str, folder: &str, binaries: &[PathBuf]) -> Result<()> {
    let holder = node.holder()?;
    let archive = image::of_binaries(name, folder, binaries)?;
    let path = node.state().join("import.tar");
    std::fs::write(&path, archive).with_context(|| format!("cannot write {}", path.display()))?;
    let imported = image::import(&holder, &path);
    std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    imported?;
    println!("{}", image::full_name(name));
    Ok(())
}

/// Runs a command with our own input and output; its exit code decides ours.
fn pass_on(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .status()
        .with_context(|| format!("cannot start {program}"))?;
    if !status.success() {
        bail!("{program} failed ({status})");
    }
    Ok(())
}

/// The one node: its names, addresses and folders.
struct Node {
    base: PathBuf,
}

impl Node {
    /// The host name, the cgroup and the Node object.
    const NAME: &str = "gatewright";
    /// The host's end of the link to the node; what pods dial to reach a program outside the cluster.
    const HOST_IP: &str = "10.250.0.1";
    const NODE_IP: &str = "10.250.0.2";
    const PODS: &str = "10.244.0.0/16";
    const NODE_PODS: &str = "10.244.0.0/24";
    const SERVICES: &str = "10.96.0.0/16";
    const API_SERVICE_IP: &str = "10.96.0.1";
    const DNS_IP: &str = "10.96.0.10";
    const API_URL: &str = "https://10.250.0.2:6443";

    fn new() -> Result<Self> {
        Ok(Self {
            base: workspace::cache()?.join("cluster"),
        })
    }

    /// What lives as long as the cluster is up.
    fn state(&self) -> PathBuf {
        self.base.join("state")
    }

    /// Archives of the images every cluster needs; they outlive it.
    fn images(&self) -> PathBuf {
        self.base.join("images")
    }

    fn kubeconfig(&self) -> PathBuf {
        self.base.join("kubeconfig")
    }

    fn log(&self, component: &str) -> PathBuf {
        self.state().join("log").join(format!("{component}.log"))
    }

    fn holder(&self) -> Result<Holder> {
        Holder::find(self).context("the cluster is not up: `cargo xtask cluster up`")
    }

    /// kubectl as the administrator.
    fn kubectl(&self) -> Result<Command> {
        let mut kubectl = Command::new(tools::binary("kubernetes", "kubectl")?);
        kubectl
            .env("KUBECONFIG", self.kubeconfig())
            // Not in the user's home: what it caches is of this cluster only.
            .env("KUBECACHEDIR", self.state().join("kubectl-cache"));
        Ok(kubectl)
    }
}
