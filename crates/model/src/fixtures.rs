//! Versions made on the spot, for this crate's tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::{Dtype, TensorView, serialize};
use sha2::{Digest, Sha256};

use super::{Backend, Model, ModelSettings, Registry, Rows, TextRow};

/// Numbers in [-0.5, 0.5), the same in every run.
pub(crate) fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5
        })
        .collect()
}

/// A tensor with its name, shape and numbers.
#[derive(Clone)]
pub(crate) struct Named {
    pub name: String,
    pub shape: Vec<usize>,
    pub numbers: Vec<f32>,
}

impl Named {
    pub fn new(name: &str, shape: &[usize], seed: u64) -> Self {
        Self {
            name: name.to_owned(),
            shape: shape.to_vec(),
            numbers: numbers(shape.iter().product(), seed),
        }
    }
}

/// A safetensors file of them.
pub(crate) fn file_of(tensors: &[Named]) -> Vec<u8> {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|tensor| {
            tensor
                .numbers
                .iter()
                .flat_map(|x| x.to_le_bytes())
                .collect()
        })
        .collect();
    let views = tensors.iter().zip(&bytes).map(|(tensor, bytes)| {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes).unwrap();
        (tensor.name.clone(), view)
    });
    serialize(views, None).unwrap()
}

/// The layers of an mlp of those sizes.
pub(crate) fn layers(sizes: &[usize], seed: u64) -> Vec<Named> {
    sizes
        .windows(2)
        .enumerate()
        .flat_map(|(i, pair)| {
            let seed = seed + 2 * i as u64;
            [
                Named::new(&format!("layers.{i}.weight"), &[pair[1], pair[0]], seed),
                Named::new(&format!("layers.{i}.bias"), &[pair[1]], seed + 1),
            ]
        })
        .collect()
}

/// A manifest of an mlp with relu and a sigmoid, or a softmax where it has more than one output.
pub(crate) fn mlp_manifest(sizes: &[usize]) -> String {
    let (count, hidden, width) = (sizes[0], &sizes[1..sizes.len() - 1], sizes[sizes.len() - 1]);
    let output = if width == 1 {
        "task = \"scalar\"\nactivation = \"sigmoid\"".to_owned()
    } else {
        let labels: Vec<String> = (0..width).map(|i| format!("label {i}")).collect();
        format!("task = \"classification\"\nlabels = {labels:?}\nactivation = \"softmax\"")
    };
    format!(
        "architecture = \"mlp\"\n[features]\ncount = {count}\n[output]\n{output}\n\
         [mlp]\nhidden = {hidden:?}\nactivation = \"relu\"\n"
    )
}

/// A manifest of an ngram-text classifier with three labels, and its tensors.
pub(crate) fn ngram(buckets: usize, dim: usize) -> (String, Vec<Named>) {
    let manifest = format!(
        "architecture = \"ngram-text\"\n[text]\nunicode = \"nfkc\"\nlowercase = true\n\
         collapse_whitespace = true\n[output]\ntask = \"classification\"\n\
         labels = [\"a\", \"b\", \"c\"]\nactivation = \"softmax\"\n[ngram]\nbuckets = {buckets}\n\
         dim = {dim}\nword_ngrams = 2\nmin_chars = 3\nmax_chars = 4\n"
    );
    let tensors = vec![
        Named::new("embedding.weight", &[buckets, dim], 11),
        Named::new("linear.weight", &[3, dim], 12),
        Named::new("linear.bias", &[3], 13),
    ];
    (manifest, tensors)
}

/// A models folder that is gone when the test ends.
pub(crate) struct ModelsDir {
    dir: tempfile::TempDir,
}

impl ModelsDir {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn folder(&self, name: &str, version: &str) -> PathBuf {
        self.path().join(name).join(version)
    }

    /// Writes a version; the manifest's `[weights]` table is added.
    pub fn put(&self, name: &str, version: &str, manifest: &str, tensors: &[Named]) {
        self.put_file(name, version, manifest, &file_of(tensors));
    }

    /// Writes a version with such a weights file.
    pub fn put_file(&self, name: &str, version: &str, manifest: &str, file: &[u8]) {
        let folder = self.folder(name, version);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("model.safetensors"), file).unwrap();
        let sha = hex::encode(Sha256::digest(file));
        let manifest = format!("{manifest}\n[weights]\nsha256 = \"{sha}\"\n");
        fs::write(folder.join("manifest.toml"), manifest).unwrap();
    }

    pub fn settings(&self) -> ModelSettings {
        ModelSettings {
            dir: self.path().to_owned(),
            threads: 2,
            ..ModelSettings::default()
        }
    }

    pub fn open(&self) -> Arc<Registry> {
        Registry::open(&self.settings()).unwrap()
    }

    /// Opens it with everything on that backend.
    pub fn open_on(&self, backend: Backend, threads: usize) -> Arc<Registry> {
        let registry = Registry::open(&ModelSettings {
            threads,
            backend,
            ..self.settings()
        })
        .unwrap();
        assert_eq!(registry.problems(), []);
        registry
    }
}

/// Scores on a small runtime of its own.
pub(crate) fn score(model: &Model, rows: Rows) -> Vec<f32> {
    wait(model.score(rows)).unwrap().outputs
}

pub(crate) fn wait<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

pub(crate) fn texts<S: AsRef<str>>(texts: &[S]) -> Rows {
    let row = |text: &S| TextRow {
        text: text.as_ref().to_owned(),
        text_pair: None,
    };
    Rows::Texts(texts.iter().map(row).collect())
}

/// The backends on the processor that this build has.
pub(crate) const PROCESSORS: &[Backend] = &[
    Backend::Cpu,
    Backend::Flex,
    #[cfg(feature = "ndarray")]
    Backend::Ndarray,
];

/// The backends on a graphics processor that this build has.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub(crate) const GRAPHICS: &[Backend] = &[
    #[cfg(feature = "wgpu")]
    Backend::Wgpu,
    #[cfg(feature = "cuda")]
    Backend::Cuda,
];

/// The largest difference between two answers.
pub(crate) fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

/// Whether the same numbers, bit for bit.
pub(crate) fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}
