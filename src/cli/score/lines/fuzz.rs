//! Lines that nobody thought of, taken as they are and taken apart: both ways agree on what they are.

use super::*;
use kiln_contract::job::{Content, Job};
use kiln_fuzz::Target;

/// The content of an input, as the contract reads it.
fn read(json: &str) -> Option<String> {
    let body =
        format!("{{\"job_id\":\"j\",\"model\":\"m\",\"on_error\":\"skip\",\"inputs\":[{json}]}}");
    let job =
        Job::parse(body.as_bytes(), None).expect("an input by itself is skipped at the utmost");
    let [input] = job.inputs.as_slice() else {
        panic!("one line is one input: {json}");
    };
    let is_bad = matches!(input.content, Content::Bad(_));
    (!is_bad).then(|| format!("{input:?} {:?}", job.features))
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok()
}

#[test]
fn fuzz_lines() {
    let seeds: [&[u8]; 5] = [
        b"{\"text\":\"a\",\"key\":\"k\"}\n\n  {\"text\":\"b\"} \nnope\n[1]\n{\"inputs\":[]}\n",
        b"{\"key\":7,\"text\":\"a\"}\n{\"key\":-0.0,\"features\":[1,null]}",
        b"{\"text\":\"a\",\"text\":\"b\"}\n{\"t\\u0065xt\":\"a\"}",
        b"\xef\xbb\xbf{\"text\":\"a\"}",
        b"{\"features\":{\"a\":1}}\n{\"key\":\"a\",\"remove\":true}",
    ];
    let pick = Pick {
        text: Some("text".to_owned()),
        keep: Keep::Others,
        ..Pick::default()
    };
    Target::new("lines")
        .seeds(&seeds)
        .memory(1 << 20, 512)
        .words(&[
            "\n",
            "\"text\":",
            "\"key\":",
            "\"inputs\":",
            "{\"text\":\"",
            "\u{feff}",
            "\r\n",
        ])
        .run(|case| {
            let bytes = case.bytes();
            let plain = case.bounded(bytes.len(), || items(bytes, 1, None));
            let picked = case.bounded(bytes.len(), || items(bytes, 1, Some(&pick)));
            assert_eq!(plain.len(), picked.len());
            for (plain, picked) in plain.iter().zip(&picked) {
                match (plain, picked) {
                    (Item::Input(whole), Item::Input(parts)) => {
                        case.saw("an input");
                        assert_eq!(whole.line, parts.line);
                        let text = whole.json.text(bytes);
                        let picked = parts.json.text(bytes);
                        // A line that reads as JSON at first sight alone is found by its job; otherwise its parts are JSON as well.
                        if is_json(text) {
                            assert!(is_json(picked), "{picked}");
                            for (_, json) in &parts.kept {
                                assert!(is_json(json), "{json}");
                            }
                        }
                        if let (Some(whole), Some(parts)) = (read(text), read(picked)) {
                            assert_eq!(whole, parts, "{text}, {picked}");
                        }
                    }
                    (Item::Input(_), Item::Bad(bad)) | (Item::Bad(_), Item::Bad(bad)) => {
                        case.refused(&bad.problem);
                    }
                    (Item::Job { line, .. }, Item::Job { line: other, .. }) => {
                        case.saw("a job");
                        assert_eq!(line, other);
                    }
                    other => panic!("{other:?}"),
                }
            }
        });
}
