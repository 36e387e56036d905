//! What several tests need: clusters in a scratch store, routes, and a plain HTTP exchange.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use gatewright_edge::{Clusters, NewCluster, StoreConfig, Token};
use gatewright_names::{HostPattern, Hostname, WildcardMode};
use gatewright_routes::message::{IngressRoutesAck, WireRoute};
use gatewright_routes::{Change, ClusterId, RouteId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The clusters of the store in `folder`, under `gateway.localhost`.
pub(crate) fn open(folder: &Path) -> Arc<Clusters> {
    try_open(folder).unwrap()
}

pub(crate) fn try_open(folder: &Path) -> Result<Arc<Clusters>, gatewright_edge::Error> {
    let domain = Hostname::parse("gateway.localhost").unwrap();
    Clusters::open(
        &StoreConfig {
            path: folder.to_owned(),
        },
        &domain,
    )
}

/// Makes a cluster that may have these hosts.
pub(crate) async fn create(clusters: &Clusters, name: &str, hosts: &[&str]) -> (ClusterId, Token) {
    let hosts = hosts.iter().map(|host| pattern(host)).collect();
    let new = NewCluster {
        name: name.to_owned(),
        tenant: None,
        hosts,
    };
    let (record, token) = clusters.create(new).await.unwrap();
    (record.id, token)
}

/// A granted pattern.
pub(crate) fn pattern(text: &str) -> HostPattern {
    HostPattern::parse(text, WildcardMode::ManyLabels).unwrap()
}

/// A route of a service `web`; the host may be empty.
pub(crate) fn route(id: u64, host: &str, path: &str) -> WireRoute {
    WireRoute {
        id: Some(RouteId(id)),
        host: Some(host.to_owned()),
        path: Some(path.to_owned()),
        service: Some("web".to_owned()),
        port: Some(8080),
        ..WireRoute::default()
    }
}

/// Applies routes; what the edge answers.
pub(crate) async fn upsert(
    clusters: &Clusters,
    id: &ClusterId,
    routes: Vec<WireRoute>,
) -> IngressRoutesAck {
    let acks = clusters
        .apply(id, Change::Upsert(routes), None)
        .await
        .unwrap();
    assert_eq!(acks.len(), 1, "{acks:?}");
    acks.into_iter().next().unwrap()
}

/// The cluster that serves a host and path.
pub(crate) fn served_by(clusters: &Clusters, host: &str, path: &str) -> Option<String> {
    clusters
        .snapshot()
        .table
        .lookup(host, path)
        .ok()
        .map(|route| route.cluster.name.clone())
}

/// A response.
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Lower case names.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// One request with the given header lines besides `Connection: close` and `Content-Length`.
pub(crate) async fn http(
    address: SocketAddr,
    request_line: &str,
    headers: &[&str],
    body: &str,
) -> Response {
    let mut text = format!(
        "{request_line} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    if !headers
        .iter()
        .any(|header| header.to_ascii_lowercase().starts_with("host:"))
    {
        text.push_str(&format!("host: {address}\r\n"));
    }
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text.push_str(body);
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no head in {answer:?}"));
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .unwrap()
        .parse()
        .unwrap();
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    Response {
        status,
        headers,
        body: body.to_owned(),
    }
}
