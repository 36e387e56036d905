//! The edge's own responses: a status, a code that programs can read, and a short body in the form
//! that the client accepts. They never repeat anything that the client sent.

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::headers;

/// Why the edge answered by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorCode {
    /// No route has this host.
    UnknownHost,
    /// The host has routes, none for this path.
    UnknownPath,
    /// The request is malformed or ambiguous.
    BadRequest,
    /// The path could be read in two ways that lead to different routes.
    AmbiguousPath,
    /// The method is not for a gateway.
    MethodNotAllowed,
    /// The body is longer than allowed.
    BodyTooLarge,
    /// The request target is longer than allowed.
    UriTooLong,
    /// The header fields are more than allowed.
    HeadersTooLarge,
    /// The request body stopped coming.
    RequestTimeout,
    /// The route is known, and no agent is connected.
    NoTunnel,
    /// Agents are connected, and each carries as much as it may.
    TunnelFull,
    /// The tunnel ended before the response began.
    TunnelLost,
    /// The agent does not serve this route (any more, or yet).
    RouteGone,
    /// The Service has no ready endpoint.
    NoEndpoints,
    /// The backend refused the connection or broke it.
    BackendRefused,
    /// The backend did not accept a connection in time.
    BackendConnectTimeout,
    /// The backend's answer is not HTTP.
    BackendProtocol,
    /// No byte of a response in time.
    FirstByteTimeout,
}

impl ErrorCode {
    /// Every code, for documentation and tests.
    pub const ALL: [Self; 18] = [
        Self::UnknownHost,
        Self::UnknownPath,
        Self::BadRequest,
        Self::AmbiguousPath,
        Self::MethodNotAllowed,
        Self::BodyTooLarge,
        Self::UriTooLong,
        Self::HeadersTooLarge,
        Self::RequestTimeout,
        Self::NoTunnel,
        Self::TunnelFull,
        Self::TunnelLost,
        Self::RouteGone,
        Self::NoEndpoints,
        Self::BackendRefused,
        Self::BackendConnectTimeout,
        Self::BackendProtocol,
        Self::FirstByteTimeout,
    ];

