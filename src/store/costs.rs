//! Owns what inputs cost, as workers on one kind of machine measured it.
//!
//! Promises that what calls have measured is never overwritten by what golden inputs say, and that what nobody confirms is forgotten.

use super::{PostgresStore, StoreError, columns::column};
use kiln_model::LengthCost;
use sqlx::{FromRow, Row, postgres::PgRow};

const SHARE: &str = "\
INSERT INTO model_costs (model, version, machine, length_class, seconds_per_unit, is_measured)
SELECT $1, $2, $3, unnest($4::int2[]), unnest($5::float8[]), unnest($6::bool[])
ON CONFLICT (model, version, machine, length_class) DO UPDATE
SET seconds_per_unit = excluded.seconds_per_unit, is_measured = excluded.is_measured, changed_at = now()
WHERE excluded.is_measured OR NOT model_costs.is_measured";
const FORGET: &str = "DELETE FROM model_costs WHERE changed_at < now() - interval '90 days'";
const KNOWN: &str = "\
SELECT machine, length_class, seconds_per_unit, is_measured FROM model_costs WHERE model = $1 AND version = $2
ORDER BY machine = $3, changed_at";

/// What inputs of a model version cost on one kind of machine.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownCost {
    pub machine: String,
    pub cost: LengthCost,
}

impl FromRow<'_, PgRow> for KnownCost {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let class: i16 = row.try_get("length_class")?;
        Ok(Self {
            machine: row.try_get("machine")?,
            cost: LengthCost {
                class: u8::try_from(class).unwrap_or(u8::MAX),
                seconds_per_unit: row.try_get("seconds_per_unit")?,
                is_measured: row.try_get("is_measured")?,
            },
        })
    }
}

impl PostgresStore {
    /// Tells others what inputs of a model version cost on this kind of machine.
    pub async fn share_costs(
        &self,
        (model, version): (&str, &str),
        machine: &str,
        costs: &[LengthCost],
    ) -> Result<(), StoreError> {
        if costs.is_empty() {
            return Ok(());
        }
        let share = sqlx::query(SHARE)
            .bind(model)
            .bind(version)
            .bind(machine)
            .bind(column(costs, |one| i16::from(one.class)))
            .bind(column(costs, |one| one.seconds_per_unit))
            .bind(column(costs, |one| one.is_measured));
        self.execute(share).await?;
        self.execute(sqlx::query(FORGET)).await.map(|_| ())
    }

    /// What is known of a model version's costs: of other kinds of machines first, of this one last, of each what was confirmed last in the end.
    pub async fn known_costs(
        &self,
        (model, version): (&str, &str),
        machine: &str,
    ) -> Result<Vec<KnownCost>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_as(KNOWN)
            .bind(model)
            .bind(version)
            .bind(machine);
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        self.end(lease, answer).await
    }
}
