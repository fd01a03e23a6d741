//! Embeddings as callers want them: shortened, of length one, or as the bytes of their floats.

use super::super::problem::Problem;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Serialize, Serializer, ser::SerializeSeq};
use serde_json::value::RawValue;

/// How vectors are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// The first so many numbers, scaled to length one again.
    pub(super) dimensions: Option<usize>,
    /// Scaled to length one.
    pub(super) normalize: bool,
    /// The floats' bytes, little-endian, in base64.
    pub(super) base64: bool,
}

impl Shape {
    /// Refuses more dimensions than the model has.
    pub(super) fn check(self, width: usize) -> Result<Self, Problem> {
        match self.dimensions {
            Some(wanted) if wanted == 0 || wanted > width => {
                let expected = format!("expected 1 to {width}, found {wanted}");
                Err(Problem::invalid("dimensions", expected))
            }
            _ => Ok(self),
        }
    }

    /// A vector, from its JSON, in this shape.
    pub(super) fn of(self, json: Box<RawValue>) -> Result<Vector, Problem> {
        if self == Self::default() {
            return Ok(Vector::Json(json));
        }
        let read = serde_json::from_str::<Vec<f32>>(json.get());
        let mut values = read.map_err(|_| Problem::unavailable("the embedding can't be read"))?;
        if let Some(wanted) = self.dimensions {
            values.truncate(wanted);
        }
        if self.normalize || self.dimensions.is_some() {
            normalize(&mut values);
        }
        Ok(match self.base64 {
            true => {
                let bytes: Vec<u8> = values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect();
                Vector::Base64(STANDARD.encode(bytes))
            }
            false => Vector::Floats(values),
        })
    }
}

/// Scales a vector to length one; one of zeros stays.
fn normalize(values: &mut [f32]) {
    let length = values
        .iter()
        .map(|value| f64::from(*value).powi(2))
        .sum::<f64>()
        .sqrt();
    // Of length one already: the same bits again.
    if length == 0.0 || (length - 1.0).abs() < 1e-6 {
        return;
    }
    for value in values {
        #[allow(
            clippy::cast_possible_truncation,
            reason = "the nearest float is meant"
        )]
        let scaled = (f64::from(*value) / length) as f32;
        *value = scaled;
    }
}

/// A vector on its way out.
#[derive(Debug)]
pub(super) enum Vector {
    Json(Box<RawValue>),
    Floats(Vec<f32>),
    Base64(String),
}

impl Serialize for Vector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Json(json) => json.serialize(serializer),
            Self::Base64(text) => serializer.serialize_str(text),
            Self::Floats(values) => {
                let mut list = serializer.serialize_seq(Some(values.len()))?;
                for value in values {
                    list.serialize_element(value)?;
                }
                list.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(shape: Shape, json: &str) -> String {
        let json = RawValue::from_string(json.to_owned()).expect("JSON");
        let vector = shape.of(json).expect("a vector");
        serde_json::to_string(&vector).expect("JSON")
    }

    #[test]
    fn a_vector_is_passed_on_as_it_is_or_made_shorter_and_of_length_one() {
        assert_eq!(shown(Shape::default(), "[3.0,4.0,12]"), "[3.0,4.0,12]");
        let short = Shape {
            dimensions: Some(2),
            ..Shape::default()
        };
        assert_eq!(shown(short, "[3.0,4.0,12]"), "[0.6,0.8]");
        let scaled = Shape {
            normalize: true,
            ..Shape::default()
        };
        assert_eq!(shown(scaled, "[0.0,-5.0]"), "[0.0,-1.0]");
        assert_eq!(shown(scaled, "[0.6,0.8]"), "[0.6,0.8]");
        assert_eq!(shown(scaled, "[0.0,0.0]"), "[0.0,0.0]");
    }

    #[test]
    fn base64_holds_the_floats_little_endian() {
        let shape = Shape {
            base64: true,
            ..Shape::default()
        };
        // 1.0 is 00 00 80 3f, and -2.5 is 00 00 20 c0.
        assert_eq!(shown(shape, "[1.0,-2.5]"), "\"AACAPwAAIMA=\"");
    }

    #[test]
    fn more_dimensions_than_there_are_are_refused() {
        let shape = |dimensions| Shape {
            dimensions: Some(dimensions),
            ..Shape::default()
        };
        assert!(shape(384).check(384).is_ok());
        assert!(shape(385).check(384).is_err());
        assert!(shape(0).check(384).is_err());
    }
}
