//! All controllers of the wing, side by side. May not decide.

use crate::clock::Clock;
use crate::operator::Operator;
use crate::watches::Watches;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Runs the controllers until `cancel`; to be started by the replica that leads.
pub async fn run(operator: Arc<Operator>, cancel: CancellationToken) {
    let clock = Clock::default();
    let (watches, fed) = Watches::new(&operator, cancel.clone());
    // All of them subscribe here, before anything is read.
    let clusters = crate::cluster::run(operator.clone(), &watches, cancel.clone());
    let nodes = crate::node::run(operator.clone(), &watches, cancel.clone());
    let buckets = crate::bucket::run(operator.clone(), &watches, cancel.clone());
    let keys = crate::key::run(operator.clone(), &watches, clock.clone(), cancel.clone());
    let tokens = crate::token::run(operator, &watches, clock, cancel);
    tokio::join!(clusters, nodes, buckets, keys, tokens, fed);
}
