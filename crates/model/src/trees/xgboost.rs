//! XGBoost's model files, JSON and UBJ: what `save_model` writes.

use kiln_kernels::trees::{Shape, Tree};

use super::checked::{self, Ensemble, Trees, count, length};
use super::fault::{Fault, Within};
use super::objective;
use super::pull::{Pull, fields, number};
use super::xgboost_tree;

/// What was read, wherever in the file it stood.
#[derive(Debug, Default)]
struct Found {
    base_score: Option<String>,
    num_class: i64,
    num_feature: Option<i64>,
    num_target: i64,
    objective: Option<String>,
    booster: Option<String>,
    names: Vec<String>,
    trees: Option<Vec<Tree<f32>>>,
    groups: Vec<i64>,
    weights: Vec<f32>,
    best_iteration: Option<String>,
    /// Words of categories so far.
    words: usize,
}

/// Reads a model.
pub(super) fn read<P: Pull>(mut pull: P) -> Result<Ensemble, Fault> {
    let mut found = Found::default();
    fields(&mut pull, |pull, key| match key {
        "learner" => learner(pull, &mut found),
        _ => pull.skip(),
    })?;
    pull.end()?;
    ensemble(found)
}

fn learner<P: Pull>(pull: &mut P, found: &mut Found) -> Result<(), Fault> {
    fields(pull, |pull, key| {
        match key {
            "attributes" => fields(pull, |pull, key| {
                if key != "best_iteration" || !pull.is_text() {
                    return pull.skip();
                }
                found.best_iteration = Some(pull.text()?);
                Ok(())
            })?,
            "feature_names" => found.names = pull.texts()?,
            "gradient_booster" => booster(pull, found)?,
            "learner_model_param" => parameters(pull, found)?,
            "objective" => fields(pull, |pull, key| {
                if key != "name" {
                    return pull.skip();
                }
                found.objective = Some(pull.text()?);
                Ok(())
            })?,
            _ => pull.skip()?,
        }
        Ok(())
    })
}

fn parameters<P: Pull>(pull: &mut P, found: &mut Found) -> Result<(), Fault> {
    fields(pull, |pull, key| {
        match key {
            "base_score" => found.base_score = Some(pull.text()?),
            "num_class" => found.num_class = number(pull)?,
            "num_feature" => found.num_feature = Some(number(pull)?),
            "num_target" => found.num_target = number(pull)?,
            _ => pull.skip()?,
        }
        Ok(())
    })
}

/// The booster, and the one inside it where trees are dropped.
fn booster<P: Pull>(pull: &mut P, found: &mut Found) -> Result<(), Fault> {
    fields(pull, |pull, key| {
        match key {
            "name" => found.booster = Some(pull.text()?),
            "gbtree" => fields(pull, |pull, key| match key {
                "model" => read_model(pull, found),
                _ => pull.skip(),
            })?,
            "model" => read_model(pull, found)?,
            "weight_drop" => found.weights = pull.floats()?,
            _ => pull.skip()?,
        }
        Ok(())
    })
}

fn read_model<P: Pull>(pull: &mut P, found: &mut Found) -> Result<(), Fault> {
    fields(pull, |pull, key| {
        match key {
            "tree_info" => found.groups = pull.wholes()?,
            "trees" => {
                let mut trees = Vec::new();
                pull.array()?;
                while pull.element()? {
                    count("", trees.len() as i64, 0, checked::MAX_TREES - 1)?;
                    let tree = xgboost_tree::read(pull, &mut found.words);
                    trees.push(tree.within(&format!("[{}]", trees.len()))?);
                }
                found.trees = Some(trees);
            }
            "weight_drop" => found.weights = pull.floats()?,
            _ => pull.skip()?,
        }
        Ok(())
    })
}

