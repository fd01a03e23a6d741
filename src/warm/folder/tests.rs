//! What scans of a folder of schedules find, and what they keep.

use super::*;

fn text(name: &str, cron: &str) -> String {
    format!(
        "name = \"{name}\"\ncron = \"{cron}\"\nmodel = \"m\"\n[source]\nkind = \"static\"\ninputs = [{{ key = \"k\", text = \"t\" }}]\n"
    )
}

#[test]
fn a_bad_file_takes_no_good_one_down() {
    let dir = tempfile::tempdir().expect("a folder");
    let put = |file: &str, text: String| fs::write(dir.path().join(file), text).expect("written");
    let mut folder = Folder::new(&dir.path().join("none"));
    assert_eq!(folder.scan(), Changes::default());
    folder = Folder::new(dir.path());
    put("a.toml", text("one", "* * * * *"));
    put("b.toml", text("two", "* * * *"));
    put("c.toml", text("one", "* * * * *"));
    put("notes.md", "not a schedule".into());
    let changes = folder.scan();
    assert_eq!(changes.read, ["one"]);
    let found: Vec<String> = changes.problems.iter().map(ToString::to_string).collect();
    assert!(
        found[0].contains("b.toml:2:8: `cron`: expected 5 fields"),
        "{found:?}"
    );
    assert!(
        found[1].contains("c.toml:1:8: `name`: `one` is taken by") && found.len() == 2,
        "{found:?}"
    );

    put("b.toml", text("two", "0 * * * *"));
    put("c.toml", text("three", "0 * * * *"));
    let changes = folder.scan();
    assert_eq!(
        (changes.read.clone(), folder.problems().len()),
        (vec!["three".into(), "two".into()], 0)
    );
    assert_eq!(changes.retimed, ["three", "two"]);
    // Two mistakes of one file are two problems of one refused file.
    put("d.toml", text("Four", "* * * *"));
    let changes = folder.scan();
    assert_eq!((changes.problems.len(), folder.refused()), (2, 1));
    fs::remove_file(dir.path().join("d.toml")).expect("removed");
    // The last valid version stays in use.
    put("b.toml", "name = ".into());
    let changes = folder.scan();
    assert_eq!(
        (
            changes.read.len(),
            changes.gone.len(),
            changes.problems.len()
        ),
        (0, 0, 1)
    );
    assert_eq!(
        folder
            .get("two")
            .map(|s| s.cron.as_str().to_owned())
            .as_deref(),
        Some("0 * * * *")
    );
    assert_eq!(
        folder.scan(),
        Changes::default(),
        "the same is reported once"
    );
    fs::remove_file(dir.path().join("b.toml")).expect("removed");
    assert_eq!(folder.scan().gone, ["two"]);
}

#[test]
fn a_folder_that_cannot_be_listed_for_a_moment_keeps_its_schedules() {
    let parent = tempfile::tempdir().expect("a folder");
    let (dir, away) = (parent.path().join("s"), parent.path().join("away"));
    fs::create_dir(&dir).expect("a folder");
    fs::write(dir.join("a.toml"), text("one", "* * * * *")).expect("written");
    fs::write(dir.join("b.toml"), "name = ").expect("written");
    let mut folder = Folder::new(&dir);
    assert_eq!(folder.scan().problems.len(), 1);

    fs::rename(&dir, &away).expect("moved");
    let changes = folder.scan();
    assert_eq!((changes.gone.len(), changes.problems.len()), (0, 1));
    assert!(
        changes.problems[0]
            .message
            .ends_with("there is no such folder; its schedules stay in use"),
        "{changes:?}"
    );
    assert_eq!(folder.scan(), Changes::default(), "it is said once");
    fs::write(&dir, "no folder").expect("written");
    assert_eq!(folder.scan().problems.len(), 1, "for another reason");
    assert_eq!((folder.schedules().len(), folder.refused()), (1, 2));

    fs::remove_file(&dir).expect("removed");
    fs::rename(&away, &dir).expect("moved");
    assert_eq!(folder.scan(), Changes::default());
    assert_eq!(folder.refused(), 1);
}

#[test]
fn a_schedule_that_is_back_is_new_only_at_other_times() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("a.toml");
    let put = |cron: &str| fs::write(&file, text("one", cron)).expect("written");
    let mut folder = Folder::new(dir.path());
    put("* * * * *");
    folder.scan();
    for (cron, retimed) in [
        ("* * * * *", Vec::new()),
        ("0 * * * *", vec!["one".to_owned()]),
    ] {
        fs::remove_file(&file).expect("removed");
        assert_eq!(folder.scan().gone, ["one"]);
        put(cron);
        let changes = folder.scan();
        assert_eq!(
            (changes.read.len(), changes.retimed),
            (1, retimed),
            "{cron}"
        );
    }
}

#[test]
fn what_is_no_file_is_refused_and_nothing_waits_for_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    let made = std::process::Command::new("mkfifo")
        .arg(at("pipe.toml"))
        .status();
    assert!(made.is_ok_and(|status| status.success()), "a pipe");
    std::os::unix::fs::symlink("/dev/zero", at("zero.toml")).expect("a link");
    fs::create_dir(at("folder.toml")).expect("a folder");
    let mut folder = Folder::new(dir.path());
    let said: Vec<String> = folder
        .scan()
        .problems
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(
        said.iter().all(|one| one.contains("it is no file")),
        "{said:?}"
    );
}

#[test]
fn what_a_refused_file_names_is_looked_at_as_well() {
    let dir = tempfile::tempdir().expect("a folder");
    let put = |file: &str, text: String| fs::write(dir.path().join(file), text).expect("written");
    put("a.toml", text("one", "* * * *"));
    put(
        "b.toml",
        text("two", "* * * *").replace("text = ", "txet = "),
    );
    let mut folder = Folder::new(dir.path());
    folder.scan();
    let settings = crate::config::Settings::default();
    let known = Known::of(&[], &settings, crate::clock::now());
    assert_eq!(folder.misfits(&known, |_| true), []);
    let found = folder.refused_misfits(&known);
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    let [one] = &found[..] else {
        panic!("of the one whose source can be read: {found:?}");
    };
    assert!(one.contains("a.toml:3:9: `model`: unknown model"), "{one}");
    put("a.toml", text("one", "* * * * *"));
    folder.scan();
    assert_eq!(folder.refused_misfits(&known), []);
}

#[test]
fn no_more_of_a_folder_is_held_than_so_many_bytes() {
    let dir = tempfile::tempdir().expect("a folder");
    let paths = ["a.toml", "b.toml", "c.toml"].map(|name| dir.path().join(name));
    for path in &paths {
        fs::write(path, "x".repeat(40)).expect("written");
    }
    let read = read_all(paths.to_vec(), 100);
    let held: Vec<bool> = read.iter().map(|(_, text)| text.is_ok()).collect();
    assert_eq!(held, [true, true, false]);
}
