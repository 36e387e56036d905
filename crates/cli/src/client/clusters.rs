//! `gatewright clusters`: makes and removes clusters and their credentials. A token is printed alone on
//! standard output, so that `> token` keeps it and nothing else; everything for people goes elsewhere.

use clap::Subcommand;
use clap::builder::NonEmptyStringValueParser;
use http::Method;
use serde::Deserialize;

use super::table::{Table, or_dash, printable, span};
use super::{Admin, AdminArgs, Output, encoded, parse, pretty, print};

/// Make, list and remove clusters and their tokens.
#[derive(Debug, clap::Args)]
pub(crate) struct ClustersArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a cluster and print its token, once.
    Create {
        /// 1 to 40 lower-case letters, digits and hyphens.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        /// Whose cluster it is; for people.
        #[arg(long)]
        tenant: Option<String>,
        /// Hosts that the cluster may have besides those under its own name; an asterisk stands for
        /// one label or more.
        #[arg(long, value_name = "PATTERN", num_args = 1..)]
        hosts: Vec<String>,
    },
    /// List all clusters.
    List {
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Replace the hosts that a cluster may have besides those under its own name; without --hosts
    /// there are none.
    SetHosts {
        /// The cluster.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        /// See `create`.
        #[arg(long, value_name = "PATTERN", num_args = 1..)]
        hosts: Vec<String>,
    },
    /// Make a new token for a cluster and print it, once. The one before stays valid until the next rotation.
    RotateToken {
        /// The cluster.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        /// Revoke all other tokens now, and end the connections that came with them.
        #[arg(long)]
        revoke_old: bool,
    },
    /// Remove a cluster, its tokens and its routes, and end its connections.
    Delete {
        /// The cluster.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
    },
}

#[derive(Deserialize)]
struct List {
    clusters: Vec<Cluster>,
}

/// A cluster as the edge describes it.
#[derive(Deserialize)]
pub(super) struct Cluster {
    pub(super) name: String,
    #[serde(default)]
    tenant: Option<String>,
    own_host: String,
    hosts: Vec<String>,
    pub(super) connected: bool,
    pub(super) connections: Vec<serde::de::IgnoredAny>,
    pub(super) routes: Routes,
    pub(super) requests: u64,
    pub(super) server_errors: u64,
    #[serde(default)]
    pub(super) last_heartbeat_seconds: Option<u64>,
}

#[derive(Deserialize)]
pub(super) struct Routes {
    pub(super) total: u64,
    pub(super) active: u64,
}

impl Cluster {
    pub(super) fn state(&self) -> &'static str {
        if self.connected {
            "connected"
        } else {
            "no tunnel"
        }
    }

    pub(super) fn last_heard_of(&self) -> String {
        or_dash(
            self.last_heartbeat_seconds
                .map(|seconds| span(seconds) + " ago"),
        )
    }
}

#[derive(Deserialize)]
struct Created {
    cluster: Cluster,
    token: String,
}

#[derive(Deserialize)]
struct Rotated {
    token: String,
}

