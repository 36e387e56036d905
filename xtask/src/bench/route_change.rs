//! `bench route-change`: how long after a change of an Ingress file the edge serves it, with an
//! edge and an agent of 1,000 routes. It may not read anything but the edge's answers to users.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;

use super::gatewright::{self, Site};
use super::peers::{Ground, Peer};
use super::process::Group;
use super::{Common, http, report};
use crate::stopwatch;

/// `cargo xtask bench route-change`
#[derive(Parser)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    /// How many routes there are, each an Ingress in a file of its own
    #[arg(long, default_value_t = 1_000)]
    routes: usize,
    /// How many changes are measured, one after the other
    #[arg(long, default_value_t = 200)]
    changes: usize,
}

/// How long a change may take before the measurement gives up.
const LIMIT: Duration = Duration::from_secs(10);

/// The pause between two questions to the edge: short against what is measured, and long enough
/// that asking does not take the cores away from those who are asked.
const PAUSE: Duration = Duration::from_millis(1);

pub(crate) fn run(args: &Args) -> Result<()> {
    anyhow::ensure!(args.routes > 0, "--routes has to be at least 1");
    let binary = args.common.gatewright()?;
    let out = args.common.out().join("route-change");
    let ground = Ground::prepare(&out, args.common.first_port, Some(binary))?;
    let work = ground.fresh_work(Peer::Gatewright.name())?;
    let sites: Vec<Site> = (0..args.routes).map(|n| site(n, 0)).collect();
    gatewright::write_manifests(&ground, &work, &sites)?;
    let port = args.common.first_port + 10;
    let mut group = Group::default();
    let start = stopwatch::now();
    gatewright::start(&ground, &mut group, &work, port)?;
    // The last one written is there: so are all, because the first state arrives as one.
    wait_until_served(&mut group, port, &site(args.routes - 1, 0), start)?;
    let all_there = start.elapsed();

    let mut took = Vec::with_capacity(args.changes);
    for change in 1..=args.changes {
        // Spread over the routes by a step that has no divisor in common with round numbers.
        let changed = site(change * 7_919 % args.routes, change);
        let start = stopwatch::now();
        gatewright::write_site(&work, &changed)?;
        wait_until_served(&mut group, port, &changed, start)?;
        took.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let rss = group.rss_mib();
    fs::write(out.join("raw.json"), serde_json::to_string(&took)?)?;
    let _ = fs::remove_dir_all(out.join("www"));
    took.sort_by(f64::total_cmp);

    let ms = |value: Option<f64>| value.map_or("–".to_owned(), |ms| report::number(ms, 1));
    let row = vec![
        args.routes.to_string(),
        args.changes.to_string(),
        ms(report::percentile(&took, 50.0)),
        ms(report::percentile(&took, 99.0)),
        ms(took.last().copied()),
        report::number(all_there.as_secs_f64() * 1e3, 0),
        report::number(rss, 0),
    ];
    let titles = [
        "routes",
        "changes",
        "p50 ms",
        "p99 ms",
        "most ms",
        "all routes after start, ms",
        "RSS MiB, edge + agent",
    ];
    let text = format!(
        "{}\nFrom the moment a changed Ingress file is moved into the agent's directory until a user's \
         request for its new path is answered by the backend. Goal: p99 < 250 ms.\n\n{}",
        report::preamble(&report::command_line())?,
        report::table(&titles, &[row])
    );
    report::publish("route-change", &text, args.common.save)
}

/// The `number`th Ingress after its `version`th change: the path is what changes.
fn site(number: usize, version: usize) -> Site {
    Site {
        name: format!("site-{number:05}"),
        host: format!("site-{number:05}.bench.test"),
        path: format!("/changed/{version}"),
    }
}

/// Asks for the site, on one connection as long as the edge keeps it, until the origin answers.
fn wait_until_served(group: &mut Group, port: u16, site: &Site, start: Instant) -> Result<()> {
    let mut connection: Option<http::Connection> = None;
    let mut last = String::new();
    while start.elapsed() < LIMIT {
        match ask(&mut connection, port, site) {
            Ok(200) => return Ok(()),
            Ok(status) => last = format!("status {status}"),
            Err(error) => {
                last = format!("{error:#}");
                connection = None;
                group.check()?;
            }
        }
        std::thread::sleep(PAUSE);
    }
    anyhow::bail!(
        "{}{} is not served after 10 s ({last})",
        site.host,
        site.path
    )
}

fn ask(connection: &mut Option<http::Connection>, port: u16, site: &Site) -> Result<u16> {
    if connection.as_ref().is_none_or(http::Connection::is_closing) {
        *connection = Some(http::Connection::open(port, LIMIT)?);
    }
    let open = connection.as_mut().context("no connection")?;
    Ok(open.get(&site.host, &site.path)?.status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn changes_are_spread_over_the_routes_and_each_has_a_new_path() {
        let sites: Vec<Site> = (1..=200).map(|c| site(c * 7_919 % 1_000, c)).collect();
        let hosts: BTreeSet<&str> = sites.iter().map(|s| s.host.as_str()).collect();
        let paths: BTreeSet<&str> = sites.iter().map(|s| s.path.as_str()).collect();
        assert_eq!((hosts.len(), paths.len()), (200, 200));
    }
}
