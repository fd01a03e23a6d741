//! Owns which columns of a table make the inputs and which go to the output. Refuses columns of other types than these can be.
//!
//! Pure.

use super::{
    super::item::Keep,
    Wanted,
    cells::{self, Kind},
    clipped,
};
use anyhow::{Context, bail};
use arrow_schema::{DataType, Field, Schema};

/// Columns that a message lists.
const SHOWN_COLUMNS: usize = 20;

/// Columns by their position among those that are read.
#[derive(Debug)]
pub(super) struct Plan {
    pub key: Option<usize>,
    pub text: Option<usize>,
    pub text_pair: Option<usize>,
    pub features: Features,
    /// Whether the columns' names are the features'.
    pub by_name: bool,
    pub kept: Vec<usize>,
    /// Whether what is kept becomes text.
    pub kept_as_text: bool,
    /// Whether rows are wanted as they stand.
    pub rows: bool,
    /// The columns that are read, by their position in the file, in order.
    pub read: Vec<usize>,
    /// These columns.
    pub fields: Vec<Field>,
}

/// Where the features are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Features {
    None,
    List(usize),
    Columns(Vec<usize>),
}

impl Plan {
    /// Finds the columns in a schema.
    pub fn new(schema: &Schema, wanted: &Wanted<'_>) -> anyhow::Result<Self> {
        let found = Found::new(schema, wanted)?;
        let is_row = |at: usize| wanted.rows && cells::is_plain(schema.field(at).data_type());
        let all = 0..schema.fields().len();
        let read: Vec<usize> = all.filter(|at| found.uses(*at) || is_row(*at)).collect();
        let at = |column: usize| read.binary_search(&column).unwrap_or_default();
        Ok(Self {
            key: found.key.map(at),
            text: found.text.map(at),
            text_pair: found.text_pair.map(at),
            features: match &found.features {
                Features::None => Features::None,
                Features::List(column) => Features::List(at(*column)),
                Features::Columns(all) => Features::Columns(all.iter().copied().map(at).collect()),
            },
            kept: found.kept.iter().copied().map(at).collect(),
            by_name: wanted.columns.by_name,
            kept_as_text: !wanted.to_table,
            rows: wanted.rows,
            fields: read.iter().map(|at| schema.field(*at).clone()).collect(),
            read,
        })
    }

    /// A column's name.
    pub fn name(&self, at: usize) -> &str {
        self.fields.get(at).map_or("", |field| field.name())
    }

    /// The columns that go to the output.
    pub fn kept_names(&self) -> Vec<String> {
        let kept = self.kept.iter();
        kept.map(|at| self.name(*at).to_owned()).collect()
    }
}

/// Columns by their position in the file.
struct Found {
    key: Option<usize>,
    text: Option<usize>,
    text_pair: Option<usize>,
    features: Features,
    kept: Vec<usize>,
}

impl Found {
    fn new(schema: &Schema, wanted: &Wanted<'_>) -> anyhow::Result<Self> {
        let columns = wanted.columns;
        let key = named(schema, columns.key.as_deref(), "key")?;
        let has_features = !columns.features.is_empty();
        let text = match has_features {
            true => None,
            false => named(schema, columns.text.as_deref(), "text")?,
        };
        let text_pair = match text {
            Some(_) => named(schema, columns.text_pair.as_deref(), "text_pair")?,
            None => None,
        };
        let mut found = Self {
            key,
            text,
            text_pair,
            features: Features::None,
            kept: Vec::new(),
        };
        if text.is_none() {
            found.features = features(schema, &columns.features, key)?;
        }
        found.check(schema)?;
        found.kept = found.keep(schema, wanted)?;
        Ok(found)
    }

    fn is_input(&self, column: usize) -> bool {
        let is_feature = match &self.features {
            Features::None => false,
            Features::List(list) => *list == column,
            Features::Columns(all) => all.contains(&column),
        };
        is_feature || [self.key, self.text, self.text_pair].contains(&Some(column))
    }

    fn uses(&self, column: usize) -> bool {
        self.is_input(column) || self.kept.contains(&column)
    }

