//! An OCI image layout (image-spec 1.0) of one layer as a tar archive. It may not know what is in the layer.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::tar::Tree;

/// The archive of an image called `name` with the file system `root` and the entry point `entry`.
pub(super) fn archive(name: &str, root: &Tree, entry: &[&str]) -> Result<Vec<u8>> {
    let layer = Blob::new(root.archive()?);
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Entrypoint": entry,
            "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
            "WorkingDir": "/",
        },
        "rootfs": { "type": "layers", "diff_ids": [layer.digest] },
    });
    let config = Blob::new(bytes(&config)?);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
        "layers": [layer.descriptor("application/vnd.oci.image.layer.v1.tar")],
    });
    let manifest = Blob::new(bytes(&manifest)?);
    let mut top = manifest.descriptor("application/vnd.oci.image.manifest.v1+json");
    top["annotations"] = json!({
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rsplit(':').next().unwrap_or_default(),
    });
    let index = json!({ "schemaVersion": 2, "manifests": [top] });

    let mut layout = Tree::default();
    layout.file(
        "oci-layout",
        0o644,
        bytes(&json!({ "imageLayoutVersion": "1.0.0" }))?,
    );
    layout.file("index.json", 0o644, bytes(&index)?);
    for blob in [layer, config, manifest] {
        let path = format!("blobs/{}", blob.digest.replace(':', "/"));
        layout.file(&path, 0o644, blob.bytes);
    }
    layout.archive()
}

/// Content with its digest, which is worked out once: a layer is large.
struct Blob {
    bytes: Vec<u8>,
    digest: String,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        let digest = digest(&bytes);
        Self { bytes, digest }
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest, "size": self.bytes.len() })
    }
}

fn digest(blob: &[u8]) -> String {
    let hex: String = Sha256::digest(blob)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

fn bytes(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).context("cannot write JSON")
}

/// Go's name for this machine's architecture, which is the one OCI uses.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_tree_makes_the_same_image() {
        let tree = || {
            let mut tree = Tree::default();
            tree.file("bin/a", 0o755, b"a".to_vec());
            tree
        };
        let one = archive("x.local/a:1", &tree(), &["/bin/a"]).expect("an image");
        let two = archive("x.local/a:1", &tree(), &["/bin/a"]).expect("an image");
        assert!(one == two);
        let text = String::from_utf8_lossy(&one);
        assert!(text.contains(r#""io.containerd.image.name":"x.local/a:1""#));
    }

    #[test]
    fn digests_are_sha_256() {
        assert_eq!(
            digest(b""),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
