//! Conditions of a status, as values. Pure: the time is an argument, and what others say about an
//! object is never touched.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The three values of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// It is so.
    True,
    /// It is not so.
    False,
    /// It cannot be told at the moment.
    Unknown,
}

impl ConditionStatus {
    /// As the API spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

impl fmt::Display for ConditionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a condition should say; its times follow from what it said before.
///
/// Serialised it is `{type, status, reason, message}`, an element of `status.conditions`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Wanted {
    /// CamelCase: `Ready`.
    #[serde(rename = "type")]
    pub type_: String,
    /// Whether it is so.
    pub status: ConditionStatus,
    /// CamelCase, for machines; never empty.
    pub reason: String,
    /// One sentence for people.
    #[serde(default)]
    pub message: String,
}

/// The conditions to write, in the order of `desired`: one whose `status` is as before keeps its
/// `lastTransitionTime`, a new or changed one gets `now`.
///
/// Only the conditions of `desired` are in the result. Those of others stay as they are when it is
/// applied, because the list is merged by `type` (`x-kubernetes-list-type: map`).
#[must_use]
pub fn merge(
    present: &[Condition],
    desired: &[Wanted],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let merged = desired.iter().map(|wanted| {
        let before = present
            .iter()
            .find(|condition| condition.type_ == wanted.type_)
            .filter(|condition| condition.status == wanted.status.as_str())
            .map(|condition| condition.last_transition_time.0)
            // Whoever wrote it gave no time.
            .filter(|time| *time != Timestamp::UNIX_EPOCH);
        Condition {
            type_: wanted.type_.clone(),
            status: wanted.status.as_str().to_owned(),
            reason: wanted.reason.clone(),
            message: wanted.message.clone(),
            observed_generation: generation,
            last_transition_time: Time(before.unwrap_or(now)),
        }
    });
    merged.collect()
}

/// Whether a condition of `desired` is missing in `present` or says something else there; its time
/// does not count.
#[must_use]
pub fn differ(present: &[Condition], desired: &[Condition]) -> bool {
    desired.iter().any(|wanted| {
        let seen = present.iter().find(|seen| seen.type_ == wanted.type_);
        seen.is_none_or(|seen| {
            (
                &seen.status,
                &seen.reason,
                &seen.message,
                seen.observed_generation,
            ) != (
                &wanted.status,
                &wanted.reason,
                &wanted.message,
                wanted.observed_generation,
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ConditionStatus::{False, True, Unknown};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("is a time")
    }

    fn wanted(type_: &str, status: ConditionStatus, reason: &str) -> Wanted {
        Wanted {
            type_: type_.to_owned(),
            status,
            reason: reason.to_owned(),
            message: format!("{reason}."),
        }
    }

    fn condition(type_: &str, status: ConditionStatus, reason: &str, since: i64) -> Condition {
        let wanted = wanted(type_, status, reason);
        merge(&[], &[wanted], Some(3), at(since)).remove(0)
    }

    #[test]
    fn a_time_moves_only_with_the_status() {
        let present = [
            condition("Ready", False, "Waiting", 100),
            condition("Theirs", True, "Because", 50),
        ];
        for (desired, since, differs) in [
            // Nothing new.
            (wanted("Ready", False, "Waiting"), 100, false),
            // Another reason for the same.
            (wanted("Ready", False, "Refused"), 100, true),
            (wanted("Ready", True, "Ready"), 900, true),
            (wanted("Ready", Unknown, "Waiting"), 900, true),
            // A new one.
            (wanted("Healthy", True, "Quorum"), 900, true),
        ] {
            let merged = merge(&present, std::slice::from_ref(&desired), Some(3), at(900));
            assert_eq!(merged.len(), 1, "{desired:?}");
            assert_eq!(merged[0].last_transition_time.0, at(since), "{desired:?}");
            assert_eq!(differ(&present, &merged), differs, "{desired:?}");
        }
    }

    #[test]
    fn a_new_generation_is_a_difference_that_moves_no_time() {
        let present = [condition("Ready", True, "Ready", 100)];
        let merged = merge(
            &present,
            &[wanted("Ready", True, "Ready")],
            Some(4),
            at(900),
        );
        assert!(differ(&present, &merged));
        assert_eq!(merged[0].last_transition_time.0, at(100));
        assert_eq!(merged[0].observed_generation, Some(4));
    }

    #[test]
    fn a_time_that_was_never_given_is_given() {
        let present = [condition("Ready", True, "Ready", 0)];
        let merged = merge(
            &present,
            &[wanted("Ready", True, "Ready")],
            Some(3),
            at(900),
        );
        assert_eq!(merged[0].last_transition_time.0, at(900));
    }

    #[test]
    fn a_wanted_condition_is_written_as_the_api_spells_it() {
        let value = serde_json::to_value(wanted("Ready", True, "Ok")).expect("is JSON");
        assert_eq!(
            value,
            serde_json::json!({"type": "Ready", "status": "True", "reason": "Ok", "message": "Ok."})
        );
    }
}
