//! Owns the migrations that this binary carries, a list for each kind of database.
//!
//! Promises that every file under `migrations/` is in its list, and that its number, description and checksum are those
//! under which databases already have it: what has run once is never changed. A database that a newer release has migrated is taken,
//! since migrations add and take nothing away, unless it says itself that it needs a newer binary. Refuses sqlx's `migrate!`, whose macros
//! would compile the database clients, tokio and TLS a second time, for the compiler's own use.

use sqlx::{
    PgConnection, Row, SqlSafeStr,
    migrate::{Migration, MigrationType, Migrator},
};
use std::{collections::BTreeMap, sync::LazyLock};

/// A file's number, description and text.
type File = (i64, &'static str, &'static str);

/// Postgres's migrations.
pub static POSTGRES: LazyLock<Migrator> = LazyLock::new(|| {
    migrator(&[
        (
            1,
            "jobs and scores",
            include_str!("../../migrations/postgres/0001_jobs_and_scores.sql"),
        ),
        (
            2,
            "active models",
            include_str!("../../migrations/postgres/0002_active_models.sql"),
        ),
        (
            3,
            "warm runs",
            include_str!("../../migrations/postgres/0003_warm_runs.sql"),
        ),
        (
            4,
            "controls",
            include_str!("../../migrations/postgres/0004_controls.sql"),
        ),
        (
            5,
            "invalidations",
            include_str!("../../migrations/postgres/0005_invalidations.sql"),
        ),
        (
            6,
            "served",
            include_str!("../../migrations/postgres/0006_served.sql"),
        ),
        (
            7,
            "warm budgets",
            include_str!("../../migrations/postgres/0007_warm_budgets.sql"),
        ),
        (
            8,
            "warm positions",
            include_str!("../../migrations/postgres/0008_warm_positions.sql"),
        ),
        (
            9,
            "warm sent",
            include_str!("../../migrations/postgres/0009_warm_sent.sql"),
        ),
        (
            10,
            "warm sources",
            include_str!("../../migrations/postgres/0010_warm_sources.sql"),
        ),
        (
            11,
            "warm ahead",
            include_str!("../../migrations/postgres/0011_warm_ahead.sql"),
        ),
        (
            12,
            "workers",
            include_str!("../../migrations/postgres/0012_workers.sql"),
        ),
        (
            13,
            "cancelled runs",
            include_str!("../../migrations/postgres/0013_cancelled_runs.sql"),
        ),
        (
            14,
            "jobs by time",
            include_str!("../../migrations/postgres/0014_jobs_by_time.sql"),
        ),
        (
            15,
            "actions",
            include_str!("../../migrations/postgres/0015_actions.sql"),
        ),
        (
            16,
            "model splits",
            include_str!("../../migrations/postgres/0016_model_splits.sql"),
        ),
        (
            17,
            "job posters",
            include_str!("../../migrations/postgres/0017_job_posters.sql"),
        ),
        (
            18,
            "timings",
            include_str!("../../migrations/postgres/0018_timings.sql"),
        ),
        (
            19,
            "callbacks",
            include_str!("../../migrations/postgres/0019_callbacks.sql"),
        ),
        (
            20,
            "worker passes",
            include_str!("../../migrations/postgres/0020_worker_passes.sql"),
        ),
    ])
});

/// SQLite's migrations.
pub static SQLITE: LazyLock<Migrator> = LazyLock::new(|| {
    migrator(&[
        (
            1,
            "jobs and scores",
            include_str!("../../migrations/sqlite/0001_jobs_and_scores.sql"),
        ),
        (
            2,
            "look up and log",
            include_str!("../../migrations/sqlite/0002_look_up_and_log.sql"),
        ),
    ])
});

fn migrator(files: &[File]) -> Migrator {
    let migrations = files.iter().map(|&(number, description, sql)| {
        Migration::new(
            number,
            description.into(),
            MigrationType::Simple,
            sql.into_sql_str(),
            sql.starts_with("-- no-transaction"),
        )
    });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    // A newer release's add something that this one doesn't use.
    migrator.set_ignore_missing(true);
    migrator
}

