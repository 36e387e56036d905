//! How long a lookup takes and what a route weighs at a million routes, in two shapes. Prints one line per shape; its
//! sum keeps the compiler from leaving the work out. May not compare with anything: times depend on the machine.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gatewright_names::{HostPattern, WildcardMode};
use gatewright_routes::{BackendProtocol, PathType, Route, RouteId, RouteTable};

/// Lookups of which each is timed by itself.
const SAMPLES: usize = 1_000_000;

fn main() {
    // `cargo test --benches` only wants to see that it starts.
    let scale = if std::env::args().any(|argument| argument == "--bench") {
        1
    } else {
        1000
    };
    shape(1_000_000 / scale, 1, scale);
    shape(1_000 / scale.min(100), 1_000 / scale.min(100), scale);
}

fn shape(hosts: usize, paths: usize, scale: usize) {
    let host = |number: usize| format!("app-{number}.team-{}.example.com", number % 97);
    let path = |number: usize| format!("/api/v{}/service-{number}", number % 3);
    let mut table: RouteTable<Arc<RouteId>> = RouteTable::new();
    let started = now();
    for h in 0..hosts {
        let routes = (0..paths).map(|p| {
            let route = route(&path(p));
            let entry = Arc::new(RouteId((h * paths + p) as u64));
            (route, entry)
        });
        table.set_host(&pattern(&host(h)), routes.collect());
    }
    let built = started.elapsed();
    let weight = table.memory_bytes() / table.len().max(1);

    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let requests: Vec<(String, String)> = (0..SAMPLES / scale)
        .map(|_| {
            (
                host(random.below(hosts)),
                format!("{}/items/42", path(random.below(paths))),
            )
        })
        .collect();
    let mut sum = 0;
    // A request that has just been read is in the processor's cache; the table is not.
    let (mut host_read, mut path_read) = (String::new(), String::new());
    let overhead = clock_overhead();
    let mut times: Vec<u64> = requests
        .iter()
        .map(|(host, path)| {
            host_read.clone_from(host);
            path_read.clone_from(path);
            let started = now();
            let found = table.lookup(black_box(&host_read), black_box(&path_read));
            let time = started.elapsed();
            sum += found.map_or(0, |id| id.0);
            nanoseconds(time.saturating_sub(overhead))
        })
        .collect();
    let mean = times.iter().sum::<u64>() / times.len().max(1) as u64;
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];

    // What an edge does for each change: publish a clone, change the original, drop the published one before.
    let mut changes: Vec<u64> = (0..1_000)
        .map(|_| {
            let published = table.clone();
            let changed = pattern(&host(random.below(hosts)));
            let routes = vec![(route("/changed"), Arc::new(RouteId(1)))];
            let started = now();
            table.set_host(&changed, routes);
            drop(published);
            nanoseconds(started.elapsed())
        })
        .collect();
    changes.sort_unstable();
    println!(
        "{hosts} hosts x {paths} paths: routes {}, built in {:.2} s, lookup mean {mean} ns, p50 {} ns, p99 {} ns (clock {} ns taken off), \
         {weight} bytes per route, change of one host p50 {} ns, p99 {} ns, sum {sum}",
        hosts * paths,
        built.as_secs_f64(),
        at(0.50),
        at(0.99),
        nanoseconds(overhead),
        changes[changes.len() / 2],
        changes[changes.len() * 99 / 100],
    );
}

fn pattern(host: &str) -> HostPattern {
    HostPattern::parse(host, WildcardMode::OneLabel).expect("the bench's hosts are valid")
}

fn route(path: &str) -> Route {
    Route {
        id: RouteId(0),
        host: None,
        path: path.to_owned(),
        path_type: PathType::Prefix,
        service: "app".to_owned(),
        namespace: "default".to_owned(),
        port: 80,
        tls: false,
        annotations: BTreeMap::new(),
        protocol: BackendProtocol::Http,
        created: 0,
        source: String::new(),
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn now() -> Instant {
    Instant::now()
}

/// The least time that reading the clock twice takes.
fn clock_overhead() -> Duration {
    (0..10_000)
        .map(|_| now().elapsed())
        .min()
        .unwrap_or_default()
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// xorshift64: the same keys in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}
