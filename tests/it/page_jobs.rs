//! Finding things on the page, in a real browser: jobs by filters, one with its results, a key, a namespace; and the dead letters, which are steered there.

use serde_json::json;

use crate::harness::browser::Browser;
use crate::harness::bus::DEAD;
use crate::harness::stack::Stack;
use crate::harness::{PATIENCE, eventually};
use crate::page::accessible;
use crate::page_fits::fits;

pub(crate) async fn says(browser: &Browser, selector: &str, words: &str) {
    eventually(&format!("{selector} says {words}"), PATIENCE, || async {
        browser.text(selector).await.contains(words).then_some(())
    })
    .await;
}

/// Clicks on what is brought to the middle first: the page's head covers what is under it.
pub(crate) async fn click(browser: &Browser, selector: &str) {
    let bring =
        "document.querySelector(SELECTOR)?.scrollIntoView({block: 'center', inline: 'center'})";
    browser
        .run(&bring.replace("SELECTOR", &format!("{selector:?}")))
        .await;
    browser.click(selector).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_found_on_the_page_and_shown_with_its_inputs() {
    let stack = Stack::shared().await;
    let worker = stack.worker().models(&["sentiment"]).start().await;
    let jobs: Vec<_> = (0..120)
        .map(|n| {
            let model = if n % 40 == 0 { "nobody" } else { "sentiment" };
            let inputs = json!([{"key": format!("item:{n}"), "text": format!("a <b>fine</b> text {n}")}]);
            json!({"job_id": format!("order-{n:03}"), "model": model, "namespace": "shop", "named": true, "inputs": inputs})
        })
        .collect();
    stack.bus.publish_jobs(&jobs).await;
    stack.wait_for_rows(120).await;
    let browser = Browser::open(1280, 900).await;
    browser
        .go(&format!("http://127.0.0.1:{}/#jobs", worker.http_port))
        .await;
    click(&browser, "#jobs-form button").await;
    says(&browser, "#jobs-said", "50 jobs on this page").await;
    click(&browser, "#jobs-older").await;
    eventually("the pages come to an end", PATIENCE, || async {
        if browser.text("#jobs-said").await.contains("that is all") {
            return Some(());
        }
        browser
            .run("document.querySelector('#jobs-older').click()")
            .await;
        None
    })
    .await;
    // Rejected ones alone, by the keyboard.
    browser
        .run("document.querySelector('#jobs-form [name=code]').value = 'unknown_model'")
        .await;
    browser
        .run("document.querySelector('#jobs-form button').focus()")
        .await;
    browser.press("\u{E007}").await;
    says(&browser, "#jobs-said", "3 jobs on this page").await;
    click(&browser, "[data-does='job order-040']").await;
    says(&browser, "#job-facts", "unknown_model").await;
    // One that is there, with its text, which stays text.
    browser
        .run("document.querySelector('#jobs-form').reset()")
        .await;
    browser
        .run("document.querySelector('#jobs-form [name=id_prefix]').value = 'order-00'")
        .await;
    click(&browser, "#jobs-form button").await;
    says(&browser, "#jobs-table", "order-009").await;
    click(&browser, "[data-does='job order-007']").await;
    says(&browser, "#job-table", "a <b>fine</b> text 7").await;
    assert_eq!(browser.text("#job-title").await, "Job order-007");
    fits(&browser, "jobs").await;
    accessible(&browser).await;
    click(&browser, "#job-close").await;
    browser
        .run("document.querySelector('#jobs-form [name=namespace]').value = 'No Name'")
        .await;
    click(&browser, "#jobs-form button").await;
    says(&browser, "#jobs-said", "expected").await;
    assert_eq!(
        browser
            .run("return document.querySelector('#jobs-said').className")
            .await,
        "note wrong"
    );
    let complaints = browser.complaints().await;
    let unexpected: Vec<&String> = complaints
        .iter()
        .filter(|said| !said.contains("400"))
        .collect();
    assert_eq!(unexpected, Vec::<&String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_field_finds_a_job_a_namespace_and_a_key() {
    let stack = Stack::shared().await;
    let worker = stack.worker().models(&["sentiment"]).start().await;
    let job = json!({"job_id": "order-1", "model": "sentiment", "namespace": "shop", "named": true, "inputs": [{"key": "item:1", "text": "so fine"}]});
    stack.bus.answer(&job).await;
    let browser = Browser::open(1280, 900).await;
    browser
        .go(&format!("http://127.0.0.1:{}/", worker.http_port))
        .await;
    let search = async |text: &str, says_where: &str, words: &str| {
        browser
            .run(&format!(
                "document.querySelector('#search-text').value = {text:?}"
            ))
            .await;
        click(&browser, "#search button").await;
        says(&browser, says_where, words).await;
    };
    search("order-1", "#job-title", "Job order-1").await;
    search("shop", "#jobs-said", "1 jobs on this page").await;
    search("shop item:1", "#found-title", "Key item:1 in shop").await;
    says(&browser, "#found-facts", "so fine").await;
    says(&browser, "#past-table", "order-1").await;
    fits(&browser, "key").await;
    accessible(&browser).await;
    search("item:1", "#found-title", "Key item:1 in shop").await;
    // From the key to its job.
    click(&browser, "#found [data-does='job order-1']").await;
    says(&browser, "#job-table", "so fine").await;
    search("order", "#jobs-table", "order-1").await;
    search(
        "<i>nobody</i>",
        "#jobs-said",
        "Nothing is known of <i>nobody</i>",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_looked_at_and_posted_again_on_the_page() {
    let stack = Stack::shared().await;
    let early = stack.worker().start().await;
    let job = |n: usize| json!({"job_id": format!("early-{n}"), "model": "sentiment", "inputs": [{"text": format!("too early {n}")}]});
    stack.bus.publish_jobs(&[job(1), job(2), job(3)]).await;
    eventually("letters", PATIENCE, || async {
        (stack.bus.waiting(DEAD).await == Some(3)).then_some(())
    })
    .await;
    early.stop().await;
    let worker = stack.worker().models(&["fault", "sentiment"]).start().await;
    let browser = Browser::open(1280, 900).await;
    browser
        .go(&format!("http://127.0.0.1:{}/#dead", worker.http_port))
        .await;
    says(&browser, "#state", "ready").await;
    click(&browser, "#dead-form button").await;
    says(&browser, "#dead-said", "3 letters in the queue").await;
    says(&browser, "#groups-table", "unknown_model").await;
    click(&browser, "[data-does='letter early-2']").await;
    says(&browser, "#letter-body", "too early 2").await;
    says(&browser, "#letter-facts", "kiln-failed-at").await;
    fits(&browser, "dead").await;
    accessible(&browser).await;
    // One is deleted; it asks first.
    click(&browser, "[data-does='Purge the letter of job early-2']").await;
    browser.press("\u{E00C}").await;
    assert_eq!(stack.bus.waiting(DEAD).await, Some(3));
    click(&browser, "[data-does='Purge the letter of job early-2']").await;
    click(&browser, "#ask-yes").await;
    says(&browser, "#dead-done", "Deleted: 1").await;
    // The others, as a group, are posted again, and end well.
    click(
        &browser,
        "[data-does='Replay 2 letters with code unknown_model of model sentiment']",
    )
    .await;
    click(&browser, "#ask-yes").await;
    says(&browser, "#dead-done", "Posted again: 2").await;
    says(&browser, "#dead-said", "0 letters in the queue").await;
    eventually("it is done after all", PATIENCE, || async {
        click(&browser, "[data-does='after early-1']").await;
        browser
            .text("#job-facts")
            .await
            .contains("ok")
            .then_some(())
    })
    .await;
    says(
        &browser,
        "#actions-table",
        "code unknown_model, model sentiment: 2 letters",
    )
    .await;
}
