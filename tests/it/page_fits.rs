//! Whether the page fits: every section with all that opens in it, at three widths, in both themes, of a fleet of three; and who has no mouse.

use serde_json::{Value, json};

use crate::harness::browser::Browser;
use crate::harness::stack::Stack;
use crate::harness::{PATIENCE, eventually};
use crate::models::Shelf;
use crate::page::accessible;
use crate::page_jobs::{click, says};
use crate::timings::AN_HOUR;
use crate::warm::{Schedules, on_request, words};

/// Widths at which the page is looked at: a phone, a tablet, a desk.
const WIDTHS: [u32; 3] = [390, 768, 1280];
const SECTIONS: [&str; 10] = [
    "overview", "slow", "fleet", "jobs", "dead", "lanes", "models", "warming", "cache", "problems",
];
const ENTER: &str = "\u{E007}";
const ESCAPE: &str = "\u{E00C}";

/// What doesn't fit: a page wider than the window, what sticks out beside a table that scrolls in itself, controls that are too small to be hit,
/// and on a phone more than one section, or a long scroll.
const UNFIT: &str = r#"
const narrow = innerWidth <= 640, said = [];
if (document.documentElement.scrollWidth > innerWidth) said.push(`the page is ${document.documentElement.scrollWidth} wide`);
if (narrow && document.documentElement.scrollHeight > 4000) said.push(`the page is ${document.documentElement.scrollHeight} tall`);
const sections = [...document.querySelectorAll("main > section")].filter((one) => one.checkVisibility());
if (narrow && sections.length !== 1) said.push(`${sections.length} sections at once`);
for (const one of document.querySelectorAll("body *")) {
  if (!one.checkVisibility() || one.closest(".scroll > *, .skip, pre > *, .uplot")) continue;
  const { left, right, width } = one.getBoundingClientRect();
  if (width && (left < -1 || right > innerWidth + 1)) said.push(`${one.tagName} ${one.id} sticks out`);
}
for (const one of document.querySelectorAll("button, nav a, input, select")) {
  if (!one.checkVisibility()) continue;
  const { height } = (one.closest(".range label") ?? one).getBoundingClientRect();
  if (height < (narrow ? 43.9 : 23.9)) said.push(`${one.tagName} ${one.textContent} is ${height} high`);
}
return said.slice(0, 10);
"#;

