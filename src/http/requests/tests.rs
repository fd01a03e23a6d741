//! The bytes of a request's job: a repeated request finds its first answer by their hash.

use super::*;

fn body(request: &str) -> String {
    let request: ScoreRequest<'_> = serde_json::from_str(request).expect("a request");
    String::from_utf8(job_of(&request)).expect("UTF-8")
}

#[test]
fn the_bytes_of_a_requests_job_never_change() {
    assert_eq!(
        body(r#"{"text":"\u0041 \"b\" ☃","model":"m"}"#),
        r#"{"model":"m","inputs":[{"text":"\u0041 \"b\" ☃"}]}"#
    );
    assert_eq!(
        body(
            r#"{"detail": true, "ttl_seconds": 60, "features": [ 1, 2.50,-0.0 ], "key": "k", "namespace": "n", "model": "m@1"}"#
        ),
        r#"{"model":"m@1","namespace":"n","inputs":[{"features":[ 1, 2.50,-0.0 ],"key":"k"}],"ttl_seconds":60,"detail":true}"#
    );
    assert_eq!(
        body(r#"{"text_pair":"p","text":"t","key":"k","model":7,"namespace":null}"#),
        r#"{"model":7,"inputs":[{"key":"k","text":"t","text_pair":"p"}]}"#
    );
    assert_eq!(body("{}"), r#"{"inputs":[{}]}"#);
}
