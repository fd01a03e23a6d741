//! Owns the columns of a statement that writes many rows: one array a column, what all rows have in common once, and what is
//! empty in all of them not at all.

use sqlx::{
    Arguments, Encode, Postgres, Type,
    error::BoxDynError,
    postgres::{PgArguments, PgHasArrayType},
};

/// A column's values, a row after the other.
pub(super) fn column<'r, R, T>(rows: &'r [R], value: impl Fn(&'r R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

/// The columns of one insertion and where each one's values come from.
pub(super) struct Columns<'a> {
    arguments: &'a mut PgArguments,
    names: Vec<&'static str>,
    values: Vec<String>,
}

impl<'a> Columns<'a> {
    /// No columns yet; their values become arguments.
    pub fn new(arguments: &'a mut PgArguments) -> Self {
        Self {
            arguments,
            names: Vec::new(),
            values: Vec::new(),
        }
    }

    /// A column with a value of its own in every row; says which argument it is.
    pub fn each<'v, T>(
        &mut self,
        name: &'static str,
        sql_type: &str,
        values: Vec<T>,
    ) -> Result<usize, BoxDynError>
    where
        T: Encode<'v, Postgres> + Type<Postgres> + PgHasArrayType + 'v,
    {
        let index = self.add(values)?;
        self.again(name, sql_type, index);
        Ok(index)
    }

    /// A column whose values are an argument already.
    pub fn again(&mut self, name: &'static str, sql_type: &str, index: usize) {
        self.names.push(name);
        self.values.push(format!("unnest(${index}::{sql_type}[])"));
    }

    /// The same, turned into another type by the server.
    pub fn each_as<'v, T>(
        &mut self,
        name: &'static str,
        sql_type: &str,
        stored_type: &str,
        values: Vec<T>,
    ) -> Result<(), BoxDynError>
    where
        T: Encode<'v, Postgres> + Type<Postgres> + PgHasArrayType + 'v,
    {
        let index = self.add(values)?;
        self.names.push(name);
        let value = format!("unnest(${index}::{sql_type}[])::{stored_type}");
        self.values.push(value);
        Ok(())
    }

    /// A column that may be empty in every row.
    pub fn some<'v, T>(
        &mut self,
        name: &'static str,
        sql_type: &str,
        values: Vec<Option<T>>,
    ) -> Result<(), BoxDynError>
    where
        T: Encode<'v, Postgres> + Type<Postgres> + PgHasArrayType + 'v,
    {
        if values.iter().all(Option::is_none) {
            return Ok(());
        }
        self.each(name, sql_type, values).map(|_| ())
    }

    /// A column that may be empty in every row, and is read all the same.
    pub fn nullable<'v, T>(
        &mut self,
        name: &'static str,
        sql_type: &str,
        values: Vec<Option<T>>,
    ) -> Result<(), BoxDynError>
    where
        T: Encode<'v, Postgres> + Type<Postgres> + PgHasArrayType + 'v,
    {
        if values.iter().all(Option::is_none) {
            self.names.push(name);
            self.values.push(format!("NULL::{sql_type}"));
            return Ok(());
        }
        self.each(name, sql_type, values).map(|_| ())
    }

    /// A column that most batches have in common.
    pub fn shared(&mut self, name: &'static str, values: Vec<&str>) -> Result<(), BoxDynError> {
        self.common(name, "text", values)
    }

    /// The same, of any type.
    pub fn common<'v, T>(
        &mut self,
        name: &'static str,
        sql_type: &str,
        values: Vec<T>,
    ) -> Result<(), BoxDynError>
    where
        T: Encode<'v, Postgres> + Type<Postgres> + PgHasArrayType + PartialEq + Copy + 'v,
    {
        match values.first() {
            Some(first) if values.iter().all(|v| v == first) => self.one(name, sql_type, *first),
            _ => self.each(name, sql_type, values).map(|_| ()),
        }
    }

    /// A column with one value for all rows.
    pub fn one<'v, T>(
        &mut self,
        name: &'static str,
        sql_type: &str,
        value: T,
    ) -> Result<(), BoxDynError>
    where
        T: Encode<'v, Postgres> + Type<Postgres>,
    {
        let index = self.add(value)?;
        self.names.push(name);
        self.values.push(format!("${index}::{sql_type}"));
        Ok(())
    }

    /// Adds an argument; returns its number.
    fn add<'v, T>(&mut self, value: T) -> Result<usize, BoxDynError>
    where
        T: Encode<'v, Postgres> + Type<Postgres>,
    {
        self.arguments.add(value)?;
        Ok(self.arguments.len())
    }

    /// The insertion of these rows into a table.
    pub fn into_insert(self, table: &str) -> String {
        let (names, values) = (self.names.join(", "), self.values.join(", "));
        format!("INSERT INTO {table} ({names})\nSELECT {values}")
    }

    /// The insertion of those of these rows for which a condition on their columns holds.
    pub fn into_insert_where(self, table: &str, condition: &str) -> String {
        let names = self.names.join(", ");
        let rows = self.into_rows();
        format!("INSERT INTO {table} ({names})\nSELECT * FROM ({rows}) AS rows WHERE {condition}")
    }

    /// The rows by themselves, under their columns' names.
    pub fn into_rows(self) -> String {
        let named = self.names.iter().zip(&self.values);
        let named: Vec<String> = named
            .map(|(name, value)| format!("{value} AS {name}"))
            .collect();
        format!("SELECT {}", named.join(", "))
    }
}
