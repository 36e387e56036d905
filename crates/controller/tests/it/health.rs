//! The listener for metrics and probes.

use gatewright_controller::{Health, Metrics, health};
use gatewright_testkit::http::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn probes_and_metrics_are_served_until_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("can listen");
    let address = listener.local_addr().expect("has an address");
    let (health, cancel) = (Health::new(), CancellationToken::new());
    let check = health.check("CRDs established");
    let served = health::serve(listener, Metrics::new(), health, cancel.clone());
    let task = tokio::spawn(served);

    assert_eq!(get(address, "any", "/healthz").await.status(), 200);
    let ready = get(address, "any", "/readyz").await;
    assert_eq!(
        (ready.status(), ready.text().as_ref()),
        (503, "CRDs established: not yet\n")
    );
    check.pass();
    assert_eq!(get(address, "any", "/readyz").await.status(), 200);
    let metrics = get(address, "any", "/metrics").await;
    let kind = metrics.header("content-type").unwrap_or_default();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    assert!(metrics.text().contains("gatewright_build_info"));
    cancel.cancel();
    task.await.expect("ends");
}
