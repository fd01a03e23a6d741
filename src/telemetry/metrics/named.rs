//! Owns the labels of metrics whose values manifests and settings name.

use super::metric::{Label, Values};

pub(super) const MODEL: Label = Label {
    name: "model",
    values: Values::Named("a model's name, from its manifest"),
};

pub(super) const MODEL_VERSION: Label = Label {
    name: "version",
    values: Values::Named("a version of the model, of the models folder or the settings"),
};

pub(super) const FIGURE: Label = Label {
    name: "figure",
    values: Values::Named("one of at most 16 figures of the manifest's `[training.metrics]`"),
};

pub(super) const PREDICTION: Label = Label {
    name: "label",
    values: Values::Named("one of the labels that the model's manifest lists"),
};

pub(super) const NAMESPACE: Label = Label {
    name: "namespace",
    values: Values::Named("a namespace of the settings, or a model's name; `other` for all others"),
};

pub(super) const VERSION: Label = Label {
    name: "version",
    values: Values::Named("the version of Kiln"),
};
