//! What public functions do with sizes that don't fit each other.

use crate::*;

/// What a call panics with.
fn refusal<T>(call: impl FnOnce() -> T) -> String {
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
    match panic.err().map(|panic| panic.downcast::<String>()) {
        Some(Ok(message)) => *message,
        Some(Err(panic)) => (*panic.downcast::<&str>().unwrap()).to_owned(),
        None => "no panic".to_owned(),
    }
}

fn layer(inputs: usize, outputs: usize) -> PackedLinear {
    let weight = vec![0.0; inputs * outputs];
    PackedLinear::new(&weight, None, inputs, outputs)
}

#[track_caller]
fn refused(message: String, expected: &str) {
    assert!(message.contains(expected), "{message:?}, not {expected:?}");
}

#[test]
fn layers_refuse_sizes_that_dont_fit() {
    refused(
        refusal(|| PackedLinear::new(&[], None, 0, 1)),
        "without a size",
    );
    refused(
        refusal(|| PackedLinear::new(&[0.0; 5], None, 2, 3)),
        "weights",
    );
    refused(
        refusal(|| PackedLinear::new(&[0.0; 6], Some(&[0.0; 2]), 2, 3)),
        "biases",
    );
    refused(
        refusal(|| layer(2, 3).forward(&[0.0; 5], Finish::Plain)),
        "no rows of 2",
    );
    let plain = |layer| (layer, Finish::Plain);
    refused(
        refusal(|| Stack::new(2, vec![plain(layer(2, 3)), plain(layer(2, 3))])),
        "inputs of layer 1",
    );
    refused(
        refusal(|| Stack::new(2, vec![plain(layer(2, 3))]).forward(&[0.0; 3])),
        "no rows of 2",
    );
}

#[test]
fn layers_in_bytes_refuse_sizes_that_dont_fit() {
    let new = |weight: &[i8], scales: &[f32], bias: Option<&[f32]>, inputs| {
        refusal(|| QuantisedLinear::new(weight, scales, bias, inputs, 3))
    };
    assert_eq!(new(&[0; 6], &[0.0; 3], None, 2), "no panic");
    refused(new(&[], &[0.0; 3], None, 0), "without a size");
    refused(new(&[], &[0.0; 3], None, 65_537), "more than 65536 inputs");
    refused(new(&[0; 5], &[0.0; 3], None, 2), "weights");
    refused(new(&[0; 6], &[0.0; 2], None, 2), "scales");
    refused(new(&[0; 6], &[0.0; 3], Some(&[0.0; 4]), 2), "biases");
    let layer = QuantisedLinear::new(&[0; 6], &[0.0; 3], None, 2, 3);
    refused(
        refusal(|| layer.forward(&[0.0; 5], Finish::Plain)),
        "no rows of 2",
    );
    refused(
        refusal(|| QuantisedLinear::round(&[0.0; 5], 2, 64)),
        "no rows of 2",
    );
    refused(
        refusal(|| QuantisedLinear::round(&[0.0; 4], 2, 0)),
        "bytes up to 0",
    );
}

#[test]
fn embedding_bags_refuse_sizes_that_dont_fit() {
    refused(
        refusal(|| EmbeddingBag::new(Vec::new(), 0)),
        "without numbers",
    );
    refused(
        refusal(|| EmbeddingBag::new(vec![0.0; 5], 2)),
        "no rows of 2",
    );
    let embeddings = EmbeddingBag::new(vec![0.0; 6], 2);
    let mean = |rows: &[u32], width| {
        let mut into = vec![0.0; width];
        refusal(|| embeddings.mean(rows, &mut into))
    };
    assert_eq!(mean(&[2, 0], 2), "no panic");
    refused(mean(&[0], 3), "numbers of the mean");
    refused(mean(&[0, 3], 2), "outside the table of 3");
    refused(mean(&[u32::MAX], 2), "outside the table of 3");
}

#[test]
fn encoders_refuse_sizes_that_dont_fit() {
    let norm = |width| Norm {
        weight: vec![1.0; width],
        bias: vec![0.0; width],
        eps: 1e-12,
    };
    let tables = |width| Tables {
        words: vec![0.0; 3 * width],
        positions: Some(vec![0.0; 4 * width]),
        types: Some(vec![0.0; 2 * width]),
        norm: norm(width),
    };
    let new = |heads, offset, width, layers| {
        Encoder::new(6, heads, offset, Finish::Gelu, tables(width), layers)
    };
    refused(refusal(|| new(4, 0, 6, Vec::new())), "4 heads");
    refused(refusal(|| new(2, 0, 5, Vec::new())), "no rows of 6");
    refused(refusal(|| new(2, 5, 6, Vec::new())), "position_offset");
    let narrow = Layer {
        query_key_value: layer(6, 18).into(),
        attended: layer(6, 6).into(),
        attended_norm: norm(6),
        up: layer(6, 8).into(),
        gate: None,
        down: layer(7, 6).into(),
        norm: norm(6),
    };
    refused(refusal(|| new(2, 0, 6, vec![narrow])), "down");
    let encoder = new(2, 1, 6, Vec::new());
    let pool = ThreadPool::start("kernel", 1, || ()).unwrap();
    let encode = |ids: &[u32], types: &[u32], lengths: &[usize]| {
        let texts = Texts {
            ids,
            types,
            lengths,
        };
        refusal(|| encoder.encode(texts, Pooling::First, &pool))
    };
    assert_eq!(encode(&[2, 0, 1], &[0, 1, 1], &[1, 2]), "no panic");
    refused(encode(&[0, 0], &[0, 0], &[1]), "lengths add up to");
    refused(encode(&[0], &[0], &[1, 0]), "no tokens");
    refused(encode(&[0; 4], &[0; 4], &[4]), "3 positions");
    refused(encode(&[3], &[0], &[1]), "vocabulary");
    refused(encode(&[0], &[2], &[1]), "type");
    refused(encode(&[0], &[], &[1]), "types");
}
