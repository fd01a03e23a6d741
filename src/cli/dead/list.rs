//! `kiln dead list` and `kiln dead show`: what dead letters say.
//!
//! Promises to leave them in their queue, and that nothing in them moves a terminal's cursor.

use super::{DeadLetterQueue, ListArguments, ShowArguments, progress, warn_of_unseen};
use crate::{
    amqp::letter::{Letter, as_json, headers_json, properties_json},
    cli::{Exit, plain::plain},
    clock,
};
use comfy_table::{CellAlignment, Table, presets};
use lapin::{BasicProperties, types::FieldTable};
use serde_json::{Value, json};

/// Characters of a field or message that the table shows.
const SHOWN: usize = 80;

pub(super) async fn list(
    queue: &DeadLetterQueue,
    arguments: ListArguments,
) -> anyhow::Result<Exit> {
    let mut scan = queue.open(arguments.scan).await?;
    let bar = progress(&scan);
    let now = clock::now();
    let mut letters = Vec::new();
    while let Some(delivery) = scan.next().await? {
        let letter = Letter::read(&delivery.properties, delivery.data.len());
        if arguments.filter.means(&letter, now) {
            letters.push(letter);
        }
        scan.hold(delivery);
        bar.set_position(scan.seen.into());
    }
    let (seen, waiting) = (scan.seen, scan.waiting);
    scan.close().await?;
    bar.finish_and_clear();
    // What was put back earlier comes first and in any order: the queue's own order says nothing.
    letters.sort_by(|a, b| (&a.failed_at, &a.job_id).cmp(&(&b.failed_at, &b.job_id)));
    let found = letters.len();
    letters.truncate(
        arguments
            .filter
            .limit
            .and_then(|limit| limit.try_into().ok())
            .unwrap_or(usize::MAX),
    );
    if arguments.json {
        for letter in &letters {
            println!("{}", serde_json::to_string(letter)?);
        }
    } else if !letters.is_empty() {
        println!("{}", table(&letters).trim_fmt());
    }
    warn_of_unseen(seen, waiting, arguments.scan);
    if !arguments.json {
        eprintln!("{found} of {waiting} letters in `{}`", queue.name);
    }
    Ok(Exit::Ok)
}

fn table(letters: &[Letter]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_header(["TIME", "JOB ID", "CODE", "FIELD", "MESSAGE", "BYTES"]);
    for letter in letters {
        let cells = [
            &letter.failed_at,
            &letter.job_id,
            &letter.code,
            &letter.field,
            &letter.message,
        ];
        let mut row: Vec<String> = cells
            .into_iter()
            .map(|cell| shortened(cell.as_deref().filter(|c| !c.is_empty()).unwrap_or("-")))
            .collect();
        row.push(letter.bytes.to_string());
        table.add_row(row);
    }
    if let Some(bytes) = table.column_mut(5) {
        bytes.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn shortened(text: &str) -> String {
    let text = plain(text);
    if text.chars().count() <= SHOWN {
        return text;
    }
    let mut cut: String = text.chars().take(SHOWN).collect();
    cut.push('…');
    cut
}

pub(super) async fn show(
    queue: &DeadLetterQueue,
    arguments: ShowArguments,
) -> anyhow::Result<Exit> {
    let mut scan = queue.open(arguments.scan).await?;
    let bar = progress(&scan);
    let mut found = 0;
    while let Some(delivery) = scan.next().await? {
        let letter = Letter::read(&delivery.properties, delivery.data.len());
        if letter.job_id.as_deref() == Some(arguments.id.as_str()) {
            found += 1;
            let shown = if arguments.json {
                as_json(&letter, &delivery.properties, &delivery.data).to_string()
            } else {
                as_text(&letter, &delivery.properties, &delivery.data)
            };
            bar.suspend(|| println!("{shown}"));
        }
        scan.hold(delivery);
        bar.set_position(scan.seen.into());
    }
    let (seen, waiting) = (scan.seen, scan.waiting);
    scan.close().await?;
    bar.finish_and_clear();
    warn_of_unseen(seen, waiting, arguments.scan);
    if found == 0 {
        eprintln!(
            "kiln: no dead letter of job `{}` among {seen} in `{}`",
            arguments.id, queue.name
        );
        return Ok(Exit::Failed);
    }
    Ok(Exit::Ok)
}

fn as_text(letter: &Letter, properties: &BasicProperties, body: &[u8]) -> String {
    let none = FieldTable::default();
    let headers = headers_json(properties.headers().as_ref().unwrap_or(&none));
    let mut shown = String::new();
    let mut line = |name: &str, value: &Value| {
        let value = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        shown.push_str(&format!("{name:<24}{}\n", plain(&value)));
    };
    line("job", &json!(letter.job_id));
    for (name, value) in properties_json(properties) {
        line(&name, &value);
    }
    for (name, value) in headers.as_object().into_iter().flatten() {
        line(&plain(name), value);
    }
    line("bytes", &json!(letter.bytes));
    shown.push('\n');
    let text = match serde_json::from_slice::<Value>(body) {
        Ok(body) => serde_json::to_string_pretty(&body).unwrap_or_default(),
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    for row in text.split('\n') {
        shown.push_str(&plain(row));
        shown.push('\n');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::types::AMQPValue;

    fn properties() -> BasicProperties {
        let mut headers = FieldTable::default();
        headers.insert(
            "kiln-error-code".into(),
            AMQPValue::LongString("invalid".into()),
        );
        headers.insert("kiln-job-id".into(), AMQPValue::LongString("j1".into()));
        BasicProperties::default()
            .with_message_id("j1".into())
            .with_headers(headers)
    }

    #[test]
    fn a_letter_is_shown_with_its_body() {
        let properties = properties();
        let letter = Letter::read(&properties, 11);
        let shown = as_json(&letter, &properties, br#"{"inputs":1}"#);
        assert_eq!(shown["job_id"], "j1");
        assert_eq!(shown["properties"]["message_id"], "j1");
        assert_eq!(shown["headers"]["kiln-error-code"], "invalid");
        assert_eq!(shown["body"]["inputs"], 1);
        let shown = as_json(&letter, &properties, b"{\"cut");
        assert_eq!(shown["body_text"], "{\"cut");
        let text = as_text(&letter, &properties, b"{\"a\":1}\x1b");
        assert!(
            text.contains("kiln-error-code") && !text.contains('\u{1b}'),
            "{text}"
        );
    }

    #[test]
    fn the_table_cuts_what_is_long() {
        let letter = Letter {
            job_id: Some("j1".into()),
            message: Some("x".repeat(500)),
            ..Letter::default()
        };
        let text = table(&[letter]).to_string();
        assert!(text.contains("j1") && text.contains('…'), "{text}");
        assert!(
            text.lines().all(|line| line.chars().count() < 200),
            "{text}"
        );
    }
}
