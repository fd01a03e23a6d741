//! What `kiln doctor` asks of Postgres: version, rights, pending migrations and the clock.
//!
//! Only reads.

use super::{
    check::{self, Check},
    partitions::{self, Partitions},
    problem::{Cause, Problem},
    replication::{self, Kind},
};
use crate::{
    config::{self, Settings},
    secret::Secret,
    store::{Applied, Opened, PostgresStore, Unfit},
};
use sqlx::{Connection, PgConnection, Row};
use std::time::Duration;

const NAME: &str = "postgres";
const RIGHTS: &str = "postgres rights";
const SCHEMA: &str = "postgres migrations";
const CLOCK: &str = "postgres clock";
/// What to do about a URL that can't be read.
const URL: &str = "correct KILN_DATABASE_URL";
/// The oldest version that Kiln is made for, as `server_version_num` tells it.
const OLDEST: i32 = 150_000;

/// What a server says of itself. A table that doesn't exist has no rights.
const ABOUT: &str = "\
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int AS number,
       current_user::text AS login, current_schema()::text AS schema,
       coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create,
       current_setting('transaction_read_only')::bool AS read_only,
       floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS clock_ms";

/// Kiln's tables on which one of the rights that it uses is missing.
const LACKING: &str = "\
SELECT t.name FROM unnest($1::text[]) WITH ORDINALITY AS t(name, place)
JOIN pg_class ON pg_class.oid = to_regclass(t.name)
WHERE NOT (has_table_privilege(pg_class.oid, 'SELECT') AND (relkind = 'v' OR has_table_privilege(pg_class.oid, 'INSERT')
       AND has_table_privilege(pg_class.oid, 'UPDATE') AND has_table_privilege(pg_class.oid, 'DELETE')))
ORDER BY t.place";
/// What the migrations make, and at the end what `kiln migrate --partition` makes.
const TABLES: [&str; 22] = [
    "jobs",
    "scores",
    "suspects",
    "active_models",
    "warm_runs",
    "warm_posts",
    "controls",
    "invalidations",
    "served",
    "warm_spent",
    "model_costs",
    "warm_positions",
    "warm_ahead",
    "workers",
    "cancelled_runs",
    "actions",
    "model_splits",
    "job_posters",
    "timings",
    "callbacks",
    "job_ids",
    "job_results",
];

/// Reachable, version, rights, pending migrations and the clock.
pub(super) async fn check(settings: &Settings) -> Vec<Check> {
    let Some(url) = &settings.database.url else {
        return vec![Check::off(
            NAME,
            "not configured",
            "`kiln run` needs KILN_DATABASE_URL",
        )];
    };
    let timeout = config::ms(settings.database.timeout_ms);
    let unreachable = |problem: Problem| {
        let advice = match problem.cause {
            Cause::Login => "check the user and password in KILN_DATABASE_URL",
            Cause::NoDatabase => "create the database, or correct KILN_DATABASE_URL",
            _ => "start Postgres, or correct KILN_DATABASE_URL",
        };
        let found = format!("{}: {problem}", url.host());
        vec![Check::fail(NAME, found, advice)]
    };
    let store = match PostgresStore::new(url, &settings.database) {
        Ok(store) => store,
        Err(error) => return vec![Check::fail(NAME, format!("{}: {error}", url.host()), URL)],
    };
    let Chosen {
        host,
        mut connection,
        kind,
    } = match choose(url, timeout, store.open_each("kiln doctor").await) {
        Ok(chosen) => chosen,
        Err(problem) => return unreachable(problem),
    };
    if kind.is_pooled() {
        // A session lasts as long as a transaction.
        let begun = sqlx::raw_sql("BEGIN").execute(&mut connection);
        if let Err(problem) = within(url, timeout, begun).await {
            return unreachable(problem);
        }
    }
    let checks = match within(url, timeout, About::ask(&mut connection)).await {
        Ok(about) => {
            let lacking = within(
                url,
                timeout,
                sqlx::query_scalar::<_, String>(LACKING)
                    .bind(&TABLES[..])
                    .fetch_all(&mut connection),
            )
            .await;
            let applied = within(url, timeout, Applied::ask(&mut connection)).await;
            let asked = replication::ask(&mut connection);
            let standbys = within(url, timeout, asked).await;
            let partitions = within(url, timeout, partitions::ask(&mut connection)).await;
            let migrations = judge_migrations(applied);
            let mut checks = vec![
                about.version(&host),
                replication::check(kind, about.read_only, standbys),
                about.rights(lacking, migrations.status == check::Status::Ok),
                migrations,
                check::clock(CLOCK, about.ahead_ms),
            ];
            // Who doesn't answer is shown by the others.
            checks.extend(partitions.ok().and_then(Partitions::check));
            checks
        }
        Err(problem) => vec![Check::fail(
            NAME,
            format!("{host}: {problem}"),
            "see Postgres' log",
        )],
    };
    // Everything was answered: a slow goodbye changes nothing.
    let _gone_too = tokio::time::timeout(Duration::from_secs(1), connection.close()).await;
    checks
}

