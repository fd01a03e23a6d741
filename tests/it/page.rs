//! The page at `/`, in a real browser, against a worker under load.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::browser::Browser;
use crate::harness::stack::Stack;
use crate::harness::{PATIENCE, eventually, eventually_equals, sandbox};

/// What a tile shows, as a number.
async fn tile(browser: &Browser, id: &str) -> Option<f64> {
    let text = browser.text(&format!("#{id}")).await;
    let digits = text.split(' ').next()?.replace(',', "");
    digits.parse().ok()
}

fn jobs(round: usize) -> Vec<Value> {
    (0..40)
        .map(|n| {
            let inputs: Vec<Value> = (0..4)
                .map(|i| json!({"key": format!("page:{i}"), "text": format!("nice {}", (n + i + round) % 50)}))
                .collect();
            // One in forty is nobody's.
            let model = if n == 0 { "nobody" } else { "sentiment" };
            json!({"job_id": format!("r{round}-{n}"), "model": model, "namespace": "feed", "inputs": inputs})
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_a_worker_under_load_and_steers_it() {
    let stack = Stack::shared().await;
    let folder = sandbox::folder("schedules");
    let schedule =
        "name = \"hot\"\ncron = \"0 0 1 1 *\"\nmodel = \"sentiment\"\n[source]\nkind = \"heat\"\n";
    std::fs::write(folder.join("hot.toml"), schedule).expect("a schedule");
    // At the end it loses Redis.
    let settings = stack.worker().models(&["sentiment"]).allow("redis");
    let worker = settings
        .set("KILN_WARM__DIR", &folder.display().to_string())
        .start()
        .await;
    let browser = Browser::open(1300, 1000).await;
    let stop = AtomicBool::new(false);
    let load = async {
        let mut pace = tokio::time::interval(std::time::Duration::from_millis(50));
        for round in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            pace.tick().await;
            stack.bus.publish_jobs(&jobs(round)).await;
        }
    };
    let watch = async {
        let url = format!("http://127.0.0.1:{}/", worker.http_port);
        browser.go(&url).await;
        eventually(
            "the page says that the worker is ready",
            PATIENCE,
            || async { (browser.text("#state").await == "ready").then_some(()) },
        )
        .await;
        eventually("figures of the load are shown", PATIENCE, || async {
            let jobs = tile(&browser, "t-jobs").await?;
            let p99 = tile(&browser, "t-p99").await?;
            let rate = tile(&browser, "t-hits").await?;
            let rejected = browser.text("#rejected-table").await;
            let hot = browser.text("#hot-table").await;
            let all = jobs > 0.0 && p99 > 0.0 && (0.0..=100.0).contains(&rate);
            (all && rejected.contains("unknown_model") && hot.contains("feed/page:*")).then_some(())
        })
        .await;
        browser.picture("page-light").await;

        // Every section is reached by its link, and the models and schedules are there.
        for (link, says) in [
            ("fleet", "sentiment@1.0.0"),
            ("jobs", "Find jobs"),
            ("lanes", "sentiment"),
            ("models", "sentiment"),
            ("warming", "hot"),
            ("cache", "feed"),
            ("problems", "redis answers"),
        ] {
            browser.click(&format!("nav a[href='#{link}']")).await;
            eventually("the section is in view", PATIENCE, || async {
                let script = format!("const top = document.querySelector('#{link}').getBoundingClientRect().top; return top >= 0 && top < innerHeight");
                browser.run(&script).await.as_bool().filter(|is| *is)
            })
            .await;
            eventually(&format!("{link} says {says}"), PATIENCE, || async {
                let text = browser.text(&format!("#{link}")).await;
                text.contains(says).then_some(())
            })
            .await;
        }
        let colour = "return getComputedStyle(document.body).backgroundColor";
        let before = browser.run(colour).await;
        browser.run("scrollTo({top: 0, behavior: 'instant'})").await;
        browser.click("#theme").await;
        assert_ne!(browser.run(colour).await, before);
        browser.picture("page-dark").await;
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(load, watch);

    // Once the load is over, the page's totals are those of /metrics.
    eventually("the totals agree", PATIENCE, || async {
        let all = worker.metrics().await;
        let total: f64 = all
            .iter()
            .filter(|(name, _)| name.starts_with("kiln_jobs_total{"))
            .map(|(_, value)| value)
            .sum();
        let rejected = worker
            .metric("kiln_jobs_total", &[("outcome", "rejected")])
            .await;
        let shown = (
            tile(&browser, "t-total").await?,
            tile(&browser, "t-rejected").await?,
        );
        (shown == (total, rejected) && rejected > 0.0).then_some(())
    })
    .await;

    // Pausing asks first; the keyboard is enough.
    browser
        .run("document.querySelector('#intake').focus()")
        .await;
    browser.press("\u{E007}").await;
    let open = "return document.querySelector('#ask').open";
    assert_eq!(browser.run(open).await, true);
    browser.press("\u{E00C}").await;
    assert_eq!(browser.run(open).await, false);
    assert_eq!(worker.metric("kiln_intake_paused", &[]).await, 0.0);
    browser.click("#intake").await;
    browser.click("#ask-yes").await;
    eventually_equals("the worker is paused", PATIENCE, 1.0, || async {
        worker.metric("kiln_intake_paused", &[]).await
    })
    .await;
    eventually("the page says so", PATIENCE, || async {
        (browser.text("#state").await == "paused").then_some(())
    })
    .await;
    browser.click("#intake").await;
    browser.click("#ask-yes").await;
    eventually("the page says that it goes on", PATIENCE, || async {
        (browser.text("#state").await == "ready").then_some(())
    })
    .await;
    browser.click("[data-does='pause hot']").await;
    browser.click("#ask-yes").await;
    eventually("the schedule is paused", PATIENCE, || async {
        browser
            .text("#schedules-table")
            .await
            .contains("paused")
            .then_some(())
    })
    .await;
    browser.click("[data-does='run hot']").await;
    browser.click("#ask-yes").await;
    eventually("its run is shown", PATIENCE, || async {
        browser
            .text("#schedules-table")
            .await
            .contains("done")
            .then_some(())
    })
    .await;

    // On a phone nothing sticks out; nothing came from elsewhere, and nobody complained.
    browser.resize(390, 844).await;
    eventually("the page fits a phone", PATIENCE, || async {
        let fits = "return document.documentElement.scrollWidth <= innerWidth";
        browser.run(fits).await.as_bool().filter(|is| *is)
    })
    .await;
    browser.picture("page-phone").await;
    let elsewhere = "return performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith(location.origin) && !n.startsWith('data:'))";
    assert_eq!(browser.run(elsewhere).await, json!([]));
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    accessible(&browser).await;

    stack.redis.kill();
    eventually(
        "the page says it in the worker's words",
        PATIENCE,
        || async {
            let (_, said) = worker.get("/readyz").await?;
            let said = said.trim_end().strip_prefix("degraded: ")?.to_owned();
            (browser.text("#state").await == format!("degraded – {said}")).then_some(())
        },
    )
    .await;
}

async fn says_ready(browser: &Browser) {
    eventually(
        "the page says that the worker is ready",
        PATIENCE,
        || async { (browser.text("#state").await == "ready").then_some(()) },
    )
    .await;
}

/// Holds the page to axe-core's rules in both themes.
pub(crate) async fn accessible(browser: &Browser) {
    let path = std::env::var("AXE").expect("AXE names axe-core's script: scripts/test installs it");
    let axe = std::fs::read_to_string(path).expect("axe-core");
    browser.resize(1300, 1000).await;
    for theme in ["dark", "light"] {
        browser
            .run(&format!(
                "document.documentElement.dataset.theme = {theme:?}"
            ))
            .await;
        // The page lets no foreign script in: the driver's own may run.
        let script = format!(
            "{axe}\nwindow.found = null; axe.run(document).then(r => window.found = r.violations.map(v => v.id + ': ' + v.nodes.map(n => n.html).join(' ')));"
        );
        browser.run(&script).await;
        let found = eventually("axe has looked", PATIENCE, || async {
            let found = browser.run("return window.found").await;
            found.is_array().then_some(found)
        })
        .await;
        assert_eq!(found, json!([]), "{theme}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_asks_for_a_key_and_a_worker_that_is_gone_is_told() {
    let stack = Stack::shared().await;
    let hash = hex::encode(Sha256::digest("a key of an operator"));
    let worker = stack
        .worker()
        .models(&["sentiment"])
        .set("KILN_HTTP__KEYS__OPS__SHA256", &hash)
        .set("KILN_HTTP__KEYS__OPS__SCOPES", "[read]")
        .start()
        .await;
    let browser = Browser::open(1300, 1000).await;
    browser
        .go(&format!("http://127.0.0.1:{}/", worker.http_port))
        .await;
    eventually("a key is asked for", PATIENCE, || async {
        browser
            .run("return !document.querySelector('#key-form').hidden")
            .await
            .as_bool()
            .filter(|is| *is)
    })
    .await;
    assert_eq!(browser.text("#models-table").await, "");
    browser.click("#key").await;
    browser.press("a key of an operator\u{E007}").await;
    eventually("the key opens it", PATIENCE, || async {
        browser
            .text("#models-table")
            .await
            .contains("sentiment")
            .then_some(())
    })
    .await;
    // One that may only look has nothing to act with.
    says_ready(&browser).await;
    assert_eq!(
        browser
            .run("return document.querySelector('#intake').hidden")
            .await,
        true
    );
    worker.kill();
    eventually("nobody answers any more", PATIENCE, || async {
        (browser.text("#state-word").await == "no answer").then_some(())
    })
    .await;
}
