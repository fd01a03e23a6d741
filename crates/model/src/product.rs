//! Products of matrices to 32 bits, also on graphics processors that round what they multiply.
//!
//! NVIDIA's tensor cores keep 11 of a factor's 24 bits (TF32), and burn uses them for 32-bit tensors: scores would be a thousandth off.
//! There each factor is the sum of two that lose nothing, its leading bits and the rest, and three products stand for one.

use burn_tensor::{Device, Tensor};

/// Times this, less the product's own low part, a 32-bit float keeps 11 of its 24 bits (Veltkamp, 1968).
const SPLITTER: f32 = 8193.0;
/// Rows and columns of the matrix that finds out: as many as make a processor's matrix unit worth its while.
const PROBE: usize = 64;

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
    /// Multiplies numbers of 13 bits by one, and looks whether they are still the same.
    pub fn of(device: &Device) -> Self {
        let fine = 1.0 + 2f32.powi(-12);
        let numbers = Tensor::<2>::ones([PROBE, PROBE], device).mul_scalar(fine);
        let product = numbers.matmul(Tensor::eye(PROBE, device)).into_data();
        let exact = product
            .as_slice::<f32>()
            .is_ok_and(|numbers| numbers.iter().all(|&x| x == fine));
        if exact { Self::Exact } else { Self::Rounded }
    }

    /// Prepares a factor.
    pub fn parts<const D: usize>(self, numbers: Tensor<D>) -> Parts<D> {
        match self {
            Self::Exact => Parts {
                leading: numbers,
                rest: None,
            },
            Self::Rounded => {
                let (leading, rest) = split(numbers);
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

/// The leading 11 bits of each number, and the rest.
fn split<const D: usize>(numbers: Tensor<D>) -> (Tensor<D>, Tensor<D>) {
    let scaled = numbers.clone().mul_scalar(SPLITTER);
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
    fn the_parts_are_the_whole_and_lose_hardly_anything_where_factors_are_rounded() {
        let whole = tensor(40, 30, 1);
        let (leading, rest) = split(whole.clone());
        let (whole, leading, rest) = (numbers(whole), numbers(leading), numbers(rest));
        for ((whole, leading), rest) in whole.iter().zip(&leading).zip(&rest) {
            assert_eq!(leading + rest, *whole);
            assert_eq!(rounded(*leading), *leading, "of {whole}");
            let lost = (rounded(*rest) - rest).abs();
            assert!(lost <= whole.abs() * 2f32.powi(-22), "{lost} of {whole}");
        }
    }

    /// On a device that rounds, and on one that doesn't.
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    #[test]
    fn a_graphics_processor_multiplies_to_32_bits() {
        for backend in fixtures::GRAPHICS {
            let pool =
                std::sync::Arc::new(kiln_kernels::ThreadPool::start("test", 1, || ()).unwrap());
            let hardware = crate::hardware::Hardware::open(*backend, pool).unwrap();
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
