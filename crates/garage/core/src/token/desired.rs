//! From a GarageAdminToken to what it asks for. May not look at other objects.

use super::Token;
use crate::admin::AdminTokenChange;
use crate::api::{GarageAdminToken, TokenSecretTemplate};
use crate::cluster::{ClusterKey, Problem};
use crate::key::Expiry;
use crate::tenant;
use std::collections::BTreeSet;

/// What one token should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// Where the object is.
    pub key: ClusterKey,
    /// Its UID, with which the token's name in Garage ends.
    pub uid: String,
    /// The object is being deleted.
    pub absent: bool,
    /// The cluster that it names.
    pub cluster: ClusterKey,
    /// Its name in Garage, without the UID.
    pub name: String,
    /// Calls that it may make.
    pub scope: BTreeSet<String>,
    /// When it ends.
    pub expiry: Expiry,
    /// Name of the Secret.
    pub secret_name: String,
    /// How the Secret looks.
    pub template: TokenSecretTemplate,
}

impl Desired {
    /// Reads the object.
    ///
    /// # Errors
    /// Everything in it that cannot be done, each with its field.
    pub fn parse(object: &GarageAdminToken) -> Result<Self, Vec<Problem>> {
        let (meta, spec) = (&object.metadata, &object.spec);
        let key = ClusterKey {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        };
        let mut problems = Vec::new();
        let expiry = Expiry::parse(
            spec.expiration.as_deref(),
            spec.never_expires,
            &mut problems,
        );
        let template = spec.secret_template.clone().unwrap_or_default();
        let mut problem = |field: &str, message: &str| {
            problems.push(Problem {
                field: field.to_owned(),
                message: message.to_owned(),
            });
        };
        if template
            .namespace
            .as_ref()
            .is_some_and(|given| !given.is_empty() && *given != key.namespace)
        {
            problem(
                "spec.secretTemplate.namespace",
                "must be the object's own namespace, or absent",
            );
        }
        if spec.scope.is_empty() {
            problem(
                "spec.scope",
                "needs at least one call of the Admin API, or * for all",
            );
        }
        let desired = Self {
            uid: meta.uid.clone().unwrap_or_default(),
            absent: meta.deletion_timestamp.is_some(),
            cluster: tenant::target(&spec.cluster_ref, &key.namespace),
            name: spec.name.clone().unwrap_or_else(|| key.name.clone()),
            scope: spec.scope.iter().cloned().collect(),
            expiry,
            secret_name: template.name.clone().unwrap_or_else(|| key.name.clone()),
            template,
            key,
        };
        // What goes is cleaned up by what is left of it, however wrong its fields are.
        if problems.is_empty() || desired.absent {
            Ok(desired)
        } else {
            Err(problems)
        }
    }

    /// The token's name in Garage.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{} ({})", self.name, self.uid)
    }

    /// Whether a token of this name is of this object.
    #[must_use]
    pub fn is_ours(&self, name: &str) -> bool {
        name.ends_with(&format!(" ({})", self.uid))
    }

    /// What to tell Garage, about a new token or about one that is there.
    pub(super) fn change(&self, present: Option<&Token>) -> AdminTokenChange {
        let (expiration, never_expires) = self
            .expiry
            .change(present.and_then(|token| token.expiration));
        let name = self.full_name();
        let scope: Vec<String> = self.scope.iter().cloned().collect();
        AdminTokenChange {
            name: present
                .is_none_or(|token| token.name != name)
                .then_some(name),
            expiration,
            never_expires: never_expires && present.is_some(),
            scope: present
                .is_none_or(|token| token.scope != self.scope)
                .then_some(scope),
        }
    }
}
