//! The certificate that all replicas of a webhook serve, kept in a Secret. May not decide when one
//! is due; that is `authority`'s.

use super::authority::Material;
use crate::apply::Ctx;
use crate::error::{Error, Result};
use crate::write::Created;
use arc_swap::ArcSwapOption;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often the Secret is read: what another replica has made is served so soon.
const PERIOD: Duration = Duration::from_secs(60);
/// How often a write is tried anew when another replica was faster.
const ATTEMPTS: u32 = 5;
/// The key of the Secret with all we need; the other keys repeat parts of it for people.
const STATE: &str = "state.json";

/// Where the certificates are kept, and what for.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Of the Secret.
    pub namespace: String,
    /// Of the Secret.
    pub name: String,
    /// The DNS names or IP addresses by which the apiserver reaches the webhook
    /// ([`super::Endpoint::names`]).
    pub names: Vec<String>,
    /// The wall clock.
    pub clock: fn() -> Timestamp,
}

/// The present certificate, and what to trust. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Certificates {
    shared: Arc<Shared>,
    bundles: watch::Receiver<String>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    served: ArcSwapOption<CertifiedKey>,
    bundle: watch::Sender<String>,
}

impl Certificates {
    /// Reads the Secret, or makes it if it is not there, and follows it until `cancel` by a task
    /// among `tasks`. Every replica does so, without a lease: they agree by the Secret's version.
    ///
    /// # Errors
    /// [`Error::Certificate`], or what the apiserver says.
    pub async fn start(
        client: Client,
        settings: Settings,
        cancel: CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<Self> {
        let (bundle, bundles) = watch::channel(String::new());
        let shared = Arc::new(Shared {
            settings,
            served: ArcSwapOption::empty(),
            bundle,
        });
        let certificates = Self { shared, bundles };
        let ctx = Ctx::new(client, "webhook-certificates", None);
        certificates
            .refresh(&ctx, (certificates.shared.settings.clock)())
            .await?;
        tasks.spawn(certificates.clone().follow(ctx, cancel));
        Ok(certificates)
    }

    /// The authorities to trust, in PEM, as they change.
    #[must_use]
    pub fn bundles(&self) -> watch::Receiver<String> {
        self.bundles.clone()
    }

    /// What TLS listeners serve, always the present certificate.
    #[must_use]
    pub fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        self.shared.clone()
    }

    async fn follow(self, ctx: Ctx, cancel: CancellationToken) {
        let mut failing = false;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = sleep(PERIOD) => {}
            }
            match self.refresh(&ctx, (self.shared.settings.clock)()).await {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(
                        error,
                        "cannot look after the webhook's certificates; trying again"
                    );
                }
                Err(_) => {}
            }
        }
    }

    /// Reads the Secret, makes what is due at `now`, and serves it.
    ///
    /// # Errors
    /// [`Error::Certificate`], or what the apiserver says.
    pub async fn refresh(&self, ctx: &Ctx, now: Timestamp) -> Result<()> {
        let settings = &self.shared.settings;
        let action = format!(
            "renew the certificates in Secret {}/{}",
            settings.namespace, settings.name
        );
        let mut attempt = 1;
        loop {
            let present: Option<Secret> = ctx
                .get_opt(Some(&settings.namespace), &settings.name)
                .await?;
            let old = present.as_ref().and_then(|secret| read(secret, &action));
            let next = Material::next(old.as_ref(), &settings.names, now);
            let next = next.map_err(|source| certificate(&action, source))?;
            let Some(new) = next else {
                return old.map_or(Ok(()), |old| self.serve(&old, &action));
            };
            match write(ctx, settings, present.as_ref(), &new, &action).await {
                Ok(true) => return self.serve(&new, &action),
                Ok(false) if attempt < ATTEMPTS => attempt += 1,
                // What is not stored is trusted by nobody, so it must not be served.
                Ok(false) => {
                    let why = format!("other replicas were faster {ATTEMPTS} times in a row");
                    return Err(certificate(&action, why));
                }
                Err(error) => {
                    // An old certificate is better than none while the apiserver refuses.
                    if let Some(old) = &old {
                        self.serve(old, &action)?;
                    }
                    return Err(error);
                }
            }
        }
    }

    fn serve(&self, material: &Material, action: &str) -> Result<()> {
        let key = certified(material).map_err(|source| certificate(action, source))?;
        self.shared.served.store(Some(Arc::new(key)));
        let bundle = material.bundle();
        self.shared.bundle.send_if_modified(|old| {
            let changed = *old != bundle;
            *old = bundle;
            changed
        });
        Ok(())
    }
}

impl ResolvesServerCert for Shared {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.served.load_full()
    }
}

/// What is in the Secret; `None` when it is not ours or broken.
fn read(secret: &Secret, action: &str) -> Option<Material> {
    let state = secret.data.as_ref()?.get(STATE)?;
    match serde_json::from_slice(&state.0) {
        Ok(material) => Some(material),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(
                action,
                error,
                "the Secret is not readable; its certificates are made anew"
            );
            None
        }
    }
}

/// Writes on top of exactly the version that was seen; `false` if another replica was faster.
async fn write(
    ctx: &Ctx,
    settings: &Settings,
    present: Option<&Secret>,
    material: &Material,
    action: &str,
) -> Result<bool> {
    let state = serde_json::to_vec(material).map_err(|source| certificate(action, source))?;
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let data = BTreeMap::from([
        (STATE.to_owned(), ByteString(state)),
        ("ca.crt".to_owned(), bytes(&material.bundle())),
        ("tls.crt".to_owned(), bytes(&material.leaf.certificate)),
        ("tls.key".to_owned(), bytes(material.leaf.key.pem())),
    ]);
    let Some(present) = present else {
        let mut secret = Secret {
            type_: Some("Opaque".to_owned()),
            data: Some(data),
            ..Secret::default()
        };
        secret.metadata.name = Some(settings.name.clone());
        secret.metadata.namespace = Some(settings.namespace.clone());
        return match ctx.create(&secret).await? {
            Created::New(_) => Ok(true),
            Created::Exists => Ok(false),
        };
    };
    let patch: Value = json!({ "data": data });
    match ctx.patch_merge(present, &patch).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_conflict() || error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

fn certified(
    material: &Material,
) -> Result<CertifiedKey, Box<dyn std::error::Error + Send + Sync>> {
    let chain = CertificateDer::pem_slice_iter(material.leaf.certificate.as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(material.leaf.key.pem().as_bytes())?;
    let key = aws_lc_rs::sign::any_supported_type(&key)?;
    Ok(CertifiedKey::new(chain, key))
}

fn certificate(action: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Certificate {
        action: action.to_owned(),
        source: source.into(),
    }
}
