//! Tokenizer files that the library behind them takes, and then can't bear.

use super::*;

fn declared() -> TokenizerFile {
    TokenizerFile {
        file: "tokenizer.json".to_owned(),
        sha256: String::new(),
        max_tokens: 8,
        truncate: TruncationSide::Right,
        prompt: String::new(),
    }
}

fn file(pre_tokenizer: &str, vocab: &str) -> String {
    format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":{pre_tokenizer},
        "post_processor":null,"decoder":null,"model":{{"type":"WordLevel","vocab":{vocab},"unk_token":"a"}}}}"#
    )
}

fn parsed(pre_tokenizer: &str, vocab: &str) -> Result<Tokenizer, String> {
    Tokenizer::parse(file(pre_tokenizer, vocab).as_bytes(), &declared(), 4)
}

#[test]
fn what_the_library_panics_at_is_refused_and_quotes_no_text() {
    let tokenizer = parsed(r#"{"type":"FixedLength","length":0}"#, r#"{"a":0}"#).expect("taken");
    let text = TextRow {
        text: "canary".to_owned(),
        text_pair: None,
    };
    let refused = tokenizer.tokenize(&[text]).expect_err("it panics");
    let said = refused.to_string();
    assert!(
        said.contains("makes the tokenizers library panic"),
        "{said}"
    );
    assert!(!said.contains("canary"), "{said}");
}

#[test]
fn a_file_that_the_library_panics_at_is_refused() {
    let broken = file("null", r#"{"a":0}"#).replace("\"decoder\":null", "\"decoder\":{null}");
    let refused = Tokenizer::parse(broken.as_bytes(), &declared(), 4).err();
    let said = refused.expect("it is no JSON");
    assert!(said.contains("tokenizer"), "{said}");
}

#[test]
fn a_token_that_is_too_long_to_be_shown_is_cut() {
    let long = "x".repeat(10_000);
    let vocab = format!("{{\"a\":0,\"{long}\":7}}");
    let said = parsed("null", &vocab).err().expect("there is no row 7");
    assert!(said.contains("has number 7") && said.len() < 300, "{said}");
}

#[test]
fn a_prompts_tokens_are_counted_with_its_white_space() {
    let isolated =
        r#"{"type":"Split","pattern":{"String":" "},"behavior":"Isolated","invert":false}"#;
    let prompted = TokenizerFile {
        prompt: "a ".to_owned(),
        ..declared()
    };
    let bytes = file(isolated, r#"{"a":0," ":1}"#);
    let tokenizer = Tokenizer::parse(bytes.as_bytes(), &prompted, 4).unwrap();
    assert_eq!(tokenizer.prompt_tokens(), 2);
}

#[test]
fn types_without_a_row_of_their_own_are_refused_where_they_come_up() {
    let template = r#"{"type":"TemplateProcessing","single":[{"Sequence":{"id":"A","type_id":0}}],
        "pair":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":1}}],"special_tokens":{}}"#;
    let bytes = file("null", r#"{"a":0}"#).replace(
        "\"post_processor\":null",
        &format!("\"post_processor\":{template}"),
    );
    let tokenizer = Tokenizer::parse(bytes.as_bytes(), &declared(), 4).unwrap();
    for pair in [PairRule::Optional, PairRule::Required] {
        let said = tokenizer.check_types(1, pair).expect_err("a refusal");
        assert!(said.contains("encoder.token_types (1)"), "{said}");
        tokenizer.check_types(2, pair).unwrap();
        // Without a table, nobody looks them up.
        tokenizer.check_types(0, pair).unwrap();
    }
    tokenizer.check_types(1, PairRule::None).unwrap();
}
