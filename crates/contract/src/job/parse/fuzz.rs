//! Job bodies that nobody thought of: bytes, and bodies built of parts that each may be odd.

use super::{RawJob, explain, plain};
use crate::{
    failure::{Code, Rejection},
    job::{
        Content, Input, InputField, Job, JobWriter, OnError, find_id, is_job_id, write::InputWriter,
    },
    key,
    model::{InputKind, ModelInfo, PairRule, Precision, Task, WeightPrecision},
};
use kiln_fuzz::{Case, Target};
use serde::de::IgnoredAny;
use serde_json::Value;

/// Bytes that a body may take beside and for each of its own: an input of twelve bytes takes ten times as many, in a list that grows.
const MEMORY: (usize, usize) = (64 << 10, 48);

const WORDS: [&str; 25] = [
    "\"job_id\":",
    "\"model\":",
    "\"namespace\":",
    "\"inputs\":",
    "\"named\":",
    "\"rank\":",
    "\"ttl_seconds\":",
    "\"on_error\":\"skip\"",
    "\"detail\":",
    "\"as_of\":",
    "\"callback_url\":\"https://a/\"",
    "\"key\":",
    "\"text\":",
    "\"text_pair\":",
    "\"features\":",
    "\"remove\":",
    "\"top\":",
    "\"j\\u006fb_id\":",
    "{\"text\":\"a\"}",
    "{\"features\":[1]}",
    "[0.5,",
    "1970-01-01T00:00:00Z",
    "\u{feff}",
    "\"m@1\"",
    "{\"a\":1}",
];

#[test]
fn fuzz_job_body() {
    Target::new("job_body")
        .memory(MEMORY.0, MEMORY.1)
        .words(&WORDS)
        .run(|case| check(case, case.bytes()));
}

#[test]
fn fuzz_job_built() {
    Target::new("job_built")
        .memory(MEMORY.0, MEMORY.1)
        .run(|case| {
            let body = build(case);
            check(case, body.as_bytes());
        });
}

/// All that must hold of a body.
fn check(case: &mut Case<'_>, body: &[u8]) {
    the_ways_agree(body);
    let tree: Result<Value, _> = serde_json::from_slice(body);
    match case.bounded(body.len(), || Job::parse(body, None)) {
        Ok(job) => {
            case.saw("a job");
            // Bad inputs may hold what no tree of values can: numbers beyond any float, half characters.
            let is_json = serde_json::from_slice::<IgnoredAny>(body).is_ok();
            assert!(is_json, "no JSON, but a job");
            good(case, body, job);
        }
        Err(refused) => {
            let rejection = &refused.rejection;
            case.saw(rejection.code.as_str());
            case.saw(&rejection.field);
            bad(body, rejection, tree.ok().as_ref());
            assert!(refused.job_id.as_deref().is_none_or(is_job_id));
            case.refused(&rejection.message.replace(char::is_control, "_"));
        }
    }
    // A message's own id changes nothing but the id.
    let named = Job::parse(body, Some("other"));
    let unnamed = Job::parse_or_name(body, None, "other");
    if let (Ok(named), Ok(unnamed)) = (&named, &unnamed) {
        assert_eq!(debug(named), debug(unnamed));
    }
}

/// The quick pass, the general one and the one that explains read the same.
fn the_ways_agree(body: &[u8]) {
    let general = serde_json::from_slice::<RawJob<'_>>(body);
    if let Some(quick) = plain::job(body) {
        let general = general.as_ref().expect("the quick pass takes no more");
        assert_eq!(debug(&quick), debug(general), "quick, general");
    }
    match (&general, explain::explain(body)) {
        (Err(_), Ok(job)) => assert_eq!(job.on_error, OnError::Skip, "taken, but refused"),
        (Err(_), Err(_)) => {}
        // It is asked only after a refusal, and says so.
        (Ok(_), Ok(_)) => panic!("nothing to explain"),
        (Ok(_), Err(rejection)) => assert_eq!(rejection.message, "the body could not be read"),
    }
}

