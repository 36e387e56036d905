//! Sends one request to the Admin API and reads one answer, bounded in time and size. It may not know
//! what any call means.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gatewright_garage::secret::Redacted;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Error;

/// How much of a refusal is kept.
const MESSAGE_BYTES: usize = 1024;

/// The bounds of a client.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For TCP; the rest of a call is in `request_timeout`.
    pub connect_timeout: Duration,
    /// From the call to the last byte of its answer. Garage itself gives up on other nodes after 10 s
    /// (`rpc_timeout_msec`) and then says which; a shorter time here hides that.
    pub request_timeout: Duration,
    /// Bytes of one answer. A bucket in a list is about 200.
    pub response_limit: usize,
    /// Connections kept open when nothing is asked.
    pub idle_connections: usize,
    /// How long they are kept.
    pub idle_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(20),
            response_limit: 16 << 20,
            idle_connections: 2,
            idle_timeout: Duration::from_secs(90),
        }
    }
}

/// What clients may have in common: the connections, and TLS that is configured once. A client of its own
/// for each node would cost tens of kilobytes each. Cheap to clone.
#[derive(Clone)]
pub struct Connections {
    http: Http,
    settings: Settings,
}

type Http = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Connections {
    /// For clients of APIs with the scheme of `base`.
    pub fn new(base: &str, settings: Settings) -> Result<Self, Error> {
        let (scheme, authority) = parse_base(base)?;
        let http = connect(&scheme, &settings).map_err(|source| Error::Roots {
            at: format!("{scheme}://{authority}"),
            source,
        })?;
        Ok(Self { http, settings })
    }
}

/// The Admin API of one node. Clones share their connections.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    timeout: Duration,
}

struct Shared {
    scheme: Scheme,
    authority: Authority,
    at: String,
    /// `Bearer ...`, marked as sensitive.
    authorization: HeaderValue,
    token: Redacted<String>,
    connections: Connections,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("at", &self.shared.at)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// One request: what is asked for and under which name.
pub(super) struct Call<'a> {
    pub(super) name: &'static str,
    pub(super) method: Method,
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) body: Option<Vec<u8>>,
}

impl Client {
    /// A client of the API at `base` (`http://host:port` or `https://host:port`), with a bearer token:
    /// the one of Garage's configuration or one that `CreateAdminToken` made. Connects to nothing yet.
    pub fn new(base: &str, token: Redacted<String>, settings: Settings) -> Result<Self, Error> {
        Self::over(&Connections::new(base, settings)?, base, token)
    }

