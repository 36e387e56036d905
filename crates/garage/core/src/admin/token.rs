//! Admin tokens, as the Admin API has them. It may not keep one.

use serde::{Deserialize, Serialize};

use super::read_secret;
use crate::secret::Redacted;

/// `GetAdminTokenInfo`, `UpdateAdminToken`, and one entry of `ListAdminTokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdminTokenInfo {
    /// 24 hex digits; `None` for the tokens of the configuration file.
    #[serde(default)]
    pub id: Option<String>,
    /// RFC 3339.
    #[serde(default)]
    pub created: Option<String>,
    /// For people; not unique.
    #[serde(default)]
    pub name: String,
    /// RFC 3339; `None` is never.
    #[serde(default)]
    pub expiration: Option<String>,
    /// Whether that time has come.
    #[serde(default)]
    pub expired: bool,
    /// Names of the calls that it may make, or `*`.
    #[serde(default)]
    pub scope: Vec<String>,
}

/// The body of `CreateAdminToken` and `UpdateAdminToken`: `None` keeps what there is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdminTokenChange {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration: Option<String>,
    /// Removes the expiration; not together with one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub never_expires: bool,
    /// Names of the calls that it may make, or `*`. A new token without it may make all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Vec<String>>,
}

/// `CreateAdminToken`: the only time that the token itself is told.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreatedAdminToken {
    /// `<id>.<secret>`.
    #[serde(deserialize_with = "read_secret")]
    pub secret_token: Redacted<String>,
    /// All else.
    #[serde(flatten)]
    pub info: AdminTokenInfo,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_created_token_is_read_flat_and_does_not_print() {
        let created: CreatedAdminToken = serde_json::from_value(json!({
            "secretToken": "abc.hunter2", "id": "abc", "name": "n", "scope": ["*"],
        }))
        .expect("a token");
        assert_eq!(created.info.id.as_deref(), Some("abc"));
        assert!(!format!("{created:?}").contains("hunter2"));
    }
}