/// Which of the tables are there that say what a database has had.
const TABLES: &str =
    "SELECT to_regclass('_sqlx_migrations') IS NOT NULL, to_regclass('kiln_schema') IS NOT NULL";
const APPLIED: &str = "SELECT version, CASE WHEN success THEN encode(checksum, 'hex') END AS checksum FROM _sqlx_migrations";
/// The migration that a binary must know to work with the database: set by one that takes away what earlier releases use.
const NEEDED: &str = "SELECT max(needs_migration)::int8 FROM kiln_schema";

/// What a database says of its migrations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Those that it has had, with the hash of each one's text where it ended well.
    pub migrations: BTreeMap<i64, Option<Vec<u8>>>,
    /// The one that a binary must know, where it says so.
    pub needs: Option<i64>,
}

/// What is to be done before this binary works with a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaState {
    /// Migrations that are still to be made.
    pub pending: usize,
    /// The last one of a newer release's.
    pub newer: Option<i64>,
}

/// Why this binary doesn't work with a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("migration {0} was left incomplete")]
    Incomplete(i64),
    #[error("migration {0} differs from this binary's")]
    Differs(i64),
    #[error(
        "the database needs a release that knows migration {needs}, and this one knows those up to {known}: run the newer one"
    )]
    TooOld { needs: i64, known: i64 },
}

impl Applied {
    /// Asks a Postgres; each question is a statement by itself, so that any pooler serves.
    pub async fn ask(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let tables = sqlx::raw_sql(TABLES).fetch_one(&mut *connection).await?;
        let mut applied = Self::default();
        if tables.try_get(0)? {
            let rows = sqlx::raw_sql(APPLIED).fetch_all(&mut *connection).await?;
            let one = |row: &sqlx::postgres::PgRow| {
                // As digits: how bytes come as text is a setting of the role.
                let hash: Option<String> = row.try_get(1)?;
                let hash = hash.map(hex::decode).transpose();
                let hash = hash.map_err(|error| sqlx::Error::Decode(error.into()))?;
                Ok((row.try_get(0)?, hash))
            };
            applied.migrations = rows.iter().map(one).collect::<Result<_, sqlx::Error>>()?;
        }
        if tables.try_get(1)? {
            let row = sqlx::raw_sql(NEEDED).fetch_one(&mut *connection).await?;
            applied.needs = row.try_get(0)?;
        }
        Ok(applied)
    }