fn debug(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}")
}

fn good(case: &mut Case<'_>, body: &[u8], job: Job<'_>) {
    if let Some(id) = find_id(body) {
        assert_eq!(id, job.job_id);
    }
    let is_bad = |input: &Input<'_>| matches!(input.content, Content::Bad(_));
    if !job.inputs.iter().any(is_bad) {
        let written = written(&job);
        let again = Job::parse(&written, None).expect("what is written is read");
        assert_eq!(debug(&again), debug(&job.clone().into_owned()));
    }
    for info in [features(2, true), features(2, false), texts()] {
        let mut job = job.clone();
        match job.check_inputs(&info) {
            Ok(()) => fits(&job, &info),
            Err(rejection) => {
                assert_eq!(rejection.code, Code::Invalid);
                assert!(rejection.field.starts_with("inputs["), "{rejection:?}");
                case.saw(&rejection.message);
            }
        }
    }
}

/// A job whose inputs were checked has only what the model takes.
fn fits(job: &Job<'_>, info: &ModelInfo) {
    let mut hashes = Vec::new();
    for input in &job.inputs {
        match (&input.content, info.input) {
            (Content::Features(range), InputKind::Features { count }) => {
                let features = job.features_of(range);
                assert_eq!(features.len(), count);
                let is_fit = |x: &f32| x.is_finite() || (info.takes_missing && x.is_nan());
                assert!(features.iter().all(is_fit), "{features:?}");
                let bits: Vec<u32> = features.iter().map(|x| x.to_bits()).collect();
                hashes.push((debug(&bits), key::hash_features(features)));
            }
            (Content::Text { text, pair }, InputKind::Text { .. }) => {
                hashes.push((debug(&(text, pair)), key::hash_text(text, pair.as_deref())));
            }
            (Content::Removal | Content::Bad(_), _) => {}
            (content, _) => panic!("{content:?} for {:?}", info.input),
        }
    }
    for (input, hash) in &hashes {
        let alike = hashes.iter().filter(|(_, other)| other == hash);
        for (other, _) in alike {
            assert_eq!(input, other, "one key for two inputs");
        }
    }
}

fn bad(body: &[u8], rejection: &Rejection, tree: Option<&Value>) {
    match rejection.code {
        // Numbers beyond any float are JSON too, and so is what lies too deep to be read.
        Code::Malformed => {
            let is_about_text = rejection.message.contains("recursion limit")
                || rejection.message.contains("number out of range");
            assert!(tree.is_none() || is_about_text, "JSON, but {rejection}");
        }
        Code::Invalid => {
            let is_object = tree.is_some_and(Value::is_object);
            assert!(
                !rejection.field.is_empty() || !is_object,
                "no field: {rejection} in {}",
                String::from_utf8_lossy(body)
            );
        }
        code => panic!("{code}"),
    }
}

/// The same job, as it would be written.
fn written(job: &Job<'_>) -> Vec<u8> {
    let mut writer = JobWriter::new();
    writer.job_id(&job.job_id).model(&job.model);
    if let Some(namespace) = &job.namespace {
        writer.namespace(namespace);
    }
    writer.inputs(job.inputs.iter(), |out, input| {
        if let Some(key) = &input.key {
            out.key(key);
        }
        write_content(out, &input.content, job);
    });
    writer.named(job.named).on_error(job.on_error);
    writer.detail(job.detail);
    if let Some(rank) = &job.rank {
        writer.rank(&rank.key, rank.top);
    }
    if let Some(seconds) = job.ttl_seconds {
        writer.ttl_seconds(seconds);
    }
    if let Some(as_of) = &job.as_of {
        writer.as_of(as_of);
    }
    if let Some(url) = &job.callback_url {
        writer.callback_url(url);
    }
    writer.finish()
}