    /// The value of `X-Gatewright-Error`.
    pub fn as_str(self) -> &'static str {
        self.parts().1
    }

    /// The HTTP status.
    pub fn status(self) -> StatusCode {
        self.parts().0
    }

    /// One sentence for people.
    pub fn message(self) -> &'static str {
        self.parts().2
    }

    fn parts(self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::UnknownHost => (
                S::NOT_FOUND,
                "unknown_host",
                "No application is published under this host name.",
            ),
            Self::UnknownPath => (
                S::NOT_FOUND,
                "unknown_path",
                "The application publishes nothing under this path.",
            ),
            Self::BadRequest => (S::BAD_REQUEST, "bad_request", "The request is malformed."),
            Self::AmbiguousPath => (
                S::BAD_REQUEST,
                "ambiguous_path",
                "The path can be read in more than one way.",
            ),
            Self::MethodNotAllowed => (
                S::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "This method is not supported here.",
            ),
            Self::BodyTooLarge => (
                S::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "The request body is larger than allowed.",
            ),
            Self::UriTooLong => (
                S::URI_TOO_LONG,
                "uri_too_long",
                "The request target is longer than allowed.",
            ),
            Self::HeadersTooLarge => (
                S::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "headers_too_large",
                "The request's header fields are larger or more than allowed.",
            ),
            Self::RequestTimeout => (
                S::REQUEST_TIMEOUT,
                "request_timeout",
                "The request body stopped coming.",
            ),
            Self::NoTunnel => (
                S::SERVICE_UNAVAILABLE,
                "no_tunnel",
                "The application's cluster is not connected at the moment.",
            ),
            Self::TunnelFull => (
                S::SERVICE_UNAVAILABLE,
                "tunnel_full",
                "The application's cluster has as many requests under way as it may.",
            ),
            Self::TunnelLost => (
                S::BAD_GATEWAY,
                "tunnel_lost",
                "The connection to the application's cluster was lost.",
            ),
            Self::RouteGone => (
                S::SERVICE_UNAVAILABLE,
                "route_gone",
                "The application's cluster does not serve this route at the moment.",
            ),
            Self::NoEndpoints => (
                S::SERVICE_UNAVAILABLE,
                "no_endpoints",
                "The application has no ready instance at the moment.",
            ),
            Self::BackendRefused => (
                S::BAD_GATEWAY,
                "backend_refused",
                "The application refused the connection or broke it.",
            ),
            Self::BackendConnectTimeout => (
                S::GATEWAY_TIMEOUT,
                "backend_connect_timeout",
                "The application did not accept the connection in time.",
            ),
            Self::BackendProtocol => (
                S::BAD_GATEWAY,
                "backend_protocol",
                "The application's answer could not be understood.",
            ),
            Self::FirstByteTimeout => (
                S::GATEWAY_TIMEOUT,
                "first_byte_timeout",
                "The application did not answer in time.",
            ),
        }
    }

    /// Seconds after which trying again makes sense.
    fn retry_after(self) -> Option<&'static str> {
        match self {
            Self::NoTunnel | Self::NoEndpoints => Some("5"),
            Self::TunnelFull | Self::RouteGone => Some("1"),
            Self::UnknownHost
            | Self::UnknownPath
            | Self::BadRequest
            | Self::AmbiguousPath
            | Self::MethodNotAllowed
            | Self::BodyTooLarge
            | Self::UriTooLong
            | Self::HeadersTooLarge
            | Self::RequestTimeout
            | Self::TunnelLost
            | Self::BackendRefused
            | Self::BackendConnectTimeout
            | Self::BackendProtocol
            | Self::FirstByteTimeout => None,
        }
    }

    /// Whether the connection must not be used again: where the body begins is not certain, or the
    /// rest of it is not wanted.
    pub(crate) fn closes(self) -> bool {
        match self {
            Self::BadRequest
            | Self::BodyTooLarge
            | Self::UriTooLong
            | Self::HeadersTooLarge
            | Self::RequestTimeout => true,
            Self::UnknownHost
            | Self::UnknownPath
            | Self::AmbiguousPath
            | Self::MethodNotAllowed
            | Self::NoTunnel
            | Self::TunnelFull
            | Self::TunnelLost
            | Self::RouteGone
            | Self::NoEndpoints
            | Self::BackendRefused
            | Self::BackendConnectTimeout
            | Self::BackendProtocol
            | Self::FirstByteTimeout => false,
        }
    }

    /// The code that an agent put into `X-Gatewright-Error`.
    pub(crate) fn from_agent(value: &HeaderValue) -> Option<Self> {
        let agents = [
            Self::RouteGone,
            Self::NoEndpoints,
            Self::BackendRefused,
            Self::BackendConnectTimeout,
            Self::BackendProtocol,
            Self::FirstByteTimeout,
        ];
        agents.into_iter().find(|code| value == code.as_str())
    }

    /// The gRPC status that says the same (grpc/doc/http-grpc-status-mapping.md).
    fn grpc_status(self) -> &'static str {
        match self.status() {
            StatusCode::BAD_REQUEST => "13",
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => "12",
            StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::URI_TOO_LONG
            | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "8",
            StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => "4",
            _ => "14",
        }
    }
}

/// The form of an error's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    Html,
    Grpc,
    Text,
}

impl Form {
    /// The form that a client accepts.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let starts = |value: &HeaderValue, prefix: &[u8]| {
            value
                .as_bytes()
                .get(..prefix.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        };
        if headers
            .get(CONTENT_TYPE)
            .is_some_and(|value| starts(value, b"application/grpc"))
        {
            return Self::Grpc;
        }
        for value in headers.get_all(ACCEPT) {
            for range in value.as_bytes().split(|byte| *byte == b',') {
                let range = range
                    .split(|byte| *byte == b';')
                    .next()
                    .unwrap_or(range)
                    .trim_ascii();
                if range.eq_ignore_ascii_case(b"text/html") {
                    return Self::Html;
                }
                if range.eq_ignore_ascii_case(b"application/json")
                    || range.to_ascii_lowercase().ends_with(b"+json")
                {
                    return Self::Json;
                }
                if range.eq_ignore_ascii_case(b"text/plain") {
                    return Self::Text;
                }
            }
        }
        Self::Json
    }
}

