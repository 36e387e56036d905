//! The commands that talk to an edge's admin API: one HTTP request each, and its answer for people or,
//! with `-o json`, as the edge gave it. It may not decide anything that the edge decides.

mod clusters;
mod explain;
mod routes;
mod status;
mod table;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use crate::usage;

pub(crate) use clusters::ClustersArgs;
pub(crate) use explain::ExplainArgs;
pub(crate) use routes::RoutesArgs;
pub(crate) use status::StatusArgs;

pub(crate) use clusters::run as clusters;
pub(crate) use explain::run as explain;
pub(crate) use routes::run as routes;
pub(crate) use status::run as status;

/// To connect, and then for the whole exchange.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of an answer: a million routes fit.
const LARGEST_ANSWER: usize = 1 << 30;

/// Which edge to talk to.
#[derive(Debug, clap::Args)]
pub(crate) struct AdminArgs {
    /// The edge's admin listener.
    #[arg(
        long = "admin",
        global = true,
        value_name = "URL",
        env = "GATEWRIGHT_ADMIN",
        default_value = "http://127.0.0.1:9090"
    )]
    url: String,
    /// File with the admin token, if the edge wants one.
    #[arg(
        long = "admin-token-file",
        global = true,
        value_name = "FILE",
        env = "GATEWRIGHT_ADMIN_TOKEN_FILE"
    )]
    token_file: Option<PathBuf>,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Output {
    /// Aligned, for people.
    #[default]
    Text,
    /// As the edge gave it.
    Json,
}

/// One edge's admin API.
struct Admin {
    url: String,
    host: String,
    port: u16,
    authority: String,
    authorization: Option<HeaderValue>,
}

/// What the edge says when it does not obey.
#[derive(Deserialize)]
struct Refusal {
    error: RefusalError,
}

#[derive(Deserialize)]
struct RefusalError {
    message: String,
}

impl Admin {
    fn new(args: &AdminArgs) -> anyhow::Result<Self> {
        let bad = |why: &str| {
            usage(anyhow::anyhow!(
                "--admin {:?} {why}, as in http://127.0.0.1:9090",
                args.url
            ))
        };
        let uri: Uri = args
            .url
            .parse()
            .map_err(|_| bad("is not a URL; write http://HOST:PORT"))?;
        if uri.scheme() != Some(&http::uri::Scheme::HTTP) {
            return Err(bad("does not begin with http://; write http://HOST:PORT"));
        }
        let authority = uri
            .authority()
            .ok_or_else(|| bad("has no host; write http://HOST:PORT"))?;
        if uri.path() != "/" || uri.query().is_some() || authority.as_str().contains('@') {
            return Err(bad(
                "has more than a host and a port; write http://HOST:PORT",
            ));
        }
        let authorization = match &args.token_file {
            Some(path) => {
                let read = std::fs::read_to_string(path);
                let token = read.with_context(|| {
                    format!("cannot read {} (--admin-token-file)", path.display())
                });
                let token = token.map_err(usage)?;
                let value = HeaderValue::from_str(&format!("Bearer {}", token.trim()));
                let mut value = value.map_err(|_| {
                    usage(anyhow::anyhow!("{} (--admin-token-file) does not hold a token: it has characters that no token has", path.display()))
                })?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        Ok(Self {
            url: args.url.trim_end_matches('/').to_owned(),
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(80),
            authority: authority.to_string(),
            authorization,
        })
    }

    async fn get(&self, path: &str) -> anyhow::Result<Bytes> {
        self.send(Method::GET, path, None).await
    }

    /// Sends one request; the body of a good answer.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<serde_json::Value>,
    ) -> anyhow::Result<Bytes> {
        let exchange = self.exchange(method, path, body);
        match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(answer) => answer,
            Err(_) => bail!(
                "the edge's admin API at {} did not answer within {} s",
                self.url,
                PATIENCE.as_secs()
            ),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<serde_json::Value>,
    ) -> anyhow::Result<Bytes> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.authority)
            .header(ACCEPT, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body
            .map(|body| Bytes::from(body.to_string()))
            .unwrap_or_default();
        let request = request
            .body(Full::new(body))
            .context("cannot make a request of these arguments")?;

        let socket = self.connect().await?;
        let not_an_edge = || {
            format!(
                "the answer of {} is not HTTP; is it an edge's admin API? (set --admin)",
                self.url
            )
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
            .await
            .with_context(not_an_edge)?;
        let answer = async move {
            let response = sender.send_request(request).await?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, LARGEST_ANSWER).collect().await;
            Ok::<_, hyper::Error>((head, body.map(http_body_util::Collected::to_bytes)))
        };
        // The connection works for the answer and ends with it.
        let mut connection = std::pin::pin!(connection);
        let mut answer = std::pin::pin!(answer);
        let answered = tokio::select! {
            answered = &mut answer => answered,
            _ = &mut connection => answer.await,
        };
        let (head, body) = answered.with_context(not_an_edge)?;
        let body =
            body.map_err(|error| anyhow::anyhow!("the answer of {} broke off: {error}", self.url))?;
        if head.status.is_success() {
            return Ok(body);
        }
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => bail!("{}", table::printable(&refusal.error.message)),
            Err(_) => bail!(
                "{} answered {}; is it an edge's admin API? (set --admin)",
                self.url,
                head.status
            ),
        }
    }

    async fn connect(&self) -> anyhow::Result<TcpStream> {
        let connecting = TcpStream::connect((self.host.as_str(), self.port));
        let why = match tokio::time::timeout(CONNECT_PATIENCE, connecting).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                "connection refused".to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", CONNECT_PATIENCE.as_secs()),
        };
        bail!(
            "cannot reach the edge's admin API at {}: {why}; is `gatewright edge` running there? (set --admin)",
            self.url
        )
    }
}