    /// The same over connections that others use too; they have to be for the scheme of `base`.
    pub fn over(
        connections: &Connections,
        base: &str,
        token: Redacted<String>,
    ) -> Result<Self, Error> {
        let (scheme, authority) = parse_base(base)?;
        let at = format!("{scheme}://{authority}");
        let bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose()));
        let Ok(mut authorization) = bearer else {
            return Err(Error::Token { at });
        };
        authorization.set_sensitive(true);
        Ok(Self {
            timeout: connections.settings.request_timeout,
            shared: Arc::new(Shared {
                scheme,
                authority,
                at,
                authorization,
                token,
                connections: connections.clone(),
            }),
        })
    }

    /// The same client with another patience per call, for calls that take long.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            timeout,
        }
    }

    /// The API's address, as errors name it.
    pub fn at(&self) -> &str {
        &self.shared.at
    }

    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        name: &'static str,
        query: &[(&str, &str)],
    ) -> Result<T, Error> {
        let call = Call {
            name,
            method: Method::GET,
            query,
            body: None,
        };
        self.read(name, &self.ask(call).await?)
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        name: &'static str,
        query: &[(&str, &str)],
        body: &impl serde::Serialize,
    ) -> Result<T, Error> {
        let answer = self.ask(self.post_call(name, query, body)?).await?;
        self.read(name, &answer)
    }

    /// A POST of calls that have no body.
    pub(super) async fn post_nothing<T: DeserializeOwned>(
        &self,
        name: &'static str,
        query: &[(&str, &str)],
    ) -> Result<T, Error> {
        let call = Call {
            name,
            method: Method::POST,
            query,
            body: None,
        };
        self.read(name, &self.ask(call).await?)
    }

    fn post_call<'a>(
        &self,
        name: &'static str,
        query: &'a [(&'a str, &'a str)],
        body: &impl serde::Serialize,
    ) -> Result<Call<'a>, Error> {
        // Our own shapes have string keys and no failing `Serialize`: this cannot fail.
        let body = serde_json::to_vec(body).map_err(|source| Error::Unreachable {
            call: name,
            at: self.shared.at.clone(),
            source: source.into(),
        })?;
        Ok(Call {
            name,
            method: Method::POST,
            query,
            body: Some(body),
        })
    }

    /// The body of a successful answer.
    pub(super) async fn ask(&self, call: Call<'_>) -> Result<Bytes, Error> {
        let name = call.name;
        let path = format!("/v2/{name}");
        let (status, body) = self.exchange(call, &path).await?;
        tracing::debug!(call = name, at = %self.shared.at, status = status.as_u16(), "asked Garage");
        if status.is_success() {
            return Ok(body);
        }
        Err(self.refusal(name, status, &body))
    }

    /// `GET /health`, which asks for no token: whether this node sees a quorum for every partition.
    pub async fn health(&self) -> Result<bool, Error> {
        let call = Call {
            name: "health",
            method: Method::GET,
            query: &[],
            body: None,
        };
        let (status, body) = self.exchange(call, "/health").await?;
        match status {
            StatusCode::OK => Ok(true),
            StatusCode::SERVICE_UNAVAILABLE => Ok(false),
            _ => Err(self.refusal("health", status, &body)),
        }
    }

    async fn exchange(&self, call: Call<'_>, path: &str) -> Result<(StatusCode, Bytes), Error> {
        let name = call.name;
        let unreachable = |source: Box<dyn std::error::Error + Send + Sync>| Error::Unreachable {
            call: name,
            at: self.shared.at.clone(),
            source,
        };
        let request = self
            .request(call, path)
            .map_err(|e| unreachable(e.into()))?;
        let limit = self.shared.connections.settings.response_limit;
        let exchange = async {
            let answer = self.shared.connections.http.request(request).await;
            let (head, body) = answer.map_err(|e| unreachable(e.into()))?.into_parts();
            match Limited::new(body, limit).collect().await {
                Ok(body) => Ok((head.status, body.to_bytes())),
                Err(error) if error.is::<LengthLimitError>() => Err(Error::TooLarge {
                    call: name,
                    at: self.shared.at.clone(),
                    limit,
                }),
                Err(error) => Err(unreachable(error)),
            }
        };
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::Timeout {
                call: name,
                at: self.shared.at.clone(),
                after: self.timeout,
            }),
        }
    }

    fn request(&self, call: Call<'_>, path: &str) -> Result<Request<Full<Bytes>>, http::Error> {
        let target: PathAndQuery = format!("{path}{}", query_string(call.query)).parse()?;
        let uri = Uri::builder()
            .scheme(self.shared.scheme.clone())
            .authority(self.shared.authority.clone())
            .path_and_query(target)
            .build()?;
        let mut request = Request::builder()
            .method(call.method)
            .uri(uri)
            .header(AUTHORIZATION, self.shared.authorization.clone())
            .header(ACCEPT, "application/json");
        if call.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request.body(Full::new(call.body.unwrap_or_default().into()))
    }

    /// Reads a success as JSON.
    pub(super) fn read<T: DeserializeOwned>(
        &self,
        call: &'static str,
        body: &[u8],
    ) -> Result<T, Error> {
        serde_json::from_slice(body).map_err(|error| Error::Unreadable {
            call,
            at: self.shared.at.clone(),
            what: match error.classify() {
                serde_json::error::Category::Data => "JSON of another shape",
                serde_json::error::Category::Eof => "cut off",
                serde_json::error::Category::Io | serde_json::error::Category::Syntax => "no JSON",
            },
            line: error.line(),
            column: error.column(),
        })
    }

    fn refusal(&self, call: &'static str, status: StatusCode, body: &[u8]) -> Error {
        #[derive(Deserialize)]
        struct Garages {
            code: String,
            message: String,
        }
        let (code, message) = match serde_json::from_slice(body) {
            Ok(Garages { code, message }) => (code, message),
            // Something in between answered; its first line has to do.
            Err(_) => {
                let text = String::from_utf8_lossy(&body[..body.len().min(MESSAGE_BYTES)]);
                let line = text.lines().map(str::trim).find(|line| !line.is_empty());
                (String::new(), line.unwrap_or("no reason given").to_owned())
            }
        };
        Error::Refused {
            call,
            at: self.shared.at.clone(),
            status: status.as_u16(),
            code: self.quotable(&code),
            message: self.quotable(&message),
        }
    }

    /// `text` without our token, in case the other side echoes requests, and without its tail when it is
    /// very long.
    pub(super) fn quotable(&self, text: &str) -> String {
        let token = self.shared.token.expose();
        let mut text = if token.is_empty() {
            text.to_owned()
        } else {
            text.replace(token, "[redacted]")
        };
        if text.len() > MESSAGE_BYTES {
            let end = (0..=MESSAGE_BYTES)
                .rev()
                .find(|at| text.is_char_boundary(*at));
            text.truncate(end.unwrap_or(0));
            text.push('…');
        }
        text
    }
}

