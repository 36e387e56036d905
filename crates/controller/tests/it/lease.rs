//! Leader election among replicas. Each replica has a runtime of its own, so that one can be
//! paused (nobody drives its runtime) or killed (its runtime is dropped) without touching others.

use crate::PATIENCE;
use gatewright_controller::lease::{self, Leadership, Settings};
use gatewright_controller::{Ctx, Error};
use gatewright_testkit::{Cluster, await_condition};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::PropagationPolicy;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const DURATION: Duration = Duration::from_secs(3);

fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// A replica and the runtime that it lives on.
struct Replica {
    runtime: Runtime,
    ctx: Ctx,
    leadership: Leadership,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Replica {
    fn start(cluster: &'static Cluster, namespace: &str, identity: &str) -> Self {
        let runtime = runtime();
        let settings = Settings {
            controller: "test".into(),
            namespace: namespace.into(),
            name: "leader".into(),
            identity: identity.into(),
            duration: DURATION,
        };
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        let entered = runtime.enter();
        let client = cluster.client();
        let leadership = lease::start(client.clone(), settings, cancel.clone(), &tasks);
        let ctx = Ctx::new(client, "test", None).gated_by(leadership.clone());
        drop(entered);
        Self {
            runtime,
            ctx,
            leadership,
            cancel,
            tasks,
        }
    }

    fn is_held(&self) -> bool {
        self.leadership.is_held(Instant::now())
    }

    /// Drives the replica until it holds the lease; meanwhile `other` must never hold it, too.
    fn becomes_holder(&self, other: Option<&Leadership>) {
        let held = await_condition("the replica holds the lease", PATIENCE, || async {
            let now = Instant::now();
            let both =
                other.is_some_and(|other| other.is_held(now)) && self.leadership.is_held(now);
            assert!(!both, "two replicas hold the lease");
            self.leadership.is_held(now)
        });
        self.runtime.block_on(held);
    }

    fn write(&self, namespace: &str) -> Result<ConfigMap, Error> {
        let mut map = ConfigMap::default();
        map.metadata.name = Some("written".into());
        map.metadata.namespace = Some(namespace.into());
        self.runtime.block_on(self.ctx.apply(&map))
    }
}

fn cluster(prefix: &str) -> Option<(&'static Cluster, String)> {
    runtime().block_on(async {
        let cluster = Cluster::shared().await?;
        Some((cluster, cluster.namespace(prefix).await))
    })
}

#[test]
fn a_dead_holder_is_replaced_after_its_lease_ran_out() {
    let Some((cluster, namespace)) = cluster("dead") else {
        return;
    };
    let a = Replica::start(cluster, &namespace, "a");
    a.becomes_holder(None);
    assert!(a.write(&namespace).is_ok());
    let b = Replica::start(cluster, &namespace, "b");
    assert!(matches!(b.write(&namespace), Err(Error::NotHolder { .. })));

    let Replica {
        runtime,
        leadership,
        ..
    } = a;
    drop(runtime);
    b.becomes_holder(Some(&leadership));
    assert!(b.write(&namespace).is_ok());
    let lease = Api::<Lease>::namespaced(b.ctx.client().clone(), &namespace);
    let lease = b.runtime.block_on(lease.get("leader")).expect("is there");
    let spec = lease.spec.expect("has a spec");
    assert_eq!(spec.holder_identity.as_deref(), Some("b"));
    assert_eq!(spec.lease_transitions, Some(1));
}

#[test]
fn who_does_not_hold_the_lease_does_nothing_at_all() {
    let Some((cluster, namespace)) = cluster("bystander") else {
        return;
    };
    let a = Replica::start(cluster, &namespace, "a");
    a.becomes_holder(None);
    let map = a.write(&namespace).expect("is written");
    let b = Replica::start(cluster, &namespace, "b");
    let ctx = b.ctx.clone();
    b.runtime.block_on(async {
        let refused = |error: Error| {
            assert!(matches!(error, Error::NotHolder { .. }), "{error:?}");
            assert_eq!(error.category(), "not_holder");
        };
        refused(ctx.ensure(&map, None).await.expect_err("is refused"));
        refused(ctx.create(&map).await.expect_err("is refused"));
        let patch = serde_json::json!({ "data": { "a": "1" } });
        refused(ctx.patch_merge(&map, &patch).await.expect_err("is refused"));
        refused(
            ctx.add_finalizer(&map, "a.dev/b")
                .await
                .expect_err("is refused"),
        );
        let deleted = ctx.delete(&map, PropagationPolicy::Background).await;
        refused(deleted.expect_err("is refused"));
        let mut done = false;
        let effect = ctx.guarded("create bucket b", async { done = true });
        refused(effect.await.expect_err("is refused"));
        assert!(!done);
        assert_eq!(ctx.writes(), 0);
        // To see nothing to do takes no lease.
        assert!(matches!(
            ctx.remove_finalizer(&map, "a.dev/b").await,
            Ok(None)
        ));
    });
}

#[test]
fn a_paused_process_does_not_write_after_its_lease_ran_out() {
    let Some((cluster, namespace)) = cluster("paused") else {
        return;
    };
    let a = Replica::start(cluster, &namespace, "a");
    a.becomes_holder(None);
    // From here on nothing drives a's runtime: it is paused, and does not know.
    let b = Replica::start(cluster, &namespace, "b");
    b.becomes_holder(Some(&a.leadership));
    assert!(!a.is_held());
    let written = a.ctx.writes();
    assert!(matches!(a.write(&namespace), Err(Error::NotHolder { .. })));
    assert_eq!(a.ctx.writes(), written);
    assert!(b.write(&namespace).is_ok());
}

#[test]
fn a_holder_that_stops_gives_the_lease_back() {
    let Some((cluster, namespace)) = cluster("stop") else {
        return;
    };
    let a = Replica::start(cluster, &namespace, "a");
    a.becomes_holder(None);
    a.cancel.cancel();
    a.tasks.close();
    a.runtime.block_on(a.tasks.wait());
    assert!(!a.is_held());
    let b = Replica::start(cluster, &namespace, "b");
    let begun = Instant::now();
    b.becomes_holder(Some(&a.leadership));
    // Not by waiting for the expiry.
    assert!(begun.elapsed() < DURATION);
}

#[test]
fn of_two_that_start_together_one_holds_and_keeps_the_lease() {
    let Some((cluster, namespace)) = cluster("race") else {
        return;
    };
    let driver = runtime();
    let start = |identity: &str| {
        let settings = Settings {
            controller: "test".into(),
            namespace: namespace.clone(),
            name: "leader".into(),
            identity: identity.into(),
            duration: DURATION,
        };
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        lease::start(cluster.client(), settings, cancel, &tasks)
    };
    driver.block_on(async {
        let (a, b) = (start("a"), start("b"));
        let held = |now| (a.is_held(now), b.is_held(now));
        await_condition("one holds the lease", PATIENCE, || async {
            held(Instant::now()) != (false, false)
        })
        .await;
        let first = held(Instant::now());
        let begun = Instant::now();
        // Longer than a lease without renewal would last.
        await_condition("two durations pass", PATIENCE, || async {
            assert_eq!(held(Instant::now()), first);
            begun.elapsed() > 2 * DURATION
        })
        .await;
    });
}
