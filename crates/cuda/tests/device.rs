//! The kernels beside those for the processor, on a device: `scripts/test-cuda` runs what is ignored elsewhere. On any machine with a C++ compiler an
//! emulated device runs them too: a driver and a compiler of the same names, for which the kernels' sources are C++ (`emulated/`).

#![allow(
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a panic is a failed test"
)]

#[path = "device/shapes.rs"]
mod shapes;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::{env, fs};

use kiln_cuda::{Attention, Device, Encoder, Layer, Linear, Norm, Stack};
use kiln_kernels::{self as kernels, Finish, PackedLinear, Pooling, Texts, ThreadPool};
use shapes::{Kind, Numbers, Shape, VOCABULARY, on_device, on_processor, weights};

const NEEDS: &str = "needs a device";

/// Texts of these lengths.
fn texts(lengths: &[usize]) -> (Vec<u32>, Vec<u32>) {
    let mut numbers = Numbers(11);
    let count = lengths.iter().sum();
    let ids = (0..count)
        .map(|_| (numbers.next() % VOCABULARY as u64) as u32)
        .collect();
    let types = (0..count).map(|_| (numbers.next() % 2) as u32).collect();
    (ids, types)
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

#[test]
fn what_is_missing_is_an_error_that_says_so() {
    if let Err(error) = Device::open(0) {
        println!("{error}");
    }
    // No machine has so many.
    assert!(Device::open(1000).is_err());
}

/// On a device that a processor emulates: the same tests with less to do.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn the_kernels_hold_on_an_emulated_device() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulated");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulated");
    // Left by runs before: a folder for each process would grow.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    let library = folder.join("libcuda.so");
    let compiled = Command::new("c++")
        .args(["-std=c++17", "-O1", "-shared", "-fPIC", "-o"])
        .args([&library, &sources.join("driver.cpp")])
        .args(["-ldl"])
        .status();
    assert!(compiled.expect("a C++ compiler").success());
    fs::copy(&library, folder.join("libnvrtc.so")).expect("a copy");
    let tested = Command::new(env::current_exe().expect("this program"))
        .args(["--ignored", "--nocapture", "--test-threads", "1"])
        .env("LD_LIBRARY_PATH", &folder)
        .env("EMULATED_FOLDER", &folder)
        .env("EMULATED_KERNELS", sources.join("kernels.h"))
        .status();
    assert!(tested.expect("the tests").success());
}

fn is_emulated(device: &Device) -> bool {
    device.name() == "emulated"
}

#[test]
#[ignore = "needs a device"]
fn every_kind_of_encoder_is_the_processors_and_the_same_bits_in_any_batch() {
    let device = Arc::new(Device::open(0).expect(NEEDS));
    println!("{}", device.name());
    let (sizes, lengths): (&[_], Vec<usize>) = if is_emulated(&device) {
        (
            &[(48, 4, 76), (20, 4, 30), (128, 2, 36)],
            vec![5, 1, 130, 17],
        )
    } else {
        let many = (0..40).map(|i| 1 + i * 7919 % 90);
        let long = [1, 16, 17, 64, 65, 300, 513];
        (
            &[
                (384, 12, 1536),
                (768, 12, 1000),
                (48, 4, 76),
                (20, 4, 30),
                (256, 2, 300),
                (192, 2, 64),
            ],
            many.chain(long).collect(),
        )
    };
    let kinds = [
        Kind::Plain,
        Kind::Relative,
        Kind::Rotary,
        Kind::Window,
        Kind::Disentangled,
    ];
    for &(hidden, heads, between) in sizes {
        for kind in kinds {
            let width = hidden / heads;
            let is_apart = match kind {
                Kind::Rotary | Kind::Window => width % 2 == 1,
                Kind::Disentangled => width % 4 != 0,
                _ => false,
            };
            if !is_apart {
                let shape = Shape {
                    hidden,
                    heads,
                    between,
                    layers: if is_emulated(&device) { 2 } else { 4 },
                    gate: matches!(kind, Kind::Rotary | Kind::Window),
                    keeps_sums: kind == Kind::Window,
                    kind,
                };
                assert_as_the_processors(&device, shape, &lengths);
            }
        }
    }
}

