//! `gatewright explain hostname`: where a request would go and why. It only prints what the edge says.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::Subcommand;
use serde::Deserialize;

use super::table::printable;
use super::{Admin, AdminArgs, Output, encoded, parse, pretty, print};

/// Explain what the edge does and why.
#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Where a request for a host goes, and what came close.
    Hostname {
        /// The host.
        host: String,
        /// The path, as it would be sent.
        #[arg(default_value = "/")]
        path: String,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

#[derive(Deserialize)]
struct Explanation {
    host: String,
    path: String,
    outcome: Outcome,
    candidates: Vec<Candidate>,
    refused: Vec<RefusedRoute>,
    clusters: BTreeMap<String, Cluster>,
    #[serde(default)]
    status: Option<u16>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Served { cluster: String, route: Route },
    UnknownHost,
    UnknownPath,
    BadPath { reason: String },
}

#[derive(Deserialize)]
struct Candidate {
    pattern: String,
    owner: Option<String>,
    waiting: Vec<String>,
    paths: Vec<String>,
}

#[derive(Deserialize)]
struct RefusedRoute {
    cluster: String,
    route: Route,
    reason: String,
    message: String,
}

/// A route in the form in which it travels.
#[derive(Deserialize)]
struct Route {
    #[serde(default)]
    host: String,
    path: String,
    path_type: String,
    service: String,
    namespace: String,
    port: u16,
    #[serde(default)]
    source: String,
}

#[derive(Deserialize)]
struct Cluster {
    name: String,
}

/// Prints the explanation.
pub(crate) async fn run(args: ExplainArgs) -> anyhow::Result<()> {
    let admin = Admin::new(&args.admin)?;
    let Command::Hostname { host, path, output } = args.command;
    let query = format!(
        "/api/v1/explain?host={}&path={}",
        encoded(&host),
        encoded(&path)
    );
    let answer = admin.get(&query).await?;
    match output {
        Output::Json => print(&pretty(&answer)?),
        Output::Text => print(&text(&parse(&answer)?)),
    }
}

fn text(explanation: &Explanation) -> String {
    let name = |id: &str| match explanation.clusters.get(id) {
        Some(cluster) => cluster.name.clone(),
        None => id.to_owned(),
    };
    let mut lines = vec![match &explanation.outcome {
        Outcome::Served { cluster, route } => {
            let from = if route.source.is_empty() {
                String::new()
            } else {
                format!(", by {}", route.source)
            };
            format!(
                "http://{}{} goes to {}/{}:{} in cluster {}{from} (path {}, {}).",
                explanation.host,
                explanation.path,
                route.namespace,
                route.service,
                route.port,
                name(cluster),
                route.path,
                route.path_type
            )
        }
        Outcome::UnknownHost => format!(
            "{} is not served: 404, no route is known for this host.",
            explanation.host
        ),
        Outcome::UnknownPath => format!(
            "http://{}{} is not served: 404, the host is known and none of its paths matches.",
            explanation.host, explanation.path
        ),
        Outcome::BadPath { reason } => {
            format!(
                "http://{}{} is turned away: 400, {reason}.",
                explanation.host, explanation.path
            )
        }
    }];
    if explanation.status == Some(503) {
        lines.push("But the cluster has no tunnel at the moment: 503.".to_owned());
    }
    if !explanation.candidates.is_empty() {
        lines.push(String::new());
        lines.push(
            "Patterns that match the host, the one that is consulted first on top:".to_owned(),
        );
    }
    for candidate in &explanation.candidates {
        let mut line = format!("  {}: ", candidate.pattern);
        match &candidate.owner {
            Some(owner) => {
                let _ = write!(
                    line,
                    "served for cluster {}, paths {}",
                    name(owner),
                    candidate.paths.join(", ")
                );
            }
            None => line.push_str("nobody's, all its routes are refused"),
        }
        if !candidate.waiting.is_empty() {
            let waiting: Vec<String> = candidate.waiting.iter().map(|id| name(id)).collect();
            let _ = write!(line, "; next in line: {}", waiting.join(", "));
        }
        lines.push(line);
    }
    if !explanation.refused.is_empty() {
        lines.push(String::new());
        lines.push("Routes for this host that are refused:".to_owned());
    }
    for refused in &explanation.refused {
        let host = if refused.route.host.is_empty() {
            "(own name)"
        } else {
            &refused.route.host
        };
        lines.push(format!(
            "  {host}{} of cluster {}: {} ({})",
            refused.route.path,
            name(&refused.cluster),
            refused.message,
            refused.reason
        ));
    }
    lines.iter().map(|line| printable(line) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: &str = r#"{"id": "00000000000000ab", "host": "app.example.test", "path": "/", "path_type": "Prefix",
        "service": "web", "namespace": "shop", "port": 80, "tls": false, "protocol": "http", "source": "Ingress/shop/web"}"#;

    #[test]
    fn a_served_host_and_its_rivals() {
        let explanation: Explanation = serde_json::from_str(&format!(
            r#"{{"host": "app.example.test", "path": "/x", "status": 503,
                "outcome": {{"served": {{"cluster": "1", "route": {ROUTE}}}}},
                "candidates": [{{"pattern": "app.example.test", "owner": "1", "waiting": ["2"], "paths": ["/ (Prefix)"]}}],
                "refused": [{{"cluster": "2", "route": {ROUTE}, "reason": "host_owned_by_other", "message": "another was first"}}],
                "clusters": {{"1": {{"name": "a"}}, "2": {{"name": "b"}}}}}}"#
        ))
        .unwrap();
        assert_eq!(
            text(&explanation),
            "http://app.example.test/x goes to shop/web:80 in cluster a, by Ingress/shop/web (path /, Prefix).\n\
             But the cluster has no tunnel at the moment: 503.\n\
             \n\
             Patterns that match the host, the one that is consulted first on top:\n\
             \x20 app.example.test: served for cluster a, paths / (Prefix); next in line: b\n\
             \n\
             Routes for this host that are refused:\n\
             \x20 app.example.test/ of cluster b: another was first (host_owned_by_other)\n"
        );
    }

    #[test]
    fn an_unknown_host() {
        let explanation: Explanation = serde_json::from_str(
            r#"{"host": "x.test", "path": "/", "outcome": "unknown_host", "candidates": [], "refused": [], "clusters": {}, "status": 404}"#,
        )
        .unwrap();
        assert_eq!(
            text(&explanation),
            "x.test is not served: 404, no route is known for this host.\n"
        );
    }
}
