//! Container images without a container engine: what the cluster itself needs, and images of local binaries.
//! It may not fetch anything.

mod oci;
mod tar;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::Node;
use super::holder::Holder;
use crate::tools;
use crate::workspace::{self, output_of};
use tar::Tree;

/// Holds a pod's namespaces. It reaps what a shared process namespace leaves behind.
pub(super) const PAUSE: &str = "gatewright.local/pause:1";
/// A shell and small servers for tests.
const BUSYBOX: &str = "gatewright.local/busybox:1";

const PAUSE_SCRIPT: &str = "trap 'exit 0' TERM INT; while :; do sleep infinity & wait; done";

/// The image of the pinned CoreDNS.
pub(super) fn coredns_name() -> String {
    let version = workspace::version_of("coredns").unwrap_or_default();
    format!("gatewright.local/coredns:{version}")
}

/// Makes the archives that are missing and returns all that a new cluster imports.
pub(super) fn base(node: &Node) -> Result<Vec<PathBuf>> {
    let folder = node.images();
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let mut archives = Vec::new();
    for name in [PAUSE, BUSYBOX, &coredns_name()] {
        let path = folder.join(format!("{}.tar", name.replace(['/', ':'], "_")));
        if !path.exists() {
            let archive =
                make_base(name).with_context(|| format!("cannot make the image {name}"))?;
            let part = path.with_extension("part");
            std::fs::write(&part, archive)
                .and_then(|()| std::fs::rename(&part, &path))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        archives.push(path);
    }
    Ok(archives)
}

fn make_base(name: &str) -> Result<Vec<u8>> {
    let mut tree = Tree::default();
    let entry = if name == coredns_name() {
        let coredns = tools::binary("coredns", "coredns")?;
        tree.file("coredns", 0o755, read(&coredns)?);
        vec!["/coredns"]
    } else {
        busybox(&mut tree)?;
        match name == PAUSE {
            true => vec!["/bin/sh", "-c", PAUSE_SCRIPT],
            false => vec!["/bin/sh"],
        }
    };
    oci::archive(name, &tree, &entry)
}

/// An image of binaries in `folder` with the shared libraries they need, on a busybox base. Without binaries, a
/// shell.
pub(super) fn of_binaries(name: &str, folder: &str, binaries: &[PathBuf]) -> Result<Vec<u8>> {
    let folder = folder.trim_matches('/');
    let mut tree = Tree::default();
    busybox(&mut tree)?;
    let mut entry = String::from("/bin/sh");
    for (index, binary) in binaries.iter().enumerate() {
        let file = binary
            .file_name()
            .and_then(|name| name.to_str())
            .with_context(|| format!("{} has no usable file name", binary.display()))?;
        let place = format!("{folder}/{file}");
        let place = place.trim_start_matches('/').to_owned();
        tree.file(&place, 0o755, read(binary)?);
        for library in libraries(binary)? {
            let content = read(&library)?;
            tree.file(
                library.to_string_lossy().trim_start_matches('/'),
                0o755,
                content,
            );
        }
        if index == 0 {
            entry = format!("/{place}");
        }
    }
    oci::archive(&full_name(name), &tree, &[&entry])
}

/// The name as the container runtime knows it: with registry, path and tag.
pub(super) fn full_name(name: &str) -> String {
    let (first, rest) = name.split_once('/').unwrap_or(("", name));
    let registry = first.contains(['.', ':']) || first == "localhost";
    let mut full = match (registry, first.is_empty()) {
        (true, _) => name.to_owned(),
        (false, true) => format!("docker.io/library/{name}"),
        (false, false) => format!("docker.io/{name}"),
    };
    if !rest.contains(':') {
        full.push_str(":latest");
    }
    full
}

/// Hands an archive to the running cluster's container runtime.
pub(super) fn import(holder: &Holder, archive: &Path) -> Result<()> {
    let mut import = holder.command("ctr");
    import
        .args(["--namespace=k8s.io", "images", "import"])
        .arg(archive);
    output_of(&mut import).map(drop)
}

/// A root file system with busybox under all its names.
fn busybox(tree: &mut Tree) -> Result<()> {
    let busybox = workspace::program("busybox")
        .context("there is no busybox: run `cargo xtask tools node`")?;
    if !libraries(&busybox)?.is_empty() {
        bail!(
            "{} is not static: run `cargo xtask tools node`",
            busybox.display()
        );
    }
    let names = output_of(Command::new(&busybox).arg("--list"))?;
    for folder in ["dev", "proc", "root", "run", "sys", "var"] {
        tree.folder(folder, 0o755);
    }
    tree.folder("tmp", 0o1777);
    tree.file("bin/busybox", 0o755, read(&busybox)?);
    for name in names.lines().filter(|name| *name != "busybox") {
        tree.link(&format!("bin/{name}"), "busybox");
    }
    tree.file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n".to_vec(),
    );
    tree.file(
        "etc/group",
        0o644,
        b"root:x:0:\nnogroup:x:65534:\n".to_vec(),
    );
    tree.file("etc/nsswitch.conf", 0o644, b"hosts: files dns\n".to_vec());
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The shared libraries, loader included, that the dynamic loader finds for a binary.
fn libraries(binary: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(binary)
        .output()
        .context("cannot start ldd")?;
    // It fails for a static binary, and says so on stderr.
    parse_libraries(&String::from_utf8_lossy(&output.stdout))
        .with_context(|| format!("{} cannot run here", binary.display()))
}

fn parse_libraries(text: &str) -> Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for line in text.lines() {
        if let Some((name, _)) = line.split_once("=> not found") {
            bail!("its library {} is not found", name.trim());
        }
        let path = line
            .split_ascii_whitespace()
            .find(|word| word.starts_with('/'));
        libraries.extend(path.map(PathBuf::from));
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_the_runtime_completes_them() {
        for (name, full) in [
            ("gatewright", "docker.io/library/gatewright:latest"),
            ("gatewright:dev", "docker.io/library/gatewright:dev"),
            ("team/gatewright:dev", "docker.io/team/gatewright:dev"),
            ("gatewright.local/a:1", "gatewright.local/a:1"),
            ("localhost/a", "localhost/a:latest"),
            ("host:5000/a", "host:5000/a:latest"),
        ] {
            assert_eq!(full_name(name), full);
        }
    }

    #[test]
    fn libraries_are_read_from_the_loaders_list() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00)\n\t/lib64/ld-linux-x86-64.so.2 (0x00)\n";
        let expected = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(
            parse_libraries(text).expect("a list"),
            expected.map(PathBuf::from)
        );
        assert_eq!(
            parse_libraries("\tstatically linked\n").expect("a list"),
            Vec::<PathBuf>::new()
        );
    }

    #[test]
    fn a_library_that_is_not_there_is_named() {
        let error = parse_libraries("\tlibx.so.1 => not found\n").expect_err("an error");
        assert_eq!(error.to_string(), "its library libx.so.1 is not found");
    }
}
