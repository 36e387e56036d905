//! Bounds and CEL rules of GarageAdminToken.

use serde_json::json;

use super::Rules;
use crate::api::names::{PREFIX, RESERVED_LABEL_PREFIXES};

pub(in crate::api) fn admin_token() -> Rules {
    let mut rules = Rules::default();
    rules.fixed_cluster_ref("GarageAdminToken");
    rules.bound("spec.name", json!({ "minLength": 1, "maxLength": 255 }));
    rules.expiry();
    rules.bound(
        "spec.scope",
        json!({ "minItems": 1, "maxItems": 100, "x-kubernetes-list-type": "set" }),
    );
    rules.bound("spec.scope[]", json!({ "maxLength": 64 }));
    rules.rule(
        "spec.scope[]",
        "self == '*' || self.matches('^[A-Z][A-Za-z0-9]+$')",
        "scope must be names of calls of the Admin API, for example GetClusterStatus, or *",
    );
    rules.rule(
        "spec.scope",
        "size(self) == 1 || !('*' in self)",
        "scope names * and single calls: * allows them all; leave one or the other out",
    );
    rules.bound(
        "spec.secretTemplate.name",
        json!({ "minLength": 1, "maxLength": 253 }),
    );
    rules.bound("spec.secretTemplate.namespace", json!({ "maxLength": 63 }));
    rules.secret_key("spec.secretTemplate.tokenKey");
    rules.secret_key("spec.secretTemplate.endpointKey");
    rules.user_labels("spec.secretTemplate.labels", &RESERVED_LABEL_PREFIXES);
    rules.user_labels("spec.secretTemplate.annotations", &[PREFIX]);
    rules.rule(
        "spec.secretTemplate",
        "self.tokenKey != self.endpointKey",
        "tokenKey and endpointKey of secretTemplate must differ",
    );
    rules
}
