//! Drives one GarageAdminToken: observe → plan → apply → status. May not decide: the plan is
//! `gatewright_garage::token`'s.

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::home::{Home, Marks, concerns, place};
use crate::key::{secrets_of, until};
use crate::operator::Operator;
use crate::refusal::{refuse, warn};
use crate::watches::Watches;
use gatewright_controller::{Next, Watched, runner};
use gatewright_garage::admin::{AdminTokenChange, AdminTokenInfo};
use gatewright_garage::api::{self, GarageAdminToken, GarageCluster};
use gatewright_garage::key::secret::is_of;
use gatewright_garage::objects::names;
use gatewright_garage::tenant;
use gatewright_garage::token::{
    Desired, Observed, Plan, Refusal, SecretSeen, Step, Token, Verdict, plan, report, secret,
};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::api::PropagationPolicy;
use kube::runtime::reflector::ObjectRef;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How soon a token at rest is looked at again: somebody may have deleted it in Garage.
const REST: Duration = Duration::from_secs(300);
/// Rounds before others get their turn.
const ROUNDS: usize = 16;

/// What reconciliations of tokens share.
struct Tokens {
    operator: Arc<Operator>,
    tokens: Watched<GarageAdminToken>,
    clusters: Watched<GarageCluster>,
    clock: Clock,
}

/// What `apply` needs of what `observe` has read.
struct Hands {
    home: Home,
    secret: Option<Secret>,
    stale: BTreeMap<String, Secret>,
}

/// Reconciles GarageAdminTokens until `cancel`.
pub fn run(
    operator: Arc<Operator>,
    watches: &Watches,
    clock: Clock,
    cancel: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let shared = Arc::new(Tokens {
        operator: operator.clone(),
        tokens: watches.tokens.clone(),
        clusters: watches.clusters.clone(),
        clock,
    });
    let (of_clusters, marks) = (shared.clone(), Marks::default());
    let controller = watches
        .tokens
        .controller()
        .owns_shared_stream(watches.secrets.subscribe())
        .watches_shared_stream(watches.clusters.changes().subscribe(), move |cluster| {
            of_clusters.of_cluster(&cluster, marks.is_new(&cluster))
        });
    let metrics = operator.ctx.metrics().clone();
    let reconcile = move |token: Arc<GarageAdminToken>| {
        let shared = shared.clone();
        async move { Box::pin(shared.reconcile(&token)).await }
    };
    let settings = runner::Settings::new("garageadmintoken");
    runner::run(
        controller,
        settings,
        metrics,
        cancel,
        Error::category,
        reconcile,
    )
}

