//! boto3, an S3 client that is not ours. It may not be asked what a request of ours can show as well: it
//! takes half a second to start.

use std::process::Stdio;

use super::{Credentials, Node};
use crate::parts;

/// Makes `s3`, a client of one node with one key.
const PREAMBLE: &str = r#"
import os, boto3
from botocore.config import Config
s3 = boto3.client(
    "s3", endpoint_url=os.environ["ENDPOINT"], region_name="garage",
    config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}, connect_timeout=5))
"#;

/// Runs a Python script in which `s3` is a boto3 client of `node`; returns what it prints. Panics with its
/// errors unless it succeeds. `None` where there is no boto3, as with [`crate::part`].
pub async fn boto3(node: &Node, credentials: &Credentials, script: &str) -> Option<String> {
    let folder = parts::folder("boto3");
    if !folder.join("boto3/__init__.py").is_file() {
        parts::skip("boto3 is not on this machine; `cargo xtask tools` gets it");
        return None;
    }
    let output = tokio::process::Command::new("python3")
        // -S and -E would keep PYTHONPATH out; -s keeps out only what the user installed.
        .args(["-s", "-c", &format!("{PREAMBLE}{script}")])
        .env("PYTHONPATH", folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("ENDPOINT", node.s3_url())
        .env("AWS_ACCESS_KEY_ID", &credentials.id)
        .env("AWS_SECRET_ACCESS_KEY", &credentials.secret)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("NO_PROXY", "*")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap_or_else(|e| panic!("cannot start python3: {e}"));
    assert!(
        output.status.success(),
        "the script failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}
