//! All controllers of the wing, side by side. May not decide.

use crate::clock::Clock;
use crate::operator::Operator;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Runs the controllers until `cancel`; to be started by the replica that leads.
pub async fn run(operator: Arc<Operator>, cancel: CancellationToken) {
    let clock = Clock::default();
    tokio::join!(
        crate::cluster::run(operator.clone(), cancel.clone()),
        crate::node::run(operator.clone(), cancel.clone()),
        crate::bucket::run(operator.clone(), cancel.clone()),
        crate::key::run(operator.clone(), clock.clone(), cancel.clone()),
        crate::token::run(operator, clock, cancel),
    );
}
