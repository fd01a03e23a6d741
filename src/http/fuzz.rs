//! Query strings that nobody thought of, for every kind of parameters: what is refused says which parameter it is, and no value.

use super::{cache, keys, show};
use axum::{extract::Query, http::Uri};
use kiln_fuzz::{Case, Target};
use serde::de::DeserializeOwned;

fn check<T: DeserializeOwned>(case: &mut Case<'_>, uri: &Uri, bytes: usize) {
    match case.bounded(bytes, || Query::<T>::try_from_uri(uri)) {
        Ok(_) => case.saw("parameters"),
        Err(refused) => {
            let said = super::extract::unreadable_query(&refused);
            // A parameter that isn't known is named, by its first characters.
            let is_name = |pair: &str| pair.split('=').next().is_some_and(|n| n.contains("c4n4ry"));
            let mut pairs = uri.query().unwrap_or_default().split('&');
            assert!(pairs.any(is_name) || !said.contains("c4n4ry"), "{said}");
            assert!(said.len() < 1_000, "{said}");
            case.refused(&said);
        }
    }
}

#[test]
fn fuzz_query() {
    let seeds: [&[u8]; 5] = [
        b"limit=10&minutes=5",
        b"threshold=0.5",
        b"limit=1&limit=2",
        b"%6cimit=%31&=&&a",
        b"minutes=c4n4ry+c4n4ry",
    ];
    Target::new("query")
        .seeds(&seeds)
        .memory(64 << 10, 128)
        .words(&[
            "limit=",
            "minutes=",
            "threshold=",
            "%00",
            "%ff",
            "+",
            "&",
            "c4n4ry%20x",
            "NaN",
        ])
        .run(|case| {
            let text = String::from_utf8_lossy(case.bytes()).into_owned();
            // What a client may send in a request's line.
            let text: String = text.chars().filter(char::is_ascii_graphic).collect();
            let Ok(uri) = format!("/v1?{text}").parse::<Uri>() else {
                return case.saw("no address");
            };
            check::<cache::Period>(case, &uri, text.len());
            check::<cache::TopWanted>(case, &uri, text.len());
            check::<cache::LowWanted>(case, &uri, text.len());
            check::<keys::HistoryWanted>(case, &uri, text.len());
            check::<show::RunsWanted>(case, &uri, text.len());
        });
}
