//! Prompts, cut and rounded embeddings, and what the newer families refuse.

use super::*;
use crate::fixtures::same_bits;

/// Why such a folder isn't taken, with one thing of it changed.
fn refusal(name: &str, change: impl FnOnce(&Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    changed(name, dir.path(), change).to_string()
}

fn with_config(name: &str, field: &'static str, value: serde_json::Value) -> String {
    refusal(name, |folder| edit_config(folder, field, value))
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table of refusals")]
fn configurations_that_mean_another_arithmetic_are_refused_by_their_field() {
    use serde_json::json;
    for (name, field, value) in [
        (
            "mpnet-sentence",
            "relative_attention_num_buckets",
            json!(16),
        ),
        (
            "modernbert-classifier",
            "layer_types",
            json!(vec!["sliding_attention"; 4]),
        ),
        ("modernbert-classifier", "classifier_pooling", json!("max")),
        (
            "modernbert-classifier",
            "classifier_activation",
            json!("silu"),
        ),
        (
            "modernbert-classifier",
            "hidden_activation",
            json!("quick_gelu"),
        ),
        (
            "modernbert-classifier",
            "rope_scaling",
            json!({"factor": 2}),
        ),
        (
            "modernbert-classifier",
            "rope_parameters",
            json!({"full_attention": {"rope_type": "yarn", "rope_theta": 1e4}}),
        ),
        (
            "nomic-base",
            "rope_parameters",
            json!({"rope_type": "linear", "rope_theta": 1e4}),
        ),
        ("nomic-base", "head_dim", json!(4)),
        ("nomic-hub", "rotary_emb_interleaved", json!(true)),
        ("nomic-hub", "prenorm", json!(true)),
        ("nomic-hub", "qkv_proj_bias", json!(true)),
        ("nomic-hub", "rotary_emb_fraction", json!(0.5)),
        ("nomic-hub", "activation_function", json!("gelu")),
        ("deberta-classifier", "relative_attention", json!(false)),
        ("deberta-classifier", "share_att_key", json!(false)),
        ("deberta-classifier", "pos_att_type", json!(["c2p"])),
        ("deberta-classifier", "conv_kernel_size", json!(3)),
        ("deberta-classifier", "embedding_size", json!(16)),
        ("deberta-classifier", "norm_rel_ebd", json!("rms")),
        ("deberta-classifier", "pooler_hidden_act", json!("mish")),
    ] {
        let message = with_config(name, field, value);
        assert!(
            message.contains("config.json") && message.contains(field),
            "{field}: {message}"
        );
    }
}

#[test]
fn sizes_that_cant_be_are_refused_before_anything_is_built() {
    use serde_json::json;
    let rope = |theta: serde_json::Value| json!({"rope_type": "default", "rope_theta": theta});
    for (name, field, value) in [
        ("modernbert-sentence", "num_attention_heads", json!(0)),
        ("modernbert-sentence", "num_attention_heads", json!(32)),
        (
            "modernbert-sentence",
            "max_position_embeddings",
            json!(1_u64 << 40),
        ),
        ("modernbert-sentence", "local_attention", json!(0)),
        ("modernbert-sentence", "norm_eps", json!(0)),
        ("nomic-base", "rope_parameters", rope(json!(-1.0))),
        ("nomic-base", "rope_parameters", rope(json!(1e30))),
        ("nomic-hub", "n_head", json!(0)),
        ("nomic-hub", "rotary_emb_base", json!(0)),
        ("nomic-hub", "n_inner", json!(u64::MAX)),
        ("deberta-base", "num_attention_heads", json!(0)),
        ("deberta-base", "position_buckets", json!(1_000_000)),
        ("deberta-base", "position_buckets", json!(7)),
        ("deberta-base", "max_relative_positions", json!(1_u64 << 40)),
        ("mpnet-sentence", "num_attention_heads", json!(0)),
        ("mpnet-sentence", "vocab_size", json!(1_u64 << 60)),
    ] {
        let message = with_config(name, field, value);
        // In the words of the file, not of the manifest that would come of it.
        let is_said =
            message.contains(&format!("config.json: {field}")) && !message.contains("encoder.");
        assert!(is_said, "{name}, {field}: {message}");
    }
    let layers = with_config("modernbert-sentence", "num_hidden_layers", json!(0));
    assert!(layers.contains("layer_types"), "{layers}");
}

#[test]
fn tensors_that_stand_together_must_be_whole() {
    let message = refusal("modernbert-classifier", |folder| {
        edit_tensors(folder, |tensors| {
            let (shape, numbers) = tensors.get_mut("model.layers.1.attn.Wqkv.weight").unwrap();
            shape[0] -= 1;
            numbers.truncate(shape[0] * shape[1]);
        });
    });
    assert!(
        message.contains("layers.1.attn.Wqkv.weight") && message.contains("3 equal parts"),
        "{message}"
    );
}

#[test]
fn a_prompt_is_the_folders_choice_or_ones_own() {
    let dir = tempfile::tempdir().unwrap();
    let asked = |version: &str, prompt: &str| {
        import(&ImportOptions {
            version: version.to_owned(),
            prompt: Some(prompt.to_owned()),
            ..options("bert-prompt", dir.path())
        })
    };
    let manifest = |path: &Path| fs::read_to_string(path.join("manifest.toml")).unwrap();
    let imported = import(&options("bert-prompt", dir.path())).unwrap();
    assert!(manifest(&imported.path).contains(r#"prompt = "find: ""#));
    assert!(
        imported.notes.iter().any(|note| note.contains("\"query\"")),
        "{:?}",
        imported.notes
    );
    assert!(manifest(&asked("2", "passage").unwrap().path).contains("prompt ="));
    for none in ["plain", "none"] {
        let version = asked(none, none).unwrap();
        assert!(!manifest(&version.path).contains("prompt ="));
    }
    let error = asked("3", "title").expect_err("a refusal").to_string();
    assert!(
        error.contains("\"title\"") && error.contains("passage"),
        "{error}"
    );
    let classifier = ImportOptions {
        prompt: Some("query".to_owned()),
        ..options("bert-classifier", dir.path())
    };
    assert!(
        import(&classifier)
            .expect_err("a refusal")
            .to_string()
            .contains("--prompt")
    );
}

#[tokio::test]
async fn embeddings_as_whole_numbers_and_bits() {
    let dir = tempfile::tempdir().unwrap();
    let name = "mpnet-sentence";
    let precisions = [Precision::Single, Precision::Int8, Precision::Binary];
    for (version, precision) in ["1", "2", "3"].into_iter().zip(precisions) {
        let options = ImportOptions {
            version: version.to_owned(),
            precision,
            ..options(name, dir.path())
        };
        assert_eq!(import(&options).unwrap().info.precision, precision);
    }
    let registry = open(dir.path(), Backend::Cpu, 2);
    let rows: Vec<TextRow> = read_expected(name).inputs.iter().map(Input::row).collect();
    let [floats, whole, bits] = [1, 2, 3].map(|version| format!("{name}@{version}"));
    let floats = score(&registry, &floats, rows.clone()).await.outputs;
    let whole = score(&registry, &whole, rows.clone()).await.outputs;
    // Of 32 numbers a vector of length 1 may have any.
    for (x, whole) in floats.iter().zip(&whole) {
        assert_eq!(*whole, (x * 127.0).round_ties_even());
    }
    let packed = score(&registry, &bits, rows.clone()).await.outputs;
    assert_eq!(packed.len(), rows.len() * 4);
    for (i, x) in floats.iter().enumerate() {
        let bit = packed[i / 8] as u8 >> (7 - i % 8) & 1;
        assert_eq!(bit == 1, *x > 0.0, "number {i}");
    }
    let alone = score(&registry, &bits, vec![rows[3].clone()]).await.outputs;
    assert!(same_bits(&alone, &packed[12..16]));

    let prefix = kiln_contract::key::EntryPrefix::new(name, "1");
    let sizes = [
        (&floats, 32, Precision::Single),
        (&whole, 32, Precision::Int8),
        (&packed, 4, Precision::Binary),
    ]
    .map(|(outputs, width, precision)| {
        let codec = kiln_contract::entry::Codec::new(&prefix, width, precision);
        let (row, mut back) = (&outputs[..width], Vec::new());
        let bytes = codec.encode(&[7; 32], row, kiln_contract::entry::Seal::default());
        assert!(codec.decode(&[7; 32], &bytes, &mut back).is_some());
        assert!(same_bits(row, &back));
        bytes.len()
    });
    assert_eq!(sizes, [5 + 128, 5 + 32, 5 + 4]);
}

#[test]
fn widths_and_ranges_that_dont_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |name: &str, change: &dyn Fn(&mut ImportOptions)| {
        let mut options = options(name, dir.path());
        change(&mut options);
        import(&options).expect_err("a refusal").to_string()
    };
    for (width, precision, word) in [
        (Some(0), Precision::Single, "1 to 32"),
        (Some(33), Precision::Single, "1 to 32"),
        (Some(12), Precision::Binary, "multiple of 8"),
    ] {
        let message = refused("bert-sentence", &|options| {
            (options.width, options.precision) = (width, precision);
        });
        assert!(message.contains(word), "{message}");
    }
    let missing = refused("bert-base", &|options| options.precision = Precision::Int8);
    assert!(missing.contains("output.range"), "{missing}");
    for range in [0.0, -1.0, f32::INFINITY, f32::NAN] {
        let message = refused("bert-sentence", &|options| {
            (options.range, options.precision) = (Some(range), Precision::Int8);
        });
        assert!(message.contains("output.range"), "{range}: {message}");
    }
    let single = refused("bert-sentence", &|options| options.range = Some(1.0));
    assert!(single.contains("output.range"), "{single}");
}

#[test]
fn what_only_the_kernels_compute_is_refused_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["modernbert-sentence", "nomic-base", "deberta-base"] {
        import(&options(name, dir.path())).unwrap();
    }
    let registry = Registry::open(&ModelSettings {
        dir: dir.path().to_owned(),
        backend: Backend::Flex,
        ..ModelSettings::default()
    })
    .unwrap();
    let problems = registry.problems();
    assert_eq!(problems.len(), 3);
    for problem in problems {
        let expected = "runs on the backends \"cpu\" and \"cuda\" alone";
        assert!(problem.to_string().contains(expected), "{problem}");
    }
}
