//! What folders and options ask for beyond a model's sizes: honoured as the reference libraries do, or refused by its field.

use serde_json::{Value, json};

use super::*;
use crate::{OutputActivation, Pooling};

/// Imports a changed fixture.
fn taken(name: &str, dir: &Path, change: impl FnOnce(&Path)) -> Imported {
    let folder = copied(name, dir);
    change(&folder);
    let asked = ImportOptions {
        folder,
        ..options(name, &dir.join("models"))
    };
    import(&asked).unwrap_or_else(|error| panic!("{error}"))
}

fn manifest(imported: &Imported) -> String {
    fs::read_to_string(imported.path.join("manifest.toml")).unwrap()
}

fn tokenizer(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("tokenizer.json")).unwrap()).unwrap()
}

#[track_caller]
fn assert_refused(name: &str, file: &str, words: &[&str], change: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let error = changed(name, dir.path(), change);
    assert!(error.path.ends_with(file), "{error}");
    for word in words {
        assert!(error.message.contains(word), "{error}\nlacks {word:?}");
    }
}

#[track_caller]
fn assert_field_refused(name: &str, file: &'static str, field: &str, value: Value) {
    assert_refused(name, file, &[field], |folder| {
        edit(&folder.join(file), field, value);
    });
}

#[test]
fn modules_in_another_order_are_refused() {
    for kinds in [
        &["Pooling", "Transformer"][..],
        &["Transformer", "Normalize", "Pooling"],
        &["Transformer", "Pooling", "Normalize", "Dense"],
        &["Transformer", "Dense", "Pooling"],
        &["Transformer", "Pooling", "Pooling"],
        &["Transformer", "Transformer", "Pooling"],
        &["Transformer", "Pooling", "LayerNorm"],
        &["Transformer"],
    ] {
        let module = |kind: &&str| {
            let path = match *kind {
                "Pooling" => "1_Pooling",
                _ => "",
            };
            json!({"path": path, "type": format!("sentence_transformers.models.{kind}")})
        };
        let modules: Vec<Value> = kinds.iter().map(module).collect();
        assert_refused("bert-sentence", "modules.json", &["Pooling"], |folder| {
            fs::write(folder.join("modules.json"), json!(modules).to_string()).unwrap();
        });
    }
}

#[test]
fn modules_that_compute_something_else_are_refused_by_their_field() {
    let dense = "2_Dense/config.json";
    for (field, value) in [
        ("use_residual", json!(true)),
        ("module_input_name", json!("token_embeddings")),
        ("module_output_name", json!("other")),
        ("activation_function", json!("my.module.Tanh")),
        ("activation_function", json!("Tanh")),
        (
            "activation_function",
            json!("torch.nn.modules.activation.GELU"),
        ),
    ] {
        assert_field_refused("bert-sentence-dense", dense, field, value);
    }
    let normalize = "2_Normalize/config.json";
    let tokens = json!("token_embeddings");
    assert_field_refused("bert-sentence", normalize, "module_input_name", tokens);
    let dir = tempfile::tempdir().unwrap();
    taken("bert-sentence-dense", dir.path(), |folder| {
        edit(&folder.join(dense), "use_residual", json!(false));
        let name = json!("sentence_embedding");
        edit(&folder.join(dense), "module_input_name", name);
        let path = json!("torch.nn.Identity");
        edit(&folder.join(dense), "activation_function", path);
    });
}

