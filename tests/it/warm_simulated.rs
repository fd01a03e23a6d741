//! What the simulator says comes to pass: a worker with readers, whose requests are replayed afterwards.
//!
//! `AGREEMENT_SECONDS` says for how long readers read. In the short form chance weighs more: a few points are allowed there.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use rand::distr::{Distribution, weighted::WeightedIndex};
use rand::{SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::time::sleep_until;

use crate::harness::bus::{Bus, JOBS, persistent};
use crate::harness::sandbox;
use crate::harness::stack::Stack;
use crate::harness::worker::ask;
use crate::warm::Schedules;

const SECONDS: u64 = 60;
const KEYS: usize = 600;
const REQUESTS_PER_SECOND: f64 = 50.0;
const TTL: u64 = 12;
const EVERY: u64 = 4;
const COST_MS: u64 = 5;
/// How often readers tell what they read.
const HINTS: Duration = Duration::from_millis(250);

fn seconds() -> u64 {
    let set = std::env::var("AGREEMENT_SECONDS").ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(SECONDS)
}

/// Requests as a log has them: seconds and the key's number, a few keys far more often than most. Which ones these are changes so many times.
fn requests(seconds: u64, seed: u64, changes: usize) -> Vec<(f64, usize)> {
    let mut rng = StdRng::seed_from_u64(seed);
    let weights = (0..KEYS).map(|n| 1.0 / (n as f64 + 1.0).powf(0.8));
    let keys = WeightedIndex::new(weights).expect("weights");
    let (mut at, mut all) = (0.0, Vec::new());
    while at < seconds as f64 {
        let gap: f64 = rand::Rng::random_range(&mut rng, 1e-9..1.0);
        at -= gap.ln() / REQUESTS_PER_SECOND;
        let age = (at / seconds as f64 * (changes + 1) as f64) as usize;
        all.push((at, (keys.sample(&mut rng) + age * KEYS / 3) % KEYS));
    }
    all
}

/// The readers of one namespace: what isn't there for them they post a job for.
struct Readers {
    namespace: &'static str,
    requests: Vec<(f64, usize)>,
    bus: Bus,
    redis: u16,
    http: u16,
}

/// When each request was made, and of which key; how many found nothing, and how many of the second half.
struct Read {
    log: Vec<(f64, usize)>,
    waited: usize,
    waited_later: usize,
}

impl Read {
    /// The share of the second half that waited, in percent.
    fn later(&self, requests: usize) -> f64 {
        100.0 * self.waited_later as f64 / (requests - requests / 2) as f64
    }
}

impl Readers {
    fn job(&self, number: usize, key: usize) -> Value {
        json!({
            "job_id": format!("{}-{number}", self.namespace),
            "model": "fault",
            "namespace": self.namespace,
            "named": true,
            "ttl_seconds": TTL,
            "inputs": [{"key": format!("k{key}"), "text": format!("sleep:{COST_MS} {} {key}", self.namespace)}],
        })
    }

    async fn read(self) -> Read {
        let client =
            redis::Client::open(format!("redis://127.0.0.1:{}", self.redis)).expect("a URL");
        let mut redis = client
            .get_multiplexed_async_connection()
            .await
            .expect("Redis");
        let begun = Instant::now();
        let (mut log, mut unsaid) = (Vec::new(), Vec::new());
        let (mut waited, mut waited_later) = (0, 0);
        let mut said = Instant::now();
        for (number, &(at, key)) in self.requests.iter().enumerate() {
            sleep_until((begun + Duration::from_secs_f64(at)).into()).await;
            let name = format!("kiln:k:{}:k{key}", self.namespace);
            log.push((begun.elapsed().as_secs_f64(), key));
            let found: Option<String> = redis::cmd("GET")
                .arg(&name)
                .query_async(&mut redis)
                .await
                .expect("an answer");
            if found.is_none() {
                waited += 1;
                waited_later += usize::from(number >= self.requests.len() / 2);
                let job = self.job(number, key).to_string().into_bytes();
                self.bus.publish(JOBS, vec![(job, persistent())]).await;
            }
            unsaid.push(format!("k{key}"));
            if said.elapsed() >= HINTS {
                let hint = json!({"namespace": self.namespace, "keys": unsaid}).to_string();
                let answer = ask(self.http, "POST", "/v1/hits", &[], hint.as_bytes()).await;
                // What a busy machine doesn't take now is told with the next.
                if let Some(answer) = answer {
                    assert_eq!(answer.status, 204, "{}", answer.body);
                    unsaid.clear();
                }
                said = Instant::now();
            }
        }
        Read {
            log,
            waited,
            waited_later,
        }
    }
}

/// A budget of a schedule, and the same for the simulator.
struct Budgeted {
    namespace: &'static str,
    budget: &'static str,
    simulated: [&'static str; 4],
}

/// A twentieth of what is asked for from one run to the next, a fifth of it, and what the model does in some time.
const BUDGETS: [Budgeted; 3] = [
    Budgeted {
        namespace: "twentieth",
        budget: "inputs = 10\nrenewals = 10",
        simulated: ["--run-inputs", "10", "--run-renewals", "10"],
    },
    Budgeted {
        namespace: "fifth",
        budget: "inputs = 40\nrenewals = 40",
        simulated: ["--run-inputs", "40", "--run-renewals", "40"],
    },
    Budgeted {
        namespace: "timed",
        budget: "model_seconds = 0.1\nrenewals = 100000",
        simulated: ["--run-model-seconds", "0.1", "--run-renewals", "100000"],
    },
];

/// What the simulator says of a log: the share of requests that wait, in percent.
fn simulated(log: &[(f64, usize)], run_seconds: f64, budget: &[&str]) -> f64 {
    let lines = log.iter().fold(String::new(), |mut lines, (at, key)| {
        writeln!(lines, "{at},{key}").expect("memory");
        lines
    });
    let folder = sandbox::folder("simulated");
    fs::write(folder.join("log.csv"), lines).expect("a file");
    let number = |number: f64| number.to_string();
    let (ttl, every, cost) = (
        number(TTL as f64),
        number(EVERY as f64),
        number(COST_MS as f64),
    );
    let run_seconds = number(run_seconds);
    let output = sandbox::clean_command(env!("CARGO_BIN_EXE_kiln"), &folder)
        .args(["warm", "simulate", "log.csv", "--json", "--seen", "hints"])
        .args([
            "--ttl",
            &ttl,
            "--every",
            &every,
            "--cost",
            &cost,
            "--run-seconds",
            &run_seconds,
        ])
        .args(budget)
        .output()
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let of_heat = said
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of_heat = of_heat.into_iter().find(|line| line["policy"] == "heat");
    let of_heat = of_heat.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    100.0 * of_heat["waited_share"].as_f64().expect("a share")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_requests_wait_as_the_simulator_says() {
    let stack = Stack::shared().await;
    let schedules = Schedules::new().with_fault();
    for one in &BUDGETS {
        let heat = format!(
            "cron = \"*/{EVERY} * * * * *\"\nmodel = \"fault\"\nnamespace = \"{}\"\nttl_seconds = {TTL}\n[budget]\n{}\n[source]\nkind = \"heat\"\n",
            one.namespace, one.budget
        );
        schedules.put(one.namespace, &heat);
    }
    // Jobs come all the time beside the runs.
    let settings = schedules.worker(&stack).models(&["fault"]);
    let settings = settings.set("KILN_INTAKE__WARM_SHARE", "0.5");
    let settings = settings.allow("a run is left out");
    let worker = settings.start().await;
    let seconds = seconds();
    let readers = BUDGETS.iter().zip(1..).map(|(one, seed)| {
        let readers = Readers {
            namespace: one.namespace,
            requests: requests(seconds, seed, 0),
            bus: Bus::new(stack.amqp_url()),
            redis: stack.redis.port,
            http: worker.http_port,
        };
        readers.read()
    });
    let all = futures_util::future::join_all(readers).await;
    let allowed = if seconds >= 300 { 1.0 } else { 4.0 };
    for (read, one) in all.into_iter().zip(&BUDGETS) {
        let took = format!(
            "SELECT coalesce(1000 * avg(extract(epoch FROM finished_at - due_at)), 0)::int8 FROM warm_runs \
             WHERE schedule = '{}' AND planned > 0 AND state = 'done'",
            one.namespace
        );
        let run_seconds = stack.count(&took).await as f64 / 1e3;
        let waited = 100.0 * read.waited as f64 / read.log.len() as f64;
        let said = simulated(&read.log, run_seconds, &one.simulated);
        let nothing = simulated(
            &read.log,
            run_seconds,
            &["--run-inputs", "0", "--run-renewals", "0"],
        );
        println!(
            "{}: {waited:.2} % of {} requests waited, {said:.2} says the simulator, and {nothing:.2} without warming (a run took {run_seconds:.2} s)",
            one.namespace,
            read.log.len()
        );
        assert!(
            (waited - said).abs() <= allowed,
            "{}: {waited:.2} %, not {said:.2} %",
            one.namespace
        );
        assert!(waited < nothing, "{}: warming helps", one.namespace);
    }
    worker.stop().await;
}

/// Lists of so many keys: those that are asked for most in the whole log or, where that changes, until it does for the first time.
const LISTS: [usize; 3] = [60, 90, 140];
const RENEWALS: usize = 40;

/// A schedule with this source, and what each of a run may renew.
fn schedule(namespace: &str, source: &str) -> String {
    format!(
        "cron = \"*/{EVERY} * * * * *\"\nmodel = \"fault\"\nnamespace = \"{namespace}\"\nttl_seconds = {TTL}\n\
         [budget]\ninputs = {RENEWALS}\nrenewals = {RENEWALS}\n[source]\n{source}\n"
    )
}

/// The keys that are asked for most.
fn listed(requests: &[(f64, usize)], count: usize, namespace: &str) -> String {
    let mut counts = vec![(0, 0); KEYS];
    for (number, one) in counts.iter_mut().enumerate() {
        one.1 = number;
    }
    requests.iter().for_each(|(_, key)| counts[*key].0 += 1);
    counts.sort_by_key(|(asked, key)| (std::cmp::Reverse(*asked), *key));
    let rows = counts.iter().take(count).map(|(_, key)| {
        format!("{{ key = \"k{key}\", text = \"sleep:{COST_MS} {namespace} {key}\" }}")
    });
    let rows: Vec<String> = rows.collect();
    format!("kind = \"static\"\ninputs = [{}]", rows.join(", "))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heat_leaves_no_more_waiting_than_the_best_fixed_list_of_the_same_budget() {
    let stack = Stack::shared().await;
    let schedules = Schedules::new().with_fault();
    let seconds = seconds();
    let mut readers: Vec<(&'static str, Vec<(f64, usize)>)> = Vec::new();
    for (changes, names) in [
        (0, ["steady-heat", "steady-60", "steady-90", "steady-140"]),
        (2, ["trends-heat", "trends-60", "trends-90", "trends-140"]),
    ] {
        let requests = requests(seconds, 9, changes);
        let known = &requests[..requests.len() / (changes + 1)];
        schedules.put(names[0], &schedule(names[0], "kind = \"heat\""));
        for (name, count) in names[1..].iter().zip(LISTS) {
            schedules.put(name, &schedule(name, &listed(known, count, name)));
        }
        readers.extend(names.map(|name| (name, requests.clone())));
    }
    let settings = schedules.worker(&stack).models(&["fault"]);
    let settings = settings.set("KILN_INTAKE__WARM_SHARE", "0.5");
    let settings = settings.set("KILN_WARM__RUNS_AT_ONCE", "8");
    let worker = settings.allow("a run is left out").start().await;
    let reading = readers.iter().map(|(namespace, requests)| {
        let readers = Readers {
            namespace,
            requests: requests.clone(),
            bus: Bus::new(stack.amqp_url()),
            redis: stack.redis.port,
            http: worker.http_port,
        };
        readers.read()
    });
    let all = futures_util::future::join_all(reading).await;
    let shares: Vec<f64> = all.iter().map(|read| read.later(read.log.len())).collect();
    for ((name, _), (read, share)) in readers.iter().zip(all.iter().zip(&shares)) {
        let waited = 100.0 * read.waited as f64 / read.log.len() as f64;
        println!("{name}: {waited:.2} % waited, {share:.2} % of the second half");
    }
    let allowed = if seconds >= 300 { 0.5 } else { 4.0 };
    for shares in shares.chunks(1 + LISTS.len()) {
        let best = shares[1..].iter().copied().fold(f64::INFINITY, f64::min);
        assert!(
            shares[0] <= best + allowed,
            "{} by heat, {best} by a list",
            shares[0]
        );
    }
    assert!(shares[4] < shares[5..].iter().copied().fold(f64::INFINITY, f64::min));
    worker.stop().await;
}