/// Runs one of the commands.
pub(crate) async fn run(args: ClustersArgs) -> anyhow::Result<()> {
    let admin = Admin::new(&args.admin)?;
    match args.command {
        Command::Create {
            name,
            tenant,
            hosts,
        } => {
            let body = serde_json::json!({ "name": name, "tenant": tenant, "hosts": hosts });
            let answer = admin
                .send(Method::POST, "/api/v1/clusters", Some(body))
                .await?;
            let Created { cluster, token } = parse(&answer)?;
            eprintln!(
                "Cluster {} is made. Its own name is {}.",
                printable(&cluster.name),
                printable(&cluster.own_host)
            );
            eprintln!(
                "The token below is shown only this once: keep it in a file, and name that file in agent.yaml (token_file)."
            );
            print(&(token + "\n"))
        }
        Command::List { output } => {
            let answer = admin.get("/api/v1/clusters").await?;
            match output {
                Output::Json => print(&pretty(&answer)?),
                Output::Text => print(&list(&parse::<List>(&answer)?.clusters)),
            }
        }
        Command::SetHosts { name, hosts } => {
            let path = format!("/api/v1/clusters/{}/hosts", encoded(&name));
            let answer = admin
                .send(
                    Method::PUT,
                    &path,
                    Some(serde_json::json!({ "hosts": hosts })),
                )
                .await?;
            let cluster: Cluster = parse(&answer)?;
            eprintln!(
                "Cluster {} may have {}.",
                printable(&cluster.name),
                hosts_of(&cluster)
            );
            Ok(())
        }
        Command::RotateToken { name, revoke_old } => {
            let path = format!("/api/v1/clusters/{}/rotate-token", encoded(&name));
            let body = serde_json::json!({ "revoke_old": revoke_old });
            let answer = admin.send(Method::POST, &path, Some(body)).await?;
            let Rotated { token } = parse(&answer)?;
            eprintln!(
                "The token below is shown only this once. {}",
                if revoke_old {
                    "All earlier tokens are revoked."
                } else {
                    "The one before stays valid until the next rotation."
                }
            );
            print(&(token + "\n"))
        }
        Command::Delete { name } => {
            admin
                .send(
                    Method::DELETE,
                    &format!("/api/v1/clusters/{}", encoded(&name)),
                    None,
                )
                .await?;
            eprintln!("Cluster {} is deleted.", printable(&name));
            Ok(())
        }
    }
}

fn hosts_of(cluster: &Cluster) -> String {
    let own = format!("the hosts at and under {}", cluster.own_host);
    let hosts = if cluster.hosts.is_empty() {
        own
    } else {
        format!("{own}, and {}", cluster.hosts.join(", "))
    };
    printable(&hosts)
}

fn list(clusters: &[Cluster]) -> String {
    if clusters.is_empty() {
        return "There are no clusters. Make one: gatewright clusters create NAME > token\n"
            .to_owned();
    }
    let mut table = Table::new([
        "NAME", "TENANT", "STATE", "TUNNELS", "ROUTES", "HOSTS", "OWN NAME",
    ]);
    for cluster in clusters {
        table.row([
            cluster.name.clone(),
            or_dash(cluster.tenant.clone()),
            cluster.state().to_owned(),
            cluster.connections.len().to_string(),
            format!("{}/{}", cluster.routes.active, cluster.routes.total),
            or_dash(cluster.hosts.join(",")),
            cluster.own_host.clone(),
        ]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_listed_in_columns() {
        let clusters: List = serde_json::from_str(
            r#"{"clusters": [
                {"id": "1", "name": "demo", "tenant": null, "own_host": "demo-x.gateway.localhost", "hosts": ["*.example.test"],
                 "connected": true, "connections": [{"agent_id": "a"}, {}], "routes": {"total": 3, "active": 2},
                 "requests": 5, "server_errors": 0, "last_heartbeat_seconds": 7, "tokens": [], "later": "field"},
                {"id": "2", "name": "b", "tenant": "shop", "own_host": "b-y.gateway.localhost", "hosts": [],
                 "connected": false, "connections": [], "routes": {"total": 0, "active": 0}, "requests": 0, "server_errors": 0}
            ]}"#,
        )
        .unwrap();
        assert_eq!(
            list(&clusters.clusters),
            "NAME  TENANT  STATE      TUNNELS  ROUTES  HOSTS           OWN NAME\n\
             demo  -       connected  2        2/3     *.example.test  demo-x.gateway.localhost\n\
             b     shop    no tunnel  0        0/0     -               b-y.gateway.localhost\n"
        );
        assert!(list(&[]).contains("gatewright clusters create"));
        assert_eq!(clusters.clusters[0].last_heard_of(), "7 s ago");
    }
}