/// The whole response to an error.
pub(crate) fn error(code: ErrorCode, form: Form) -> Response<Bytes> {
    let (status, name, message) = code.parts();
    let (content_type, body) = match form {
        Form::Json => (
            "application/json",
            format!("{{\"error\":{{\"code\":\"{name}\",\"message\":\"{message}\"}}}}\n"),
        ),
        Form::Text => ("text/plain; charset=utf-8", format!("{message} ({name})\n")),
        Form::Html => ("text/html; charset=utf-8", html(status, name, message)),
        Form::Grpc => ("application/grpc", String::new()),
    };
    let mut response = Response::new(Bytes::from(body));
    let fields = response.headers_mut();
    fields.insert(headers::ERROR, HeaderValue::from_static(name));
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if code == ErrorCode::MethodNotAllowed {
        // CONNECT is the one method that no route takes (RFC 9110 §15.5.6 wants the others named).
        let allowed = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE";
        fields.insert(ALLOW, HeaderValue::from_static(allowed));
    }
    if let Some(seconds) = code.retry_after() {
        fields.insert(RETRY_AFTER, HeaderValue::from_static(seconds));
    }
    if code.closes() {
        fields.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if form == Form::Grpc {
        // A trailers-only response: HTTP 200, the status in the fields (gRPC over HTTP/2).
        fields.insert("grpc-status", HeaderValue::from_static(code.grpc_status()));
        fields.insert("grpc-message", HeaderValue::from_static(message));
    } else {
        *response.status_mut() = status;
    }
    response
}

fn html(status: StatusCode, name: &str, message: &str) -> String {
    let number = status.as_u16();
    let reason = status.canonical_reason().unwrap_or("Error");
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport \
         content=\"width=device-width\"><title>{number} {reason}</title><style>:root{{color-scheme:\
         light dark}}body{{font:16px/1.5 system-ui,sans-serif;max-width:34em;margin:18vh auto 0;\
         padding:0 1.5em}}h1{{font-size:1.4em;margin:0 0 .4em}}code{{opacity:.65}}</style>\
         <h1>{number} {reason}</h1><p>{message}<p><code>{name}</code></html>\n"
    )
}

/// The HTTP/1.1 bytes that take the place of hyper's own answer to a head it could not read.
/// `digits` are the last two of the status.
pub(crate) fn unreadable(digits: &[u8; 2]) -> Vec<u8> {
    let code = match digits {
        b"14" => ErrorCode::UriTooLong,
        b"31" => ErrorCode::HeadersTooLarge,
        _ => ErrorCode::BadRequest,
    };
    let response = error(code, Form::Json);
    let status = response.status();
    let mut bytes = format!(
        "HTTP/1.1 {} {}\r\ncontent-length: {}\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or("Error"),
        response.body().len()
    )
    .into_bytes();
    for (name, value) in response.headers() {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(response.body());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: http::header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn the_form_is_the_one_that_the_client_accepts() {
        for (headers, form) in [
            (HeaderMap::new(), Form::Json),
            (with(ACCEPT, "*/*"), Form::Json),
            (
                with(ACCEPT, "text/html,application/xhtml+xml;q=0.9"),
                Form::Html,
            ),
            (with(ACCEPT, "application/problem+json"), Form::Json),
            (with(ACCEPT, "text/plain"), Form::Text),
            (with(CONTENT_TYPE, "application/grpc+proto"), Form::Grpc),
        ] {
            assert_eq!(Form::of(&headers), form, "{headers:?}");
        }
    }

    #[test]
    fn every_error_carries_its_code_and_reads_as_its_form() {
        for code in ErrorCode::ALL {
            let response = error(code, Form::Json);
            assert_eq!(response.headers()[headers::ERROR], code.as_str());
            assert_eq!(response.status(), code.status());
            let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
            assert_eq!(body["error"]["code"], code.as_str());
            assert!(
                error(code, Form::Html)
                    .body()
                    .starts_with(b"<!doctype html>")
            );
            let retry = response.headers().contains_key(RETRY_AFTER);
            assert_eq!(
                retry,
                code.status() == StatusCode::SERVICE_UNAVAILABLE,
                "{code:?}"
            );
        }
    }

    #[test]
    fn an_unavailable_grpc_service_says_14() {
        let response = error(ErrorCode::NoTunnel, Form::Grpc);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(response.headers()[headers::ERROR], "no_tunnel");
    }

    #[test]
    fn only_an_agents_codes_are_taken_from_it() {
        let code = |text| ErrorCode::from_agent(&HeaderValue::from_static(text));
        assert_eq!(code("no_endpoints"), Some(ErrorCode::NoEndpoints));
        assert_eq!(code("unknown_host"), None);
        assert_eq!(code("anything"), None);
    }
}
