//! Owns finding what somebody said last of a name, other than a warming run.

use crate::store::{PostgresStore, StoreError};
use chrono::{DateTime, Utc};

/// What somebody said last that a name is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct LastSaid {
    pub at: DateTime<Utc>,
    /// The input's hash.
    pub input: Vec<u8>,
}

/// What was said last of each name by a job that is no warming run's. A name whose latest rows are all of runs has none.
const SAID: &str = "\
SELECT names.number, said.served_from, said.input_sha256
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS names(namespace, key, number)
CROSS JOIN LATERAL (
  SELECT * FROM (SELECT id, served_from, job_id, input_sha256, is_removed, items IS NOT NULL AS is_ranking FROM served
    WHERE namespace = names.namespace AND key = names.key ORDER BY id DESC LIMIT 64) AS past
  WHERE job_id !~ '^warm-[0-9]+-[0-9]+$' ORDER BY id DESC LIMIT 1
) AS said WHERE said.input_sha256 IS NOT NULL AND NOT said.is_removed AND NOT said.is_ranking";

impl PostgresStore {
    /// What was said last of each of these names, given as namespace and key, by a job that is no warming run's.
    pub async fn last_said(
        &self,
        names: &[(&str, &str)],
    ) -> Result<Vec<Option<LastSaid>>, StoreError> {
        let (namespaces, keys): (Vec<&str>, Vec<&str>) = names.iter().copied().unzip();
        let mut lease = self.lease().await?;
        let query = sqlx::query_as::<_, (i64, DateTime<Utc>, Vec<u8>)>(SAID)
            .bind(&namespaces)
            .bind(&keys);
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        let mut found = vec![None; names.len()];
        for (number, at, input) in self.end(lease, answer).await? {
            let index = usize::try_from(number - 1).ok();
            if let Some(said) = index.and_then(|index| found.get_mut(index)) {
                *said = Some(LastSaid { at, input });
            }
        }
        Ok(found)
    }
}
