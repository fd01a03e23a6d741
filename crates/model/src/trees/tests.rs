//! Scores of both libraries, kept beside their models: the same bits, from every notation and in any batch.

mod hostile;

use super::*;
use std::fs;
use std::path::PathBuf;

/// What `tests/parity/trees.py` wrote.
fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/trees/fixtures")
}

fn floats(path: &Path) -> Vec<f32> {
    let bytes = fs::read(path).unwrap();
    let each = bytes.as_chunks::<4>().0.iter();
    each.map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn opened(path: &Path) -> Ensemble {
    let bytes = fs::read(path).unwrap();
    let format = format_of(&bytes).unwrap();
    read(&bytes, format).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()))
}

#[test]
fn scores_have_the_libraries_own_bits_in_any_batch() {
    let mut models = 0;
    for entry in fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap();
        if file.ends_with(".in") || file.ends_with(".out") {
            continue;
        }
        models += 1;
        let name = file.split('.').next().unwrap();
        let rows = floats(&path.with_file_name(format!("{name}.in")));
        let expected = floats(&path.with_file_name(format!("{name}.out")));
        let ensemble = opened(&path);
        let width = ensemble.features();
        let network = TreeNetwork::of(&ensemble).unwrap();
        let plain: Vec<f32> = rows
            .chunks(width)
            .flat_map(|row| ensemble.plainly(row))
            .collect();
        assert_eq!(plain, expected, "{file}, split by split");
        for size in [1, 3, 7, 40, 64, 1000] {
            let found = rows
                .chunks(size * width)
                .flat_map(|rows| network.forward(Batch::Features(rows)));
            for (i, (found, expected)) in found.zip(&expected).enumerate() {
                assert_eq!(
                    found.to_bits(),
                    expected.to_bits(),
                    "{file}: number {i} in batches of {size}: {found} for {expected}"
                );
            }
        }
    }
    assert_eq!(models, 7);
}

#[test]
fn what_is_kept_in_memory_is_less_than_twice_the_file() {
    for file in ["lightgbm-multiclass.txt", "xgboost-dart.ubj"] {
        let path = fixtures().join(file);
        let network = TreeNetwork::of(&opened(&path)).unwrap();
        let bytes = match &network.forest {
            Sums::Double(forest) => forest.bytes(),
            Sums::Single(forest) => forest.bytes(),
        };
        let of_file = fs::metadata(&path).unwrap().len() as usize;
        assert!(bytes < 2 * of_file, "{bytes} bytes for {of_file} of {file}");
    }
}

#[test]
fn what_a_file_says_of_itself_is_kept() {
    let forest = opened(&fixtures().join("lightgbm-forest.txt"));
    assert_eq!(forest.names[4], "Column_4");
    assert_eq!(forest.objective.name, "binary sigmoid:1.7");
    assert_eq!((forest.outputs(), forest.mean_of), (1, Some(4)));
    let dart = opened(&fixtures().join("xgboost-dart.json"));
    assert_eq!(dart.objective.name, "binary:logistic");
    assert_eq!((dart.features(), dart.outputs()), (5, 1));
}
