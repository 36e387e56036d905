//! `gatewright status`: how an edge and its clusters fare. It only prints.

use serde::Deserialize;

use super::clusters::Cluster;
use super::table::{Table, or_dash, printable, span};
use super::{Admin, AdminArgs, Output, parse, pretty, print};

/// Show how an edge and its clusters fare.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Deserialize)]
struct Status {
    edge_id: String,
    version: String,
    domain: String,
    uptime_seconds: u64,
    draining: bool,
    clusters: Vec<Cluster>,
    errors: Vec<RecentError>,
}

#[derive(Deserialize)]
struct RecentError {
    code: String,
    cluster: String,
    host: String,
    message: String,
    count: u64,
    last_seconds_ago: u64,
}

/// Prints the status.
pub(crate) async fn run(args: StatusArgs) -> anyhow::Result<()> {
    let answer = Admin::new(&args.admin)?.get("/api/v1/status").await?;
    match args.output {
        Output::Json => print(&pretty(&answer)?),
        Output::Text => print(&text(&parse(&answer)?)),
    }
}

fn text(status: &Status) -> String {
    let state = if status.draining {
        "draining"
    } else {
        "serving"
    };
    let mut text = printable(&format!(
        "Edge {} of {}, version {}, up {}: {state}",
        status.edge_id,
        status.domain,
        status.version,
        span(status.uptime_seconds)
    ));
    text.push_str("\n\n");
    let mut clusters = Table::new([
        "CLUSTER",
        "STATE",
        "TUNNELS",
        "ROUTES",
        "REQUESTS",
        "5XX",
        "LAST HEARD OF",
    ]);
    for cluster in &status.clusters {
        clusters.row([
            cluster.name.clone(),
            cluster.state().to_owned(),
            cluster.connections.len().to_string(),
            format!("{}/{}", cluster.routes.active, cluster.routes.total),
            cluster.requests.to_string(),
            cluster.server_errors.to_string(),
            cluster.last_heard_of(),
        ]);
    }
    let mut errors = Table::new(["LAST", "TIMES", "ERROR", "CLUSTER", "HOST", "WHAT"]);
    for error in &status.errors {
        errors.row([
            span(error.last_seconds_ago) + " ago",
            error.count.to_string(),
            error.code.clone(),
            or_dash(error.cluster.clone()),
            or_dash(error.host.clone()),
            error.message.clone(),
        ]);
    }
    if clusters.is_empty() {
        text.push_str("No clusters.\n");
    } else {
        text.push_str(&clusters.text());
    }
    text.push('\n');
    if errors.is_empty() {
        text.push_str("No recent errors.\n");
    } else {
        text.push_str(&errors.text());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_in_words() {
        let status: Status = serde_json::from_str(
            r#"{"edge_id": "e1", "version": "0.1.0", "domain": "gateway.localhost", "uptime_seconds": 3700, "draining": false,
                "clusters": [{"name": "demo", "own_host": "x", "hosts": [], "connected": true, "connections": [{}],
                              "routes": {"total": 3, "active": 3}, "requests": 12, "server_errors": 1, "last_heartbeat_seconds": 4}],
                "errors": [{"code": "backend_refused", "cluster": "demo", "host": "a.test", "message": "it refused",
                            "count": 2, "first": "", "last": "", "last_seconds_ago": 61}]}"#,
        )
        .unwrap();
        assert_eq!(
            text(&status),
            "Edge e1 of gateway.localhost, version 0.1.0, up 1 h 1 min: serving\n\
             \n\
             CLUSTER  STATE      TUNNELS  ROUTES  REQUESTS  5XX  LAST HEARD OF\n\
             demo     connected  1        3/3     12        1    4 s ago\n\
             \n\
             LAST       TIMES  ERROR            CLUSTER  HOST    WHAT\n\
             1 min ago  2      backend_refused  demo     a.test  it refused\n"
        );
    }
}
