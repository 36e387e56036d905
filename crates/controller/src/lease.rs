//! Leader election by a `coordination.k8s.io` Lease: of several replicas one writes. May not write
//! anything but the Lease.
//!
//! Nobody compares clocks of two machines. A candidate takes a Lease over when it has seen it
//! unchanged for its whole duration, by the candidate's own monotonic clock. The holder counts
//! from the moment *before* it sent its last renewal, and stops writing after two thirds of the
//! duration; so a process that was paused finds its claim expired before anybody else's begins.

use crate::apply::field_manager;
use crate::clock;
use crate::error::{Error, Result};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Which Lease, and who asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The controller's short name; the field manager is `gatewright/<controller>`.
    pub controller: String,
    /// Where the Lease lives.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who we are: different for every replica, the Pod's name for instance.
    pub identity: String,
    /// How long a holder that died blocks the others; whole seconds, at least one.
    pub duration: Duration,
}

/// Who holds the Lease, as far as we know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// `None`: nobody, or not known yet.
    pub holder: Option<String>,
    /// From when on this is no longer known.
    pub expiry: Instant,
}

/// A replica's view of the election. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Leadership {
    identity: Arc<str>,
    claims: watch::Receiver<Claim>,
}

impl Leadership {
    /// Whether we are the one to write at `now`.
    #[must_use]
    pub fn is_held(&self, now: Instant) -> bool {
        self.held_until().is_some_and(|expiry| now < expiry)
    }

    /// A view of claims that a test sends itself.
    #[cfg(test)]
    pub(crate) fn fixed(identity: &str, claims: watch::Receiver<Claim>) -> Self {
        Self {
            identity: identity.into(),
            claims,
        }
    }

    /// Every change of the claim.
    #[must_use]
    pub fn claims(&self) -> watch::Receiver<Claim> {
        self.claims.clone()
    }

    /// Runs a write while the claim holds: `None` when we are not the holder, or the claim ran out
    /// before the write was done. The clock is read at every poll, so that a pause is noticed.
    pub async fn while_held<T>(&self, write: impl Future<Output = T>) -> Option<T> {
        let expiry = self.held_until()?;
        if Instant::now() >= expiry {
            return None;
        }
        timeout_at(expiry, write).await.ok()
    }

    fn held_until(&self) -> Option<Instant> {
        let claim = self.claims.borrow();
        (claim.holder.as_deref() == Some(&*self.identity)).then_some(claim.expiry)
    }
}

/// Takes part in the election until `cancel`, then releases the Lease so that another replica
/// need not wait for its expiry.
#[must_use]
pub fn start(
    client: Client,
    settings: Settings,
    cancel: CancellationToken,
    tasks: &TaskTracker,
) -> Leadership {
    let nobody = Claim {
        holder: None,
        expiry: Instant::now(),
    };
    let (sender, claims) = watch::channel(nobody);
    let leadership = Leadership {
        identity: settings.identity.as_str().into(),
        claims,
    };
    let candidate = Candidate {
        leases: Api::namespaced(client, &settings.namespace),
        election: Election::new(&settings.identity, whole_seconds(settings.duration)),
        settings,
        claims: sender,
    };
    tasks.spawn(candidate.run(cancel));
    leadership
}

fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs().max(1))
}

/// The I/O around [`Election`].
struct Candidate {
    leases: Api<Lease>,
    settings: Settings,
    election: Election,
    claims: watch::Sender<Claim>,
}