async fn fits_in(browser: &Browser, what: &str) {
    let mut said = Value::Null;
    for _ in 0..40 {
        said = browser.run(UNFIT).await;
        if said == json!([]) {
            return;
        }
        // Charts follow the window a moment later.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("{what}: {said}");
}

async fn theme(browser: &Browser, theme: &str) {
    let set = format!("document.documentElement.dataset.theme = {theme:?}");
    browser.run(&set).await;
}

/// Nothing sticks out at any width, in both themes; keeps pictures.
pub(crate) async fn fits(browser: &Browser, name: &str) {
    for one in ["light", "dark"] {
        theme(browser, one).await;
        for width in WIDTHS {
            browser.resize(width, 900).await;
            fits_in(browser, &format!("{name} at {width}, {one}")).await;
            browser.picture(&format!("{name}-{width}-{one}")).await;
        }
    }
    browser.resize(1280, 900).await;
}

async fn focused(browser: &Browser) -> Value {
    let script = "const one = document.activeElement; return one.dataset.does ?? one.id";
    browser.run(script).await
}

/// Opens all that opens in the sections, by the keyboard where it can be; Esc closes it, and what opened it has the focus again.
async fn open_all(browser: &Browser) {
    let enter = async |selector: &str| {
        let script = format!("document.querySelector({selector:?}).focus()");
        browser.run(&script).await;
        browser.press(ENTER).await;
    };
    for (link, ask, opener, title, close_again) in [
        (
            "jobs",
            "#jobs-form button",
            "job fine-1",
            "#job-title",
            "job-detail",
        ),
        (
            "dead",
            "#dead-form button",
            "letter lost-1",
            "#letter-title",
            "letter",
        ),
        (
            "models",
            "",
            "compare sentiment@1.0.0",
            "#shift-title",
            "shift",
        ),
        ("warming", "", "history words", "#runs-title", "runs"),
        ("warming", "", "plan words", "#plan-title", "plan"),
    ] {
        browser.run(&format!("location.hash = {link:?}")).await;
        if !ask.is_empty() {
            enter(ask).await;
        }
        let button = format!("[data-does='{opener}']");
        eventually(&format!("{opener} is there"), PATIENCE, || async {
            let script = format!("return Boolean(document.querySelector({button:?}))");
            browser.run(&script).await.as_bool().filter(|is| *is)
        })
        .await;
        for closes in [true, false] {
            enter(&button).await;
            eventually(&format!("{opener} has the focus"), PATIENCE, || async {
                (focused(browser).await == close_again && !browser.text(title).await.is_empty())
                    .then_some(())
            })
            .await;
            if closes {
                browser.press(ESCAPE).await;
                assert_eq!(focused(browser).await, opener, "closed by Esc");
            }
        }
    }
    browser
        .run("document.querySelector('#search-text').value = 'shop item:1'")
        .await;
    click(browser, "#search button").await;
    says(browser, "#found-title", "Key item:1 in shop").await;
    click(browser, "[data-does='job fine-1']").await;
    says(browser, "#job-title", "Job fine-1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_section_of_a_fleet_of_three_fits_a_phone_a_tablet_and_a_desk() {
    let stack = Stack::shared().await;
    let shelf = Shelf::with(&["1.0.0", "2.0.0"]);
    let schedules = Schedules::new();
    schedules.put(
        "words",
        &format!("{}ttl_seconds = 86400\n{}", on_request(), words(30)),
    );
    schedules.put("broken", "cron = \"whenever\"\n");
    let mut workers = Vec::new();
    for _ in 0..3 {
        let settings = schedules.worker(&stack).expect_trouble();
        let settings = settings.set("KILN_MODELS_DIR", shelf.path());
        workers.push(settings.start().await);
    }
    let job = |id: String, model: &str, n: usize| json!({"job_id": id, "model": model, "namespace": "shop", "named": true, "inputs": [{"key": format!("item:{n}"), "text": format!("so fine, and number {n}")}]});
    let mut jobs: Vec<Value> = (0..45)
        .map(|n| job(format!("fine-{n}"), "sentiment", n))
        .collect();
    jobs.extend((0..3).map(|n| job(format!("lost-{n}"), "nobody", n)));
    stack.bus.publish_jobs(&jobs).await;
    stack.wait_for_rows(48).await;
    stack.execute(AN_HOUR).await;
    let url = format!("http://127.0.0.1:{}/", workers[0].http_port);
    let browser = Browser::open(1280, 900).await;
    browser.go(&url).await;
    says(&browser, "#fleet-sum", "3 workers").await;
    says(&browser, "#slow-said", "The p99 of jobs rose from").await;
    says(&browser, "#schedule-problems", "broken").await;
    let motion = "return getComputedStyle(document.documentElement).scrollBehavior";
    assert_eq!(browser.run(motion).await, "auto", "reduced motion");
    open_all(&browser).await;
    for width in WIDTHS {
        browser.resize(width, 844).await;
        for one in ["light", "dark"] {
            theme(&browser, one).await;
            for section in SECTIONS {
                browser.run(&format!("location.hash = {section:?}")).await;
                fits_in(&browser, &format!("{section} at {width}, {one}")).await;
                browser
                    .picture(&format!("fleet-{section}-{width}-{one}"))
                    .await;
            }
        }
    }
    accessible(&browser).await;

    // Every time is in UTC by the switch, and a point of the chart says its value with the unit.
    click(&browser, "#zone").await;
    let others = "return [...document.querySelectorAll('main time')].filter((one) => !one.title.endsWith(' UTC')).length";
    assert_eq!(browser.run(others).await, 0);
    assert_eq!(browser.text("#jobs-form .zone").await, "(UTC)");
    browser.run("slowPlot.setCursor({left: 5, top: 5})").await;
    says(&browser, "#c-slow-now", "ms").await;
    // What was acted on is gone: what that came to has the focus.
    click(&browser, "[data-does='Purge the letter of job lost-1']").await;
    click(&browser, "#ask-yes").await;
    says(&browser, "#dead-done", "Deleted: 1").await;
    eventually("the result has the focus", PATIENCE, || async {
        (focused(&browser).await == "dead-done").then_some(())
    })
    .await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}