/// The address that is looked at.
struct Chosen {
    host: String,
    connection: PgConnection,
    kind: Kind,
}

/// The first address that takes writes, else the first that answers.
fn choose(url: &Secret, timeout: Duration, all: Vec<Opened>) -> Result<Chosen, Problem> {
    let scheme = "postgres://";
    let mut problem = None;
    let mut chosen: Option<(Chosen, bool)> = None;
    let mut others = Vec::new();
    for opened in all {
        let (connection, is_read_only) = match opened.session {
            Some(Ok(session)) => session,
            failed => {
                let reason = match failed {
                    Some(Err(error)) => Problem::postgres(url, &error),
                    _ => Problem::silent(timeout),
                };
                others.push(format!("{}: {reason}", opened.host));
                problem = problem.or(Some(reason));
                continue;
            }
        };
        let one = Chosen {
            host: format!("{scheme}{}", opened.host),
            connection,
            kind: Kind::of(opened.is_pooled),
        };
        if is_read_only {
            others.push(format!("{} takes no writes", opened.host));
        }
        if chosen
            .as_ref()
            .is_none_or(|(_, reads)| *reads && !is_read_only)
        {
            chosen = Some((one, is_read_only));
        }
    }
    match chosen {
        Some((mut chosen, _)) => {
            chosen.kind.others = others;
            Ok(chosen)
        }
        None => Err(problem.unwrap_or_else(|| Problem::silent(timeout))),
    }
}

async fn within<T>(
    url: &Secret,
    timeout: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, Problem> {
    match tokio::time::timeout(timeout, work).await {
        Ok(answer) => answer.map_err(|e| Problem::postgres(url, &e)),
        Err(_) => Err(Problem::silent(timeout)),
    }
}

/// What the server said of itself.
struct About {
    version: String,
    number: i32,
    login: String,
    schema: Option<String>,
    may_create: bool,
    read_only: bool,
    ahead_ms: i64,
}

impl About {
    async fn ask(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        // The first statement pays for preparing it: the clock is asked the second time.
        sqlx::query(ABOUT).fetch_one(&mut *connection).await?;
        let asked = chrono::Utc::now().timestamp_millis();
        let row = sqlx::query(ABOUT).fetch_one(&mut *connection).await?;
        let answered = chrono::Utc::now().timestamp_millis();
        Ok(Self {
            version: row.try_get("version")?,
            number: row.try_get("number")?,
            login: row.try_get("login")?,
            schema: row.try_get("schema")?,
            may_create: row.try_get("may_create")?,
            read_only: row.try_get("read_only")?,
            ahead_ms: check::ahead_ms(row.try_get("clock_ms")?, asked, answered),
        })
    }

    fn version(&self, host: &str) -> Check {
        let found = format!("{host}, version {}", self.version);
        if self.number < OLDEST {
            Check::fail(NAME, found, "upgrade to Postgres 15 or newer")
        } else {
            Check::ok(NAME, found)
        }
    }

    /// `lacking` names the tables that can't be used; creating some is needed only before all migrations ran.
    fn rights(&self, lacking: Result<Vec<String>, Problem>, complete: bool) -> Check {
        let login = &self.login;
        let Some(schema) = &self.schema else {
            return Check::fail(
                RIGHTS,
                format!("`{login}` has no schema to work in"),
                "set its search_path to a schema that exists",
            );
        };
        if self.read_only {
            return Check::fail(
                RIGHTS,
                "the server is read-only",
                "KILN_DATABASE_URL names a standby: name the primary",
            );
        }
        if !complete && !self.may_create {
            return Check::fail(
                RIGHTS,
                format!("`{login}` may not create tables in schema {schema}"),
                format!("GRANT CREATE ON SCHEMA {schema} TO \"{login}\""),
            );
        }
        match lacking {
            Err(problem) => Check::fail(RIGHTS, problem.to_string(), "see Postgres' log"),
            Ok(tables) if tables.is_empty() => {
                Check::ok(RIGHTS, format!("`{login}` in schema {schema}"))
            }
            Ok(tables) => {
                let tables = tables.join(", ");
                let advice =
                    format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO \"{login}\"");
                Check::fail(RIGHTS, format!("`{login}` may not use {tables}"), advice)
            }
        }
    }
}