#[test]
fn an_activation_that_is_named_is_honoured_or_refused() {
    let named = |class: &str| json!({"activation_fn": format!("torch.nn.modules.{class}")});
    let config = |value: Value| {
        move |folder: &Path| edit_config(folder, "sentence_transformers", value.clone())
    };
    let field = "sentence_transformers.activation_fn";
    for (name, class) in [
        ("bert-cross-encoder", "activation.Tanh"),
        ("bert-cross-encoder", "activation.Softmax"),
        ("bert-classifier", "activation.ReLU"),
    ] {
        assert_refused(name, "config.json", &[field, class], config(named(class)));
    }
    let older = "sbert_ce_default_activation_function";
    let foreign = json!("my.module.Identity");
    assert_field_refused("bert-cross-encoder", "config.json", older, foreign);
    let file = "config_sentence_transformers.json";
    let relu = json!("torch.nn.ReLU");
    assert_field_refused("bert-reranker", file, "activation_fn", relu);

    for (class, activation) in [
        ("activation.Sigmoid", "sigmoid"),
        ("activation.Softmax", "softmax"),
        ("linear.Identity", "softmax"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let imported = taken("bert-classifier", dir.path(), config(named(class)));
        let written = format!("activation = \"{activation}\"");
        assert!(manifest(&imported).contains(&written), "{class}");
        let says = imported.notes.iter().any(|note| note.contains("Identity"));
        assert_eq!(says, class == "linear.Identity", "{:?}", imported.notes);
    }
    // Whoever imports may choose.
    let dir = tempfile::tempdir().unwrap();
    let folder = copied("bert-cross-encoder", dir.path());
    config(named("activation.Tanh"))(&folder);
    let asked = ImportOptions {
        folder,
        activation: Some(OutputActivation::Identity),
        ..options("bert-cross-encoder", &dir.path().join("models"))
    };
    import(&asked).unwrap();
}

#[test]
fn labels_that_cant_be_are_refused_before_anything_is_written() {
    let regression = json!("regression");
    assert_field_refused("bert-classifier", "config.json", "problem_type", regression);
    for labels in [
        json!({"0": "a", "1": "a", "2": "b"}),
        json!({"0": "", "1": "a", "2": "b"}),
    ] {
        assert_field_refused("bert-classifier", "config.json", "id2label", labels);
    }
}

#[test]
fn a_field_that_is_null_is_absent() {
    let dir = tempfile::tempdir().unwrap();
    taken("distilbert-base", dir.path(), |folder| {
        for field in ["id2label", "type_vocab_size"] {
            edit_config(folder, field, Value::Null);
        }
    });
    let names = &["architectures", "expected one of"];
    assert_refused("bert-base", "config.json", names, |folder| {
        edit_config(folder, "architectures", Value::Null);
    });
}

#[test]
fn modernbert_has_positions_of_one_kind_whatever_it_says() {
    let dir = tempfile::tempdir().unwrap();
    taken("modernbert-sentence", dir.path(), |folder| {
        edit_config(folder, "position_embedding_type", json!("sans_pos"));
    });
}

#[test]
fn a_cut_that_the_folder_asks_for_is_the_usual_width() {
    let file = "config_sentence_transformers.json";
    let cut =
        |width: usize| move |folder: &Path| edit(&folder.join(file), "truncate_dim", json!(width));
    let dir = tempfile::tempdir().unwrap();
    let imported = taken("bert-base", dir.path(), cut(16));
    assert!(manifest(&imported).contains("width = 16"));
    let says = |note: &String| note.contains("truncate_dim");
    assert!(imported.notes.iter().any(says), "{:?}", imported.notes);
    let dir = tempfile::tempdir().unwrap();
    assert!(manifest(&taken("bert-sentence", dir.path(), cut(64))).contains("width = 32"));
    let words = &["truncate_dim", "--width 16"];
    assert_refused("bert-sentence", file, words, cut(16));
    assert_refused("bert-base", file, &["truncate_dim"], cut(0));
}

#[test]
fn options_that_dont_apply_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |name: &str, words: &[&str], change: &dyn Fn(&mut ImportOptions)| {
        let mut options = options(name, dir.path());
        change(&mut options);
        let error = import(&options).expect_err("a refusal").to_string();
        for word in words {
            assert!(error.contains(word), "{error}\nlacks {word:?}");
        }
    };
    refused("bert-classifier", &["--normalise"], &|options| {
        options.normalise = true
    });
    refused("bert-classifier", &["--pooling"], &|options| {
        options.pooling = Some(Pooling::Cls);
    });
    refused("bert-base", &["--activation"], &|options| {
        options.activation = Some(OutputActivation::Sigmoid);
    });
    refused("bert-sentence", &["--pooling", "Mean"], &|options| {
        options.pooling = Some(Pooling::Cls);
    });
    refused("bert-sentence-dense", &["--normalise"], &|options| {
        options.normalise = true
    });
    refused("bert-base", &["--max-tokens", "64"], &|options| {
        options.max_tokens = Some(65)
    });
    refused("roberta-base", &["--max-tokens", "64"], &|options| {
        options.max_tokens = Some(65)
    });
    let mut same = options("bert-sentence", dir.path());
    (same.pooling, same.normalise, same.max_tokens) = (Some(Pooling::Mean), true, Some(64));
    import(&same).unwrap();
}

