//! Products of matrices to 32 bits, also on graphics processors that round what they multiply.
//!
//! Matrix units may keep 11 of a factor's 24 bits (NVIDIA's TF32), and burn uses them for 32-bit tensors: scores would be a thousandth off.
//! There each factor is the sum of two that lose nothing, its leading bits and the rest, and three products stand for one.

use burn_tensor::{Device, Tensor};

/// Times this, less the product's own low part, a 32-bit float keeps 11 of its 24 bits (Veltkamp, 1968).
const SPLITTER: f32 = 8193.0;
/// Numbers beyond this would leave the floats' range by [`SPLITTER`].
const LARGEST: f32 = 4e34;
/// Left factors of the products that find out. Which kernel makes a product depends on its shape, and one rounds where another doesn't: a square
/// for a processor's matrix unit, a layer's rows, and the attention's batches.
const SQUARE: [usize; 2] = [64, 64];
const TALL: [usize; 2] = [1024, 512];
const BATCHED: [usize; 4] = [8, 4, 64, 64];

/// How a device multiplies matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Products {
    /// As it is told.
    Exact,
    /// With rounded factors, so that they are split.
    Rounded,
}

/// A factor, and what it takes to multiply it: it may be used many times.
pub(crate) struct Parts<const D: usize> {
    leading: Tensor<D>,
    /// None where nothing is rounded.
    rest: Option<Tensor<D>>,
}

impl Products {
    /// Multiplies numbers of 13 bits by one, in several shapes, and looks whether they are still the same.
    pub fn of(device: &Device) -> Self {
        Self::found(device, Tensor::matmul, Tensor::matmul)
    }

    /// A deviation in any shape means that products are rounded.
    fn found(
        device: &Device,
        flat: impl Fn(Tensor<2>, Tensor<2>) -> Tensor<2>,
        batched: impl Fn(Tensor<4>, Tensor<4>) -> Tensor<4>,
    ) -> Self {
        let exact = is_exact(SQUARE, device, &flat)
            && is_exact(TALL, device, &flat)
            && is_exact(BATCHED, device, batched);
        if exact { Self::Exact } else { Self::Rounded }
    }

    /// Prepares a factor.
    pub fn parts<const D: usize>(self, numbers: Tensor<D>) -> Parts<D> {
        self.prepared(numbers, |numbers| numbers.clamp(-LARGEST, LARGEST))
    }

    /// Prepares a factor whose numbers are far below [`LARGEST`], which takes a step less: what was normed, and what comes of it.
    pub fn parts_of_normed<const D: usize>(self, numbers: Tensor<D>) -> Parts<D> {
        self.prepared(numbers, |numbers| numbers)
    }

    fn prepared<const D: usize>(
        self,
        numbers: Tensor<D>,
        bound: impl Fn(Tensor<D>) -> Tensor<D>,
    ) -> Parts<D> {
        match self {
            Self::Exact => Parts {
                leading: numbers,
                rest: None,
            },
            Self::Rounded => {
                let (leading, rest) = split(bound(numbers.clone()), numbers);
                Parts {
                    leading,
                    rest: Some(rest),
                }
            }
        }
    }
}

impl<const D: usize> Parts<D> {
    /// The same numbers otherwise arranged, or some of them.
    pub fn map(&self, arrange: impl Fn(Tensor<D>) -> Tensor<D>) -> Self {
        Self {
            leading: arrange(self.leading.clone()),
            rest: self.rest.clone().map(arrange),
        }
    }

    /// The product. What is left out of it is that of both rests, 2^-22 of the whole.
    pub fn times(&self, right: &Self) -> Tensor<D> {
        let product = |left: &Tensor<D>, right: &Tensor<D>| left.clone().matmul(right.clone());
        let whole = product(&self.leading, &right.leading);
        match (&self.rest, &right.rest) {
            (Some(left_rest), Some(right_rest)) => {
                let small = product(&self.leading, right_rest) + product(left_rest, &right.leading);
                whole + small
            }
            _ => whole,
        }
    }
}

/// Whether numbers of that shape are what they were after a multiplication by one.
fn is_exact<const D: usize>(
    shape: [usize; D],
    device: &Device,
    multiply: impl Fn(Tensor<D>, Tensor<D>) -> Tensor<D>,
) -> bool {
    let fine = 1.0 + 2f32.powi(-12);
    let numbers = Tensor::<D>::ones(shape, device).mul_scalar(fine);
    let [.., width] = shape.as_slice() else {
        return true;
    };
    // Of the whole shape: a matrix that stands for a batch may be multiplied by another kernel.
    let mut square = shape;
    if let [.., rows, _] = square.as_mut_slice() {
        *rows = *width;
    }
    let one = Tensor::<2>::eye(*width, device).unsqueeze::<D>() * Tensor::ones(square, device);
    let product = multiply(numbers, one).into_data();
    product
        .as_slice::<f32>()
        .is_ok_and(|numbers| numbers.iter().all(|&x| x == fine))
}

