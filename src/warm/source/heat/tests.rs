//! Which input a name is given, by what workers report and the database says.

use super::*;

fn named(name: &str, input: u8, rate: f64) -> NamedRate {
    NamedRate {
        name: name.to_owned(),
        input: (input > 0).then_some([input; 32]),
        written_ms: 100,
        rate,
        counted: true,
    }
}

fn asked(input: u8, rate: f64, at_ms: i64, key: Option<&str>) -> AskedInput {
    AskedInput {
        hash: [input; 32],
        rate,
        at_ms,
        key: key.map(str::to_owned),
    }
}

fn served(name: &str, at_ms: i64, input: u8) -> HashMap<String, LastServed> {
    let input = (input > 0).then_some([input; 32]);
    let last = LastServed {
        at_ms,
        input,
        said_ms: Some(at_ms),
    };
    HashMap::from([(name.to_owned(), last)])
}

fn found(hot: &[HotInput]) -> Vec<(u8, Option<&str>)> {
    hot.iter()
        .map(|one| (one.hash[0], one.name.as_deref()))
        .collect()
}

#[test]
fn what_jobs_ask_and_what_readers_read_come_together() {
    let asked = [asked(1, 1.0, 50, None), asked(2, 5.0, 50, None)];
    let read = [
        named("a", 1, 3.0),
        named("a again", 1, 2.0),
        named("a ranking", 0, 9.0),
    ];
    let hot = together(&asked, &read, &HashMap::new(), 3);
    let found: Vec<(Option<&str>, f64)> = hot
        .iter()
        .map(|one| (one.name.as_deref(), one.rate))
        .collect();
    assert_eq!(
        found,
        [(None, 5.0), (Some("a"), 4.0), (Some("a again"), 2.0)]
    );
}

#[test]
fn a_name_is_given_to_the_input_that_was_asked_for_last_under_it() {
    let none = HashMap::new();
    // By jobs alone; the hotter one is the older.
    let both = [asked(1, 9.0, 50, Some("k")), asked(2, 1.0, 60, Some("k"))];
    let hot = together(&both, &[], &none, 9);
    assert_eq!(found(&hot), [(2, Some("k"))]);
    assert_eq!(hot[0].rate, 10.0);
    // An entry that was written since.
    let hot = together(&both, &[named("k", 3, 2.0)], &none, 9);
    assert_eq!(found(&hot), [(3, Some("k"))]);
    // The database knows of one that no worker remembers.
    let hot = together(&both, &[named("k", 3, 2.0)], &served("k", 110, 4), 9);
    assert_eq!(found(&hot), [(4, Some("k"))]);
    let hot = together(&both, &[], &served("k", 110, 4), 9);
    assert_eq!(found(&hot), [(4, Some("k"))]);
    // What jobs that name nothing have asked for since is news.
    let hot = together(&both, &[], &served("k", 55, 1), 9);
    assert_eq!(found(&hot), [(2, Some("k"))]);
    // Nobody is served anything any more.
    let hot = together(&both, &[named("k", 3, 2.0)], &served("k", 110, 0), 9);
    assert_eq!(found(&hot), []);
}

#[test]
fn a_run_that_remembers_an_input_does_not_say_anew_what_it_is() {
    let said = |asked: &[AskedInput], served: &HashMap<String, LastServed>| {
        let read = NamedRate {
            written_ms: 10,
            ..named("k", 1, 2.0)
        };
        let hot = together(asked, &[read], served, 9);
        hot.first().expect("one").said_ms
    };
    let mut by = served("k", 70, 1);
    assert_eq!(said(&[asked(1, 1.0, 90, Some("k"))], &by), Some(90));
    assert_eq!(said(&[asked(1, 1.0, 60, Some("k"))], &by), Some(70));
    // Of another name, or of an earlier text.
    assert_eq!(said(&[asked(1, 1.0, 90, Some("l"))], &by), Some(70));
    by.insert(
        "k".to_owned(),
        LastServed {
            said_ms: None,
            ..by["k"].clone()
        },
    );
    assert_eq!(said(&[asked(1, 1.0, 60, Some("k"))], &by), Some(60));
    // A worker wrote it for a producer, who says the same again and again.
    assert_eq!(said(&[], &by), Some(10));
    // A run of another version has said it last, a producer before.
    let before = LastServed {
        said_ms: Some(50),
        ..by["k"].clone()
    };
    by.insert("k".to_owned(), before);
    assert_eq!(said(&[], &by), Some(50));
    by.insert(
        "k".to_owned(),
        LastServed {
            said_ms: None,
            input: Some([2; 32]),
            ..by["k"].clone()
        },
    );
    assert_eq!(said(&[], &by), None, "of another text");
}