    fn check(&self, schema: &Schema) -> anyhow::Result<()> {
        for (column, wanted) in [
            (self.text, "text"),
            (self.text_pair, "text"),
            (self.key, "a text or number"),
        ] {
            let Some(column) = column else { continue };
            let field = schema.field(column);
            let fits = match cells::kind(field.data_type()) {
                Kind::Text => true,
                Kind::Number | Kind::Other => {
                    wanted != "text" && cells::is_scalar(field.data_type())
                }
                Kind::Numbers => false,
            };
            if !fits {
                bail!(
                    "column `{}` is of type {}, not {wanted}",
                    clipped(field.name()),
                    field.data_type()
                );
            }
        }
        Ok(())
    }

    fn keep(&self, schema: &Schema, wanted: &Wanted<'_>) -> anyhow::Result<Vec<usize>> {
        let all = 0..schema.fields().len();
        let kept: Vec<usize> = match wanted.keep {
            Keep::None => Vec::new(),
            Keep::Others => all.filter(|column| !self.is_input(*column)).collect(),
            Keep::These(names) => names
                .iter()
                .map(|name| find(schema, name))
                .collect::<anyhow::Result<_>>()?,
        };
        for column in &kept {
            let field = schema.field(*column);
            if !fits_output(field.data_type(), wanted.to_table) {
                bail!(
                    "column `{}` is of type {}, which the output has no form for: name the others, as --keep-columns=a,b",
                    clipped(field.name()),
                    field.data_type()
                );
            }
        }
        Ok(kept)
    }
}

fn fits_output(kind: &DataType, to_table: bool) -> bool {
    let is_kept_as_it_is = match kind {
        DataType::FixedSizeBinary(_) => true,
        DataType::Map(..) => cells::has_no_dictionary(kind),
        _ => false,
    };
    cells::is_plain(kind) || (to_table && is_kept_as_it_is)
}

/// The column of a name, or of the usual one where it is there.
fn named(schema: &Schema, name: Option<&str>, usual: &str) -> anyhow::Result<Option<usize>> {
    match name {
        Some(name) => find(schema, name).map(Some),
        None => Ok(schema.index_of(usual).ok()),
    }
}

fn find(schema: &Schema, name: &str) -> anyhow::Result<usize> {
    let names = || -> Vec<String> {
        let fields = schema.fields().iter();
        let mut names: Vec<String> = fields
            .take(SHOWN_COLUMNS)
            .map(|field| clipped(field.name()))
            .collect();
        let more = schema.fields().len().saturating_sub(names.len());
        if more > 0 {
            names.push(format!("and {more} more"));
        }
        names
    };
    let at = schema.index_of(name).ok();
    at.with_context(|| {
        format!(
            "no column `{}`; there are: {}",
            clipped(name),
            names().join(", ")
        )
    })
}

/// The columns of features: those named, else the list `features`, else all numbers but the key.
fn features(schema: &Schema, wanted: &[String], key: Option<usize>) -> anyhow::Result<Features> {
    let kind = |column: usize| cells::kind(schema.field(column).data_type());
    let list = |column: usize| kind(column) == Kind::Numbers;
    if wanted.is_empty() {
        if let Some(column) = schema
            .index_of("features")
            .ok()
            .filter(|column| list(*column))
        {
            return Ok(Features::List(column));
        }
        let all = (0..schema.fields().len()).filter(|column| Some(*column) != key);
        let numbers: Vec<usize> = all.filter(|column| kind(*column) == Kind::Number).collect();
        if numbers.is_empty() {
            bail!("no column `text`, and no column of numbers: name the text with --text-column");
        }
        return Ok(Features::Columns(numbers));
    }
    let mut columns = Vec::with_capacity(wanted.len());
    for name in wanted {
        columns.push(find(schema, name)?);
    }
    if let [one] = columns.as_slice()
        && list(*one)
    {
        return Ok(Features::List(*one));
    }
    for column in &columns {
        if kind(*column) != Kind::Number {
            let field = schema.field(*column);
            bail!(
                "column `{}` is of type {}, not a number",
                clipped(field.name()),
                field.data_type()
            );
        }
    }
    Ok(Features::Columns(columns))
}
