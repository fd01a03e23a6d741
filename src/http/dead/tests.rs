//! Which letters are meant, and how they are grouped, without a queue.

use super::*;

fn letter(id: &str, code: &str, second: u32) -> Letter {
    Letter {
        job_id: Some(id.into()),
        code: Some(code.into()),
        failed_at: Some(format!("2026-11-27T00:00:{second:02}.000Z")),
        ..Letter::default()
    }
}

#[test]
fn letters_are_grouped_by_code_and_model_the_largest_group_first() {
    let letters = [
        ("a", "invalid", Some("sentiment"), 3),
        ("b", "invalid", Some("sentiment"), 1),
        ("c", "invalid", None, 2),
    ];
    let letters = letters
        .map(|(id, code, model, second)| (letter(id, code, second), model.map(str::to_owned)));
    let shown = shown(letters.into(), 2, 9, 3);
    let groups: Vec<(Option<&str>, u64)> = shown
        .groups
        .iter()
        .map(|g| (g.model.as_deref(), g.letters))
        .collect();
    assert_eq!(groups, [(Some("sentiment"), 2), (None, 1)]);
    let group = &shown.groups[0];
    assert!(group.first < group.last, "{group:?}");
    let ids: Vec<Option<&str>> = shown.letters.iter().map(|l| l.job_id.as_deref()).collect();
    assert_eq!(
        ids,
        [Some("a"), Some("c")],
        "the latest, and no more than wanted"
    );
}

#[test]
fn a_flood_of_models_makes_no_flood_of_groups() {
    let letters = (0..20_000).map(|n| (letter("a", "unknown_model", 1), Some(format!("m{n}"))));
    let shown = shown(letters.collect(), 1, 20_000, 20_000);
    assert_eq!(shown.groups.len(), MAX_GROUPS + 1);
    assert_eq!(
        (shown.groups[0].model.as_deref(), shown.groups[0].letters),
        (None, 19_900)
    );
}

#[test]
fn letters_are_meant_by_all_that_is_said() {
    let one = letter("order-1", "invalid", 1);
    let meant = |code: Option<&str>, model: Option<&str>, ids: Option<&str>| Meant {
        code: code.map(str::to_owned),
        model: model.map(str::to_owned),
        ids: ids.map(|id| [id.to_owned()].into()),
        id_prefix: None,
    };
    assert!(Meant::default().means(&one, None));
    assert!(meant(Some("invalid"), Some("m"), Some("order-1")).means(&one, Some("m")));
    assert!(!meant(Some("invalid"), Some("m"), None).means(&one, None));
    assert!(!meant(None, None, Some("order")).means(&one, None));
}
