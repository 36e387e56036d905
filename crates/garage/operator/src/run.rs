//! All controllers of the wing, side by side. May not decide.

use crate::operator::Operator;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Runs the controllers until `cancel`; to be started by the replica that leads.
pub async fn run(operator: Arc<Operator>, cancel: CancellationToken) {
    crate::cluster::run(operator, cancel).await;
}