#[test]
fn a_tokenizers_two_files_must_agree() {
    let file = "tokenizer_config.json";
    let with = |class: &'static str, field: &'static str, value: Value| {
        move |folder: &Path| {
            edit(&folder.join(file), "tokenizer_class", json!(class));
            edit(&folder.join(file), field, value.clone());
        }
    };
    let (bert, roberta) = ("bert-classifier", "roberta-classifier");
    for (name, class, field, value) in [
        (bert, "BertTokenizer", "do_lower_case", false),
        (bert, "BertTokenizerFast", "strip_accents", false),
        (bert, "DistilBertTokenizer", "tokenize_chinese_chars", false),
        (roberta, "RobertaTokenizerFast", "add_prefix_space", true),
    ] {
        let words = &[field, "tokenizer.json"];
        assert_refused(name, file, words, with(class, field, json!(value)));
    }
    for (name, class, field, value) in [
        (bert, "BertTokenizer", "do_lower_case", json!(true)),
        (bert, "BertTokenizer", "strip_accents", json!(null)),
        (
            bert,
            "PreTrainedTokenizerFast",
            "do_lower_case",
            json!(false),
        ),
        (
            roberta,
            "RobertaTokenizer",
            "add_prefix_space",
            json!(false),
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        taken(name, dir.path(), with(class, field, value));
    }
}

#[test]
fn a_model_that_is_given_no_types_gets_none() {
    let names = |folder: &Path| {
        let names = json!(["input_ids", "attention_mask"]);
        edit(
            &folder.join("tokenizer_config.json"),
            "model_input_names",
            names,
        );
    };
    let dir = tempfile::tempdir().unwrap();
    let imported = taken("bert-classifier", dir.path(), names);
    let mut expected = tokenizer(&fixtures().join("bert-classifier"));
    for item in expected["post_processor"]["pair"].as_array_mut().unwrap() {
        for part in ["Sequence", "SpecialToken"] {
            if item.get(part).is_some() {
                item[part]["type_id"] = json!(0);
            }
        }
    }
    assert_eq!(tokenizer(&imported.path), expected);
    // Where nothing is to be changed, the file is the folder's.
    let dir = tempfile::tempdir().unwrap();
    let imported = taken("roberta-classifier", dir.path(), names);
    let bytes = |folder: &Path| fs::read(folder.join("tokenizer.json")).unwrap();
    let theirs = bytes(&fixtures().join("roberta-classifier"));
    assert_eq!(bytes(&imported.path), theirs);
    let words = &["model_input_names"];
    assert_refused(
        "bert-classifier",
        "tokenizer_config.json",
        words,
        |folder| {
            names(folder);
            let processor =
                json!({"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]});
            edit(&folder.join("tokenizer.json"), "post_processor", processor);
        },
    );
}

#[test]
fn types_that_the_model_has_no_row_for_are_refused() {
    let one_type = |folder: &Path| {
        edit_config(folder, "type_vocab_size", json!(1));
        edit_tensors(folder, |tensors| {
            let name = "bert.embeddings.token_type_embeddings.weight";
            let (shape, numbers) = tensors.get_mut(name).unwrap();
            shape[0] = 1;
            numbers.truncate(shape[1]);
        });
    };
    let words = &["type 1", "encoder.token_types (1)"];
    assert_refused("bert-classifier", "tokenizer.json", words, one_type);
    let dir = tempfile::tempdir().unwrap();
    let folder = copied("bert-classifier", dir.path());
    one_type(&folder);
    let alone = ImportOptions {
        folder,
        pair: Some(PairRule::None),
        ..options("bert-classifier", &dir.path().join("models"))
    };
    let imported = import(&alone).unwrap();
    // Nor does a version serve whose manifest says so.
    let text = manifest(&imported).replace("pair = \"none\"", "pair = \"optional\"");
    fs::write(imported.path.join("manifest.toml"), text).unwrap();
    let registry = Registry::open(&ModelSettings {
        dir: dir.path().join("models"),
        ..ModelSettings::default()
    })
    .unwrap();
    let problems = registry.problems();
    let problem = problems.first().expect("a problem").to_string();
    for word in ["tokenizer.json", "encoder.token_types"] {
        assert!(problem.contains(word), "{problem}");
    }
}

#[tokio::test]
async fn texts_are_lowercased_by_the_tokenizer_after_special_tokens_are_cut_out() {
    let dir = tempfile::tempdir().unwrap();
    let lower = |folder: &Path| {
        let file = folder.join("sentence_bert_config.json");
        edit(&file, "do_lower_case", json!(true));
    };
    let imported = taken("modernbert-sentence", dir.path(), lower);
    assert!(manifest(&imported).contains("lowercase = false"));
    let normalizer = json!({"type": "Sequence", "normalizers": [{"type": "Lowercase"}]});
    assert_eq!(tokenizer(&imported.path)["normalizer"], normalizer);
    let registry = open(&dir.path().join("models"), Backend::Cpu, 1);
    let answer = async |text: &str| {
        let row = TextRow {
            text: text.to_owned(),
            text_pair: None,
        };
        score(&registry, "modernbert-sentence", vec![row])
            .await
            .outputs
    };
    assert_eq!(answer("QUICK ΟΔΟΣ").await, answer("quick οδοσ").await);
    assert_ne!(answer("a [SEP] b").await, answer("a [sep] b").await);

    let dir = tempfile::tempdir().unwrap();
    let imported = taken("bert-sentence", dir.path(), lower);
    let own = &tokenizer(&fixtures().join("bert-sentence"))["normalizer"];
    let both = json!({"type": "Sequence", "normalizers": [{"type": "Lowercase"}, own]});
    assert_eq!(tokenizer(&imported.path)["normalizer"], both);
}