impl Tokens {
    fn of_cluster(&self, cluster: &GarageCluster, new: bool) -> Vec<ObjectRef<GarageAdminToken>> {
        let concerns = |token: &GarageAdminToken| {
            let namespace = token.namespace().unwrap_or_default();
            let target = tenant::target(&token.spec.cluster_ref, &namespace);
            let phase = token
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref());
            (new || phase != Some("Ready")) && concerns(&self.clusters, cluster, &target)
        };
        let tokens = self.tokens.all();
        let concerned = tokens.iter().filter(|token| concerns(token));
        concerned
            .map(|token| ObjectRef::from_obj(&**token))
            .collect()
    }

    async fn reconcile(&self, token: &GarageAdminToken) -> Result<Next> {
        let operator = &self.operator;
        let at = place(token);
        let name = format!("GarageAdminToken {at}");
        // What the runner hands over may be older than our own last write.
        let fresh: Option<GarageAdminToken> =
            operator.ctx.get_opt(Some(&at.namespace), &at.name).await?;
        let uid = token.metadata.uid.clone();
        let Some(mut token) = fresh.filter(|fresh| fresh.metadata.uid == uid) else {
            operator.rests(&name);
            return Ok(Next::Settled);
        };
        let desired = match Desired::parse(&token) {
            Ok(desired) => desired,
            Err(problems) => {
                let refusal = Refusal::Invalid(problems);
                let (reason, message) = (refusal.reason(), refusal.to_string());
                return refuse(operator, &token, reason, &message).await;
            }
        };
        for _ in 0..ROUNDS {
            let (seen, hands) = Box::pin(self.observe(&token, &desired)).await?;
            let plan = plan(&desired, &seen);
            let done = self.apply(&token, &desired, &plan, &hands).await;
            if plan.steps.contains(&Step::RemoveFinalizer) && done.is_ok() {
                operator.rests(&name);
                return Ok(Next::Settled);
            }
            let failure = done
                .as_ref()
                .err()
                .filter(|error| !error.is_race())
                .map(Error::chain);
            let report = report(&token, &desired, &seen, &plan, failure.as_deref());
            if let Some(written) = operator.ctx.write_status(&token, &report.status).await? {
                warn(operator, &token, report.warning).await;
                // It has changed since it was parsed: the next round must not speak of fields that it has not read.
                if written.metadata.generation != token.metadata.generation {
                    return Ok(Next::After(Duration::from_millis(100)));
                }
                token = written;
            }
            let written = match done {
                Err(error) if error.is_race() => {
                    return Ok(Next::After(Duration::from_millis(100)));
                }
                Err(error) => return Err(error),
                Ok(written) => written,
            };
            if plan.steps.is_empty() && !written {
                return Ok(self.next(&name, &plan));
            }
        }
        Ok(Next::After(Duration::from_secs(1)))
    }

    fn next(&self, name: &str, plan: &Plan) -> Next {
        let reason = match &plan.verdict {
            Verdict::Ready | Verdict::Expired => {
                self.operator.rests(name);
                return Next::After(until(plan.wake, self.clock.now()).min(REST));
            }
            Verdict::Waiting(wait) => wait.reason(),
            Verdict::Refused(refusal) => refusal.reason(),
        };
        Next::After(self.operator.again(name, reason))
    }

    async fn observe(
        &self,
        object: &GarageAdminToken,
        desired: &Desired,
    ) -> Result<(Observed, Hands)> {
        let operator = &self.operator;
        let namespace = &desired.key.namespace;
        let kind = "GarageAdminToken";
        let home = operator
            .home(kind, namespace, &desired.cluster, desired.absent)
            .await?;
        let mut hands = Hands {
            home,
            secret: None,
            stale: BTreeMap::new(),
        };
        let mut seen = Observed {
            now: self.clock.now(),
            finalizer: object
                .finalizers()
                .iter()
                .any(|one| one == api::FINALIZER_ADMIN_TOKEN),
            namespace_ends: desired.absent && operator.ends(namespace).await?,
            home: hands.home.seen.clone(),
            secret: SecretSeen::Missing,
            stale_secrets: Vec::new(),
            tokens: Vec::new(),
        };
        for found in secrets_of(operator, namespace, &desired.uid).await? {
            if found.name_any() == desired.secret_name {
                hands.secret = Some(found);
            } else {
                hands.stale.insert(found.name_any(), found);
            }
        }
        seen.stale_secrets = hands.stale.keys().cloned().collect();
        if hands.secret.is_none() && !desired.absent {
            let found: Option<Secret> = operator
                .ctx
                .get_opt(Some(namespace), &desired.secret_name)
                .await?;
            match found {
                Some(found) if is_of(&found, &desired.uid) => hands.secret = Some(found),
                Some(_) => seen.secret = SecretSeen::Foreign,
                None => {}
            }
        }
        // A token is told once: one in a Secret that is given up moves to the new one.
        if hands.secret.is_some() || !hands.stale.is_empty() {
            let token = hands.token();
            seen.secret = match (&seen.secret, token.as_ref().and_then(secret::id)) {
                (SecretSeen::Foreign, _) => SecretSeen::Foreign,
                (SecretSeen::Missing | SecretSeen::Ours { .. }, id) => SecretSeen::Ours { id },
            };
        }
        if let Some(asked) = &hands.home.asked {
            let all = asked.client.list_admin_tokens().await?;
            let ours = all.into_iter().filter(|token| desired.is_ours(&token.name));
            seen.tokens = ours.filter_map(self::token).collect();
        }
        Ok((seen, hands))
    }

    async fn apply(
        &self,
        object: &GarageAdminToken,
        desired: &Desired,
        plan: &Plan,
        hands: &Hands,
    ) -> Result<bool> {
        // Before the Secret that holds it is given up.
        let unchanged = |step: &Step| matches!(step, Step::Update(..) | Step::DeleteSecret(_));
        let keep = matches!(plan.verdict, Verdict::Ready | Verdict::Expired)
            || !plan.steps.is_empty() && plan.steps.iter().all(unchanged);
        let mut written = false;
        if let Some(token) = hands.token().filter(|_| keep) {
            written = self.publish(object, desired, &token, hands).await?;
        }
        for step in &plan.steps {
            self.carry_out(object, desired, step, hands).await?;
        }
        Ok(written)
    }

    async fn publish(
        &self,
        object: &GarageAdminToken,
        desired: &Desired,
        token: &gatewright_garage::secret::Redacted<String>,
        hands: &Hands,
    ) -> Result<bool> {
        let endpoint = hands.home.referenced.as_ref().and_then(endpoint);
        let wanted = secret::secret(object, desired, token, endpoint.as_deref());
        let done = self
            .operator
            .ctx
            .ensure(&wanted, hands.secret.as_ref())
            .await?;
        Ok(done.is_written())
    }

    async fn carry_out(
        &self,
        object: &GarageAdminToken,
        desired: &Desired,
        step: &Step,
        hands: &Hands,
    ) -> Result<()> {
        let ctx = &self.operator.ctx;
        let client = || hands.home.client("change the token");
        match step {
            Step::AddFinalizer => {
                ctx.add_finalizer(object, api::FINALIZER_ADMIN_TOKEN)
                    .await?;
            }
            Step::RemoveFinalizer => {
                ctx.remove_finalizer(object, api::FINALIZER_ADMIN_TOKEN)
                    .await?;
            }
            Step::Create(change) => {
                let create = client()?.create_admin_token(change);
                let made = ctx.guarded("create an admin token", create).await??;
                self.publish(object, desired, &made.secret_token, hands)
                    .await?;
            }
            Step::Update(id, change) => self.update(id, change, hands).await?,
            Step::Delete(id) => {
                let delete = client()?.delete_admin_token(id);
                match ctx.guarded("delete an admin token", delete).await? {
                    Err(error) if !error.is_not_found() => return Err(error.into()),
                    Ok(()) | Err(_) => {}
                }
            }
            Step::DeleteSecret(name) => {
                if let Some(secret) = hands.stale.get(name) {
                    ctx.delete(secret, PropagationPolicy::Background).await?;
                }
            }
        }
        Ok(())
    }

    async fn update(&self, id: &str, change: &AdminTokenChange, hands: &Hands) -> Result<()> {
        let client = hands.home.client("change the token")?;
        let update = client.update_admin_token(id, change);
        self.operator
            .ctx
            .guarded("change an admin token", update)
            .await??;
        Ok(())
    }
}

impl Hands {
    fn token(&self) -> Option<gatewright_garage::secret::Redacted<String>> {
        self.secret
            .iter()
            .chain(self.stale.values())
            .find_map(secret::token)
    }
}

fn token(info: AdminTokenInfo) -> Option<Token> {
    Some(Token {
        id: info.id?,
        name: info.name,
        expiration: info.expiration.as_deref().and_then(tenant::time),
        expired: info.expired,
        scope: info.scope.into_iter().collect(),
    })
}

/// Where the Admin API of the cluster is that is named.
fn endpoint(cluster: &GarageCluster) -> Option<String> {
    let told = cluster
        .status
        .as_ref()
        .and_then(|status| status.endpoints.as_ref());
    let port = cluster.spec.admin.clone().unwrap_or_default().bind_port;
    let service = names::admin_service(&cluster.name_any());
    let known = told.and_then(|endpoints| endpoints.admin.clone());
    Some(known.unwrap_or(format!(
        "http://{service}.{}.svc:{port}",
        cluster.namespace()?
    )))
}
