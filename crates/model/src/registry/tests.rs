//! A models folder that changes while its versions serve.

use std::collections::BTreeMap;
use std::fs;

use super::*;
use crate::fixtures::{ModelsDir, Named, file_of, layers, mlp_manifest, numbers, score, wait};
use crate::{Backend, InputKind, ModelError, Rows, Task, TextRow};
use kiln_contract::split::Point;

const SIZES: [usize; 3] = [4, 8, 1];

fn put(models: &ModelsDir, name: &str, version: &str, seed: u64) {
    models.put(name, version, &mlp_manifest(&SIZES), &layers(&SIZES, seed));
}

fn rows() -> Rows {
    Rows::Features {
        width: 4,
        data: numbers(12, 1),
    }
}

fn listed(registry: &Registry) -> Vec<String> {
    let line = |l: &ListedModel| {
        let mark = if l.active { "*" } else { "" };
        format!("{}@{}{mark}", l.info.name, l.info.version)
    };
    registry.list().iter().map(line).collect()
}

fn refusal(registry: &Registry, reference: &str) -> String {
    match registry.resolve(reference) {
        Ok(_) => panic!("{reference} resolves"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_bare_name_means_the_highest_version() {
    let models = ModelsDir::new();
    for (name, version) in [
        ("a", "1.9.0"),
        ("a", "1.10.0"),
        ("a", "1.10.0-rc1"),
        ("b", "2"),
    ] {
        put(&models, name, version, 1);
    }
    let registry = models.open();
    assert_eq!(
        listed(&registry),
        ["a@1.9.0", "a@1.10.0-rc1", "a@1.10.0*", "b@2*"]
    );
    assert_eq!(registry.resolve("a").unwrap().info().version, "1.10.0");
    assert_eq!(registry.resolve("a@1.9.0").unwrap().info().version, "1.9.0");
    let model = registry.resolve("b").unwrap();
    assert_eq!(model.info().parameters, 4 * 8 + 8 + 8 + 1);
    assert_eq!(model.memory_bytes(), Some(4 * (4 * 8 + 8 + 8 + 1)));
    assert_eq!(model.passes(), None);
    assert_eq!(score(&model, rows()).len(), 3);
    let passes = model.passes().unwrap();
    assert_eq!((passes.passes, passes.inputs), (1, 3));
    assert!(passes.input_p99 <= passes.pass_p99 && passes.pass_p99 > 0.0);
}

#[test]
fn a_pinned_version_is_the_active_one() {
    let models = ModelsDir::new();
    put(&models, "a", "1", 1);
    put(&models, "a", "2", 2);
    let mut settings = models.settings();
    settings.active = [("a".to_owned(), "1".to_owned())].into();
    let registry = Registry::open(&settings).unwrap();
    assert_eq!(listed(&registry), ["a@1*", "a@2"]);

    settings.active = [("a".to_owned(), "3".to_owned())].into();
    let registry = Registry::open(&settings).unwrap();
    assert_eq!(listed(&registry), ["a@1", "a@2"]);
    assert!(
        registry.problems()[0]
            .to_string()
            .contains("models.active names version 3")
    );
    assert_eq!(
        refusal(&registry, "a"),
        "model \"a\" is not known; known versions of \"a\": 1, 2"
    );
}

#[test]
fn only_the_version_that_is_asked_for_is_loaded() {
    let models = ModelsDir::new();
    put(&models, "a", "1", 1);
    put(&models, "a", "2", 2);
    put(&models, "b", "1", 3);
    let mut settings = models.settings();
    settings.active = [("a".to_owned(), "2".to_owned())].into();
    let registry = Registry::open_empty(&settings).unwrap();
    assert!(listed(&registry).is_empty());
    for (name, version) in [("a", "1"), ("b", "1"), ("a", "2")] {
        registry.serve_only(name, version, None);
        assert_eq!(listed(&registry), [format!("{name}@{version}*")]);
    }
    let (before, rows) = (registry.resolve("a").unwrap(), rows());
    assert_eq!(score(&before, rows).len(), 3);
    registry.serve_only("a", "2", None);
    let after = registry.resolve("a@2").unwrap();
    assert!(Arc::ptr_eq(&before, &after), "it isn't loaded again");
    registry.serve_only("c", "1", None);
    assert!(listed(&registry).is_empty());
    assert!(refusal(&registry, "c").contains("not known"));
}

#[test]
fn an_unknown_reference_says_what_is_known() {
    let models = ModelsDir::new();
    put(&models, "a", "1", 1);
    put(&models, "b", "1", 1);
    fs::write(models.folder("b", "1").join("model.safetensors"), "x").unwrap();
    let registry = models.open();
    assert_eq!(
        refusal(&registry, "c"),
        "model \"c\" is not known; known models: a"
    );
    assert_eq!(
        refusal(&registry, "a@2"),
        "model \"a@2\" is not known; known versions of \"a\": 1"
    );
    for reference in ["b", "b@1"] {
        let refusal = refusal(&registry, reference);
        assert!(
            refusal.starts_with(
                "version \"1\" of model \"b\" was refused: model.safetensors: has SHA-256"
            ),
            "{refusal}"
        );
    }
    for reference in ["", "@", "a@", "A", "a@1@2", "a\n"] {
        assert!(refusal(&registry, reference).starts_with("not a model reference"));
    }
}

#[test]
fn golden_inputs_are_checked() {
    let models = ModelsDir::new();
    let weights = layers(&SIZES, 1);
    let answer = {
        put(&models, "a", "0", 1);
        score(&models.open().resolve("a").unwrap(), rows())[0]
    };
    let golden = |expected: f32| {
        let features = &numbers(12, 1)[..4];
        format!(
            "{}[[golden]]\nfeatures = {features:?}\nexpect = [{expected:?}]\n",
            mlp_manifest(&SIZES)
        )
    };
    models.put("a", "1", &golden(answer), &weights);
    models.put("a", "2", &golden(answer + 5e-6), &weights);
    models.put("a", "3", &golden(answer + 5e-5), &weights);
    let registry = models.open();
    assert_eq!(listed(&registry), ["a@0", "a@1", "a@2*"]);
    assert_eq!(registry.resolve("a@1").unwrap().info().golden, 1);
    let problem = registry.problems().remove(0).to_string();
    assert!(
        problem.contains("a/3/manifest.toml: golden[0]: output 0: expected"),
        "{problem}"
    );
}

#[test]
fn a_half_written_version_serves_once_it_is_whole() {
    let models = ModelsDir::new();
    put(&models, "a", "1", 1);
    let registry = models.open();

    let folder = models.folder("a", "2");
    fs::create_dir_all(&folder).unwrap();
    let report = registry.rescan();
    assert_eq!(report.new_problems.len(), 1);
    assert!(
        report.new_problems[0]
            .to_string()
            .ends_with("a/2/manifest.toml: is missing")
    );
    assert_eq!(registry.resolve("a").unwrap().info().version, "1");

    put(&models, "b", "2", 2);
    let (ready, half) = (models.folder("b", "2"), folder);
    fs::copy(ready.join("manifest.toml"), half.join("manifest.toml")).unwrap();
    let report = registry.rescan();
    assert_eq!(report.added, ["b@2"]);
    assert!(
        report.new_problems[0]
            .to_string()
            .ends_with("a/2/model.safetensors: is missing")
    );

    let whole = fs::read(ready.join("model.safetensors")).unwrap();
    fs::write(half.join("model.safetensors"), &whole[..whole.len() / 2]).unwrap();
    let report = registry.rescan();
    assert!(report.new_problems[0].message.contains("has SHA-256"));
    assert_eq!(
        registry.rescan().new_problems,
        [],
        "the same problem is new once"
    );
    assert_eq!(registry.resolve("a").unwrap().info().version, "1");

    fs::write(half.join("model.safetensors"), &whole).unwrap();
    let report = registry.rescan();
    assert_eq!(report.added, ["a@2"]);
    assert_eq!(registry.problems(), []);
    assert_eq!(registry.resolve("a").unwrap().info().version, "2");
    assert_eq!(registry.rescan(), RescanReport::default());
}

#[test]
fn a_version_replaced_or_broken_while_it_serves() {
    let models = ModelsDir::new();
    put(&models, "a", "1", 1);
    let registry = models.open();
    let old = registry.resolve("a").unwrap();
    let before = score(&old, rows());

    fs::write(models.folder("a", "1").join("model.safetensors"), "half").unwrap();
    let report = registry.rescan();
    assert!(report.new_problems[0].still_serving);
    assert_eq!(score(&registry.resolve("a").unwrap(), rows()), before);

    put(&models, "a", "1", 9);
    assert_eq!(registry.rescan().replaced, ["a@1"]);
    assert_ne!(score(&registry.resolve("a").unwrap(), rows()), before);
    assert_eq!(
        score(&old, rows()),
        before,
        "who holds the old one keeps it"
    );
    assert_eq!(registry.problems(), []);
}

/// Lets a version's files be old enough that nobody looks into them again.
fn settle(models: &ModelsDir, name: &str, version: &str) {
    let hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    for entry in fs::read_dir(models.folder(name, version)).unwrap() {
        let file = fs::File::options().append(true).open(entry.unwrap().path());
        file.unwrap().set_modified(hour_ago).unwrap();
    }
}

#[test]
fn a_version_refused_for_a_reason_that_may_pass_is_tried_again_less_and_less_often() {
    let models = ModelsDir::new();
    put(&models, "a", "1", 1);
    settle(&models, "a", "1");
    let registry = Registry::open_empty(&models.settings()).unwrap();
    let tries = std::cell::Cell::new(0);
    let full = std::cell::Cell::new(true);
    let load = |found: &Found| {
        tries.set(tries.get() + 1);
        if !full.get() {
            return registry.load(found);
        }
        // Too many open files: the message of each try is another one.
        let error = std::io::Error::other(format!("try {}", tries.get()));
        Err(LoadError::unreadable("model.safetensors", &error))
    };
    let begun = Instant::now();
    let mut state = State::default();
    let mut scan = |after: u64| {
        let now = begun + Duration::from_secs(after);
        let survey = directory::survey(models.path());
        let report = state.scan((models.path(), now), survey, &BTreeMap::new(), load);
        (report, state.problems.clone())
    };
    let (_, first) = scan(0);
    assert!(first[0].may_pass, "{first:?}");
    assert!(
        first[0]
            .to_string()
            .contains("cannot be read: try 1 (which may pass: workers try it again)")
    );
    // Waits of 30, 60, 120, 240, 480 and 480 seconds: a look before each is over, and one after it.
    let mut at = 0;
    for (nth, wait) in [30, 60, 120, 240, 480, 480].into_iter().enumerate() {
        scan(at + wait - 1);
        assert_eq!(tries.get(), nth + 1);
        at += wait;
        let (report, problems) = scan(at);
        assert_eq!(tries.get(), nth + 2);
        assert_eq!(report.added, [] as [&str; 0]);
        assert!(first[0].says(&problems[0]), "it is said once");
        let latest = format!("try {}", tries.get());
        assert!(problems[0].message.contains(&latest), "{problems:?}");
    }
    full.set(false);
    assert_eq!(scan(at + 480).0.added, ["a@1"]);
    assert_eq!(scan(at + 480).1, []);
}

#[test]
fn of_versions_that_wait_for_the_same_one_a_scan_is_tried_again() {
    let models = ModelsDir::new();
    for version in ["1", "2", "3"] {
        put(&models, "a", version, 1);
        settle(&models, "a", version);
    }
    let tries = std::cell::Cell::new(0);
    let load = |_: &directory::Found| {
        tries.set(tries.get() + 1);
        Err(LoadError::file("model.safetensors", "the card is full").passing())
    };
    let begun = Instant::now();
    let mut state = State::default();
    let mut tried = |after: u64| {
        let now = begun + Duration::from_secs(after);
        let survey = directory::survey(models.path());
        state.scan((models.path(), now), survey, &BTreeMap::new(), load);
        tries.replace(0)
    };
    assert_eq!(tried(0), 3, "each is new");
    assert_eq!([31, 32, 33, 34].map(&mut tried), [1, 1, 1, 0]);
}

#[test]
fn a_version_whose_folder_cannot_be_read_for_a_moment_goes_on_serving() {
    let models = ModelsDir::new();
    put(&models, "a", "1", 1);
    put(&models, "a", "2", 2);
    let registry = models.open();
    let mut state = State::default();
    let pinned = BTreeMap::new();
    let mut scan = |is_read: bool| {
        let mut survey = directory::survey(models.path());
        if !is_read {
            let found = survey.found.pop().unwrap();
            survey.problems.push(Problem {
                model: Some(found.name),
                version: Some(found.version),
                path: found.path,
                file: None,
                message: "cannot be read: too many open files".to_owned(),
                still_serving: false,
                may_pass: false,
            });
        }
        let dir = (models.path(), Instant::now());
        let report = state.scan(dir, survey, &pinned, |found| registry.load(found));
        (
            report.removed,
            state.is_loaded("a", "2"),
            state.problems.clone(),
        )
    };
    assert!(scan(true).1);
    let (removed, is_loaded, problems) = scan(false);
    assert_eq!((removed, is_loaded, problems.len()), (Vec::new(), true, 1));
    assert!(problems[0].still_serving);
    assert_eq!(scan(true).2, []);
    std::fs::remove_dir_all(models.folder("a", "2")).unwrap();
    assert_eq!(scan(true).0, ["a@2"]);
}

#[test]
fn what_is_wrong_with_the_files_is_not_looked_at_again() {
    let models = ModelsDir::new();
    put(&models, "a", "1", 1);
    fs::write(models.folder("a", "1").join("model.safetensors"), "x").unwrap();
    settle(&models, "a", "1");
    let registry = models.open();
    let problems = registry.problems();
    assert!(problems[0].message.contains("has SHA-256") && !problems[0].may_pass);
    let file = models.folder("a", "1").join("model.safetensors");
    // A folder can't be read as a file, whoever asks; that one isn't there is seen when it comes.
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    registry.rescan();
    assert!(registry.problems()[0].may_pass);
    fs::remove_dir(&file).unwrap();
    registry.rescan();
    assert!(!registry.problems()[0].may_pass);
}

#[cfg(feature = "faults")]
#[test]
fn a_golden_pass_that_panicked_for_memory_is_made_again() {
    let models = ModelsDir::new();
    let full = models.path().join("full");
    fs::write(&full, "").unwrap();
    let text = format!("full:{}", full.display());
    let expect = {
        // What the model answers where there is room.
        fs::remove_file(&full).unwrap();
        let answer = crate::fault::score(&text);
        fs::write(&full, "").unwrap();
        answer
    };
    let folder = models.folder("a", "1");
    fs::create_dir_all(&folder).unwrap();
    let manifest = format!(
        "architecture = \"fault\"\n[text]\nmax_bytes = 8192\n[output]\ntask = \"scalar\"\n\
         [[golden]]\ntext = {text:?}\nexpect = [{expect}]\n"
    );
    fs::write(folder.join("manifest.toml"), manifest).unwrap();
    settle(&models, "a", "1");
    let registry = models.open();
    let refused = registry.problems()[0].clone();
    assert!(refused.may_pass, "{refused}");
    assert!(refused.message.contains("no memory is left"), "{refused}");
    fs::remove_file(&full).unwrap();
    let begun = Instant::now();
    assert_eq!(registry.rescan_at(begun).added, [] as [&str; 0]);
    let later = begun + Duration::from_secs(31);
    assert_eq!(registry.rescan_at(later).added, ["a@1"]);
    assert_eq!(registry.problems(), []);
}

#[test]
fn a_rewrite_of_the_same_is_no_change() {
    let models = ModelsDir::new();
    put(&models, "a", "1", 1);
    let registry = models.open();
    let model = registry.resolve("a").unwrap();
    fs::write(models.folder("a", "1").join("notes.txt"), "x").unwrap();
    put(&models, "a", "1", 1);
    assert_eq!(registry.rescan(), RescanReport::default());
    assert!(Arc::ptr_eq(&model, &registry.resolve("a").unwrap()));
}

#[test]
fn a_folder_that_goes_is_missed_only_where_another_is_there() {
    let models = ModelsDir::new();
    put(&models, "a", "1", 1);
    put(&models, "a", "2", 2);
    let registry = models.open();
    fs::remove_dir_all(models.folder("a", "2")).unwrap();
    assert_eq!(registry.rescan().removed, ["a@2"]);
    assert_eq!(listed(&registry), ["a@1*"]);

    fs::remove_dir_all(models.folder("a", "1")).unwrap();
    let report = registry.rescan();
    assert_eq!(report.removed, Vec::<String>::new());
    assert!(report.new_problems[0].still_serving);
    assert_eq!(listed(&registry), ["a@1*"]);

    fs::remove_dir_all(models.path()).unwrap();
    registry.rescan();
    assert_eq!(listed(&registry), ["a@1*"]);
    assert!(
        registry.problems()[0]
            .to_string()
            .contains("the models folder cannot be read")
    );

    put(&models, "a", "3", 3);
    let report = registry.rescan();
    assert_eq!(
        (report.added, report.removed),
        (vec!["a@3".to_owned()], vec!["a@1".to_owned()])
    );
    assert_eq!(listed(&registry), ["a@3*"]);
    assert_eq!(registry.problems(), []);
}

#[test]
fn an_empty_or_missing_folder_opens() {
    let models = ModelsDir::new();
    assert_eq!(models.open().problems(), []);
    let mut settings = models.settings();
    settings.dir = models.path().join("none");
    let registry = Registry::open(&settings).unwrap();
    assert_eq!(registry.problems().len(), 1);
    assert_eq!(
        refusal(&registry, "a"),
        "model \"a\" is not known; known models: none"
    );
}

#[test]
fn settings_that_cannot_work() {
    let models = ModelsDir::new();
    let field = |change: fn(&mut ModelSettings)| {
        let mut settings = models.settings();
        change(&mut settings);
        Registry::open(&settings).err().unwrap().to_string()
    };
    assert!(field(|s| s.max_batch_rows = 0).starts_with("models.max_batch_rows: must be"));
    assert!(field(|s| s.max_queued_rows = 1).starts_with("models.max_queued_rows: must be"));
    assert!(field(|s| s.threads = 5000).starts_with("models.threads: must be"));
    #[cfg(not(feature = "ndarray"))]
    assert_eq!(
        field(|s| s.backend = Backend::Ndarray),
        "models.backend: the backend \"ndarray\" is not compiled in; build with `--features ndarray` or use \"cpu\""
    );
}

/// A single model's backend that isn't there costs that model, or nothing where it may fall back.
#[cfg(not(feature = "wgpu"))]
#[test]
fn a_missing_graphics_processor_costs_its_model_alone() {
    let models = ModelsDir::new();
    put(&models, "a", "1", 1);
    put(&models, "b", "1", 2);
    let mut settings = models.settings();
    settings.backends.insert("b".to_owned(), Backend::Wgpu);
    let registry = Registry::open(&settings).unwrap();
    assert!(registry.resolve("a").is_ok());
    let unknown = registry.resolve("b").err().unwrap().to_string();
    assert!(unknown.contains("\"wgpu\" is not compiled in"), "{unknown}");
    assert_eq!(registry.replaced_backends(), [] as [&str; 0]);
    assert_eq!(registry.backend_of("b"), None);
    settings.fall_back = true;
    let registry = Registry::open(&settings).unwrap();
    assert!(registry.resolve("b").is_ok());
    let replaced = registry.replaced_backends();
    let said = "the backend \"wgpu\" is replaced by \"cpu\": ";
    assert!(
        replaced.len() == 1 && replaced[0].starts_with(said),
        "{replaced:?}"
    );
    assert_eq!(registry.backend_of("b"), Some(Backend::Cpu));
}

/// What was given back is loaded and checked again for whoever asks, and not where the folder is another one now.
#[test]
fn memory_is_given_back_until_somebody_asks() {
    let models = ModelsDir::new();
    put(&models, "a", "1", 1);
    put(&models, "a", "2", 2);
    let registry = models.open();
    let (old, new) = (
        registry.resolve("a@1").unwrap(),
        registry.resolve("a").unwrap(),
    );
    let before = score(&old, rows());
    let weak = std::sync::Arc::downgrade(&old.network().in_memory().unwrap());
    assert_eq!(
        registry.unload_unused(Duration::from_secs(3600)),
        Vec::<String>::new()
    );
    assert_eq!(registry.unload_unused(Duration::ZERO), ["a@1"]);
    assert!(weak.upgrade().is_none(), "the network is gone");
    assert!(new.network().in_memory().is_some(), "the active one stays");
    assert_eq!(score(&old, rows()), before);
    assert_eq!(registry.unload_unused(Duration::ZERO), ["a@1"]);
    put(&models, "a", "1", 3);
    let error = wait(old.score(rows())).err().unwrap().to_string();
    assert!(error.contains("a@1 can't be loaded again"), "{error}");
}

#[test]
fn a_choice_is_stronger_than_the_settings_and_waits_for_its_version() {
    let models = ModelsDir::new();
    for version in ["1", "2", "3"] {
        put(&models, "a", version, version.parse().unwrap());
    }
    let mut settings = models.settings();
    settings.active.insert("a".to_owned(), "2".to_owned());
    let registry = Registry::open(&settings).unwrap();
    let serving = || registry.resolve("a").unwrap().info().version.clone();
    let choose =
        |version: &str| registry.choose(BTreeMap::from([("a".to_owned(), version.to_owned())]));
    assert_eq!(serving(), "2");
    assert_eq!(choose("1").switched, ["a@1"]);
    assert_eq!(choose("1"), crate::ChoiceReport::default());
    assert_eq!(choose("4").pending, ["a@4"]);
    assert_eq!(serving(), "1", "what served goes on");
    put(&models, "a", "4", 4);
    registry.rescan();
    assert_eq!(serving(), "4");
    assert_eq!(registry.choose(BTreeMap::new()).switched, ["a@2"]);
    assert_eq!(serving(), "2");
}

fn split(version: &str, percent: i64) -> SplitChoice {
    SplitChoice {
        version: version.to_owned(),
        share: Share::from_millionths(10_000 * percent).unwrap(),
    }
}

/// What is chosen for model `a`.
fn choices(active: &str, split: Option<SplitChoice>) -> Choices {
    let a = || "a".to_owned();
    Choices {
        active: [(a(), active.to_owned())].into(),
        splits: split.into_iter().map(|split| (a(), split)).collect(),
    }
}

#[test]
fn a_share_of_a_bare_names_inputs_goes_to_another_version_until_it_is_taken_back() {
    let models = ModelsDir::new();
    for version in ["1", "2"] {
        put(&models, "a", version, version.parse().unwrap());
    }
    let registry = models.open();
    let goes_to = |reference: &str, key: &str| {
        let serving = registry.serving(reference).unwrap();
        let point = || Point::of_key("a", key);
        serving.version_at(point).info().version.clone()
    };
    let all = || -> Vec<String> { (0..200).map(|n| goes_to("a", &n.to_string())).collect() };
    let report = registry.choose(choices("1", Some(split("2", 25))));
    assert_eq!(
        report.splits,
        [("a@2".to_owned(), split("2", 25).share)].into()
    );
    assert_eq!((report.pending.len(), report.unfit.len()), (0, 0));
    let quarter = all();
    let count = quarter.iter().filter(|version| *version == "2").count();
    assert!((30..=70).contains(&count), "{count}");
    assert_eq!(quarter, all(), "the same ones");
    assert_eq!(
        (goes_to("a@1", "0"), goes_to("a@2", "0")),
        ("1".into(), "2".into())
    );
    let shares: Vec<_> = registry
        .list()
        .into_iter()
        .map(|listed| listed.share)
        .collect();
    assert_eq!(shares, [None, Some(split("2", 25).share)]);
    assert_eq!(
        registry.unload_unused(Duration::ZERO),
        Vec::<String>::new(),
        "one that has a share stays in memory"
    );

    let report = registry.choose(choices("1", Some(split("3", 25))));
    assert_eq!(
        (report.pending, report.splits.len()),
        (vec!["a@3".to_owned()], 0)
    );
    assert!(
        all().iter().all(|version| version == "1"),
        "what isn't here"
    );
    put(&models, "a", "3", 3);
    registry.rescan();
    let expected = |version: &String| if version == "2" { "3" } else { "1" };
    let now = all();
    assert!(
        now.iter().eq(quarter.iter().map(expected)),
        "the same ones again"
    );

    let report = registry.choose(choices("3", Some(split("3", 25))));
    assert_eq!(
        report.unfit,
        [("a@3".to_owned(), "it is the active version")].into()
    );
    registry.choose(choices("1", None));
    assert!(all().iter().all(|version| version == "1"));
    registry.serve_only("a", "2", Some(&split("1", 100)));
    assert_eq!(listed(&registry), ["a@1", "a@2*"]);
    assert_eq!(goes_to("a", "0"), "1");
}

#[test]
fn rows_that_do_not_fit_are_refused() {
    let models = ModelsDir::new();
    put(&models, "a", "1", 1);
    let registry = models.open();
    let model = registry.resolve("a").unwrap();
    let unfit = [
        Rows::Features {
            width: 3,
            data: vec![0.0; 3],
        },
        Rows::Features {
            width: 4,
            data: vec![0.0; 5],
        },
        Rows::Texts(vec![TextRow {
            text: "x".to_owned(),
            text_pair: None,
        }]),
    ];
    for rows in unfit {
        assert!(matches!(
            wait(model.score(rows)),
            Err(ModelError::Unfit { .. })
        ));
    }
    let none = Rows::Features {
        width: 4,
        data: Vec::new(),
    };
    assert!(wait(model.score(none)).unwrap().outputs.is_empty());
}

#[test]
fn a_model_outlives_its_registry_without_threads() {
    let models = ModelsDir::new();
    put(&models, "a", "1", 1);
    let registry = models.open();
    let model = registry.resolve("a").unwrap();
    drop(registry);
    assert_eq!(wait(model.score(rows())), Err(ModelError::Stopped));
}

#[test]
fn weights_of_other_programs_load_by_their_names() {
    let models = ModelsDir::new();
    let named = layers(&SIZES, 1)
        .into_iter()
        .map(|tensor| Named {
            name: format!("net.{}", tensor.name),
            ..tensor
        })
        .collect::<Vec<_>>();
    models.put_file("a", "1", &mlp_manifest(&SIZES), &file_of(&named));
    assert!(
        models.open().problems()[0]
            .message
            .contains("\"layers.0.weight\" is missing")
    );
    let path = models.folder("a", "1").join("manifest.toml");
    let manifest = fs::read_to_string(&path).unwrap() + "prefix = \"net.\"\n";
    fs::write(&path, manifest).unwrap();
    assert_eq!(models.open().problems(), []);
}

#[cfg(feature = "faults")]
#[test]
fn the_fault_model_does_what_it_is_asked() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models");
    let open = |backend| {
        let settings = ModelSettings {
            dir: dir.clone(),
            backend,
            ..ModelSettings::default()
        };
        let registry = Registry::open(&settings).unwrap();
        assert_eq!(registry.problems(), []);
        registry
    };
    let registry = open(Backend::Cpu);
    let model = registry.resolve("fault").unwrap();
    let ask = |text: &str| {
        wait(model.score(crate::fixtures::texts(&[text]))).map(|scored| scored.outputs)
    };
    assert!(matches!(
        ask("please panic"),
        Err(ModelError::Panicked { .. })
    ));
    assert_eq!(ask("nan"), Err(ModelError::NotFinite { row: 0 }));
    let answer = ask("sleep:1 well").unwrap()[0];
    assert!((0.0..1.0).contains(&answer));
    assert_eq!(ask("sleep:1 well"), Ok(vec![answer]));
    let graphs = open(Backend::Flex);
    let there = graphs.resolve("fault").unwrap();
    assert_eq!(
        score(&there, crate::fixtures::texts(&["sleep:1 well"])),
        [answer],
        "the same on every backend"
    );
    assert_ne!(ask("something else"), Ok(vec![answer]));
}

#[test]
fn the_shipped_models_answer_as_anyone_would() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let settings = ModelSettings {
        dir: root.join("../../models"),
        ..ModelSettings::default()
    };
    let registry = Registry::open(&settings).unwrap();
    assert_eq!(registry.problems(), []);
    assert_eq!(
        listed(&registry),
        ["feed-ranker@1.0.0*", "sentiment@1.0.0*"]
    );

    let model = registry.resolve("sentiment").unwrap();
    let Task::Classification { labels } = &model.info().task else {
        panic!("no classification")
    };
    for (text, expected) in [
        ("I love this!", "positive"),
        ("Terrible, it broke after a day", "negative"),
        ("not good", "negative"),
        ("The shop is next to the station.", "neutral"),
    ] {
        let text = model.normalise(text).into_owned();
        let scores = score(&model, crate::fixtures::texts(&[text]));
        assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        let best = (0..labels.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        assert_eq!(labels[best.unwrap()], expected);
    }
    let ranker = registry.resolve("feed-ranker").unwrap();
    assert_eq!(ranker.info().input, InputKind::Features { count: 32 });
    assert!(ranker.info().golden > 0);
}
