//! The bytes of posted jobs: a run that is taken up again posts its pieces again, and a worker compares their hashes.

use super::*;
use crate::warm::plan::Candidate;
use crate::warm::schedule;
use std::path::Path;

fn schedule(keep: &str) -> Schedule {
    let text = format!(
        "name = \"trending\"\ncron = \"*/5 * * * *\"\nmodel = \"sentiment@2\"\nnamespace = \"feed\"\n{keep}\n\
         [source]\nkind = \"static\"\ninputs = [{{ text = \"one\" }}]\n"
    );
    schedule::parse(Path::new("schedules/x.toml"), &text).expect("a schedule")
}

fn planned(key: Option<&str>, rows: Vec<(Option<&str>, RowContent)>) -> PlannedEntry {
    let rows: Vec<Row> = rows
        .into_iter()
        .map(|(key, content)| Row {
            key: key.map(str::to_owned),
            group: None,
            content,
            rate: Some(2.0),
        })
        .collect();
    PlannedEntry {
        key: key.map(str::to_owned),
        candidate: Candidate {
            inputs: rows.len(),
            rate: None,
            ttl: 1.0,
            cost: 1.0,
            wait: 1.0,
            ..Candidate::default()
        },
        rows,
        left: None,
    }
}

fn bodies(schedule: &Schedule, chosen: &[PlannedEntry], size: usize) -> Vec<(i32, String)> {
    pieces(schedule, chosen, 600, size)
        .into_iter()
        .map(|(count, body)| (count, String::from_utf8(body).expect("UTF-8")))
        .collect()
}

fn text(text: &str, pair: Option<&str>) -> RowContent {
    RowContent::Text {
        text: text.into(),
        pair: pair.map(str::to_owned),
    }
}

#[test]
fn the_bytes_of_pieces_never_change() {
    let chosen = [
        planned(Some("a"), vec![(Some("a"), text("\"o\"ne ☃\n\u{7}", None))]),
        planned(None, vec![(None, text("q", Some("p")))]),
        planned(
            Some("c"),
            vec![(Some("c"), RowContent::Features(vec![0.1, -2.0, 1e20]))],
        ),
    ];
    assert_eq!(
        bodies(&schedule(""), &chosen, 2),
        [
            (2, r#"{"model":"sentiment@2","namespace":"feed","inputs":[{"key":"a","text":"\"o\"ne ☃\n\u0007"},{"text":"q","text_pair":"p"}],"named":true,"ttl_seconds":600,"on_error":"skip"}"#.to_owned()),
            (1, r#"{"model":"sentiment@2","namespace":"feed","inputs":[{"key":"c","features":[0.1,-2.0,1e+20]}],"named":true,"ttl_seconds":600,"on_error":"skip"}"#.to_owned()),
        ]
    );
    assert_eq!(
        bodies(&schedule("keep = \"scores\""), &chosen[1..2], 2),
        [(1, r#"{"model":"sentiment@2","namespace":"feed","inputs":[{"text":"q","text_pair":"p"}],"ttl_seconds":600,"on_error":"skip"}"#.to_owned())]
    );
    let ranking = [planned(
        Some("best"),
        vec![(Some("a"), text("x", None)), (Some("b"), text("y", None))],
    )];
    assert_eq!(
        bodies(&schedule("keep = \"rank\"\nrank = { key = \"best\", top = 1 }"), &ranking, 2),
        [(2, r#"{"model":"sentiment@2","namespace":"feed","inputs":[{"key":"a","text":"x"},{"key":"b","text":"y"}],"rank":{"key":"best","top":1},"ttl_seconds":600,"on_error":"skip"}"#.to_owned())]
    );
    assert_eq!(
        bodies(&schedule("keep = \"rank\"\nrank = { key = \"best\" }"), &ranking, 2),
        [(2, r#"{"model":"sentiment@2","namespace":"feed","inputs":[{"key":"a","text":"x"},{"key":"b","text":"y"}],"rank":{"key":"best"},"ttl_seconds":600,"on_error":"skip"}"#.to_owned())]
    );
}