fn assert_as_the_processors(device: &Arc<Device>, shape: Shape, lengths: &[usize]) {
    let pool = ThreadPool::start("test", 2, || ()).expect("threads");
    let (ids, types) = texts(lengths);
    let all = Texts {
        ids: &ids,
        types: &types,
        lengths,
    };
    let here = on_processor(shape);
    let there = on_device(device, shape).expect("an encoder");
    let poolings = [Pooling::MeanAfter(2), Pooling::First];
    let few = if is_emulated(device) && shape.kind != Kind::Plain {
        1
    } else {
        2
    };
    for pooling in poolings.into_iter().take(few) {
        let expected = here.encode(all, pooling, &pool);
        let found = there.encode(all, pooling).expect("vectors");
        let far = furthest(&found, &expected);
        println!("{shape:?}, {pooling:?}: {far:.1e}");
        assert!(far < 5e-5, "{shape:?}, {pooling:?}: {far}");
        let mut first = 0;
        for (length, together) in lengths.iter().zip(found.chunks(shape.hidden)) {
            let alone = Texts {
                ids: &ids[first..first + length],
                types: &types[first..first + length],
                lengths: &[*length],
            };
            let alone = there.encode(alone, pooling).expect("a vector");
            assert!(
                is_same(&alone, together),
                "{shape:?}, {pooling:?}: a text of {length} tokens"
            );
            first += length;
        }
    }
}

