//! The etcd behind a test cluster: how it is started, and its JSON gateway. It may not know Kubernetes.

use std::path::Path;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::keeper::Keeper;

/// etcd listens on Unix sockets in its own folder: no port to race for, and nobody else's data.
/// It insists on `host:port`; the whole of it is the socket's file name.
pub(super) const CLIENT_URL: &str = "unix://localhost:1";
const CLIENT_SOCKET: &str = "localhost:1";
const PEER_URL: &str = "unix://localhost:2";

pub(super) fn spawn(program: &Path, dir: &Path) -> Keeper {
    let arguments = [
        "--data-dir=data",
        "--unsafe-no-fsync",
        // One member elects itself; the default second of patience only delays the start.
        "--heartbeat-interval=20",
        "--election-timeout=200",
        &format!("--listen-client-urls={CLIENT_URL}"),
        &format!("--advertise-client-urls={CLIENT_URL}"),
        &format!("--listen-peer-urls={PEER_URL}"),
        &format!("--initial-advertise-peer-urls={PEER_URL}"),
        &format!("--initial-cluster=default={PEER_URL}"),
    ]
    .map(String::from);
    Keeper::spawn(program, &arguments, dir, &dir.join("etcd.log"))
}

/// Drops every revision but the newest.
///
/// Source: etcd v3 JSON gateway, `/v3/kv/range` and `/v3/kv/compaction`.
pub(super) async fn compact(dir: &Path) {
    let newest = call(dir, "/v3/kv/range", &json!({ "key": "AA==" })).await;
    let revision = newest["header"]["revision"].clone();
    let body = json!({ "revision": revision, "physical": true });
    call(dir, "/v3/kv/compaction", &body).await;
}

async fn call(dir: &Path, path: &str, body: &Value) -> Value {
    let socket = dir.join(CLIENT_SOCKET);
    let answer = async {
        let mut stream = UnixStream::connect(&socket).await?;
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.0\r\nHost: etcd\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<String, std::io::Error>(answer)
    };
    let answer = answer
        .await
        .unwrap_or_else(|e| panic!("cannot ask etcd for {path}: {e}"));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    assert!(
        head.split(' ').nth(1) == Some("200"),
        "etcd refused {path}: {answer}"
    );
    serde_json::from_str(body).unwrap_or_else(|e| panic!("etcd's answer to {path} is no JSON: {e}"))
}
