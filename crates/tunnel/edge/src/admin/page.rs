//! The status page: one HTML document that needs nothing else, no script included. It may not show
//! anything that the API does not, and every value in it is escaped.

use std::fmt::{self, Display, Write as _};
use std::sync::{Arc, LazyLock};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{Html, IntoResponse};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use http::HeaderValue;
use http::header::CONTENT_SECURITY_POLICY;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::Admin;
use super::views::{self, ClusterJson, ErrorJson, RouteJson, StatusJson};
use crate::connections::ConnectionInfo;

/// Routes on the page; `gatewright routes` shows all.
const MOST_ROUTES: usize = 200;
/// Seconds without a heartbeat after which a cluster is called silent.
const SILENT: u64 = 300;

const STYLE: &str = include_str!("page.css");
const GATE: &str = r#"<svg width="18" height="18" viewBox="0 0 18 18" fill="none" stroke="currentColor" stroke-width="1.8" aria-hidden="true"><path d="M2 17V7a7 7 0 0 1 14 0v10M6.3 17V8.5M11.7 17V8.5M2 12h14"/></svg>"#;

/// Only the page's own style is applied, whatever an escaping mistake might let in.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = BASE64_STANDARD.encode(Sha256::digest(STYLE.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

#[derive(Deserialize)]
pub(super) struct PageQuery {
    /// `off` stops the page from loading itself again.
    refresh: Option<String>,
}

