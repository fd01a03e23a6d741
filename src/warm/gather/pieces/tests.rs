//! The bytes of posted jobs: a run that is taken up again posts its pieces again, and a worker compares their hashes.

use super::*;
use crate::warm::plan::Candidate;
use crate::warm::schedule;
use std::path::Path;

/// Bytes of a job that all of these fit.
const BYTES: usize = 1 << 20;

fn schedule(keep: &str) -> Schedule {
    let text = format!(
        "name = \"trending\"\ncron = \"*/5 * * * *\"\nmodel = \"sentiment@2\"\nnamespace = \"feed\"\n{keep}\n\
         [source]\nkind = \"static\"\ninputs = [{{ key = \"k\", text = \"one\" }}]\n"
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
            computes: rows.len(),
            ttl: 1.0,
            cost: 1.0,
            wait: 1.0,
            ..Candidate::default()
        },
        rows,
        left: None,
        from_table: 0,
        full_seconds: 1.0,
        ttl_seconds: 600,
        missing: Vec::new(),
    }
}

fn bodies(schedule: &Schedule, chosen: &[PlannedEntry], size: usize) -> Vec<(i32, String)> {
    let cut = Cut {
        inputs: size,
        bytes: BYTES,
        model_seconds: None,
        costs_are_measured: true,
    };
    pieces(schedule, chosen, cut)
        .0
        .into_iter()
        .map(|post| (post.inputs, String::from_utf8(post.body).expect("UTF-8")))
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

/// How many inputs each job has, and how many of them are computed, of so many renewals and inputs that cost so much.
fn cut_into(renewed: usize, computed: usize, cost: f64, cut: Cut) -> Vec<(i32, i32)> {
    let one = |computes| {
        let mut one = planned(None, vec![(None, text("q", None))]);
        one.candidate.computes = computes;
        one.candidate.cost = cost * computes as f64;
        one
    };
    let renewed = std::iter::repeat_n(one(0), renewed);
    let computed = std::iter::repeat_n(one(1), computed);
    let chosen: Vec<PlannedEntry> = renewed.chain(computed).collect();
    let (posts, _) = pieces(&schedule("keep = \"scores\""), &chosen, cut);
    posts
        .iter()
        .map(|post| (post.inputs, post.computes))
        .collect()
}

#[test]
fn what_is_renewed_and_what_is_computed_go_apart_and_a_job_takes_a_small_part_of_the_budget() {
    let cut = Cut {
        inputs: 64,
        bytes: BYTES,
        model_seconds: None,
        costs_are_measured: false,
    };
    let all = [(64, 0), (36, 0), (64, 64), (6, 6)];
    assert_eq!(cut_into(100, 70, 1.0, cut), all);
    let bounded = Cut {
        model_seconds: Some(1.6),
        costs_are_measured: true,
        ..cut
    };
    let jobs = cut_into(100, 70, 0.01, bounded);
    assert_eq!(jobs[..2], [(64, 0), (36, 0)]);
    assert_eq!(jobs[2..], [(10, 10); 7]);
    assert_eq!(cut_into(0, 2, 5.0, bounded), [(1, 1), (1, 1)]);
}

#[test]
fn jobs_begin_small_where_costs_are_guessed() {
    let cut = Cut {
        inputs: 64,
        bytes: BYTES,
        model_seconds: Some(1_000.0),
        costs_are_measured: false,
    };
    let jobs = cut_into(0, 2_000, 0.001, cut);
    let mut before = 0;
    for (inputs, _) in &jobs {
        assert!(*inputs <= (before / 8).max(1), "{inputs} after {before}");
        before += inputs;
    }
    assert_eq!(
        (before, jobs[16], jobs.iter().max()),
        (2_000, (2, 2), Some(&(64, 64)))
    );
}

#[test]
fn entries_of_different_lives_go_apart() {
    let one = |ttl_seconds| PlannedEntry {
        ttl_seconds,
        ..planned(None, vec![(None, text("q", None))])
    };
    let chosen = [one(600), one(600), one(120)];
    let jobs = bodies(&schedule("keep = \"scores\""), &chosen, 64);
    let lives: Vec<(i32, bool)> = jobs
        .iter()
        .map(|(inputs, body)| (*inputs, body.contains("\"ttl_seconds\":120,")))
        .collect();
    assert_eq!(lives, [(2, false), (1, true)]);
}

#[test]
fn a_ranking_whose_cost_is_guessed_is_computed_in_small_jobs_before_it() {
    let rows: Vec<(Option<&str>, RowContent)> =
        (0..100).map(|_| (Some("k"), text("q", None))).collect();
    let mut ranking = planned(Some("best"), rows);
    ranking.missing = (40..100).collect();
    (ranking.candidate.computes, ranking.candidate.cost) = (60, 6.0);
    let schedule = schedule("keep = \"rank\"\nrank = { key = \"best\" }");
    let cut = Cut {
        inputs: 64,
        bytes: BYTES,
        model_seconds: Some(5.0),
        costs_are_measured: false,
    };
    let (posts, _) = pieces(&schedule, std::slice::from_ref(&ranking), cut);
    let (last, first) = posts.split_last().expect("jobs");
    assert_eq!(
        (last.inputs, last.computes, last.model_seconds),
        (100, 0, 0.0)
    );
    assert!(first.len() > 20, "{}", first.len());
    assert_eq!(first.iter().map(|post| post.computes).sum::<i32>(), 60);
    let seconds: f64 = first.iter().map(|post| post.model_seconds).sum();
    assert!((seconds - 6.0).abs() < 1e-9);
    let is_ranked = |post: &NewPost| String::from_utf8_lossy(&post.body).contains("\"rank\"");
    assert!(is_ranked(last) && !first.iter().any(is_ranked));
    for cut in [
        Cut {
            costs_are_measured: true,
            ..cut
        },
        Cut {
            model_seconds: None,
            ..cut
        },
    ] {
        let (posts, _) = pieces(&schedule, std::slice::from_ref(&ranking), cut);
        assert_eq!((posts.len(), posts[0].computes), (1, 60));
    }
}

#[test]
fn a_job_has_no_more_bytes_than_workers_take_and_what_alone_has_more_is_left_out() {
    let of = |content: &str| planned(None, vec![(None, text(content, None))]);
    let mut chosen = vec![of(&"x".repeat(150_000)); 64];
    // Six bytes each in a job.
    chosen.push(of(&"\u{1}".repeat(200_000)));
    chosen.extend(vec![of(&"\u{1}".repeat(100_000)); 3]);
    let cut = Cut {
        inputs: 64,
        bytes: BYTES,
        model_seconds: None,
        costs_are_measured: true,
    };
    let scores = schedule("keep = \"scores\"");
    let (posts, too_large) = pieces(&scores, &chosen, cut);
    assert_eq!(too_large, 1);
    assert_eq!(posts.iter().map(|post| post.inputs).sum::<i32>(), 67);
    assert!(posts.iter().all(|post| post.body.len() <= BYTES));
    assert_eq!(posts[0].inputs, 6, "as many as fit");
    let rank = schedule("keep = \"rank\"\nrank = { key = \"best\" }");
    let row = || (Some("k"), text(&"x".repeat(600_000), None));
    let ranking = planned(Some("best"), vec![row(), row()]);
    for costs_are_measured in [true, false] {
        let cut = Cut {
            costs_are_measured,
            model_seconds: Some(1.0),
            ..cut
        };
        let (posts, too_large) = pieces(&rank, std::slice::from_ref(&ranking), cut);
        assert_eq!((posts.len(), too_large), (0, 2));
    }
}
