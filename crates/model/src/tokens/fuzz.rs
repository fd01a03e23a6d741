//! Tokenizer files that nobody thought of, and texts for those that are taken: the library behind them isn't ours.

use super::*;
use kiln_fuzz::Target;

const TEXTS: [&str; 9] = [
    "hello world",
    "",
    " ",
    "a\u{301}\u{e1}\u{fb01}",
    "[CLS] [UNK]",
    "\u{1f469}\u{200d}\u{1f680}",
    "\0\u{feff}\u{ffff}",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "日本語 x,y.z!",
];

#[test]
fn fuzz_tokenizer() {
    let declared = TokenizerFile {
        file: "tokenizer.json".to_owned(),
        sha256: String::new(),
        max_tokens: 8,
        truncate: TruncationSide::Right,
        prompt: String::new(),
    };
    Target::new("tokenizer")
        .memory(4 << 20, 512)
        .runs(10_000)
        .max_bytes(8 << 10)
        .words(&[
            "\"type\":\"BPE\"",
            "\"type\":\"Unigram\"",
            "\"type\":\"FixedLength\",\"length\":0",
            "\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a*)*b\"},\"behavior\":\"Isolated\",\"invert\":false",
            "\"type\":\"Split\",\"pattern\":{\"String\":\"\"},\"behavior\":\"Removed\",\"invert\":true",
            "\"type\":\"Metaspace\",\"replacement\":\"\u{2581}\",\"prepend_scheme\":\"always\"",
            "\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"x\"",
            "\"type\":\"Prepend\",\"prepend\":\"x\"",
            "\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAAA\"",
            "\"type\":\"Sequence\"",
            "\"type\":\"ByteLevel\"",
            "\"type\":\"TemplateProcessing\"",
            "\"type\":\"NFKC\"",
            "\"unk_id\":",
            "\"added_tokens\":",
            "\"truncation\":{\"direction\":\"Right\",\"max_length\":1,\"strategy\":\"LongestFirst\",\"stride\":9}",
            "\"padding\":{\"strategy\":{\"Fixed\":99999999},\"direction\":\"Left\",\"pad_to_multiple_of\":0,\"pad_id\":0,\"pad_type_id\":0,\"pad_token\":\"x\"}",
        ])
        .run(|case| {
            let bytes = case.bytes();
            let parsed = case.bounded(bytes.len(), || Tokenizer::parse(bytes, &declared, 64));
            let tokenizer = match parsed {
                Ok(tokenizer) => tokenizer,
                Err(message) => return case.refused(&message),
            };
            case.saw("a tokenizer");
            for text in TEXTS {
                for pair in [None, Some(TEXTS[0])] {
                    let row = TextRow {
                        text: text.to_owned(),
                        text_pair: pair.map(str::to_owned),
                    };
                    match tokenizer.tokenize(&[row]) {
                        Ok(tokens) => {
                            assert!((1..=8).contains(&tokens.ids.len()), "{:?}", tokens.ids);
                            assert_eq!(tokens.ids.len(), tokens.types.len());
                            assert!(tokens.ids.iter().all(|id| *id < 64), "{:?}", tokens.ids);
                        }
                        Err(error) => case.refused(&error.to_string()),
                    }
                }
            }
        });
}