/// The leading 11 bits of each number, and the rest. `bounded` are the same numbers, [`LARGEST`] in place of larger ones: of those the
/// leading part has more bits, and may be the whole.
fn split<const D: usize>(bounded: Tensor<D>, numbers: Tensor<D>) -> (Tensor<D>, Tensor<D>) {
    let scaled = bounded.mul_scalar(SPLITTER);
    let leading = scaled.clone() - (scaled - numbers.clone());
    (leading.clone(), numbers - leading)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::numbers;
    use crate::fixtures;

    fn tensor(rows: usize, columns: usize, seed: u64) -> Tensor<2> {
        let numbers = fixtures::numbers(rows * columns, seed);
        Tensor::from_data(
            burn_tensor::TensorData::new(numbers, [rows, columns]),
            &Device::flex(),
        )
    }

    /// A number as a tensor core reads it.
    fn rounded(x: f32) -> f32 {
        let bits = x.to_bits();
        f32::from_bits((bits + 0xfff + (bits >> 13 & 1)) & !0x1fff)
    }

    #[test]
    fn a_processor_multiplies_as_it_is_told() {
        assert_eq!(Products::of(&Device::flex()), Products::Exact);
    }

    #[test]
    fn a_deviation_in_one_shape_means_that_products_are_rounded() {
        // Multiplied by one, as the matrix unit reads it.
        fn by_one<const D: usize>(left: Tensor<D>, _: Tensor<D>) -> Tensor<D> {
            left
        }
        fn coarse<const D: usize>(left: Tensor<D>, _: Tensor<D>) -> Tensor<D> {
            let shape = left.shape();
            let numbers: Vec<f32> = numbers(left).into_iter().map(rounded).collect();
            Tensor::from_data(
                burn_tensor::TensorData::new(numbers, shape),
                &Device::flex(),
            )
        }
        let device = Device::flex();
        let tall = |left: Tensor<2>, right: Tensor<2>| {
            if left.dims()[0] > 64 {
                coarse(left, right)
            } else {
                by_one(left, right)
            }
        };
        assert_eq!(Products::found(&device, by_one, by_one), Products::Exact);
        for found in [
            Products::found(&device, coarse, by_one),
            Products::found(&device, tall, by_one),
            Products::found(&device, by_one, coarse),
        ] {
            assert_eq!(found, Products::Rounded);
        }
    }

    #[test]
    fn numbers_as_large_as_floats_are_stay_numbers_in_parts() {
        let large = [3e38, 1.2345678e38, 5e34, 4e34, 1e34, -4.1e34, -3.3e38, 0.0];
        let whole = Tensor::<2>::from_data([large], &Device::flex());
        let parts = Products::Rounded.parts(whole.clone());
        let (leading, rest) = (numbers(parts.leading), numbers(parts.rest.unwrap()));
        for ((whole, leading), rest) in large.iter().zip(&leading).zip(&rest) {
            assert_eq!(leading + rest, *whole);
            assert!(
                rest.abs() <= whole.abs() * 2f32.powi(-11),
                "{rest} of {whole}"
            );
        }
        let half = Products::Rounded.parts(Tensor::<2>::eye(8, &Device::flex()).mul_scalar(0.5));
        let product = numbers(Products::Rounded.parts(whole).times(&half));
        assert_eq!(product, large.map(|x| x / 2.0));
    }

    #[test]
    fn the_parts_are_the_whole_and_lose_hardly_anything_where_factors_are_rounded() {
        let whole = tensor(40, 30, 1);
        let (leading, rest) = split(whole.clone(), whole.clone());
        let (whole, leading, rest) = (numbers(whole), numbers(leading), numbers(rest));
        for ((whole, leading), rest) in whole.iter().zip(&leading).zip(&rest) {
            assert_eq!(leading + rest, *whole);
            assert_eq!(rounded(*leading), *leading, "of {whole}");
            let lost = (rounded(*rest) - rest).abs();
            assert!(lost <= whole.abs() * 2f32.powi(-22), "{lost} of {whole}");
        }
    }

    /// On a device that rounds, and on one that doesn't.
    #[cfg(feature = "wgpu")]
    #[test]
    fn a_graphics_processor_multiplies_to_32_bits() {
        let backend = crate::settings::Backend::Wgpu;
        let pool = std::sync::Arc::new(kiln_kernels::ThreadPool::start("test", 1, || ()).unwrap());
        let hardware = crate::hardware::Hardware::open(backend, pool).unwrap();
        println!("{backend:?}: {:?}", hardware.products);
        let (left, right) = (tensor(130, 520, 2), tensor(520, 70, 3));
        let expected = numbers(left.clone().matmul(right.clone()));
        let [left, right] = [left, right]
            .map(|tensor| Tensor::<2>::from_data(tensor.into_data(), &hardware.device));
        let plain = numbers(left.clone().matmul(right.clone()));
        let [left, right] = [left, right].map(|tensor| hardware.products.parts(tensor));
        let found = fixtures::furthest(&numbers(left.times(&right)), &expected);
        let plain = fixtures::furthest(&plain, &expected);
        println!("in parts {found:.1e} off at the furthest, without {plain:.1e}");
        // Of sums of some five, in the order that the device likes.
        assert!(found < 5e-5, "{found}");
    }

    #[test]
    fn products_in_parts_are_the_products() {
        let (left, right) = (tensor(17, 65, 2), tensor(65, 33, 3));
        let expected = numbers(left.clone().matmul(right.clone()));
        let [left, right] = [left, right].map(|tensor| Products::Rounded.parts(tensor));
        let furthest = fixtures::furthest(&numbers(left.times(&right)), &expected);
        assert!(furthest < 1e-5, "{furthest}");
    }
}
