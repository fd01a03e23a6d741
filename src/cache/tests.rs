//! What is kept where, without a server.

use super::*;
use kiln_contract::model::{Precision, Task, WeightPrecision};
use kiln_model::InputKind;

fn space() -> Space {
    Space::new(&ModelInfo {
        name: "m".to_owned(),
        version: "1".to_owned(),
        architecture: "mlp".to_owned(),
        task: Task::Scalar,
        input: InputKind::Features { count: 1 },
        feature_names: Vec::new(),
        takes_missing: false,
        output_width: 1,
        precision: Precision::Single,
        max_text_bytes: 0,
        ttl_seconds: None,
        parameters: 0,
        weights: WeightPrecision::Single,
        golden: 0,
        training: None,
    })
}

#[test]
fn only_what_redis_did_not_take_is_kept_in_memory() {
    let cache = Cache::off(Metrics::new());
    let space = space();
    let inputs = [[1; 32], [2; 32], [3; 32]];
    let fresh: Vec<Fresh<'_>> = inputs
        .iter()
        .map(|input| Fresh {
            space: &space,
            input,
            row: &[0.5],
            ttl_ms: 1_000,
            seal: OWN,
        })
        .collect();
    cache.remember(&fresh, &[true, false, true]);
    let is_known = inputs.map(|input| {
        let wanted = Wanted {
            space: &space,
            input: &input,
        };
        cache.in_memory(&wanted).is_some()
    });
    assert_eq!(is_known, [false, true, false]);
}