fn judge_migrations(applied: Result<Applied, Problem>) -> Check {
    let applied = match applied {
        Ok(applied) => applied,
        Err(problem) => {
            return Check::fail(
                SCHEMA,
                problem.to_string(),
                "grant SELECT on the tables _sqlx_migrations and kiln_schema",
            );
        }
    };
    let state = match applied.judge() {
        Ok(state) => state,
        Err(unfit) => {
            let advice = match unfit {
                Unfit::Incomplete(_) => {
                    "undo what it did, delete its row in _sqlx_migrations, and run `kiln migrate`"
                }
                Unfit::Differs(_) => {
                    "another release made this database: use that one, or a new database"
                }
                Unfit::TooOld { .. } => "a newer release migrated this database: run that one",
            };
            return Check::fail(SCHEMA, unfit.to_string(), advice);
        }
    };
    match (state.pending, state.newer) {
        (0, None) => Check::ok(SCHEMA, "up to date"),
        (0, Some(newer)) => Check::ok(
            SCHEMA,
            format!("up to date; a newer release's, up to {newer}, are there as well"),
        ),
        (pending, _) => Check::warn(
            SCHEMA,
            format!("{pending} pending"),
            "`kiln migrate`, or start `kiln run`, which does the same",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::check::Status;
    use std::{fs, path::Path};

    #[test]
    fn migrations_are_complete_pending_or_strange() {
        let judged = |applied| judge_migrations(applied).status;
        assert_eq!(judged(Ok(Applied::default())), Status::Warn);
        let needy = Applied {
            needs: Some(i64::MAX),
            ..Applied::default()
        };
        let check = judge_migrations(Ok(needy));
        assert!(check.status == Status::Fail && check.advice.contains("newer release"));
        let mut strange = Applied::default();
        strange.migrations.insert(1, Some(b"other".to_vec()));
        assert_eq!(judged(Ok(strange)), Status::Fail);
        assert_eq!(
            judged(Err(Problem::silent(Duration::from_secs(1)))),
            Status::Fail
        );
    }

    #[test]
    fn the_rights_of_all_tables_are_asked_for() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/postgres");
        let mut made = 0;
        for file in fs::read_dir(folder).expect("migrations") {
            let sql = fs::read_to_string(file.expect("a file").path()).expect("text");
            let tables = sql
                .lines()
                .filter_map(|line| line.strip_prefix("CREATE TABLE "));
            for table in tables.filter_map(|line| line.split(' ').next()) {
                assert!(TABLES.contains(&table), "{table}");
                made += 1;
            }
        }
        assert_eq!(made + 2, TABLES.len(), "and `job_ids` and `job_results`");
    }

    #[test]
    fn rights_ask_for_what_is_needed() {
        let about = |may_create, schema: Option<&str>, read_only| About {
            version: "15.1".into(),
            number: 150_001,
            login: "kiln".into(),
            schema: schema.map(str::to_owned),
            may_create,
            read_only,
            ahead_ms: 0,
        };
        let none = || Ok(Vec::new());
        let open = about(true, Some("public"), false);
        assert_eq!(open.rights(none(), false).status, Status::Ok);
        // Once all tables are there, nothing more has to be created.
        let closed = about(false, Some("public"), false);
        assert_eq!(closed.rights(none(), true).status, Status::Ok);
        let check = closed.rights(none(), false);
        assert!(check.status == Status::Fail && check.advice.contains("GRANT CREATE"));
        let check = open.rights(Ok(vec!["jobs".into()]), true);
        assert!(check.status == Status::Fail && check.advice.contains("ON jobs TO"));
        assert_eq!(
            about(true, None, false).rights(none(), true).status,
            Status::Fail
        );
        assert_eq!(
            about(true, Some("public"), true)
                .rights(none(), true)
                .status,
            Status::Fail
        );
    }
}
