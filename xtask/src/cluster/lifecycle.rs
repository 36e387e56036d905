//! Bringing the cluster up, taking it down, and telling how it is. It may not know how one component is configured.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::holder::Holder;
use super::{Node, components, conf, image, network, pki};
use crate::stopwatch::{now, poll};
use crate::tools::is_root;

const TICK: Duration = Duration::from_millis(50);

/// Says what is done, with the seconds since the start.
struct Progress(Instant);

impl Progress {
    fn say(&self, what: &str) {
        eprintln!("{:5.1} s  {what}", self.0.elapsed().as_secs_f64());
    }
}

/// Brings the cluster up; does nothing if it is.
pub(super) fn up(node: &Node) -> Result<()> {
    require_root()?;
    components::check()?;
    let _lock = lock(node)?;
    let progress = Progress(now());
    if let Some(holder) = Holder::find(node) {
        let dead = dead_component(node, &holder);
        if dead.is_none() && ready(node) {
            progress.say("already up");
            return announce(node);
        }
        progress.say(&format!(
            "half up ({} is not there): starting over",
            dead.unwrap_or("the apiserver")
        ));
    }
    clear(node)?;
    let archives = image::base(node)?;
    for folder in ["conf", "log", "pids", "pki"] {
        let path = node.state().join(folder);
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
    }
    // The folder holds keys and tokens.
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(node.state(), std::fs::Permissions::from_mode(0o700))
        .context("cannot close the state folder to others")?;
    pki::write(node)?;
    conf::write(node)?;
    network::make_cgroups()?;
    let holder = Holder::start(node)?;
    network::connect(&holder)?;
    progress.say("namespaces, network, certificates");
    start(node, &holder, &archives, &progress)?;
    announce(node)
}

fn start(
    node: &Node,
    holder: &Holder,
    archives: &[std::path::PathBuf],
    progress: &Progress,
) -> Result<()> {
    use components::{APISERVER, CONTAINERD, CONTROLLER_MANAGER, ETCD, KUBELET, PROXY, SCHEDULER};
    for component in [ETCD, APISERVER, CONTAINERD] {
        components::start(node, holder, component)?;
    }
    std::thread::scope(|scope| {
        let imports = scope.spawn(|| import(node, holder, archives));
        await_ready(node, holder, "the apiserver", || ready(node))?;
        progress.say("apiserver ready");
        for component in [KUBELET, CONTROLLER_MANAGER, SCHEDULER, PROXY] {
            components::start(node, holder, component)?;
        }
        let addons = node.state().join("conf/addons.yaml");
        await_ready(node, holder, "the addons' objects", || {
            let apply = node.kubectl().map(|mut kubectl| {
                kubectl.args(["apply", "--filename"]).arg(&addons);
                succeeds(&mut kubectl)
            });
            apply.unwrap_or(false)
        })?;
        await_ready(node, holder, "the node", || {
            asks(
                node,
                "get node gatewright -o jsonpath={.status.conditions[?(@.type=='Ready')].status}",
            )
            .is_some_and(|status| status == "True")
        })?;
        progress.say("node ready");
        match imports.join() {
            Ok(imported) => imported,
            Err(_) => bail!("the import of images panicked"),
        }
    })?;
    await_ready(node, holder, "the cluster's DNS", || {
        asks(
            node,
            "-n kube-system get deployment coredns -o jsonpath={.status.readyReplicas}",
        )
        .is_some_and(|replicas| replicas == "1")
    })?;
    await_ready(node, holder, "the default service account", || {
        asks(node, "get serviceaccount default").is_some()
    })?;
    progress.say("DNS ready");
    Ok(())
}

fn import(node: &Node, holder: &Holder, archives: &[std::path::PathBuf]) -> Result<()> {
    await_ready(node, holder, "containerd", || {
        succeeds(holder.command("ctr").arg("version"))
    })?;
    archives
        .iter()
        .try_for_each(|archive| image::import(holder, archive))
}

