//! `gatewright operator`: joins the election, installs CRDs, serves the webhook, and runs the controllers
//! while this replica leads.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::ValueEnum;
use gatewright_controller::health::{self, Health};
use gatewright_controller::lease;
use gatewright_controller::webhook::{self, Certificates, Endpoint, Server};
use gatewright_controller::{Access, Ctx, Metrics, Namespaces, connect, crds, leading};
use gatewright_garage_operator::{Operator, Options};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::signals;

/// Grows with every release that changes a schema.
pub(crate) const CRD_REVISION: u64 = 1;
/// The Lease that the replicas share, and the Secret with the webhook's certificates.
const LEASE: &str = "gatewright-operator";
const CERTIFICATES: &str = "gatewright-webhook-certificates";
/// Where a Pod finds its own namespace.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
/// How long what has begun may take to end.
const GRACE: Duration = Duration::from_secs(20);

/// A controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Controller {
    /// Storage and gateway clusters of the Garage S3 store.
    Garage,
}

/// `gatewright operator`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which controllers run.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "garage",
        env = "GATEWRIGHT_CONTROLLERS"
    )]
    controllers: Vec<Controller>,
    /// Act in this namespace only; may be repeated. Then namespaced rights are enough.
    #[arg(
        long = "namespace",
        value_name = "NS",
        value_delimiter = ',',
        env = "GATEWRIGHT_NAMESPACES"
    )]
    namespaces: Vec<String>,
    /// A kubeconfig file; by default KUBECONFIG, ~/.kube/config, then the Pod's ServiceAccount.
    #[arg(long, value_name = "FILE", env = "GATEWRIGHT_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig.
    #[arg(long, env = "GATEWRIGHT_CONTEXT")]
    context: Option<String>,
    /// Where the Lease and the webhook's Secret live; by default the Pod's namespace, else `default`.
    #[arg(long, value_name = "NS", env = "GATEWRIGHT_LEASE_NAMESPACE")]
    lease_namespace: Option<String>,
    /// How long a replica that died keeps the others from writing, in seconds.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 15,
        env = "GATEWRIGHT_LEASE_SECONDS"
    )]
    lease_seconds: u64,
    /// Where /metrics, /healthz and /readyz are served.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9091",
        env = "GATEWRIGHT_LISTEN_HEALTH"
    )]
    listen_health: SocketAddr,
    /// Serve the admission webhook here. The apiserver must reach it, see --webhook-service and --webhook-host.
    #[arg(long, value_name = "ADDRESS", env = "GATEWRIGHT_LISTEN_WEBHOOK")]
    listen_webhook: Option<SocketAddr>,
    /// The Service in front of the webhook, in the Lease's namespace, port 443.
    #[arg(
        long,
        value_name = "NAME",
        conflicts_with = "webhook_host",
        requires = "listen_webhook",
        env = "GATEWRIGHT_WEBHOOK_SERVICE"
    )]
    webhook_service: Option<String>,
    /// The address by which the apiserver reaches the webhook, for an operator outside of the cluster.
    #[arg(
        long,
        value_name = "HOST",
        requires = "listen_webhook",
        env = "GATEWRIGHT_WEBHOOK_HOST"
    )]
    webhook_host: Option<IpAddr>,
    /// Leave the CRDs as they are: somebody else installs them.
    #[arg(long, env = "GATEWRIGHT_SKIP_CRDS")]
    skip_crds: bool,
    /// Image of Garage clusters that name none.
    #[arg(long, value_name = "IMAGE", env = "GATEWRIGHT_GARAGE_IMAGE")]
    garage_image: Option<String>,
}

