//! Reading the single values of a job: a field's name, a text of some kind, a number within bounds.
//!
//! Promises to borrow a text from the body wherever nothing in it is escaped.

use crate::{
    job::{OnError, callback_url_problem, fields::Field, key_problem, limits::MAX_MODEL_BYTES},
    name,
    order::{AsOf, EXPECTED_AS_OF},
};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};
use std::{borrow::Cow, fmt, marker::PhantomData};

/// The fields of one object that were read.
#[derive(Default)]
pub(super) struct Seen(u32);

impl Seen {
    /// The next field of the object; an error where it is unknown or was there before.
    pub(super) fn next<'de, F: Field, M: MapAccess<'de>>(
        &mut self,
        map: &mut M,
    ) -> Result<Option<F>, M::Error> {
        let Some(field) = map.next_key_seed(Name::<F>(PhantomData))? else {
            return Ok(None);
        };
        if self.0 & field.bit() != 0 {
            return Err(de::Error::duplicate_field(field.as_str()));
        }
        self.0 |= field.bit();
        Ok(Some(field))
    }
}

/// A field's name.
struct Name<F>(PhantomData<F>);

impl<'de, F: Field> DeserializeSeed<'de> for Name<F> {
    type Value = F;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<F, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl<F: Field> Visitor<'_> for Name<F> {
    type Value = F;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<F, E> {
        F::find(name).ok_or_else(|| E::unknown_field(name, F::NAMES))
    }
}

macro_rules! text_seed {
    ($(#[$about:meta])* $name:ident, $expected:literal, $check:expr) => {
        $(#[$about])*
        pub(super) struct $name;

        impl<'de> DeserializeSeed<'de> for $name {
            type Value = Cow<'de, str>;

            fn deserialize<D: Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> Result<Cow<'de, str>, D::Error> {
                deserializer.deserialize_str(self)
            }
        }

        impl<'de> Visitor<'de> for $name {
            type Value = Cow<'de, str>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($expected)
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Cow<'de, str>, E> {
                let check: fn(&str) -> Option<String> = $check;
                check(text).map_or(Ok(Cow::Borrowed(text)), |problem| Err(E::custom(problem)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Cow<'de, str>, E> {
                let check: fn(&str) -> Option<String> = $check;
                check(text).map_or(Ok(Cow::Owned(text.to_owned())), |problem| {
                    Err(E::custom(problem))
                })
            }
        }
    };
}

text_seed!(
    /// Any text.
    Text,
    "a string",
    |_| None
);
text_seed!(
    /// The key of an input or a ranking.
    Key,
    "a string",
    key_problem
);
text_seed!(
    /// What a job says of its model: whether there is such a model is the registry's to say.
    ModelName,
    "a model's name, or name@version",
    model_problem
);
text_seed!(
    /// A namespace.
    Namespace,
    "a namespace",
    |text| (!name::is_name(text)).then(|| name::EXPECTED_NAME.to_owned())
);

text_seed!(
    /// Where a job's end is posted to: whether it may be is the settings' to say.
    CallbackUrl,
    "an http:// or https:// URL",
    callback_url_problem
);

/// What is wrong with what a job says of its model.
pub(super) fn model_problem(name: &str) -> Option<String> {
    (name.is_empty() || name.len() > MAX_MODEL_BYTES || name.contains(char::is_control))
        .then(|| "expected a model's name, or name@version".to_owned())
}

/// `fail` or `skip`.
pub(super) struct OnErrorSeed;

impl<'de> DeserializeSeed<'de> for OnErrorSeed {
    type Value = OnError;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<OnError, D::Error> {
        let text = Text.deserialize(deserializer)?;
        OnError::find(&text).ok_or_else(|| de::Error::custom("expected \"fail\" or \"skip\""))
    }
}

/// An RFC 3339 time, or a sequence number.
pub(super) struct AsOfSeed;

impl<'de> DeserializeSeed<'de> for AsOfSeed {
    type Value = AsOf<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<AsOf<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AsOfSeed {
    type Value = AsOf<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED_AS_OF.trim_start_matches("expected "))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<AsOf<'de>, E> {
        AsOf::sequence(number).ok_or_else(|| E::custom(EXPECTED_AS_OF))
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<AsOf<'de>, E> {
        AsOf::moment(text).ok_or_else(|| E::custom(EXPECTED_AS_OF))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<AsOf<'de>, E> {
        AsOf::moment(text.to_owned()).ok_or_else(|| E::custom(EXPECTED_AS_OF))
    }
}

/// A whole number within bounds.
pub(super) struct Whole {
    pub(super) min: u64,
    pub(super) max: u64,
}

impl<'de> DeserializeSeed<'de> for Whole {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        deserializer.deserialize_u64(self)
    }
}

impl Visitor<'_> for Whole {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from {} to {}", self.min, self.max)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<u64, E> {
        if (self.min..=self.max).contains(&value) {
            Ok(value)
        } else {
            Err(E::invalid_value(de::Unexpected::Unsigned(value), &self))
        }
    }
}

/// A number that a 32-bit float can hold, or nothing where it is missing.
pub(super) struct Feature;

impl<'de> DeserializeSeed<'de> for Feature {
    type Value = Option<f32>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Feature {
    type Value = Option<f32>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a finite 32-bit float")
    }

    fn visit_none<E: de::Error>(self) -> Result<Option<f32>, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<f32>, D::Error> {
        Number.deserialize(deserializer).map(Some)
    }
}

/// A number that a 32-bit float can hold.
pub(super) struct Number;

impl<'de> DeserializeSeed<'de> for Number {
    type Value = f32;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<f32, D::Error> {
        deserializer.deserialize_f64(self)
    }
}

impl Visitor<'_> for Number {
    type Value = f32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a finite 32-bit float")
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<f32, E> {
        let narrow = value as f32;
        // Adding zero makes -0 and 0 one input.
        if narrow.is_finite() {
            Ok(narrow + 0.0)
        } else {
            Err(E::custom("expected a finite 32-bit float"))
        }
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<f32, E> {
        Ok(value as f32)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<f32, E> {
        Ok(value as f32)
    }
}