pub(super) async fn page(
    State(admin): State<Arc<Admin>>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> impl IntoResponse {
    let refresh = query
        .ok()
        .and_then(|Query(query)| query.refresh)
        .is_none_or(|refresh| refresh != "off");
    let status = views::status(&admin);
    let routes: Vec<RouteJson> = admin
        .clusters
        .views()
        .iter()
        .flat_map(|view| views::routes(&admin, view))
        .collect();
    (
        [(CONTENT_SECURITY_POLICY, POLICY.clone())],
        Html(render(&status, routes, refresh)),
    )
}

/// The whole document.
fn render(status: &StatusJson, routes: Vec<RouteJson>, refresh: bool) -> String {
    let mut html = Page(String::with_capacity(16 * 1024));
    html.raw("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    html.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    if refresh {
        html.raw("<meta http-equiv=\"refresh\" content=\"5\">");
    }
    html.raw("<title>Gatewright edge ")
        .text(&status.domain)
        .raw("</title><style>");
    html.raw(STYLE).raw("</style></head><body>");
    head(&mut html, status, refresh);
    html.raw("<main>");
    tiles(&mut html, status);
    clusters(&mut html, &status.clusters);
    routes_table(&mut html, routes);
    errors(&mut html, &status.errors);
    html.raw("<footer>The same as JSON: <a href=\"/api/v1/status\">status</a>, ");
    html.raw("<a href=\"/api/v1/clusters\">clusters</a>, <a href=\"/api/v1/routes\">routes</a>. ");
    html.raw("For Prometheus: <a href=\"/metrics\">metrics</a>.</footer></main></body></html>\n");
    html.0
}

fn head(html: &mut Page, status: &StatusJson, refresh: bool) {
    html.raw("<header><div><h1>")
        .raw(GATE)
        .raw("Gatewright edge</h1>");
    if status.draining {
        html.pill("warn", "draining");
    } else {
        html.pill("good", "serving");
    }
    html.raw("<span class=\"facts\"><span>")
        .text(&status.domain)
        .raw("</span><span>version ");
    html.text(status.version)
        .raw("</span><span>up ")
        .text(Span(status.uptime_seconds))
        .raw("</span></span>");
    html.raw(if refresh {
        "<span class=\"end soft\">refreshes every 5 s · <a href=\"/?refresh=off\">pause</a></span>"
    } else {
        "<span class=\"end soft\">paused · <a href=\"/\">resume</a></span>"
    });
    html.raw("</div></header>");
}

fn tiles(html: &mut Page, status: &StatusJson) {
    let clusters = &status.clusters;
    let connected = clusters.iter().filter(|cluster| cluster.connected).count();
    let tunnels: usize = clusters
        .iter()
        .map(|cluster| cluster.connections.len())
        .sum();
    let in_flight: usize = clusters
        .iter()
        .flat_map(|cluster| &cluster.connections)
        .map(|connection| connection.in_flight)
        .sum();
    let served: u64 = clusters.iter().map(|cluster| cluster.routes.active).sum();
    let kept: usize = clusters.iter().map(|cluster| cluster.routes.total).sum();
    let requests: u64 = clusters.iter().map(|cluster| cluster.requests).sum();
    let failed: u64 = clusters.iter().map(|cluster| cluster.server_errors).sum();
    html.raw("<div class=\"tiles\">");
    html.tile(connected, Some(clusters.len() as u64), "clusters connected");
    html.tile(
        tunnels,
        None,
        &format!("tunnels, {} requests under way", Grouped(in_flight as u64)),
    );
    html.tile(served, Some(kept as u64), "routes served");
    html.tile(
        requests,
        None,
        &format!("requests, {} answered with 5xx", Grouped(failed)),
    );
    html.raw("</div>");
}

fn clusters(html: &mut Page, clusters: &[ClusterJson]) {
    html.heading("Clusters", clusters.len());
    if clusters.is_empty() {
        html.raw("<div class=\"empty\">No clusters yet. Make one with <code>gatewright clusters create NAME &gt; token</code> ");
        html.raw("and start an agent with that token.</div></div>");
        return;
    }
    html.raw(
        "<table><thead><tr><th>Cluster<th>Own name and granted hosts<th class=\"n\">Routes served",
    );
    html.raw("<th class=\"n\">Requests<th class=\"n\">5xx<th>Last heard of<th></thead><tbody>");
    for cluster in clusters {
        html.raw("<tr><td><span class=\"name\">")
            .text(&cluster.name)
            .raw("</span>");
        if let Some(tenant) = &cluster.tenant {
            html.raw("<br><span class=\"soft\">")
                .text(tenant)
                .raw("</span>");
        }
        html.raw("<td><code>")
            .text(&cluster.own_host)
            .raw("</code>");
        if !cluster.hosts.is_empty() {
            html.raw("<br><span class=\"soft\">")
                .text(cluster.hosts.join(", "))
                .raw("</span>");
        }
        html.raw("<td class=\"n\">")
            .text(Grouped(cluster.routes.active))
            .raw(" of ");
        html.text(Grouped(cluster.routes.total as u64))
            .raw("<td class=\"n\">")
            .text(Grouped(cluster.requests));
        html.raw("<td class=\"n\">")
            .text(Grouped(cluster.server_errors))
            .raw("<td class=\"when\">");
        match cluster.last_heartbeat_seconds {
            Some(seconds) => html
                .text(Span(i64::try_from(seconds).unwrap_or(i64::MAX)))
                .raw(" ago"),
            None => html.raw("not since the edge started"),
        };
        html.raw("<td>");
        let silent = cluster
            .last_heartbeat_seconds
            .is_none_or(|seconds| seconds > SILENT);
        match (cluster.connected, silent) {
            (true, false) => html.pill("good", "connected"),
            (true, true) => html.pill("warn", "silent"),
            (false, true | false) => html.pill("bad", "no tunnel"),
        };
        if !cluster.connections.is_empty() {
            html.raw("<tr class=\"sub\"><td><td colspan=\"6\"><div class=\"tunnels\">");
            for connection in &cluster.connections {
                tunnel(html, connection);
            }
            html.raw("</div>");
        }
    }
    html.raw("</tbody></table></div>");
}

fn tunnel(html: &mut Page, connection: &ConnectionInfo) {
    html.raw("<span class=\"tunnel\"><b>")
        .text(&connection.agent_id)
        .raw("</b> ")
        .text(&connection.agent_version);
    html.raw(" · ")
        .text(connection.carrier)
        .raw(" from ")
        .text(connection.remote)
        .raw(" · ");
    html.text(Grouped(connection.in_flight as u64))
        .raw(" under way</span>");
}

fn routes_table(html: &mut Page, mut routes: Vec<RouteJson>) {
    html.heading("Routes", routes.len());
    if routes.is_empty() {
        html.raw("<div class=\"empty\">No routes yet. An agent offers the Ingresses of its cluster as soon as it is connected.</div></div>");
        return;
    }
    // Those that somebody has to look at come first.
    routes.sort_by_key(|route| route.served);
    let more = routes.len().saturating_sub(MOST_ROUTES);
    html.raw("<table><thead><tr><th>Host<th>Path<th>Goes to<th>Cluster<th></thead><tbody>");
    for route in routes.iter().take(MOST_ROUTES) {
        html.raw("<tr><td><code>")
            .text(&route.host)
            .raw("</code><td><code>")
            .text(&route.path)
            .raw("</code>");
        if route.path_type == "Exact" {
            html.raw(" <span class=\"soft\">exactly</span>");
        }
        html.raw("<td><code>")
            .text(&route.namespace)
            .raw("/")
            .text(&route.service)
            .raw(":")
            .text(route.port);
        html.raw("</code>");
        if !route.source.is_empty() {
            html.raw("<br><span class=\"soft\">")
                .text(&route.source)
                .raw("</span>");
        }
        html.raw("<td>").text(&route.cluster).raw("<td>");
        match route.reason {
            None => html.pill("good", "served"),
            Some(reason) => html.pill("bad", &reason.replace('_', " ")),
        };
        if let Some(message) = route.message {
            html.raw("<tr class=\"sub\"><td colspan=\"5\" class=\"soft\">")
                .text(message);
        }
    }
    html.raw("</tbody></table>");
    if more > 0 {
        html.raw("<div class=\"empty\">").text(Grouped(more as u64));
        html.raw(" more: <code>gatewright routes</code> shows all.</div>");
    }
    html.raw("</div>");
}

fn errors(html: &mut Page, errors: &[ErrorJson]) {
    html.heading("Recent errors", errors.len());
    if errors.is_empty() {
        html.raw("<div class=\"empty\">None since the edge started.</div></div>");
        return;
    }
    html.raw("<table><thead><tr><th>Last<th>Error<th>Cluster<th>Host<th>What<th class=\"n\">Times</thead><tbody>");
    for error in errors {
        html.raw("<tr><td class=\"when\">")
            .text(Span(error.last_seconds_ago))
            .raw(" ago<td><code>");
        html.text(&error.code)
            .raw("</code><td>")
            .text(&error.cluster)
            .raw("<td><code>")
            .text(&error.host);
        html.raw("</code><td>")
            .text(&error.message)
            .raw("<td class=\"n\">")
            .text(Grouped(error.count));
    }
    html.raw("</tbody></table></div>");
}

/// The document so far. `raw` is for our own markup, `text` for everything else.
struct Page(String);

impl Page {
    fn raw(&mut self, markup: &str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    fn text(&mut self, value: impl Display) -> &mut Self {
        // Writing to memory cannot fail.
        let _ = write!(Escaping(&mut self.0), "{value}");
        self
    }

    fn heading(&mut self, title: &str, count: usize) -> &mut Self {
        self.raw("<h2>")
            .text(title)
            .raw("<small>")
            .text(Grouped(count as u64))
            .raw("</small></h2><div class=\"card\">")
    }

    fn pill(&mut self, class: &'static str, label: &str) -> &mut Self {
        self.raw("<span class=\"pill ")
            .raw(class)
            .raw("\">")
            .text(label)
            .raw("</span>")
    }

    fn tile(&mut self, value: impl TryInto<u64>, of: Option<u64>, label: &str) -> &mut Self {
        self.raw("<div class=\"tile\"><b>")
            .text(Grouped(value.try_into().unwrap_or(u64::MAX)));
        if let Some(of) = of {
            self.raw(" <i>of ").text(Grouped(of)).raw("</i>");
        }
        self.raw("</b><span>").text(label).raw("</span></div>")
    }
}

/// Escapes for element content and for quoted attributes.
struct Escaping<'a>(&'a mut String);

impl fmt::Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '&' => self.0.push_str("&amp;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                other => self.0.push(other),
            }
        }
        Ok(())
    }
}

