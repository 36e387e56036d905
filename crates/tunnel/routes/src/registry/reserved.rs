//! Clusters' own names, and whether a cluster may have a host at all. May not know routes or claims.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use gatewright_names::{HostPattern, Hostname, WildcardMode};

use crate::id::ClusterId;
use crate::reason::RefusedReason;

/// The own names of all clusters.
#[derive(Debug, Default)]
pub(super) struct Reserved {
    owners: BTreeMap<String, BTreeSet<ClusterId>>,
    /// The same names with their labels in reverse and a dot at the end, so that all names below one are a range.
    reversed: BTreeMap<String, Hostname>,
}

impl Reserved {
    pub(super) fn add(&mut self, own_host: &Hostname, cluster: &ClusterId) {
        self.owners
            .entry(own_host.to_string())
            .or_default()
            .insert(cluster.clone());
        self.reversed.insert(reverse(own_host), own_host.clone());
    }

    pub(super) fn remove(&mut self, own_host: &Hostname, cluster: &ClusterId) {
        if let Some(owners) = self.owners.get_mut(own_host.as_str()) {
            owners.remove(cluster);
            if owners.is_empty() {
                self.owners.remove(own_host.as_str());
                self.reversed.remove(&reverse(own_host));
            }
        }
    }

    /// Whether `cluster`, to which `granted` is granted, may have `pattern` if nobody else has it.
    pub(super) fn judge(
        &self,
        cluster: &ClusterId,
        granted: &[HostPattern],
        pattern: &HostPattern,
    ) -> Result<(), RefusedReason> {
        if let Some(owners) = self.owners_at(pattern.name()) {
            return if owners.contains(cluster) {
                Ok(())
            } else {
                Err(RefusedReason::ReservedName)
            };
        }
        match pattern {
            HostPattern::Wildcard { suffix, mode }
                if self.takes_in_other(suffix, *mode, cluster) =>
            {
                Err(RefusedReason::ReservedName)
            }
            HostPattern::Exact(_) | HostPattern::Wildcard { .. } => {
                let covered = granted.iter().any(|grant| grant.covers(pattern));
                if covered {
                    Ok(())
                } else {
                    Err(RefusedReason::HostNotGranted)
                }
            }
        }
    }

    /// Whose own name `name` is or lies under; the longest counts.
    fn owners_at(&self, name: &Hostname) -> Option<&BTreeSet<ClusterId>> {
        let mut name = name.as_str();
        loop {
            if let Some(owners) = self.owners.get(name) {
                return Some(owners);
            }
            name = name.split_once('.')?.1;
        }
    }

    /// Whether the wildcard below `suffix` matches another cluster's own name or something under it.
    fn takes_in_other(&self, suffix: &Hostname, mode: WildcardMode, cluster: &ClusterId) -> bool {
        let prefix = reverse(suffix);
        let depth = suffix.labels().count() + 1;
        let below = self
            .reversed
            .range::<str, _>((Bound::Excluded(prefix.as_str()), Bound::Unbounded));
        below
            .take_while(|(reversed, _)| reversed.starts_with(&prefix))
            .any(|(_, own_host)| {
                let reached = match mode {
                    WildcardMode::OneLabel => own_host.labels().count() == depth,
                    WildcardMode::ManyLabels => true,
                };
                let others = self.owners.get(own_host.as_str());
                reached && others.is_some_and(|owners| owners.iter().any(|owner| owner != cluster))
            })
    }
}

fn reverse(name: &Hostname) -> String {
    let mut reversed = String::with_capacity(name.as_str().len() + 1);
    for label in name.labels().rev() {
        reversed.push_str(label);
        reversed.push('.');
    }
    reversed
}
