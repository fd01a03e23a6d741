//! What becomes of the sums: each library's own transform, in its own arithmetic.
//!
//! Exponentials are the system's, as the libraries' are: where both run on the same one, scores have the same bits.

use crate::manifest::OutputActivation;

use super::fault::Fault;

/// What a model was trained for, as its file says it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Objective {
    /// As the file says it; empty if it says nothing.
    pub name: String,
    pub transform: Transform,
}

/// What sums become.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Transform {
    Identity,
    /// Of this steepness, each sum by itself.
    Sigmoid(f64),
    Softmax,
    Exp,
    /// The square, with the sum's sign.
    SignedSquare,
    /// The logarithm of one more than the exponential.
    Softplus,
    /// 1 above zero and 0 otherwise.
    Step,
}

/// XGBoost bounds what it takes the exponential of.
const MAX_EXPONENT: f32 = 88.7;
const TINY: f32 = 1e-16;
/// How near to 0 and 1 XGBoost lets a base score come.
const BASE_MARGIN: f32 = 1e-6;

impl Objective {
    /// What LightGBM makes of a row's sums, which are the means of so many trees where they vote.
    pub fn finish_doubles(&self, sums: &mut [f64], mean_of: Option<usize>) {
        if let Some(trees) = mean_of {
            sums.iter_mut().for_each(|x| *x /= trees as f64);
        }
        self.transform.doubles(sums);
    }
}

impl Transform {
    /// What a manifest calls it.
    pub fn activation(self) -> OutputActivation {
        match self {
            Self::Sigmoid(_) => OutputActivation::Sigmoid,
            Self::Softmax => OutputActivation::Softmax,
            _ => OutputActivation::Identity,
        }
    }

    /// In LightGBM's arithmetic, of 64 bits.
    pub fn doubles(self, sums: &mut [f64]) {
        match self {
            Self::Identity => {}
            Self::Sigmoid(steepness) => {
                for x in sums {
                    *x = 1.0 / (1.0 + (-steepness * *x).exp());
                }
            }
            Self::Softmax => {
                let greatest = sums.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let mut total = 0.0;
                for x in sums.iter_mut() {
                    *x = (*x - greatest).exp();
                    total += *x;
                }
                for x in sums {
                    *x /= total;
                }
            }
            Self::Exp => sums.iter_mut().for_each(|x| *x = x.exp()),
            Self::SignedSquare => {
                for x in sums {
                    let sign = f64::from(i8::from(*x > 0.0) - i8::from(*x < 0.0));
                    *x = sign * *x * *x;
                }
            }
            Self::Softplus => sums.iter_mut().for_each(|x| *x = x.exp().ln_1p()),
            Self::Step => sums.iter_mut().for_each(|x| *x = f64::from(*x > 0.0)),
        }
    }

    /// In XGBoost's arithmetic, of 32 bits.
    pub fn singles(self, sums: &mut [f32]) {
        match self {
            Self::Identity | Self::SignedSquare | Self::Softplus => {}
            Self::Sigmoid(_) => {
                for x in sums {
                    *x = 1.0 / ((-*x).min(MAX_EXPONENT).exp() + 1.0 + TINY);
                }
            }
            Self::Softmax => {
                let greatest = sums.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let mut total = 0.0f64;
                for x in sums.iter_mut() {
                    *x = (*x - greatest).exp();
                    total += f64::from(*x);
                }
                for x in sums {
                    *x /= total as f32;
                }
            }
            Self::Exp => sums.iter_mut().for_each(|x| *x = x.exp()),
            Self::Step => sums.iter_mut().for_each(|x| *x = f32::from(*x > 0.0)),
        }
    }
}

/// LightGBM's objective of so many sums.
pub(super) fn of_lightgbm(text: Option<&str>, outputs: usize) -> Result<Objective, Fault> {
    let refuse = |message: &str| Err(Fault::new("objective", message));
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        if outputs > 1 {
            return refuse("is missing: what several sums become is not known");
        }
        return Ok(Objective {
            name: String::new(),
            transform: Transform::Identity,
        });
    };
    let mut words = text.split_ascii_whitespace();
    let name = words.next().unwrap_or_default();
    let mut steepness = 1.0;
    let mut square = false;
    for word in words {
        match word.split_once(':') {
            Some(("sigmoid", number)) => match number.parse() {
                Ok(number) if f64::is_finite(number) && number > 0.0 => steepness = number,
                _ => return refuse("expected sigmoid: with a positive number"),
            },
            Some(("num_class", number)) if number.parse() != Ok(outputs) => {
                return refuse("expected the classes that the file has sums for");
            }
            None if word == "sqrt" => square = true,
            _ => {}
        }
    }
    let transform = match name {
        "regression" | "regression_l1" | "huber" | "fair" | "quantile" | "mape" if square => {
            Transform::SignedSquare
        }
        "regression" | "regression_l1" | "huber" | "fair" | "quantile" | "mape" | "lambdarank"
        | "rank_xendcg" | "custom" => Transform::Identity,
        "poisson" | "gamma" | "tweedie" => Transform::Exp,
        "binary" | "multiclassova" => Transform::Sigmoid(steepness),
        "cross_entropy" => Transform::Sigmoid(1.0),
        "multiclass" => Transform::Softmax,
        "cross_entropy_lambda" => Transform::Softplus,
        _ => return refuse("is none that Kiln knows of LightGBM's"),
    };
    fits(name, &["multiclass", "multiclassova"], outputs)?;
    Ok(Objective {
        name: text.to_owned(),
        transform,
    })
}

/// XGBoost's objective of so many sums.
pub(super) fn of_xgboost(name: &str, outputs: usize) -> Result<Objective, Fault> {
    let transform = match name {
        "reg:squarederror"
        | "reg:linear"
        | "reg:squaredlogerror"
        | "reg:pseudohubererror"
        | "reg:absoluteerror"
        | "reg:quantileerror"
        | "reg:expectileerror"
        | "binary:logitraw"
        | "rank:ndcg"
        | "rank:pairwise"
        | "rank:map" => Transform::Identity,
        "reg:logistic" | "binary:logistic" => Transform::Sigmoid(1.0),
        "reg:gamma" | "reg:tweedie" | "count:poisson" | "survival:cox" | "survival:aft" => {
            Transform::Exp
        }
        "binary:hinge" => Transform::Step,
        "multi:softprob" | "multi:softmax" => Transform::Softmax,
        _ => {
            let message = "is none that Kiln knows of XGBoost's";
            return Err(Fault::new("learner.objective.name", message));
        }
    };
    fits(name, &["multi:softprob", "multi:softmax"], outputs)
        .map_err(|fault| Fault::new("learner.objective.name", fault.message))?;
    Ok(Objective {
        name: name.to_owned(),
        transform,
    })
}

fn fits(name: &str, of_several: &[&str], outputs: usize) -> Result<(), Fault> {
    if of_several.contains(&name) == (outputs > 1) {
        return Ok(());
    }
    let message = format!("\"{name}\" does not fit {outputs} sums a row");
    Err(Fault::new("objective", message))
}

/// What XGBoost's sums begin with.
pub(super) fn margin_of(name: &str, base: f32) -> f32 {
    match name {
        "reg:logistic" | "binary:logistic" => {
            let base = base.clamp(BASE_MARGIN, 1.0 - BASE_MARGIN);
            -(1.0 / base - 1.0).ln()
        }
        "reg:gamma" | "reg:tweedie" | "count:poisson" | "survival:cox" | "survival:aft" => {
            base.ln()
        }
        _ => base,
    }
}
