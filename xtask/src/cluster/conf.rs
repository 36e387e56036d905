//! Writes the configuration files of one cluster from the templates in `conf/`. It may not decide when.

use anyhow::{Context as _, Result};

use super::{Node, image};

/// File name, template.
const TEMPLATES: [(&str, &str); 7] = [
    ("init.sh", include_str!("conf/init.sh")),
    ("containerd.toml", include_str!("conf/containerd.toml")),
    ("cni.conflist", include_str!("conf/cni.conflist")),
    ("kubelet.yaml", include_str!("conf/kubelet.yaml")),
    ("kube-proxy.yaml", include_str!("conf/kube-proxy.yaml")),
    ("resolv.conf", include_str!("conf/resolv.conf")),
    ("addons.yaml", include_str!("conf/addons.yaml")),
];

/// Writes all of them below `conf/` of the state folder.
pub(super) fn write(node: &Node) -> Result<()> {
    for (name, template) in TEMPLATES {
        let path = node.state().join("conf").join(name);
        std::fs::write(&path, fill(node, template))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn fill(node: &Node, template: &str) -> String {
    let state = node.state().display().to_string();
    let coredns = image::coredns_name();
    let values = [
        ("@STATE@", state.as_str()),
        ("@NODE@", Node::NAME),
        ("@NODE_IP@", Node::NODE_IP),
        ("@PODS@", Node::PODS),
        ("@NODE_PODS@", Node::NODE_PODS),
        ("@DNS_IP@", Node::DNS_IP),
        ("@PAUSE_IMAGE@", image::PAUSE),
        ("@COREDNS_IMAGE@", coredns.as_str()),
    ];
    let mut text = template.to_owned();
    for (placeholder, value) in values {
        text = text.replace(placeholder, value);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_placeholder_is_left() {
        let node = Node {
            base: "/somewhere".into(),
        };
        for (name, template) in TEMPLATES {
            let text = fill(&node, template);
            let mut words = text.split('@').skip(1).step_by(2);
            let left = words.find(|word| word.chars().all(|c| c.is_ascii_uppercase() || c == '_'));
            assert_eq!(left, None, "{name}");
        }
    }

    #[test]
    fn the_cni_configuration_is_json() {
        let node = Node {
            base: "/somewhere".into(),
        };
        let (_, template) = TEMPLATES[2];
        let value: serde_json::Value =
            serde_json::from_str(&fill(&node, template)).expect("valid JSON");
        assert_eq!(
            value["plugins"][0]["ipam"]["ranges"][0][0]["subnet"],
            Node::NODE_PODS
        );
    }
}
