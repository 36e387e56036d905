//! Objects whose fields cannot be done: what they say then. May not touch anything else.

use crate::error::Result;
use crate::operator::Operator;
use gatewright_controller::{Kind, Next, Notice, Severity};
use gatewright_garage::api;
use serde_json::{Value, json};

/// Says what is wrong with an object; nothing of it is touched.
pub(crate) async fn refuse<K: Kind>(
    operator: &Operator,
    object: &K,
    reason: &str,
    message: &str,
) -> Result<Next> {
    let ready = json!({
        "type": api::condition::READY, "status": "False", "reason": reason, "message": message,
    });
    let mut status = with_condition(object, &ready);
    status["phase"] = json!("Failed");
    status["observedGeneration"] = json!(object.meta().generation);
    if operator.ctx.write_status(object, &status).await?.is_some() {
        let warning = (reason.to_owned(), message.to_owned());
        warn(operator, object, Some(warning)).await;
    }
    Ok(Next::Settled)
}

/// What the object says already, with this condition. Fields that cannot be known now stay: the ids of
/// keys, buckets and nodes are remembered nowhere else.
pub(crate) fn with_condition<K: Kind>(object: &K, condition: &Value) -> Value {
    let object = serde_json::to_value(object).unwrap_or_default();
    let mut status = object.get("status").cloned().unwrap_or_default();
    if !status.is_object() {
        status = json!({});
    }
    let known = status["conditions"].as_array().cloned().unwrap_or_default();
    let others = known
        .into_iter()
        .filter(|one| one["type"] != condition["type"]);
    let plain = |one: Value| {
        json!({
            "type": one["type"], "status": one["status"],
            "reason": one["reason"], "message": one["message"],
        })
    };
    let conditions: Vec<Value> = others.map(plain).chain([condition.clone()]).collect();
    status["conditions"] = Value::Array(conditions);
    status
}

/// Publishes an Event; the status says the same, so its failure is no failure.
pub(crate) async fn warn<K: gatewright_controller::Kind>(
    operator: &Operator,
    object: &K,
    warning: Option<(String, String)>,
) {
    let Some((reason, note)) = warning else {
        return;
    };
    let notice = Notice {
        severity: Severity::Warning,
        reason,
        action: "Reconcile".to_owned(),
        note,
    };
    if let Err(error) = operator.ctx.publish(object, &notice).await {
        let error = &error as &dyn std::error::Error;
        tracing::debug!(error, "an Event was not published");
    }
}