fn write_content(out: &mut InputWriter<'_>, content: &Content<'_>, job: &Job<'_>) {
    match content {
        Content::Text { text, pair } => {
            out.text(text);
            if let Some(pair) = pair {
                out.text_pair(pair);
            }
        }
        // What is missing is written as null.
        Content::Features(range) => {
            let values: Vec<String> = job.features_of(range).iter().map(number).collect();
            out.json(InputField::Features, &format!("[{}]", values.join(",")));
        }
        Content::Named(named) => {
            let values: Vec<String> = named
                .iter()
                .map(|(name, x)| format!("{}:{}", Value::from(name.as_ref()), number(x)))
                .collect();
            out.json(InputField::Features, &format!("{{{}}}", values.join(",")));
        }
        Content::Removal => {
            out.remove();
        }
        Content::Bad(_) => unreachable!("jobs with bad inputs aren't written"),
    }
}

fn number(x: &f32) -> String {
    if x.is_nan() {
        "null".to_owned()
    } else {
        x.to_string()
    }
}

fn features(count: usize, takes_missing: bool) -> ModelInfo {
    ModelInfo {
        name: "m".into(),
        version: "1".into(),
        architecture: "trees".into(),
        task: Task::Scalar,
        input: InputKind::Features { count },
        feature_names: vec!["a".into(), "b".into()],
        takes_missing,
        output_width: 1,
        precision: Precision::Single,
        max_text_bytes: 0,
        ttl_seconds: None,
        parameters: 1,
        weights: WeightPrecision::Single,
        golden: 0,
        training: None,
    }
}

fn texts() -> ModelInfo {
    ModelInfo {
        input: InputKind::Text {
            pair: PairRule::Optional,
        },
        feature_names: Vec::new(),
        max_text_bytes: 64,
        ..features(0, false)
    }
}

/// A body of fields that each are right, odd, repeated or left out.
fn build(case: &mut Case<'_>) -> String {
    let mut fields = vec![
        format!("\"job_id\":{}", quoted(case, "job-1")),
        format!("\"model\":{}", quoted(case, "m@1")),
        format!("\"inputs\":{}", inputs(case)),
    ];
    while case.goes_on() && fields.len() < 14 {
        let field = match case.below(11) {
            0 => format!("\"namespace\":{}", quoted(case, "n")),
            1 => format!("\"named\":{}", truth(case)),
            2 => format!("\"detail\":{}", truth(case)),
            3 => format!(
                "\"rank\":{{\"key\":{},\"top\":{}}}",
                quoted(case, "r"),
                whole(case)
            ),
            4 => format!("\"rank\":{{\"key\":{}}}", quoted(case, "r")),
            5 => format!("\"ttl_seconds\":{}", whole(case)),
            6 => format!("\"on_error\":{}", case.pick(&["\"skip\"", "\"fail\"", "1"])),
            7 => format!("\"as_of\":{}", as_of(case)),
            8 => format!("{}:{}", quoted(case, "named"), value(case)),
            9 => fields[case.below(fields.len())].clone(),
            _ if fields.len() > 1 => {
                let removed = case.below(fields.len());
                fields.remove(removed);
                continue;
            }
            _ => continue,
        };
        let at = case.below(fields.len() + 1);
        fields.insert(at, field);
    }
    let space = *case.pick(&["", "", " ", "\n\t", "\r\n  "]);
    let end = *case.pick(&["", "", "", " ", "\0", "x", "{}", "\u{feff}", ","]);
    let begin = *case.pick(&["", "", "", " ", "\u{feff}", "\0"]);
    format!(
        "{begin}{{{space}{}{space}}}{end}",
        fields.join(&format!(",{space}"))
    )
}