/// Ends the cluster and removes its state; does nothing if there is none.
pub(super) fn down(node: &Node) -> Result<()> {
    require_root()?;
    let _lock = lock(node)?;
    clear(node)
}

fn clear(node: &Node) -> Result<()> {
    if let Some(holder) = Holder::find(node) {
        holder.kill()?;
    }
    network::disconnect()?;
    network::remove_cgroups()?;
    let state = node.state();
    // Empty folders that had to exist on the host as places to mount on, the last made first.
    let made = std::fs::read_to_string(state.join("made")).unwrap_or_default();
    for folder in made.lines().rev() {
        // Somebody else may use it by now; then it is not empty and stays.
        let _ = std::fs::remove_dir(folder);
    }
    for path in [state, node.kubeconfig()] {
        remove(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

fn remove(path: &Path) -> std::io::Result<()> {
    let outcome = if path.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    };
    match outcome {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Prints each component with its memory, then the node and the pods.
pub(super) fn status(node: &Node) -> Result<()> {
    let holder = node.holder()?;
    let mut dead = Vec::new();
    for component in components::ALL {
        match components::process(node, &holder, component) {
            Some(process) => println!("{component:<26} {:>5} MiB", memory(&process)),
            None => {
                println!("{component:<26} DEAD");
                dead.push(component);
            }
        }
    }
    for what in ["nodes", "pods"] {
        super::pass_on(node.kubectl()?.args(["get", what, "-A", "-o", "wide"]))?;
    }
    anyhow::ensure!(dead.is_empty(), "dead: {}", dead.join(", "));
    announce(node)
}

/// Resident memory in MiB, from /proc/PID/status (proc(5)).
fn memory(process: &Path) -> u64 {
    let text = std::fs::read_to_string(process.join("status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) / 1024
}

fn announce(node: &Node) -> Result<()> {
    println!("KUBECONFIG={}", node.kubeconfig().display());
    Ok(())
}

fn dead_component(node: &Node, holder: &Holder) -> Option<&'static str> {
    components::ALL
        .into_iter()
        .find(|component| components::process(node, holder, component).is_none())
}

fn ready(node: &Node) -> bool {
    asks(node, "get --raw /readyz").is_some_and(|answer| answer == "ok")
}

/// What kubectl prints, if it succeeds. The arguments contain no spaces of their own.
fn asks(node: &Node, arguments: &str) -> Option<String> {
    let mut kubectl = node.kubectl().ok()?;
    kubectl
        .arg("--request-timeout=5s")
        .args(arguments.split(' '));
    crate::workspace::output_of(&mut kubectl).ok()
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// Waits up to 90 s, but no longer for a component that has died: it is named, with the end of its log.
fn await_ready(
    node: &Node,
    holder: &Holder,
    what: &str,
    mut done: impl FnMut() -> bool,
) -> Result<()> {
    let begun = now();
    let dead = || {
        // Before that a component may not have become itself yet.
        let settled = begun.elapsed() > Duration::from_secs(3);
        let mut started = components::ALL
            .into_iter()
            .filter(|component| node.log(component).exists());
        started.find(|component| settled && components::process(node, holder, component).is_none())
    };
    let mut is_done = false;
    poll(Duration::from_secs(90), TICK, || {
        is_done = done();
        is_done || dead().is_some()
    });
    match (is_done, dead()) {
        (true, _) => Ok(()),
        (false, Some(component)) => bail!(
            "{what} cannot become ready, because {component} ended:\n  {}",
            components::last_words(node, component)
        ),
        (false, None) => bail!(
            "{what} is not ready after 90 s; logs: {}",
            node.state().join("log").display()
        ),
    }
}

fn require_root() -> Result<()> {
    anyhow::ensure!(is_root(), "namespaces, mounts and network links need root");
    Ok(())
}

/// Held until dropped. The components do not inherit it: Rust opens files with O_CLOEXEC.
fn lock(node: &Node) -> Result<File> {
    std::fs::create_dir_all(&node.base)
        .with_context(|| format!("cannot make {}", node.base.display()))?;
    let path = node.base.join(".lock");
    let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    file.lock()
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}