fn is_same(a: &[f32], b: &[f32]) -> bool {
    a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

#[test]
#[ignore = "needs a device"]
fn layers_are_the_processors_and_the_same_bits_in_any_batch() {
    let device = Arc::new(Device::open(0).expect(NEEDS));
    let sizes = [
        (1, 1, 1),
        (13, 7, 3),
        (64, 256, 1),
        (500, 130, 70),
        (512, 4096, 5),
    ];
    let finishes = [
        Finish::Plain,
        Finish::Gelu,
        Finish::GeluTanh,
        Finish::Relu,
        Finish::Tanh,
        Finish::Sigmoid,
        Finish::Silu,
    ];
    // Of an emulated device's sizes each has other two.
    let (few, some) = if is_emulated(&device) {
        (4, 2)
    } else {
        (5, finishes.len())
    };
    for (number, size) in sizes.into_iter().enumerate().take(few) {
        for finish in finishes.into_iter().cycle().skip(2 * number).take(some) {
            assert_layers(&device, size, finish);
        }
    }
}

fn assert_layers(
    device: &Arc<Device>,
    (inputs, between, outputs): (usize, usize, usize),
    finish: Finish,
) {
    let mut numbers = Numbers(3);
    let weight = numbers.many(inputs * between, (3.0 / inputs as f32).sqrt());
    let bias = numbers.many(between, 0.5);
    let last = numbers.many(between * outputs, (3.0 / between as f32).sqrt());
    let first = PackedLinear::new(&weight, Some(&bias), inputs, between);
    let second = PackedLinear::new(&last, None, between, outputs);
    let here = kernels::Stack::new(inputs, vec![(first, finish), (second, Finish::Plain)]);
    let first = Linear::new(device, &weight, Some(&bias), (inputs, between), finish);
    let second = Linear::new(device, &last, None, (between, outputs), Finish::Plain);
    let layers = vec![first.expect("a layer"), second.expect("a layer")];
    let there = Stack::new(device, inputs, layers);
    let count = if is_emulated(device) { 70 } else { 9_000 };
    let x = numbers.many(count * inputs, 2.0);
    let (expected, found) = (here.forward(&x), there.forward(&x).expect("numbers"));
    let far = furthest(&found, &expected);
    println!("{inputs}-{between}-{outputs} {finish:?}: {far:.1e}");
    assert!(
        far < 5e-5,
        "{inputs}-{between}-{outputs}, {finish:?}: {far}"
    );
    for rows in [1, 2, 31, 33, 70] {
        let few = there.forward(&x[..rows * inputs]).expect("numbers");
        assert!(
            is_same(&few, &found),
            "{rows} rows of {inputs}-{between}-{outputs}, {finish:?}"
        );
    }
}

#[test]
#[ignore = "needs a device"]
fn a_number_that_is_none_stays_in_its_text() {
    let device = Arc::new(Device::open(0).expect(NEEDS));
    let shape = Shape {
        hidden: 48,
        heads: 4,
        between: 76,
        layers: 2,
        gate: false,
        keeps_sums: false,
        kind: Kind::Plain,
    };
    let mut of = weights(shape);
    of.tables.words[3 * 48] = f32::NAN;
    let layers = of.layers.iter().zip(&of.norms).map(|(parts, norms)| {
        let linear = |at: usize| {
            let (weight, bias, inputs, outputs) = &parts[at];
            Linear::new(
                &device,
                weight,
                Some(bias),
                (*inputs, *outputs),
                Finish::Relu,
            )
            .expect("a layer")
        };
        Layer {
            query_key_value: linear(0),
            attended: linear(1),
            attended_norm: Norm::new(&device, &norms[0]).expect("a norm"),
            up: linear(2),
            gate: None,
            down: linear(4),
            norm: Norm::new(&device, &norms[1]).expect("a norm"),
        }
    });
    let layers = layers.collect();
    let encoder = Encoder::new(&device, (48, 4), 2, &of.tables, layers, Attention::Plain)
        .expect("an encoder");
    let texts = Texts {
        ids: &[5, 6, 7, 3, 8, 9, 5],
        types: &[0; 7],
        lengths: &[3, 2, 2],
    };
    let found = encoder.encode(texts, Pooling::Mean).expect("vectors");
    let is_number = |text: usize| {
        found[text * 48..(text + 1) * 48]
            .iter()
            .all(|x| x.is_finite())
    };
    assert!(is_number(0) && is_number(2));
    assert!(found[48..96].iter().all(|x| x.is_nan()));
}

#[test]
#[ignore = "needs a device"]
fn a_long_text_is_as_near_to_the_processors_as_a_short_one() {
    let device = Arc::new(Device::open(0).expect(NEEDS));
    let shape = Shape {
        hidden: 16,
        heads: 1,
        between: 20,
        layers: 1,
        gate: false,
        keeps_sums: false,
        kind: Kind::Plain,
    };
    let pool = ThreadPool::start("test", 2, || ()).expect("threads");
    let (here, there) = (
        on_processor(shape),
        on_device(&device, shape).expect("an encoder"),
    );
    let [short, long] = [20, 4_000].map(|length| {
        let (ids, types) = texts(&[length]);
        let text = Texts {
            ids: &ids,
            types: &types,
            lengths: &[length],
        };
        let expected = here.encode(text, Pooling::First, &pool);
        let found = there.encode(text, Pooling::First).expect("a vector");
        furthest(&found, &expected)
    });
    println!("{short:.1e} and {long:.1e}");
    assert!(short < 3e-6 && long < 3e-6, "{short} and {long}");
}

#[test]
#[ignore = "needs a device"]
fn what_another_thread_drops_costs_nobody_else_anything() {
    let device = Arc::new(Device::open(0).expect(NEEDS));
    let stack = || {
        let layer = Linear::new(&device, &[1.0; 8], None, (8, 1), Finish::Plain);
        Stack::new(&device, 8, vec![layer.expect("a layer")])
    };
    let (kept, dropped) = (stack(), stack());
    let other = std::thread::Builder::new().name("other".to_owned());
    let other = other.spawn(move || drop(dropped)).expect("a thread");
    other.join().expect("it ends");
    assert_eq!(kept.forward(&[1.0; 8]), Ok(vec![8.0]));
    assert_eq!(device.lost(), None);
}

/// Last of all, for the file stays. Only an emulated device can be lost without harm.
#[test]
#[ignore = "needs a device"]
fn z_a_lost_device_says_so() {
    let device = Arc::new(Device::open(0).expect(NEEDS));
    if !is_emulated(&device) {
        return;
    }
    let layer = Linear::new(&device, &[1.0; 8], None, (8, 1), Finish::Plain).expect("a layer");
    let stack = Stack::new(&device, 8, vec![layer]);
    let folder = env::var("EMULATED_FOLDER").expect("a folder");
    fs::write(Path::new(&folder).join("lost"), "").expect("a file");
    assert!(stack.forward(&[1.0; 8]).is_err());
    assert!(device.lost().is_some());
}