    /// How it stands to this binary's migrations.
    pub fn judge(&self) -> Result<SchemaState, Unfit> {
        let known = POSTGRES.iter().map(|m| m.version).max().unwrap_or_default();
        if let Some(needs) = self.needs.filter(|needs| *needs > known) {
            return Err(Unfit::TooOld { needs, known });
        }
        let mut pending = 0;
        for migration in POSTGRES.iter() {
            match self.migrations.get(&migration.version) {
                None => pending += 1,
                Some(None) => return Err(Unfit::Incomplete(migration.version)),
                Some(Some(hash)) if *hash != *migration.checksum => {
                    return Err(Unfit::Differs(migration.version));
                }
                Some(Some(_)) => {}
            }
        }
        let is_newer = |version: &&i64| !POSTGRES.version_exists(**version);
        let newer = self.migrations.keys().rev().find(is_newer).copied();
        // One that failed halfway has changed nothing, but sqlx goes no further.
        match newer.filter(|version| self.migrations.get(version) == Some(&None)) {
            Some(version) => Err(Unfit::Incomplete(version)),
            None => Ok(SchemaState { pending, newer }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn listed(migrator: &Migrator) -> Vec<(i64, String, String, bool, MigrationType, String)> {
        let migrations = migrator.iter().map(|m| {
            (
                m.version,
                m.description.to_string(),
                hex::encode(&m.checksum),
                m.no_tx,
                m.migration_type,
                m.sql.as_str().to_owned(),
            )
        });
        migrations.collect()
    }

    /// sqlx's reading of a folder is the one that `migrate!` takes.
    #[tokio::test]
    async fn every_file_is_listed_as_sqlx_reads_it() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        for (folder, ours) in [("postgres", &*POSTGRES), ("sqlite", &*SQLITE)] {
            let read = Migrator::new(root.join(folder)).await.expect(folder);
            assert_eq!(listed(ours), listed(&read), "migrations/{folder}");
        }
        let folders = std::fs::read_dir(root).expect("migrations").count();
        assert_eq!(folders, 2, "a folder of migrations that no list is for");
    }

    fn known(migrator: &Migrator) -> Vec<(i64, String, String)> {
        let all = listed(migrator).into_iter();
        all.map(|(number, words, sum, ..)| (number, words, sum))
            .collect()
    }

    fn sums(all: &[(i64, &str, &str)]) -> Vec<(i64, String, String)> {
        let all = all.iter();
        all.map(|(number, words, sum)| (*number, (*words).to_owned(), (*sum).to_owned()))
            .collect()
    }

    #[test]
    fn databases_that_are_migrated_stay_valid() {
        let postgres = sums(&[
            (
                1,
                "jobs and scores",
                "45eaf946f95f6fa99fc42858b02b98fdc541c7ace7f5806134402cad5062d4d7562db8de7b137f584a34149016f5da9f",
            ),
            (
                2,
                "active models",
                "1159d607eb834b287d896aa174568311437e1a834caa537b93381eb5d4f9c819a1959f7d05ae460aeaa91f134fdf61c6",
            ),
            (
                3,
                "warm runs",
                "0c50167571edb02bca41137fa391390e7f9a4b7006c8d4054453562967c85c284e6fbc24db0dd62414d8e8da9ed59a60",
            ),
            (
                4,
                "controls",
                "ebeaa36c31a4ae5f22308b3bb6e45318e14633fba80e62fd130b3e1e4e910f6aca8a9d3031334c4f2c8fa03dd2343e25",
            ),
            (
                5,
                "invalidations",
                "5134dd453f9f9e19a218442499fd8bb8773a3a360bd20ed3639ac1ea73223398818a29d1f357c9d881518d3bca19ce9c",
            ),
            (
                6,
                "served",
                "6390f348e89867e423680a36e7527f66fb3cb2d5741ff937e2caa4e1b7a8c4ae0fb140899ed38eaf45c1955010b1b184",
            ),
            (
                7,
                "warm budgets",
                "1f4ba0f0035a5ec84befb3a39a4b4c359d9a2f6d2711f9549e6638e435bbaa169989edeaaa307b6aac015df0d87b1326",
            ),
            (
                8,
                "warm positions",
                "eade34ae2b94cfe0546bcd13954837280211355521d2541b5cc81884dee1dc7f810c783dba2cd7c0e9910fe8dc38a3fd",
            ),
            (
                9,
                "warm sent",
                "62582b53e86106ba760002b478067e243cbb001757b803e8a1b841a0e00e40c5a1eba0ed92690184ab1d4e4574710c1c",
            ),
            (
                10,
                "warm sources",
                "7a07e59892768430c6fce8a1c827cf0efc26210e940a32d51fe9299880b48021fba08f78d19f96baac9fbeed0ca3498a",
            ),
        ]);
        let sqlite = sums(&[
            (
                1,
                "jobs and scores",
                "9489f76b378c44d52d4ff449583d59b7370e715310d166d236b84fc0247c82491ac045556f39e2fd8884b88151a8f803",
            ),
            (
                2,
                "look up and log",
                "00ce5012a55f27104bbd166d54b69b7126c196dadc11f81c222d02138aa8da5574a93ff04d314b3850ac02669b6a361c",
            ),
        ]);
        assert_eq!(known(&POSTGRES)[..postgres.len()], postgres);
        assert_eq!(known(&SQLITE)[..sqlite.len()], sqlite);
    }
}