/// Reads an answer. An edge of another version may say more, and then says it in fields that are
/// skipped; less is an error.
fn parse<T: DeserializeOwned>(answer: &[u8]) -> anyhow::Result<T> {
    serde_json::from_slice(answer)
        .context("the edge's answer is not as this version expects it; are edge and command line of the same version?")
}

/// An answer as it came, but with line breaks.
fn pretty(answer: &[u8]) -> anyhow::Result<String> {
    let value: serde_json::Value = parse(answer)?;
    Ok(serde_json::to_string_pretty(&value)? + "\n")
}

/// Writes to standard output. A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

/// Percent-encodes for one path segment or one query value (RFC 3986, unreserved characters stay).
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte))
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(url: &str) -> AdminArgs {
        AdminArgs {
            url: url.to_owned(),
            token_file: None,
        }
    }

    #[test]
    fn an_admin_url_is_a_host_and_a_port() {
        for (url, host, port) in [
            ("http://127.0.0.1:9090", "127.0.0.1", 9090),
            ("http://localhost:9090/", "localhost", 9090),
            ("http://[::1]:1", "::1", 1),
            ("http://edge.internal", "edge.internal", 80),
        ] {
            let admin = Admin::new(&args(url)).unwrap();
            assert_eq!((admin.host.as_str(), admin.port), (host, port), "{url}");
        }
        for url in [
            "",
            "127.0.0.1:9090",
            "https://edge",
            "http://",
            "http://edge/admin",
            "http://a:b@edge",
            "http://edge?x",
        ] {
            let error = Admin::new(&args(url)).err().unwrap();
            assert!(
                error.to_string().contains("http://HOST:PORT"),
                "{url}: {error}"
            );
        }
    }

    #[test]
    fn names_are_encoded_whole() {
        assert_eq!(encoded("demo-1"), "demo-1");
        assert_eq!(encoded("../a b?ü"), "..%2Fa%20b%3F%C3%BC");
    }

    #[tokio::test]
    async fn a_missing_edge_is_said_to_be_missing() {
        // A port that was free a moment ago and that nobody listens on.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let admin = Admin::new(&args(&format!("http://127.0.0.1:{port}"))).unwrap();
        let error = admin.get("/api/v1/status").await.unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "cannot reach the edge's admin API at http://127.0.0.1:{port}: connection refused; is `gatewright edge` running there? (set --admin)"
            )
        );
    }

    #[test]
    fn a_token_file_that_cannot_be_used_is_named_and_its_content_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let args = AdminArgs {
            url: "http://127.0.0.1:1".to_owned(),
            token_file: Some(file.clone()),
        };
        assert!(format!("{:#}", Admin::new(&args).err().unwrap()).contains("--admin-token-file"));
        std::fs::write(&file, "very\nsecret").unwrap();
        let error = format!("{:#}", Admin::new(&args).err().unwrap());
        assert!(
            error.contains("--admin-token-file") && !error.contains("secret"),
            "{error}"
        );
    }
}
