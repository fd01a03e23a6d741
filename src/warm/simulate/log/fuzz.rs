//! Access logs that nobody thought of, in every form.

use super::*;
use kiln_fuzz::Target;

#[test]
fn fuzz_access_log() {
    let seeds: [&[u8]; 5] = [
        b"time,key\n1,a\n2,b\n",
        b"{\"time\":1,\"key\":\"a\"}\n{\"ts\":\"2026-11-20T12:00:00Z\",\"id\":7}\n",
        b"203.0.113.9 - - [20/Nov/2026:12:00:00 +0000] \"GET /items/7?x=[1] HTTP/1.1\" 200 12\n",
        b"1795176000000,\"a\nb\",s\n",
        b"\xef\xbb\xbftime,key\n-1e300,a\n1e300,b\n",
    ];
    let pattern = Regex::new("/items/(?<key>[^/? ]+)").expect("a pattern");
    Target::new("access_log")
        .seeds(&seeds)
        .memory(1 << 20, 512)
        .words(&[
            "\n",
            ",",
            "\"",
            "1e308",
            "-1",
            "/items/",
            "[20/Nov/2026:12:00:00 +0000]",
            "{\"time\":",
            "\"key\":",
        ])
        .run(|case| {
            let bytes = case.bytes();
            for form in [Form::Auto, Form::Csv, Form::Jsonl, Form::Lines] {
                let reading = Reading {
                    form,
                    pattern: (form == Form::Lines).then(|| pattern.clone()),
                    ..Reading::default()
                };
                match case.bounded(bytes.len(), || read(bytes, &reading)) {
                    Ok(log) => {
                        case.saw("a log");
                        assert!(!log.names.is_empty());
                    }
                    Err(bad) => case.refused(&bad.to_string()),
                }
            }
        });
}