fn ensemble(found: Found) -> Result<Ensemble, Fault> {
    let missing = |field: &str| Fault::new(field, "is missing");
    let parameter = |field: &str| format!("learner.learner_model_param.{field}");
    let booster = found.booster.as_deref();
    if !matches!(booster, Some("gbtree" | "dart")) {
        let message = "expected \"gbtree\" or \"dart\": other boosters have no trees";
        return Err(Fault::new("learner.gradient_booster.name", message));
    }
    if found.num_target > 1 {
        let message = "several targets are not taken: import a model for each";
        return Err(Fault::new(parameter("num_target"), message));
    }
    let outputs = found.num_class.max(1);
    let outputs = count(&parameter("num_class"), outputs, 1, checked::MAX_OUTPUTS)?;
    let field = parameter("num_feature");
    let features = found.num_feature.ok_or_else(|| missing(&field))?;
    let features = count(&field, features, 1, checked::MAX_FEATURES)?;
    if !found.names.is_empty() {
        length("learner.feature_names", found.names.len(), features)?;
        checked::names("learner.feature_names", &found.names)?;
    }
    let name = found
        .objective
        .ok_or_else(|| missing("learner.objective.name"))?;
    let objective = objective::of_xgboost(&name, outputs)?;
    let base = found.base_score.as_deref().unwrap_or("0.5");
    let start = start(base, &name, outputs).within(&parameter("base_score"))?;

    let mut trees = found.trees.ok_or_else(|| missing(&model("trees")))?;
    length(&model("tree_info"), found.groups.len(), trees.len())?;
    if !found.weights.is_empty() {
        length(
            "learner.gradient_booster.weight_drop",
            found.weights.len(),
            trees.len(),
        )?;
    }
    assign(
        &mut trees,
        &found.groups,
        &found.weights,
        [features, outputs],
    )?;
    let notes = found.best_iteration.map(|_| {
        "the file names a best iteration: all of its trees are used, as Booster.predict does"
            .to_owned()
    });
    Ok(Ensemble {
        trees: Trees::Single(
            Shape {
                features,
                start,
                zero: 0.0,
                truncates: false,
            },
            trees,
        ),
        names: found.names,
        objective,
        mean_of: None,
        notes: notes.into_iter().collect(),
    })
}

/// The path of a field beside the trees.
fn model(field: &str) -> String {
    format!("learner.gradient_booster.model.{field}")
}

/// Gives every tree its output and its weight, and checks what it needs of the ensemble.
fn assign(
    trees: &mut [Tree<f32>],
    groups: &[i64],
    weights: &[f32],
    [features, outputs]: [usize; 2],
) -> Result<(), Fault> {
    for (i, (tree, group)) in trees.iter_mut().zip(groups).enumerate() {
        let field = model(&format!("tree_info[{i}]"));
        tree.output = count(&field, *group, 0, outputs - 1)? as u32;
        let beyond = |feature: u32| feature as usize >= features;
        if let Some(split) = tree.splits.iter().find(|split| beyond(split.feature)) {
            let message = format!("there is no feature {}", split.feature);
            return Err(Fault::new(
                model(&format!("trees[{i}].split_indices")),
                message,
            ));
        }
        let weight = weights.get(i).copied().unwrap_or(1.0);
        tree.leaves.iter_mut().for_each(|leaf| *leaf *= weight);
        if tree.leaves.iter().any(|leaf| !leaf.is_finite()) {
            let field = model(&format!("trees[{i}].split_conditions"));
            return Err(Fault::new(field, "expected finite leaves"));
        }
    }
    Ok(())
}

/// What sums begin with: one number or a list in brackets.
fn start(text: &str, objective: &str, outputs: usize) -> Result<Vec<f32>, Fault> {
    let list = text.trim().trim_start_matches('[').trim_end_matches(']');
    let mut start = Vec::new();
    for word in list.split(',').take(outputs + 1) {
        let margin = word
            .trim()
            .parse()
            .map(|base| objective::margin_of(objective, base));
        match margin {
            Ok(margin) if margin.is_finite() => start.push(margin),
            _ => {
                return Err(Fault::new(
                    "",
                    "expected finite numbers that the objective can begin with",
                ));
            }
        }
    }
    if let [one] = start[..] {
        start = vec![one; outputs];
    }
    length("", start.len(), outputs)?;
    Ok(start)
}
