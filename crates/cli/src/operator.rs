//! `gatewright operator`: joins the election, installs CRDs, serves the webhook, and runs the controllers
//! while this replica leads.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::ValueEnum;
use gatewright_controller::health::{self, Check, Health};
use gatewright_controller::lease;
use gatewright_controller::webhook::{self, Certificates, Endpoint, Server};
use gatewright_controller::{Access, Ctx, Metrics, Namespaces, connect, crds, leading};
use gatewright_garage_operator::{Operator, Options};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
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
/// How often is looked for CRDs that somebody else installs.
const CRDS: Duration = Duration::from_secs(2);
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
    /// Where the Lease and the webhook's Secret live; by default the Pod's namespace, else the first
    /// --namespace, else `default`.
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
    // One for all waits: a signal between two of them must not be lost.
    let mut stopped = Box::pin(signals::stop());
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

    let namespaces = Namespaces::new(args.namespaces.iter().cloned());
    let established = health.check("CRDs established");
    let wanted = crate::crds::of(&args.controllers);
    if !install_crds(&args, &namespaces, &client, &wanted).await? {
        tokio::select! {
            () = await_crds(&client, &wanted, &established) => {}
            stopped = &mut stopped => return stopped,
        }
    }
    established.pass();

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

    let configured = endpoint
        .map(|endpoint| gatewright_garage_operator::webhook::configuration(endpoint, &namespaces));
    let mut options = Options {
        namespaces,
        own_namespace: Some(lease_namespace(&args)),
        ..Options::default()
    };
    if let Some(image) = &args.garage_image {
        options.image.clone_from(image);
    }
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
            stopped = &mut stopped => stopped,
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

/// Installs the CRDs, unless that is somebody else's; then `false`.
async fn install_crds(
    args: &Args,
    namespaces: &Namespaces,
    client: &kube::Client,
    wanted: &[CustomResourceDefinition],
) -> anyhow::Result<bool> {
    if args.skip_crds {
        return Ok(false);
    }
    match crds::install(client, wanted, CRD_REVISION).await {
        Ok(installed) => {
            for crd in installed {
                tracing::info!(name = crd.name, outcome = ?crd.outcome, "CRD");
            }
            Ok(true)
        }
        // Whoever has only namespaces has no right on CRDs, and needs none.
        Err(error) if error.is_forbidden() && *namespaces != Namespaces::All => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(
                error,
                "leaving the CRDs to an administrator, as with --skip-crds"
            );
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Waits until the apiserver serves the kinds that somebody else installs: without them every watch fails.
async fn await_crds(
    client: &kube::Client,
    wanted: &[CustomResourceDefinition],
    established: &Check,
) {
    let mut told = false;
    loop {
        match crds::unserved(client, wanted).await {
            Ok(missing) if missing.is_empty() => return,
            Ok(missing) => {
                let missing = missing.join(", ");
                established.fail(&format!("not served: {missing}"));
                if !told {
                    tracing::warn!(
                        missing,
                        "waiting for CRDs; an administrator installs them: \
                         gatewright crds | kubectl apply --server-side -f -"
                    );
                }
            }
            Err(error) if error.is_forbidden() => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "taking for granted that the CRDs are there");
                return;
            }
            Err(error) => {
                established.fail(&error.to_string());
                if !told {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(
                        error,
                        "cannot find out whether the CRDs are there; trying again"
                    );
                }
            }
        }
        told = true;
        tokio::time::sleep(CRDS).await;
    }
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

/// Outside of a Pod an operator of chosen namespaces may have no right in any other.
fn lease_namespace(args: &Args) -> String {
    let given = args.lease_namespace.clone();
    let pod = || std::fs::read_to_string(NAMESPACE_FILE).ok();
    let chosen = || args.namespaces.first().cloned();
    let namespace = given.or_else(pod).or_else(chosen);
    let namespace = namespace.unwrap_or_else(|| "default".to_owned());
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
