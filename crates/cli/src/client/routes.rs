//! `gatewright routes`: what the edge serves, what it refuses and why. It only prints.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::table::{Table, or_dash, printable};
use super::{Admin, AdminArgs, Output, encoded, parse, pretty, print};

/// List routes, served and refused.
#[derive(Debug, clap::Args)]
pub(crate) struct RoutesArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Those of one cluster only.
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Deserialize)]
struct List {
    routes: Vec<Route>,
}

#[derive(Deserialize)]
struct Route {
    cluster: String,
    host: String,
    path: String,
    path_type: String,
    service: String,
    namespace: String,
    port: u16,
    source: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

/// Prints the routes.
pub(crate) async fn run(args: RoutesArgs) -> anyhow::Result<()> {
    let admin = Admin::new(&args.admin)?;
    let query = args
        .cluster
        .as_ref()
        .map(|name| format!("?cluster={}", encoded(name)))
        .unwrap_or_default();
    let answer = admin.get(&format!("/api/v1/routes{query}")).await?;
    match args.output {
        Output::Json => print(&pretty(&answer)?),
        Output::Text => print(&list(parse::<List>(&answer)?.routes)),
    }
}

fn list(routes: Vec<Route>) -> String {
    if routes.is_empty() {
        return "There are no routes.\n".to_owned();
    }
    let mut table = Table::new([
        "HOST", "PATH", "TYPE", "SERVICE", "CLUSTER", "STATE", "SOURCE",
    ]);
    let mut reasons = BTreeMap::new();
    for route in routes {
        let state = match &route.reason {
            Some(reason) => format!("refused: {reason}"),
            None => "served".to_owned(),
        };
        if let Some(reason) = route.reason {
            reasons.insert(reason, route.message.unwrap_or_default());
        }
        table.row([
            route.host,
            route.path,
            route.path_type,
            format!("{}/{}:{}", route.namespace, route.service, route.port),
            route.cluster,
            state,
            or_dash(route.source),
        ]);
    }
    let mut text = table.text();
    if !reasons.is_empty() {
        text.push('\n');
    }
    for (reason, message) in reasons {
        text.push_str(&printable(&format!("{reason}: {message}")));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_routes_say_why() {
        let route = |path: &str, reason: Option<&str>| Route {
            cluster: "demo".to_owned(),
            host: "a.test".to_owned(),
            path: path.to_owned(),
            path_type: "Prefix".to_owned(),
            service: "web".to_owned(),
            namespace: "shop".to_owned(),
            port: 80,
            source: "Ingress/shop/web".to_owned(),
            reason: reason.map(str::to_owned),
            message: reason.map(|_| "ask for it".to_owned()),
        };
        let routes = vec![route("/", None), route("/x", Some("host_not_granted"))];
        assert_eq!(
            list(routes),
            "HOST    PATH  TYPE    SERVICE      CLUSTER  STATE                      SOURCE\n\
             a.test  /     Prefix  shop/web:80  demo     served                     Ingress/shop/web\n\
             a.test  /x    Prefix  shop/web:80  demo     refused: host_not_granted  Ingress/shop/web\n\
             \n\
             host_not_granted: ask for it\n"
        );
        assert_eq!(list(Vec::new()), "There are no routes.\n");
    }
}
