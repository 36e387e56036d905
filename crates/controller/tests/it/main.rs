//! The shared parts of controllers against a real apiserver.

mod apply;
mod crds;
mod ensure;
mod health;
mod lease;
mod runner;
mod status;
mod webhook;
mod write;

use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("is an object")
}