fn parse_base(base: &str) -> Result<(Scheme, Authority), Error> {
    let error = |why| Error::Address {
        // What stands before an `@` may be a password.
        address: base.rsplit('@').next().unwrap_or(base).to_owned(),
        why,
    };
    let uri: Uri = base.parse().map_err(|_| error("it is no URL"))?;
    let parts = uri.into_parts();
    let scheme = parts.scheme.ok_or_else(|| error("it has no scheme"))?;
    if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
        return Err(error("its scheme is neither http nor https"));
    }
    let authority = parts.authority.ok_or_else(|| error("it has no host"))?;
    if authority.as_str().contains('@') {
        return Err(error("it has a user name in it"));
    }
    if parts
        .path_and_query
        .is_some_and(|path| path.as_str() != "/")
    {
        return Err(error("it has a path; Garage's is always /v2"));
    }
    Ok((scheme, authority))
}

fn connect(scheme: &Scheme, settings: &Settings) -> std::io::Result<Http> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(Duration::from_secs(30)));
    tcp.set_connect_timeout(Some(settings.connect_timeout));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?;
    // Roots are read where they are needed: an image without any still reaches Garage by http.
    let tls = if *scheme == Scheme::HTTPS {
        config.with_native_roots()?.with_no_client_auth()
    } else {
        config
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth()
    };
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp);
    Ok(legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(settings.idle_timeout)
        .pool_max_idle_per_host(settings.idle_connections)
        .build(connector))
}

/// `?a=b&c=d`, or nothing. Everything but RFC 3986's unreserved characters is percent-encoded.
fn query_string(query: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in query {
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                text.push(char::from(byte));
            } else {
                text.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(base: &str) -> Result<Client, Error> {
        let token = Redacted::new("hunter2".to_owned());
        Client::new(base, token, Settings::default())
    }

    #[test]
    fn addresses_are_checked_at_the_door() {
        for (base, why) in [
            ("http://garage:3903", None),
            ("http://[::1]:3903/", None),
            ("garage:3903", Some("")),
            ("ftp://garage:3903", Some("neither http nor https")),
            ("http://u:secret@garage", Some("user name")),
            ("http://garage:3903/v2", Some("path")),
            ("http:// garage", Some("no URL")),
            ("", Some("no URL")),
        ] {
            match (client(base), why) {
                (Ok(_), None) => {}
                (Err(error), Some(why)) => {
                    let text = error.to_string();
                    assert!(text.contains(why) && !text.contains("secret"), "{text}");
                }
                (outcome, _) => panic!("{base:?}: {outcome:?}"),
            }
        }
    }

    #[test]
    fn a_token_with_a_line_break_is_refused_and_not_shown() {
        let token = Redacted::new("hunter2\n".to_owned());
        let error = Client::new("http://garage:3903", token, Settings::default());
        let error = error.expect_err("no header value");
        assert!(matches!(error, Error::Token { .. }));
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    #[test]
    fn neither_the_client_nor_what_it_quotes_shows_the_token() {
        let client = client("http://garage:3903").expect("a client");
        assert!(!format!("{client:?}").contains("hunter2"));
        assert_eq!(client.quotable("token hunter2!"), "token [redacted]!");
        let long = client.quotable(&"é".repeat(MESSAGE_BYTES));
        assert!(long.len() <= MESSAGE_BYTES + 3 && long.ends_with('…'));
    }

    #[test]
    fn values_in_a_query_are_encoded() {
        assert_eq!(query_string(&[]), "");
        let query = [("id", "a b&c=d"), ("search", "ü-._~")];
        assert_eq!(query_string(&query), "?id=a%20b%26c%3Dd&search=%C3%BC-._~");
    }

    #[test]
    fn refusals_quote_garage_or_the_first_line_of_who_else_answered() {
        let client = client("http://garage:3903").expect("a client");
        let garage = br#"{"code":"NoSuchBucket","message":"Bucket not found: x","region":"r"}"#;
        for (body, code, message) in [
            (&garage[..], Some("NoSuchBucket"), "Bucket not found: x"),
            (b"\n <html>\nmore", None, "<html>"),
            (b"", None, "no reason given"),
        ] {
            let error = client.refusal("GetBucketInfo", StatusCode::NOT_FOUND, body);
            assert_eq!((error.code(), error.message()), (code, Some(message)));
            assert!(error.is_not_found());
        }
    }
}