/// A number with its thousands apart.
struct Grouped(u64);

impl Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                f.write_char('\u{202f}')?;
            }
            f.write_char(digit)?;
        }
        Ok(())
    }
}

/// Seconds as people say them.
struct Span(i64);

impl Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            seconds @ ..60 => write!(f, "{} s", seconds.max(0)),
            seconds @ 60..3600 => write!(f, "{} min", seconds / 60),
            seconds @ 3600..86_400 => write!(f, "{} h {} min", seconds / 3600, seconds % 3600 / 60),
            seconds => write!(f, "{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_special_character_is_escaped() {
        let mut html = Page(String::new());
        html.text("<script>alert('&\"')</script>");
        assert_eq!(
            html.0,
            "&lt;script&gt;alert(&#39;&amp;&quot;&#39;)&lt;/script&gt;"
        );
    }

    #[test]
    fn numbers_and_times_read_well() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1\u{202f}000"),
            (1_234_567, "1\u{202f}234\u{202f}567"),
        ] {
            assert_eq!(Grouped(number).to_string(), text);
        }
        for (seconds, text) in [
            (-1, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3600, "1 h 0 min"),
            (90_061, "1 d 1 h"),
        ] {
            assert_eq!(Span(seconds).to_string(), text);
        }
    }

    #[test]
    fn the_policy_allows_the_style_of_the_page_and_nothing_else() {
        let policy = POLICY.to_str().unwrap();
        assert!(
            policy.starts_with("default-src 'none'; style-src 'sha256-"),
            "{policy}"
        );
        assert!(
            !policy.contains("unsafe") && !policy.contains("script"),
            "{policy}"
        );
    }
}