impl Candidate {
    async fn run(mut self, cancel: CancellationToken) {
        let pause = self.election.duration / 3;
        let mut failing = false;
        loop {
            let round = tokio::select! {
                () = cancel.cancelled() => break,
                round = timeout(pause, self.round()) => round,
            };
            match round {
                Ok(Ok(())) => failing = false,
                Ok(Err(error)) if !failing => {
                    failing = true;
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "cannot take part in the election; trying again");
                }
                Err(_) if !failing => {
                    failing = true;
                    tracing::warn!("the apiserver does not answer about the Lease; trying again");
                }
                Ok(Err(_)) | Err(_) => {}
            }
            // After a failure sooner, so that one lost answer does not cost the lease.
            let pause = if failing { pause / 2 } else { pause };
            tokio::select! {
                () = cancel.cancelled() => break,
                () = sleep(pause) => {}
            }
        }
        self.release().await;
    }

    /// Looks at the Lease and does the one thing that follows.
    async fn round(&mut self) -> Result<()> {
        let asked = Instant::now();
        let name = &self.settings.name;
        let action = format!("read Lease {}/{name}", self.settings.namespace);
        let seen = self.leases.get_opt(name).await;
        let seen = seen.map_err(|source| Error::api(&action, source))?;
        let record = seen.as_ref().map(Record::of);
        let step = self.election.decide(Instant::now(), record);
        let claim = match step {
            Step::Wait(claim) => claim,
            Step::Write { transitions, since } => {
                let taken = since.is_none();
                let written = self.write(seen.as_ref(), transitions, since).await?;
                if !written {
                    // Somebody was faster; the next round sees who.
                    return Ok(());
                }
                let identity = &self.settings.identity;
                if taken {
                    tracing::info!(identity, lease = name, "this replica now writes");
                }
                self.election.own_claim(asked)
            }
        };
        self.claims.send_if_modified(|old| {
            let changed = *old != claim;
            *old = claim;
            changed
        });
        Ok(())
    }

    /// Writes our claim on top of exactly the version that was seen; `false` if it has changed.
    async fn write(
        &self,
        seen: Option<&Lease>,
        transitions: i32,
        since: Option<MicroTime>,
    ) -> Result<bool> {
        let (name, namespace) = (&self.settings.name, &self.settings.namespace);
        let now = MicroTime(clock::now());
        let spec = json!({
            "holderIdentity": self.settings.identity,
            "leaseDurationSeconds": self.election.duration.as_secs(),
            "acquireTime": since.unwrap_or_else(|| now.clone()),
            "renewTime": now,
            "leaseTransitions": transitions,
        });
        let answer = match seen {
            Some(lease) => {
                let version = &lease.metadata.resource_version;
                let patch = json!({ "metadata": { "resourceVersion": version }, "spec": spec });
                self.patch(&patch).await
            }
            None => {
                let spec = serde_json::from_value(spec).map_err(|source| Error::Encode {
                    action: format!("create Lease {namespace}/{name}"),
                    source,
                })?;
                let metadata = ObjectMeta {
                    name: Some(name.clone()),
                    namespace: Some(namespace.clone()),
                    ..ObjectMeta::default()
                };
                let lease = Lease {
                    metadata,
                    spec: Some(spec),
                };
                let parameters = PostParams {
                    field_manager: Some(field_manager(&self.settings.controller)),
                    ..PostParams::default()
                };
                self.leases.create(&parameters, &lease).await
            }
        };
        match answer {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status))
                if status.is_conflict() || status.is_already_exists() || status.is_not_found() =>
            {
                Ok(false)
            }
            Err(source) => {
                let action = format!("write Lease {namespace}/{name}");
                Err(Error::api(&action, source))
            }
        }
    }

    async fn patch(&self, patch: &serde_json::Value) -> kube::Result<Lease> {
        let parameters = PatchParams {
            field_manager: Some(field_manager(&self.settings.controller)),
            ..PatchParams::default()
        };
        // A merge patch with the version seen is a compare-and-set; an apply would take the lease
        // from whoever won the race.
        self.leases
            .patch(&self.settings.name, &parameters, &Patch::Merge(patch))
            .await
    }

    /// Gives the Lease back, if it is ours. Bounded: shutdown does not hang on a dead apiserver.
    async fn release(&self) {
        let nobody = Claim {
            holder: None,
            expiry: Instant::now(),
        };
        // First, so that nothing is written after the Lease is somebody else's.
        let old = self.claims.send_replace(nobody);
        if old.holder.as_deref() != Some(&self.settings.identity) {
            return;
        }
        let given_back = timeout(Duration::from_secs(2), async {
            let lease = self.leases.get(&self.settings.name).await?;
            let record = Record::of(&lease);
            if record.holder.as_deref() == Some(&self.settings.identity) {
                let version = lease.metadata.resource_version;
                let patch = json!({
                    "metadata": { "resourceVersion": version },
                    "spec": { "holderIdentity": "" },
                });
                self.patch(&patch).await?;
            }
            Ok::<_, kube::Error>(())
        });
        match given_back.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the Lease was not given back; it will run out");
            }
            Err(_) => tracing::warn!("the Lease was not given back in time; it will run out"),
        }
    }
}

/// What the Lease says.
#[derive(Debug, Clone, PartialEq)]
struct Record {
    holder: Option<String>,
    duration: Duration,
    transitions: i32,
    since: Option<MicroTime>,
    /// Changes with every renewal, whoever writes it.
    version: Option<String>,
}

impl Record {
    fn of(lease: &Lease) -> Self {
        let spec = lease.spec.clone().unwrap_or_default();
        let seconds = spec.lease_duration_seconds.unwrap_or_default().max(1);
        Self {
            holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
            duration: Duration::from_secs(seconds.unsigned_abs().into()),
            transitions: spec.lease_transitions.unwrap_or_default(),
            since: spec.acquire_time,
            version: lease.metadata.resource_version.clone(),
        }
    }
}

/// What to do about the Lease.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    /// Write it: take it (`since: None`) or renew it.
    Write {
        transitions: i32,
        since: Option<MicroTime>,
    },
    /// Leave it to whom it belongs.
    Wait(Claim),
}

