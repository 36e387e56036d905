//! `bench operator`: memory, CPU and calls of `gatewright operator` with many Garage clusters that are as
//! asked, before a real apiserver. Pods and Garage are played: what they cost is not the operator's.

mod client;
#[cfg(test)]
mod contract;
mod control;
mod farm;
mod garage;
mod kubelet;
mod measure;
mod metrics;
mod pods;

use std::fs;

use anyhow::{Context as _, Result};
use clap::Parser;

use self::measure::Figures;
use super::{Common, report};

/// `cargo xtask bench operator`
#[derive(Parser)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    /// How many clusters there are, half of them storage clusters and half gateway clusters; one
    /// measurement for each number
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1_000])]
    clusters: Vec<usize>,
    /// How long the operator is watched at rest
    #[arg(long, default_value_t = 120)]
    seconds: u64,
}

/// How many clusters the goal of memory is about.
const SMALL: usize = 100;
/// How many clusters the goal of CPU time is about.
const LARGE: usize = 1_000;

pub(crate) fn run(args: &Args) -> Result<()> {
    for clusters in &args.clusters {
        let even = *clusters > 0 && clusters.is_multiple_of(2) && *clusters <= 10_000;
        anyhow::ensure!(even, "--clusters has to be even, at most 10000");
    }
    anyhow::ensure!(
        args.seconds >= 60,
        "--seconds has to be at least 60: a round takes that long"
    );
    let binary = args.common.gatewright()?;
    let out = std::path::absolute(args.common.out().join("operator"))?;
    let mut all = Vec::new();
    for clusters in &args.clusters {
        let dir = out.join(clusters.to_string());
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let figures = measure::measure(&measure::Setup {
            binary: binary.clone(),
            dir: dir.clone(),
            first_port: args.common.first_port + 60,
            clusters: *clusters,
            seconds: args.seconds,
        })
        .with_context(|| format!("{clusters} clusters (logs are in {})", dir.display()))?;
        eprintln!("{figures:#?}");
        // Millions of keys of etcd; the logs stay.
        let _ = fs::remove_dir_all(dir.join("data"));
        all.push(figures);
    }
    let text = format!(
        "{}\nHalf of the clusters are storage clusters of 3 nodes, half gateway clusters of 2 pods, one of \
         each storage cluster. etcd and kube-apiserver are real; pods and Garage's Admin API are played. \
         The operator has made everything, is stopped and started again: the start is until every \
         cluster was reconciled, at rest are the {} s after that.\n\n{}\n{}",
        report::preamble(&report::command_line())?,
        args.seconds,
        report::table(&TITLES, &all.iter().map(row).collect::<Vec<_>>()),
        report::table(
            &["the operator", "goal", "measured", "reached"],
            &goals(&all)
        ),
    );
    report::publish("operator", &text, args.common.save)
}

const TITLES: [&str; 11] = [
    "clusters",
    "pods",
    "RSS after making them, MB",
    "RSS at rest, MB",
    "peak RSS, MB",
    "start, s",
    "start, CPU s",
    "CPU s per round of all",
    "API reads per reconciliation",
    "writes at rest (own count, apiserver's)",
    "Admin API calls per cluster per 30 s, mean (most)",
];

fn row(figures: &Figures) -> Vec<String> {
    let number = report::number;
    vec![
        number(figures.clusters as f64, 0),
        number(figures.pods as f64, 0),
        number(figures.rss_after_making, 1),
        number(figures.rss_at_rest, 1),
        number(figures.peak, 1),
        number(figures.start_seconds, 1),
        number(figures.start_cpu, 2),
        number(figures.round_cpu(), 2),
        number(figures.reads_per_reconciliation(), 1),
        format!("{}, {}", figures.own_writes, figures.seen_writes),
        format!(
            "{} ({})",
            number(figures.calls_per_cluster(), 2),
            number(figures.most_calls_per_cluster(), 2)
        ),
    ]
}

/// Each goal that one of the measurements is about.
fn goals(all: &[Figures]) -> Vec<Vec<String>> {
    let goal = |what: String, goal: &str, measured: String, reached: bool| {
        vec![
            what,
            goal.to_owned(),
            measured,
            if reached { "yes" } else { "no" }.to_owned(),
        ]
    };
    let mut rows = Vec::new();
    for one in all {
        let n = report::number(one.clusters as f64, 0);
        if one.clusters == SMALL {
            let most = one.rss_after_making.max(one.rss_at_rest);
            let shown = report::number(most, 1);
            rows.push(goal(
                format!("RSS with {n} clusters, MB"),
                "≤ 40",
                shown,
                most <= 40.0,
            ));
        }
        if one.clusters == LARGE {
            for (what, cpu) in [
                ("at the start", one.start_cpu),
                ("at rest", one.round_cpu()),
            ] {
                let what = format!("CPU s to reconcile {n} clusters once, {what}");
                rows.push(goal(what, "≤ 10", report::number(cpu, 2), cpu <= 10.0));
            }
        }
        let writes = one.own_writes.max(one.seen_writes);
        let what = format!("writes to the apiserver at rest, {n} clusters");
        rows.push(goal(what, "0", writes.to_string(), writes == 0));
        let most = one.most_calls_per_cluster();
        let what = format!("Admin API calls per cluster per 30 s at rest, {n} clusters");
        rows.push(goal(what, "≤ 1", report::number(most, 2), most <= 1.0));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(clusters: usize) -> Figures {
        Figures {
            clusters,
            rss_after_making: 39.0,
            rss_at_rest: 40.0,
            start_cpu: 9.0,
            rest_seconds: 60.0,
            rest_reconciliations: 1_000,
            rest_cpu: 10.0,
            calls: 2 * clusters as u64,
            most_calls: 4,
            ..Figures::default()
        }
    }

    fn verdicts(all: &[Figures]) -> Vec<String> {
        goals(all)
            .into_iter()
            .filter_map(|row| row.last().cloned())
            .collect()
    }

    #[test]
    fn each_size_has_its_goals() {
        assert_eq!(verdicts(&[figures(100)]), ["yes"; 3]);
        assert_eq!(verdicts(&[figures(1_000)]), ["yes"; 4]);
        assert_eq!(verdicts(&[figures(20)]), ["yes"; 2]);
    }

    #[test]
    fn a_missed_goal_is_told() {
        let fat = Figures {
            rss_after_making: 40.1,
            ..figures(100)
        };
        let writing = Figures {
            seen_writes: 1,
            ..figures(100)
        };
        let asking = Figures {
            most_calls: 5,
            ..figures(100)
        };
        assert_eq!(verdicts(&[fat]), ["no", "yes", "yes"]);
        assert_eq!(verdicts(&[writing]), ["yes", "no", "yes"]);
        assert_eq!(verdicts(&[asking]), ["yes", "yes", "no"]);
        let slow = Figures {
            start_cpu: 10.5,
            rest_cpu: 11.0,
            ..figures(1_000)
        };
        assert_eq!(verdicts(&[slow]), ["no", "no", "yes", "yes"]);
    }
}