fn truth(case: &mut Case<'_>) -> &'static str {
    const TRUTHS: [&str; 7] = ["true", "false", "null", "1", "\"true\"", "True", "truer"];
    case.pick::<&str>(&TRUTHS)
}

fn whole(case: &mut Case<'_>) -> String {
    match case.below(3) {
        0 => (case.below(4_200)).to_string(),
        1 => case.word().to_string(),
        _ => case.number(),
    }
}

fn as_of(case: &mut Case<'_>) -> String {
    match case.below(4) {
        0 => whole(case),
        1 => quoted(case, "2026-11-20T12:00:00Z"),
        _ => {
            let (year, month, day) = (case.below(10_100), case.below(14), case.below(33));
            let (hour, minute, second) = (case.below(26), case.below(62), case.below(63));
            let part = "9".repeat(case.below(30));
            let point = if part.is_empty() { "" } else { "." };
            let zone = case.pick(&[
                "Z", "z", "+00:00", "-00:00", "+14:00", "-23:59", "+24:00", "",
            ]);
            let between = case.pick(&["T", "t", " ", "_"]);
            format!(
                "\"{year:04}-{month:02}-{day:02}{between}{hour:02}:{minute:02}:{second:02}{point}{part}{zone}\""
            )
        }
    }
}

/// A text in quotes, mostly the usual one, with some of its characters escaped now and then.
fn quoted(case: &mut Case<'_>, usual: &str) -> String {
    let text = match case.below(4) {
        0 => case.text(),
        1 => "x".repeat(case.below(300)),
        _ => usual.to_owned(),
    };
    if case.one_in(6) {
        let escaped: Vec<String> = text
            .encode_utf16()
            .map(|unit| format!("\\u{unit:04x}"))
            .collect();
        return format!("\"{}\"", escaped.join(""));
    }
    if case.one_in(12) {
        return format!("\"{text}\\ud800\"");
    }
    match case.one_in(16) {
        true => format!("\"{text}\""),
        false => Value::from(text).to_string(),
    }
}

fn value(case: &mut Case<'_>) -> String {
    match case.below(6) {
        0 => "null".to_owned(),
        1 => case.number(),
        2 => "[".repeat(case.below(200)),
        3 => "[".repeat(case.below(200)) + &"]".repeat(case.below(200)),
        4 => "{\"a\":".repeat(case.below(140)),
        _ => quoted(case, "x"),
    }
}

fn inputs(case: &mut Case<'_>) -> String {
    let mut all = Vec::new();
    loop {
        all.push(input(case));
        if !case.goes_on() || case.one_in(3) {
            break;
        }
    }
    if case.one_in(40) {
        all = vec!["{\"text\":\"a\"}".to_owned(); 4_090 + case.below(10)];
    }
    format!("[{}]", all.join(","))
}

fn input(case: &mut Case<'_>) -> String {
    let mut fields = Vec::new();
    for _ in 0..1 + case.below(3) {
        fields.push(match case.below(8) {
            0 => format!("\"key\":{}", quoted(case, "k")),
            1 | 2 => format!("\"text\":{}", quoted(case, "some text")),
            3 => format!("\"text_pair\":{}", quoted(case, "more")),
            4 => format!("\"features\":[{}]", numbers(case)),
            5 => format!("\"features\":{{{}}}", named(case)),
            6 => format!("\"remove\":{}", truth(case)),
            _ => format!("{}:{}", quoted(case, "text"), value(case)),
        });
    }
    format!("{{{}}}", fields.join(","))
}

fn numbers(case: &mut Case<'_>) -> String {
    let mut all = Vec::new();
    for _ in 0..case.below(5) {
        all.push(if case.one_in(9) {
            value(case)
        } else {
            case.number()
        });
    }
    let between = *case.pick(&[",", ", ", ",\n", ",,"]);
    all.join(between)
}

fn named(case: &mut Case<'_>) -> String {
    let mut all = Vec::new();
    for _ in 0..case.below(4) {
        let name = *case.pick(&["a", "b", "c", "\\u0061", "A", "aa"]);
        let number = case.number();
        all.push(format!("\"{name}\":{number}"));
    }
    all.join(",")
}