/// The decisions of one candidate; no clock, no client.
#[derive(Debug)]
struct Election {
    identity: String,
    duration: Duration,
    /// The last record of another holder, and when we first saw it as it is.
    seen: Option<(Record, Instant)>,
}

impl Election {
    fn new(identity: &str, duration: Duration) -> Self {
        Self {
            identity: identity.to_owned(),
            duration,
            seen: None,
        }
    }

    fn decide(&mut self, now: Instant, record: Option<Record>) -> Step {
        let Some(record) = record else {
            self.seen = None;
            return Step::Write {
                transitions: 0,
                since: None,
            };
        };
        let take = Step::Write {
            transitions: record.transitions.saturating_add(1),
            since: None,
        };
        let Some(holder) = record.holder.clone() else {
            return take;
        };
        if holder == self.identity {
            self.seen = None;
            return Step::Write {
                transitions: record.transitions,
                since: record.since,
            };
        }
        let unchanged_since = match &self.seen {
            Some((seen, since)) if *seen == record => *since,
            Some(_) | None => now,
        };
        let expiry = unchanged_since + record.duration;
        self.seen = Some((record, unchanged_since));
        if now >= expiry {
            return take;
        }
        Step::Wait(Claim {
            holder: Some(holder),
            expiry,
        })
    }

    /// Our claim, given when the renewal that was just confirmed was asked for.
    fn own_claim(&self, asked: Instant) -> Claim {
        Claim {
            holder: Some(self.identity.clone()),
            expiry: asked + self.duration * 2 / 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DURATION: Duration = Duration::from_secs(15);

    fn record(holder: &str, version: &str) -> Option<Record> {
        Some(Record {
            holder: Some(holder.to_owned()).filter(|holder| !holder.is_empty()),
            duration: DURATION,
            transitions: 4,
            since: None,
            version: Some(version.to_owned()),
        })
    }

    fn take(transitions: i32) -> Step {
        Step::Write {
            transitions,
            since: None,
        }
    }

    #[test]
    fn an_absent_or_released_lease_is_taken_at_once() {
        let now = Instant::now();
        let mut election = Election::new("a", DURATION);
        assert_eq!(election.decide(now, None), take(0));
        assert_eq!(election.decide(now, record("", "1")), take(5));
    }

    #[test]
    fn our_own_lease_is_renewed_without_a_transition() {
        let mut election = Election::new("a", DURATION);
        assert_eq!(election.decide(Instant::now(), record("a", "1")), take(4));
    }

    #[test]
    fn anothers_lease_is_taken_after_it_stood_still_for_its_duration() {
        let start = Instant::now();
        let mut election = Election::new("a", DURATION);
        let wait = |since: Instant| {
            Step::Wait(Claim {
                holder: Some("b".into()),
                expiry: since + DURATION,
            })
        };
        assert_eq!(election.decide(start, record("b", "1")), wait(start));
        let later = start + DURATION - Duration::from_secs(1);
        assert_eq!(election.decide(later, record("b", "1")), wait(start));
        // One renewal, and the time counts anew.
        assert_eq!(election.decide(later, record("b", "2")), wait(later));
        let end = later + DURATION;
        assert_eq!(election.decide(end, record("b", "2")), take(5));
    }

    #[test]
    fn a_paused_holder_stops_before_another_may_begin() {
        let asked = Instant::now();
        let holder = Election::new("a", DURATION);
        let claim = holder.own_claim(asked);
        let mut other = Election::new("b", DURATION);
        // The soonest the other can see the renewal is when it was asked for.
        other.decide(asked, record("a", "1"));
        let leadership = Leadership {
            identity: "a".into(),
            claims: watch::channel(claim.clone()).1,
        };
        assert!(leadership.is_held(asked));
        assert!(!leadership.is_held(claim.expiry));
        let still_waiting = other.decide(claim.expiry, record("a", "1"));
        assert!(matches!(still_waiting, Step::Wait(_)), "{still_waiting:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_outlives_the_claim_is_given_up() {
        let claim = Claim {
            holder: Some("a".into()),
            expiry: Instant::now() + Duration::from_secs(10),
        };
        let (claims, receiver) = watch::channel(claim);
        let leadership = Leadership {
            identity: "a".into(),
            claims: receiver,
        };
        assert_eq!(leadership.while_held(async { 1 }).await, Some(1));
        let endless = leadership.while_held(std::future::pending::<()>());
        assert_eq!(endless.await, None);
        assert_eq!(leadership.while_held(async { 1 }).await, None);
        claims.send_modify(|claim| claim.holder = Some("b".into()));
        assert_eq!(leadership.while_held(async { 1 }).await, None);
    }
}
