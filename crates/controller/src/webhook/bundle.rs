//! The ValidatingWebhookConfiguration by which the apiserver finds a webhook. May not decide which
//! objects are reviewed; the caller's rules say so.

use crate::apply::Ctx;
use crate::error::Result;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    RuleWithOperations, ServiceReference, ValidatingWebhook, ValidatingWebhookConfiguration,
    WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How often the configuration is looked at when nothing of ours changes.
const PERIOD: Duration = Duration::from_secs(300);
/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(5);

/// How the apiserver reaches the webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// Through a Service of the cluster.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its port.
        port: u16,
    },
    /// Directly, when the operator runs outside of the cluster.
    Address {
        /// DNS name or IP address.
        host: String,
        /// TCP port.
        port: u16,
    },
}

impl Endpoint {
    /// The names that the certificate must be for.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Service {
                namespace, name, ..
            } => vec![format!("{name}.{namespace}.svc")],
            Self::Address { host, .. } => vec![host.clone()],
        }
    }

    fn client(&self, path: &str, bundle: &str) -> WebhookClientConfig {
        let ca_bundle = Some(ByteString(bundle.as_bytes().to_vec()));
        match self {
            Self::Service {
                namespace,
                name,
                port,
            } => WebhookClientConfig {
                ca_bundle,
                service: Some(ServiceReference {
                    namespace: namespace.clone(),
                    name: name.clone(),
                    path: Some(path.to_owned()),
                    port: Some((*port).into()),
                }),
                url: None,
            },
            Self::Address { host, port } => {
                let host = if host.contains(':') {
                    format!("[{host}]")
                } else {
                    host.clone()
                };
                WebhookClientConfig {
                    ca_bundle,
                    service: None,
                    url: Some(format!("https://{host}:{port}{path}")),
                }
            }
        }
    }
}

/// What happens to a request when the webhook does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailurePolicy {
    /// It is refused.
    Fail,
    /// It is let through.
    Ignore,
}

/// One webhook of a configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Webhook {
    /// Fully qualified, as users see it in a refusal: `validate.garagebuckets.garage.rajsingh.info`.
    pub name: String,
    /// The name in [`super::Server::admit`].
    pub handler: String,
    /// What is reviewed.
    pub rules: Vec<RuleWithOperations>,
    /// What happens when nobody answers.
    pub failure_policy: FailurePolicy,
    /// `true`: also requests in other versions of the same kind (`matchPolicy: Equivalent`).
    pub equivalent: bool,
    /// 1 to 30 s.
    pub timeout: Duration,
    /// Only in namespaces with these labels.
    pub namespaces: Option<LabelSelector>,
    /// Only objects with these labels.
    pub objects: Option<LabelSelector>,
}

/// A ValidatingWebhookConfiguration.
#[derive(Debug, Clone, PartialEq)]
pub struct Configuration {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Where all its webhooks are served.
    pub endpoint: Endpoint,
    /// Its webhooks.
    pub webhooks: Vec<Webhook>,
}

impl Configuration {
    /// The object, with this bundle of authorities (PEM). Webhooks have no side effects.
    #[must_use]
    pub fn object(&self, bundle: &str) -> ValidatingWebhookConfiguration {
        let mut object = ValidatingWebhookConfiguration::default();
        object.metadata.name = Some(self.name.clone());
        object.metadata.labels = Some(self.labels.clone());
        let webhooks = self.webhooks.iter().map(|webhook| {
            let path = format!("/admit/{}", webhook.handler);
            let seconds = i32::try_from(webhook.timeout.as_secs()).unwrap_or(i32::MAX);
            ValidatingWebhook {
                name: webhook.name.clone(),
                admission_review_versions: vec!["v1".to_owned()],
                client_config: self.endpoint.client(&path, bundle),
                failure_policy: Some(
                    match webhook.failure_policy {
                        FailurePolicy::Fail => "Fail",
                        FailurePolicy::Ignore => "Ignore",
                    }
                    .to_owned(),
                ),
                match_policy: Some(
                    if webhook.equivalent {
                        "Equivalent"
                    } else {
                        "Exact"
                    }
                    .to_owned(),
                ),
                side_effects: "None".to_owned(),
                timeout_seconds: Some(seconds.clamp(1, 30)),
                rules: Some(webhook.rules.clone()),
                namespace_selector: webhook.namespaces.clone(),
                object_selector: webhook.objects.clone(),
                match_conditions: None,
            }
        });
        object.webhooks = Some(webhooks.collect());
        object
    }

    /// Writes the configuration, unless it is as it should be.
    ///
    /// # Errors
    /// [`crate::Error::NotHolder`] without the lease, else what the apiserver says.
    pub async fn apply(&self, ctx: &Ctx, bundle: &str) -> Result<()> {
        let present = ctx.get_opt(None, &self.name).await?;
        ctx.ensure(&self.object(bundle), present.as_ref()).await?;
        Ok(())
    }
}

/// Keeps the configuration as it should be, with the newest bundle, until `cancel`. To be run by
/// the holder of the lease ([`crate::leading`]), with a `ctx` that it gates.
pub async fn keep(
    ctx: Ctx,
    configuration: Configuration,
    mut bundles: watch::Receiver<String>,
    cancel: CancellationToken,
) {
    let mut failing = false;
    loop {
        let bundle = bundles.borrow_and_update().clone();
        let pause = match configuration.apply(&ctx, &bundle).await {
            Ok(()) => {
                failing = false;
                PERIOD
            }
            Err(error) => {
                // A right that is missing is not given within seconds.
                let pause = if error.is_forbidden() { PERIOD } else { PAUSE };
                if !failing {
                    failing = true;
                    let name = &configuration.name;
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(
                        error,
                        name,
                        "cannot write a webhook's configuration, so the apiserver may not ask it; trying again"
                    );
                }
                pause
            }
        };
        let changed = async {
            if bundles.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = changed => {}
            () = sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_service_or_an_address() {
        let service = Endpoint::Service {
            namespace: "system".into(),
            name: "hooks".into(),
            port: 443,
        };
        assert_eq!(service.names(), ["hooks.system.svc"]);
        let client = service.client("/admit/x", "pem");
        let reference = client.service.expect("is a Service");
        assert_eq!(
            (reference.path.as_deref(), reference.port),
            (Some("/admit/x"), Some(443))
        );
        assert_eq!(client.url, None);
        for (host, url) in [
            ("127.0.0.1", "https://127.0.0.1:9443/admit/x"),
            ("::1", "https://[::1]:9443/admit/x"),
            ("hooks.example", "https://hooks.example:9443/admit/x"),
        ] {
            let endpoint = Endpoint::Address {
                host: host.into(),
                port: 9443,
            };
            assert_eq!(endpoint.names(), [host]);
            assert_eq!(endpoint.client("/admit/x", "pem").url.as_deref(), Some(url));
        }
    }
}
