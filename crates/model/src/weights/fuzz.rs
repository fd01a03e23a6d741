//! Weights files that nobody thought of: headers that lie about sizes, offsets, types and names.

use super::*;
use kiln_fuzz::{Case, Target};

fn declared() -> WeightsFile {
    toml::from_str("sha256 = \"\"\nprefix = \"p.\"\nrename = { b = \"bias\" }").expect("a table")
}

fn expected() -> [Expected; 3] {
    [
        Expected::new("w", [2, 3]),
        Expected::new("b", [2]),
        Expected::bytes("q", [2, 2]),
    ]
}

fn check(case: &mut Case<'_>, bytes: &[u8]) {
    let read = case.bounded(bytes.len(), || Weights::of(bytes, &declared(), &expected()));
    match read {
        Ok(mut weights) => {
            case.saw("weights");
            assert_eq!(weights.parameters(), 12);
            let (w, b, q) = (
                weights.take("w"),
                weights.take("b"),
                weights.take_bytes("q"),
            );
            assert_eq!((w.len(), b.len(), q.len()), (6, 2, 4));
            assert!(w.iter().chain(&b).all(|x| x.is_finite()));
        }
        Err(refused) => case.refused(&refused.message),
    }
}

/// The bytes of a file with this header.
fn file(header: &str, length: Option<u64>, data: &[u8]) -> Vec<u8> {
    let length = length.unwrap_or(header.len() as u64);
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

const HEADER: &str = concat!(
    r#"{"p.w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"#,
    r#""p.bias":{"dtype":"F32","shape":[2],"data_offsets":[24,32]},"#,
    r#""p.q":{"dtype":"I8","shape":[2,2],"data_offsets":[32,36]}}"#
);

#[test]
fn fuzz_weights() {
    let whole = file(HEADER, None, &[0; 36]);
    Target::new("weights")
        .seeds(&[&whole])
        .words(&[
            "\"__metadata__\":{",
            "\"dtype\":\"F16\"",
            "\"shape\":[",
            "\"data_offsets\":[",
        ])
        .run(|case| check(case, case.bytes()));
}

/// A header whose parts are odd one by one, and whose length is right: bytes alone hardly get past it.
#[test]
fn fuzz_weights_built() {
    Target::new("weights_built").run(|case| {
        let mut tensors = Vec::new();
        let names = [
            "p.w",
            "p.bias",
            "p.q",
            "p.b",
            "w",
            "",
            "\\u0070.w",
            "p.w",
            "__metadata__",
        ];
        let mut at = 0_u64;
        for tensor in 0..3 + case.below(3) {
            let name = match case.one_in(8) {
                true => serde_json::Value::from(case.text()).to_string(),
                false if tensor < 3 && !case.one_in(8) => format!("\"{}\"", names[tensor]),
                false => format!("\"{}\"", case.pick(&names)),
            };
            let right = ["[2,3]", "[2]", "[2,2]"];
            let shape = match case.one_in(6) {
                false => right[tensor % 3].to_owned(),
                true => format!("[{},{}]", case.number(), case.number()),
            };
            let kinds = [
                "F32", "F32", "I8", "F64", "BOOL", "F4", "F8_E8M0", "U64", "X",
            ];
            let kind = match case.one_in(6) {
                false => kinds[tensor % 3],
                true => *case.pick(&kinds),
            };
            let end = at + [24, 8, 4][tensor % 3];
            let offsets = match case.one_in(6) {
                false => format!("[{at},{end}]"),
                true => format!("[{},{}]", case.number(), case.number()),
            };
            at = end;
            tensors.push(format!(
                "{name}:{{\"dtype\":\"{kind}\",\"shape\":{shape},\"data_offsets\":{offsets}}}"
            ));
        }
        let header = format!("{{{}}}", tensors.join(","));
        let length = case.one_in(8).then(|| case.word() >> case.below(64));
        let mut data = vec![0; at as usize];
        for byte in case.rest() {
            data.push(*byte);
        }
        if data.len() > 40 {
            let by = data.len() - 36;
            data.rotate_right(by);
            data.truncate(36 + by % 3);
        }
        check(case, &file(&header, length, &data));
    });
}
