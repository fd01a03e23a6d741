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

/// Requests as a log has them: seconds and the key's number, a few keys far more often than most.
fn requests(seconds: u64, seed: u64) -> Vec<(f64, usize)> {
    let mut rng = StdRng::seed_from_u64(seed);
    let weights = (0..KEYS).map(|n| 1.0 / (n as f64 + 1.0).powf(0.8));
    let keys = WeightedIndex::new(weights).expect("weights");
    let (mut at, mut all) = (0.0, Vec::new());
    while at < seconds as f64 {
        let gap: f64 = rand::Rng::random_range(&mut rng, 1e-9..1.0);
        at -= gap.ln() / REQUESTS_PER_SECOND;
        all.push((at, keys.sample(&mut rng)));
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

/// When each request was made, of which key, and how many found nothing.
struct Read {
    log: Vec<(f64, usize)>,
    waited: usize,
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
        let (mut log, mut waited, mut unsaid) = (Vec::new(), 0, Vec::new());
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
                let job = self.job(number, key).to_string().into_bytes();
                self.bus.publish(JOBS, vec![(job, persistent())]).await;
            }
            unsaid.push(format!("k{key}"));
            if said.elapsed() >= HINTS {
                let hint = json!({"namespace": self.namespace, "keys": unsaid}).to_string();
                let answer = ask(self.http, "POST", "/v1/hits", &[], hint.as_bytes())
                    .await
                    .expect("an answer");
                assert_eq!(answer.status, 204, "{}", answer.body);
                unsaid.clear();
                said = Instant::now();
            }
        }
        Read { log, waited }
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
            requests: requests(seconds, seed),
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
