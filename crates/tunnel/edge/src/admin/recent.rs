//! The last errors that users or agents met, for people to look at. Bounded, and never in the way:
//! noting an error does not wait for whoever reads.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError, TryLockError};

use serde::Serialize;

use crate::clock;

/// Most errors kept.
const KEPT: usize = 100;
/// Longest host and message kept, in characters: both may come from strangers.
const LONGEST: usize = 200;

/// An error and how often it was met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct RecentError {
    /// As in `X-Gatewright-Error`, or a control error's code.
    pub(crate) code: String,
    /// Name of the cluster; empty if it concerns none.
    pub(crate) cluster: String,
    /// The host asked for; empty if there is none.
    pub(crate) host: String,
    /// For people. The latest, of errors alike in the rest.
    pub(crate) message: String,
    /// How often this code was met for this cluster and host since `first`.
    pub(crate) count: u64,
    /// Unix seconds.
    pub(crate) first: i64,
    /// Unix seconds.
    pub(crate) last: i64,
}

/// The last 100 different errors.
#[derive(Debug, Default)]
pub(crate) struct RecentErrors {
    list: Mutex<VecDeque<RecentError>>,
}

impl RecentErrors {
    /// Notes an error. Errors with the same code, cluster and host are counted as one. When another
    /// thread is at the list this moment, the error is left out: the counters have it.
    pub(crate) fn push(&self, code: &str, cluster: &str, host: &str, message: &str) {
        self.push_at(clock::unix_seconds(), code, cluster, host, message);
    }

    fn push_at(&self, now: i64, code: &str, cluster: &str, host: &str, message: &str) {
        let mut list = match self.list.try_lock() {
            Ok(list) => list,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let (host, message) = (shortened(host), shortened(message));
        let same = list.iter().rposition(|error| {
            error.code == code && error.cluster == cluster && error.host == host
        });
        let mut error = match same.and_then(|at| list.remove(at)) {
            Some(known) => known,
            None => RecentError {
                code: code.to_owned(),
                cluster: cluster.to_owned(),
                host: host.to_owned(),
                message: String::new(),
                count: 0,
                first: now,
                last: now,
            },
        };
        error.count += 1;
        error.last = now;
        message.clone_into(&mut error.message);
        if list.len() == KEPT {
            list.pop_front();
        }
        list.push_back(error);
    }

    /// The errors kept, latest first.
    #[must_use]
    pub(crate) fn list(&self) -> Vec<RecentError> {
        self.list
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .rev()
            .cloned()
            .collect()
    }
}

fn shortened(text: &str) -> &str {
    text.char_indices()
        .nth(LONGEST)
        .map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_alike_are_one_and_the_latest_comes_first() {
        let errors = RecentErrors::default();
        errors.push_at(1, "backend_refused", "demo", "a.test", "refused");
        errors.push_at(2, "unknown_host", "", "b.test", "nobody has it");
        errors.push_at(3, "backend_refused", "demo", "a.test", "refused again");
        let list = errors.list();
        assert_eq!(list.len(), 2);
        assert_eq!(
            (
                list[0].host.as_str(),
                list[0].count,
                list[0].first,
                list[0].last,
                list[0].message.as_str()
            ),
            ("a.test", 2, 1, 3, "refused again")
        );
    }

    #[test]
    fn a_flood_of_hosts_keeps_the_last_hundred() {
        let errors = RecentErrors::default();
        for host in 0..250 {
            errors.push_at(0, "unknown_host", "", &format!("{host}.test"), "");
        }
        let list = errors.list();
        assert_eq!(
            (list.len(), list[0].host.as_str(), list[99].host.as_str()),
            (100, "249.test", "150.test")
        );
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let errors = RecentErrors::default();
        errors.push_at(0, "unknown_host", "", &"é".repeat(5000), &"m".repeat(5000));
        let error = &errors.list()[0];
        assert_eq!(
            (error.host.chars().count(), error.message.len()),
            (LONGEST, LONGEST)
        );
    }
}
