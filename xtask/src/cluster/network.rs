//! The link between host and node, and the cgroup that pods live under: the only traces on the host.
//! It may not change what was there before, except that a v2 root hands its controllers down.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Node;
use super::holder::Holder;
use crate::stopwatch::poll;
use crate::workspace::output_of;

const HOST_LINK: &str = "gatewright0";
const NODE_LINK: &str = "node0";
const CGROUPS: &str = "/sys/fs/cgroup";

/// Joins host and node. The host reaches pods, services and the node; the node reaches the host, nothing else.
pub(super) fn connect(holder: &Holder) -> Result<()> {
    let pid = holder.pid().to_string();
    let (host, node) = (Node::HOST_IP, Node::NODE_IP);
    let on_host = [
        format!("link add {HOST_LINK} type veth peer name {NODE_LINK} netns {pid}"),
        format!("addr add {host}/30 dev {HOST_LINK}"),
        format!("link set {HOST_LINK} up"),
        format!("route add {} via {node} dev {HOST_LINK}", Node::SERVICES),
        format!("route add {} via {node} dev {HOST_LINK}", Node::PODS),
    ];
    let on_node = [
        format!("addr add {node}/30 dev {NODE_LINK}"),
        format!("link set {NODE_LINK} up"),
        // Only so that the node's own connect() to a service finds a route; kube-proxy rewrites it after.
        format!("route add {} via {host} dev {NODE_LINK}", Node::SERVICES),
    ];
    // The link exists on both sides after its first command.
    ip(Command::new("ip"), &on_host[0])?;
    for arguments in &on_node {
        ip(holder.command("ip"), arguments)?;
    }
    for arguments in &on_host[1..] {
        ip(Command::new("ip"), arguments).context(
            "another network of this machine uses these addresses (10.250.0.0/30, 10.96.0.0/16, 10.244.0.0/16)",
        )?;
    }
    // It belongs to the network namespace, not to the host. Pods have a link each to the node, which routes: on
    // a bridge, fifty that all talk to each other fill the kernel's one table of neighbours (1024 of them).
    let settings = "echo 1 > /proc/sys/net/ipv4/ip_forward";
    output_of(holder.command("sh").args(["-c", settings]))?;
    Ok(())
}

fn ip(mut ip: Command, arguments: &str) -> Result<()> {
    output_of(ip.args(arguments.split(' '))).map(drop)
}

/// The link goes with the node's namespace, a moment after it; helps along if it does not.
pub(super) fn disconnect() -> Result<()> {
    let link = Path::new("/sys/class/net").join(HOST_LINK);
    let tick = Duration::from_millis(20);
    if poll(Duration::from_secs(3), tick, || !link.exists()) {
        return Ok(());
    }
    ip(Command::new("ip"), &format!("link del {HOST_LINK}"))
}

/// Makes the cgroup in each hierarchy.
pub(super) fn make_cgroups() -> Result<()> {
    for hierarchy in hierarchies()? {
        let path = hierarchy.join(Node::NAME);
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot make the cgroup {}", path.display()))?;
        // A v1 cpuset starts empty, and nothing runs in an empty one.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if hierarchy.ends_with("cpuset") {
                std::fs::copy(hierarchy.join(file), path.join(file))
                    .with_context(|| format!("cannot set {file} of {}", path.display()))?;
            }
        }
        // v2: children get only the controllers that their parent hands down.
        if let Ok(controllers) = std::fs::read_to_string(hierarchy.join("cgroup.controllers")) {
            for controller in controllers.split_ascii_whitespace() {
                // Some cannot be handed down; kubelet says which one it misses.
                let _ = std::fs::write(
                    hierarchy.join("cgroup.subtree_control"),
                    format!("+{controller}"),
                );
            }
        }
    }
    Ok(())
}

/// Removes the cgroup, when the last processes in it have gone.
pub(super) fn remove_cgroups() -> Result<()> {
    let hierarchies = hierarchies()?;
    let mut left = PathBuf::new();
    let gone = poll(Duration::from_secs(5), Duration::from_millis(50), || {
        let paths = hierarchies.iter().map(|path| path.join(Node::NAME));
        let mut remaining = paths.filter(|path| path.exists() && !remove_tree(path));
        match remaining.next() {
            Some(path) => {
                left = path;
                false
            }
            None => true,
        }
    });
    anyhow::ensure!(gone, "the cgroup {} is still in use", left.display());
    Ok(())
}

/// A cgroup's files cannot be deleted; its folders can, the deepest first.
fn remove_tree(path: &Path) -> bool {
    if let Ok(entries) = std::fs::read_dir(path) {
        for entry in entries.filter_map(Result::ok) {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove_tree(&entry.path());
            }
        }
    }
    std::fs::remove_dir(path).is_ok()
}

/// The mounted hierarchies that this process is in: one per controller in v1, one in v2, both kinds together
/// on a hybrid machine.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string("/proc/self/cgroup").context("cannot read our cgroups")?;
    let mounted = names(&text)
        .into_iter()
        .map(|name| Path::new(CGROUPS).join(name))
        .filter(|path| path.join("cgroup.procs").exists());
    Ok(mounted.collect())
}

/// The folder names of the hierarchies in the text of /proc/self/cgroup (cgroups(7)). The line of v2 has no
/// name: it is mounted on the folder itself, or beside v1 ones as `unified`.
fn names(text: &str) -> Vec<&str> {
    let controllers = text.lines().filter_map(|line| line.split(':').nth(1));
    let names = controllers.map(|name| name.strip_prefix("name=").unwrap_or(name));
    names
        .flat_map(|name| {
            if name.is_empty() {
                vec!["", "unified"]
            } else {
                vec![name]
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_named_as_they_are_mounted() {
        let v1 = "9:name=systemd:/\n3:cpuset:/\n2:cpu,cpuacct:/a\n0::/\n";
        assert_eq!(
            names(v1),
            ["systemd", "cpuset", "cpu,cpuacct", "", "unified"]
        );
        assert_eq!(names("0::/user.slice\n"), ["", "unified"]);
    }
}