/// Runs until a signal, then gives the Lease back.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let endpoint = endpoint(&args).map_err(crate::usage)?;
    let access = Access {
        kubeconfig: args.kubeconfig.clone(),
        context: args.context.clone(),
    };
    let client = connect(&access).await.map_err(crate::usage)?;
    let cancel = CancellationToken::new();
    let tasks = TaskTracker::new();
    let metrics = Metrics::new();
    let health = Health::new();

    let listener = TcpListener::bind(args.listen_health)
        .await
        .with_context(|| format!("cannot listen on {} (--listen-health)", args.listen_health))
        .map_err(crate::usage)?;
    tasks.spawn(health::serve(
        listener,
        metrics.clone(),
        health.clone(),
        cancel.clone(),
    ));

    let installed = health.check("CRDs established");
    if !args.skip_crds {
        let wanted = crate::crds::of(&args.controllers);
        for crd in crds::install(&client, &wanted, CRD_REVISION).await? {
            tracing::info!(name = crd.name, outcome = ?crd.outcome, "CRD");
        }
    }
    installed.pass();

    let identity = identity();
    let leadership = lease::start(
        client.clone(),
        lease::Settings {
            controller: "operator".to_owned(),
            namespace: lease_namespace(&args),
            name: LEASE.to_owned(),
            identity: identity.clone(),
            duration: Duration::from_secs(args.lease_seconds),
        },
        cancel.clone(),
        &tasks,
    );
    metrics.observe_leadership(leadership.clone());
    let ctx = |controller: &str| {
        Ctx::new(client.clone(), controller, Some(identity.clone()))
            .gated_by(leadership.clone())
            .measured_by(&metrics)
    };
    let namespaces = Namespaces::new(args.namespaces.iter().cloned());
    let webhook = match (&endpoint, args.listen_webhook) {
        (Some(endpoint), Some(address)) => {
            let certificates = health.check("webhook certificates");
            let server = gatewright_garage_operator::webhook::handlers(
                Server::new(&metrics),
                &client,
                &namespaces,
            );
            let served = serve_webhook(&args, endpoint, address, server, &client, &cancel, &tasks);
            let served = served.await?;
            certificates.pass();
            Some(served)
        }
        _ => {
            tracing::info!(
                "no webhook is served (--listen-webhook): rules across objects are checked by the controllers alone"
            );
            None
        }
    };

    let mut options = Options {
        namespaces,
        own_namespace: Some(lease_namespace(&args)),
        ..Options::default()
    };
    if let Some(image) = &args.garage_image {
        options.image.clone_from(image);
    }
    let configured = endpoint.map(gatewright_garage_operator::webhook::configuration);
    let start = |token: CancellationToken| {
        let garage = Arc::new(Operator::new(ctx("garage"), options.clone()));
        let kept = webhook.clone().zip(configured.clone());
        let webhook_ctx = ctx("webhook");
        async move {
            tracing::info!("the controllers run");
            let keep = async {
                match kept {
                    Some((certificates, configuration)) => {
                        webhook::keep(
                            webhook_ctx,
                            configuration,
                            certificates.bundles(),
                            token.clone(),
                        )
                        .await;
                    }
                    None => token.cancelled().await,
                }
            };
            tokio::join!(keep, gatewright_garage_operator::run(garage, token.clone()));
        }
    };
    let stop = async {
        let stopped = tokio::select! {
            stopped = signals::stop() => stopped,
            // The webhook could not be served.
            () = cancel.cancelled() => Ok(()),
        };
        tracing::info!("ending");
        cancel.cancel();
        stopped
    };
    // What has begun comes to its end; without the lease it writes nothing more.
    let (stopped, ()) = tokio::join!(stop, leading(&leadership, cancel.clone(), start));
    stopped?;
    tasks.close();
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        tracing::warn!("some tasks did not end in time");
    }
    Ok(())
}

/// How the apiserver reaches the webhook; `None` if none is served.
fn endpoint(args: &Args) -> anyhow::Result<Option<Endpoint>> {
    let Some(address) = args.listen_webhook else {
        return Ok(None);
    };
    match (&args.webhook_service, args.webhook_host) {
        (Some(name), _) => Ok(Some(Endpoint::Service {
            namespace: lease_namespace(args),
            name: name.clone(),
            port: 443,
        })),
        (None, Some(host)) => Ok(Some(Endpoint::Address {
            host: host.to_string(),
            port: address.port(),
        })),
        (None, None) => Err(anyhow!(
            "--listen-webhook needs --webhook-service (in the cluster) or --webhook-host (outside): \
             the apiserver has to find the webhook"
        )),
    }
}

async fn serve_webhook(
    args: &Args,
    endpoint: &Endpoint,
    address: SocketAddr,
    server: Server,
    client: &kube::Client,
    cancel: &CancellationToken,
    tasks: &TaskTracker,
) -> anyhow::Result<Certificates> {
    let settings = webhook::Settings {
        namespace: lease_namespace(args),
        name: CERTIFICATES.to_owned(),
        names: endpoint.names(),
        clock: gatewright_controller::now,
    };
    let certificates = Certificates::start(client.clone(), settings, cancel.clone(), tasks).await?;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} (--listen-webhook)"))
        .map_err(crate::usage)?;
    let (serving, ended) = (certificates.clone(), cancel.clone());
    tasks.spawn(async move {
        if let Err(error) = server.serve(listener, &serving, ended.clone()).await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "the webhook cannot be served");
            ended.cancel();
        }
    });
    Ok(certificates)
}

fn lease_namespace(args: &Args) -> String {
    let given = args.lease_namespace.clone();
    let pod = || std::fs::read_to_string(NAMESPACE_FILE).ok();
    let namespace = given.or_else(pod).unwrap_or_else(|| "default".to_owned());
    namespace.trim().to_owned()
}

/// The Pod's name, else something that no other process on this machine has.
fn identity() -> String {
    let host = std::env::var("HOSTNAME")
        .ok()
        .filter(|host| !host.is_empty());
    match host {
        Some(host) => format!("{host}-{}", std::process::id()),
        None => format!("gatewright-{}", std::process::id()),
    }
}
