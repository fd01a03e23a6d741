//! What outputs are rounded to, so that a fresh one is what the cache will give.
//!
//! Every rule depends on the row's own numbers and on the manifest alone.

use kiln_contract::model::{ModelError, Precision};

use super::manifest::Manifest;

/// Largest whole number.
const LARGEST: f32 = 127.0;
/// Numbers of a vector of length 1 lie within so many times their root mean square, but for few.
const SPREAD: f32 = 8.0;
/// Numbers that share a byte as bits.
pub(crate) const BITS: usize = 8;

/// How the outputs of one version are rounded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rounding {
    precision: Precision,
    /// Numbers of a row, before they are rounded.
    width: usize,
    /// What the largest whole number stands for.
    range: f32,
}

impl Rounding {
    /// Of such a manifest.
    pub fn of(manifest: &Manifest) -> Self {
        let width = manifest.output_width();
        Self {
            precision: manifest.output.precision,
            width,
            range: manifest.output.range.unwrap_or_else(|| unit_range(width)),
        }
    }

    /// Rounds rows of outputs.
    ///
    /// # Errors
    /// If a number isn't finite any more.
    pub fn apply(self, outputs: Vec<f32>) -> Result<Vec<f32>, ModelError> {
        let scale = LARGEST / self.range;
        match self.precision {
            Precision::Single | Precision::Half => self.apply_floats(outputs),
            Precision::Int8 => {
                let whole = |x: f32| (x * scale).round_ties_even().clamp(-LARGEST, LARGEST);
                // Without a negative zero, which bytes don't have.
                Ok(outputs.into_iter().map(|x| whole(x) + 0.0).collect())
            }
            Precision::Binary => {
                let rows = outputs.chunks(self.width.max(1));
                let bytes = rows.flat_map(|row| row.chunks(BITS));
                Ok(bytes.map(packed).collect())
            }
        }
    }

    /// The same as golden inputs have it: before outputs become whole numbers, since the last bit of a number decides which one.
    pub fn apply_floats(self, mut outputs: Vec<f32>) -> Result<Vec<f32>, ModelError> {
        if self.precision != Precision::Half {
            return Ok(outputs);
        }
        for (i, x) in outputs.iter_mut().enumerate() {
            *x = half::f16::from_f32(*x).to_f32();
            if !x.is_finite() {
                let row = i / self.width.max(1);
                return Err(ModelError::NotFinite { row });
            }
        }
        Ok(outputs)
    }
}

/// What the largest whole number stands for in vectors of length 1.
fn unit_range(width: usize) -> f32 {
    (SPREAD / (width.max(1) as f32).sqrt()).min(1.0)
}

/// Up to eight numbers as the bits of a byte: 1 where above 0, the first the highest.
fn packed(numbers: &[f32]) -> f32 {
    let bits = numbers.iter().zip(0u8..);
    let byte = bits.fold(0u8, |byte, (x, bit)| {
        byte | (u8::from(*x > 0.0) << (7 - bit))
    });
    f32::from(byte)
}

/// A row of bytes as its bits, 1 and -1.
pub(crate) fn unpacked(row: &[f32]) -> Vec<f32> {
    let bits = row.iter().flat_map(|byte| {
        let byte = *byte as u8;
        (0..BITS).map(move |bit| if byte << bit & 0x80 > 0 { 1.0 } else { -1.0 })
    });
    bits.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(precision: Precision, width: usize, range: f32) -> Rounding {
        Rounding {
            precision,
            width,
            range,
        }
    }

    #[test]
    fn bits_are_those_of_packbits() {
        // numpy.packbits(numpy.array(rows) > 0, axis=1)
        let rows = [
            [0.5, -0.1, 0.0, -0.0, 1e-30, -1.0, 2.0, 3.0],
            [-1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0, -1.0],
        ];
        let binary = of(Precision::Binary, 8, 1.0);
        let outputs = rows.as_flattened().to_vec();
        let found = binary.apply(outputs.clone()).unwrap();
        assert_eq!(found, [139.0, 84.0]);
        let bits = unpacked(&found);
        for (bit, x) in bits.iter().zip(&outputs) {
            assert_eq!(*bit > 0.0, *x > 0.0);
        }
        assert_eq!(binary.apply_floats(outputs.clone()).unwrap(), outputs);
    }

    #[test]
    fn whole_numbers_are_the_nearest_within_the_range() {
        let int8 = of(Precision::Int8, 4, 0.5);
        let found = int8.apply(vec![0.5, -0.7, 0.001, -0.001]).unwrap();
        assert_eq!(found, [127.0, -127.0, 0.0, 0.0]);
        assert!(found.iter().all(|x| x.to_bits() != (-0.0_f32).to_bits()));
        assert_eq!(unit_range(16), 1.0);
        assert_eq!(unit_range(256), 0.5);
    }

    #[test]
    fn halves_stay_numbers() {
        let half = of(Precision::Half, 2, 1.0);
        assert_eq!(half.apply(vec![0.1, 1.0]).unwrap(), [0.099_975_586, 1.0]);
        let error = half.apply(vec![0.0, 1.0, 1e6, 0.0]);
        assert_eq!(error, Err(ModelError::NotFinite { row: 1 }));
    }
}
