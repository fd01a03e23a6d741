//! The servers of one test: the broker and Postgres shared with the other tests or its own, Redis always its own.
//!
//! Shared servers keep tests apart by virtual host and database, and are never killed; a test that wants to break one
//! asks for its own, and such tests run one at a time ([`turn`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio::sync::OnceCell;

use super::broker::Broker;
use super::bus::Bus;
use super::certificates::Certificates;
use super::cluster::rabbitmq::RabbitCluster;
use super::jobs::Row;
use super::postgres::Postgres;
use super::redis::Redis;
use super::turn::{Turn, own_turn, shared_turn};
use super::worker::Settings;
use super::{PATIENCE, eventually, eventually_equals};

static SHARED_BROKER: OnceCell<Arc<Broker>> = OnceCell::const_new();
static SHARED_POSTGRES: OnceCell<Arc<Postgres>> = OnceCell::const_new();

/// Everything that a worker needs, empty.
pub struct Stack {
    pub broker: Arc<Broker>,
    pub postgres: Arc<Postgres>,
    pub redis: Redis,
    pub bus: Bus,
    vhost: String,
    /// The broker's, where it isn't one node.
    url: Option<String>,
    database: String,
    pool: PgPool,
    _turn: Arc<Turn>,
}

/// Which servers a test wants for itself, because it breaks them.
#[derive(Clone, Copy, Default)]
pub struct Own {
    pub broker: bool,
    pub postgres: bool,
}

impl Stack {
    /// A virtual host and a database on the shared servers, and a Redis of its own.
    pub async fn shared() -> Self {
        Self::with(Own::default()).await
    }

    /// Servers that no other test sees.
    pub async fn private() -> Self {
        Self::with(Own {
            broker: true,
            postgres: true,
        })
        .await
    }

    /// Some servers of its own, the others shared.
    pub async fn with(own: Own) -> Self {
        let turn = match own.broker {
            true => own_turn().await,
            false => shared_turn().await,
        };
        let broker = async {
            if own.broker {
                started_broker().await
            } else {
                SHARED_BROKER.get_or_init(started_broker).await.clone()
            }
        };
        let postgres = async {
            if own.postgres {
                started_postgres().await
            } else {
                SHARED_POSTGRES.get_or_init(started_postgres).await.clone()
            }
        };
        let redis = Redis::prepare();
        let (broker, postgres, ()) = tokio::join!(broker, postgres, redis.start());
        let stack = Self::assemble(broker, postgres, redis, turn);
        tokio::join!(
            stack.broker.add_vhost(&stack.vhost),
            stack.postgres.add_database(&stack.database)
        );
        stack
    }

    /// This Postgres, a virtual host on the shared broker, and a Redis of its own.
    pub async fn on(postgres: Arc<Postgres>) -> Self {
        let turn = shared_turn().await;
        let broker = SHARED_BROKER.get_or_init(started_broker).await.clone();
        let redis = Redis::prepare();
        redis.start().await;
        let stack = Self::assemble(broker, postgres, redis, turn);
        tokio::join!(
            stack.broker.add_vhost(&stack.vhost),
            stack.postgres.add_database(&stack.database)
        );
        stack
    }

    /// The stack's database.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Looks for the rows on another server from now on.
    pub fn look_at(&mut self, postgres: Arc<Postgres>) {
        self.pool = lazy_pool(&postgres.url(&self.database));
        self.postgres = postgres;
    }

    /// Servers that have their places and are not running yet: the test starts each.
    pub async fn stopped() -> Self {
        let turn = own_turn().await;
        let broker = Arc::new(Broker::prepare());
        let mut stack = Self::assemble(
            broker,
            Arc::new(Postgres::prepare()),
            Redis::prepare(),
            turn,
        );
        // What every server has from the start, since nothing can be created while they are down.
        stack.vhost = "%2f".to_owned();
        stack.database = "postgres".to_owned();
        stack.bus = Bus::new(stack.amqp_url());
        stack.pool = lazy_pool(&stack.database_url());
        stack
    }

    /// Servers of its own that speak TLS beside plaintext, running.
    pub async fn encrypted(certificates: &Certificates) -> Self {
        let turn = own_turn().await;
        let (mut broker, mut postgres) = (Broker::prepare(), Postgres::prepare());
        let mut redis = Redis::prepare();
        broker.encrypt(certificates);
        postgres.encrypt(certificates);
        redis.encrypt(certificates);
        tokio::join!(broker.start(), postgres.start(), redis.start());
        let stack = Self::assemble(Arc::new(broker), Arc::new(postgres), redis, turn);
        tokio::join!(
            stack.broker.add_vhost(&stack.vhost),
            stack.postgres.add_database(&stack.database)
        );
        stack
    }

    /// A broker of its own that takes no message larger than that, the other servers shared.
    pub async fn with_message_limit(bytes: usize) -> Self {
        Self::with_broker(|broker| broker.limit_messages(bytes)).await
    }

    /// A broker of its own that is `prepared` before it starts, the other servers shared.
    pub async fn with_broker(prepared: impl FnOnce(&Broker)) -> Self {
        let turn = own_turn().await;
        let broker = Arc::new(Broker::prepare());
        prepared(&broker);
        let redis = Redis::prepare();
        let postgres = SHARED_POSTGRES.get_or_init(started_postgres);
        let ((), postgres, ()) = tokio::join!(broker.start(), postgres, redis.start());
        let stack = Self::assemble(broker, postgres.clone(), redis, turn);
        tokio::join!(
            stack.broker.add_vhost(&stack.vhost),
            stack.postgres.add_database(&stack.database)
        );
        stack
    }

    /// A cluster's nodes as the broker, the other servers as ever.
    pub async fn on_cluster(cluster: &RabbitCluster) -> Self {
        let redis = Redis::prepare();
        let postgres = SHARED_POSTGRES.get_or_init(started_postgres);
        let (postgres, ()) = tokio::join!(postgres, redis.start());
        let broker = cluster.nodes[0].clone();
        let mut stack = Self::assemble(broker, postgres.clone(), redis, cluster.turn.clone());
        stack.postgres.add_database(&stack.database).await;
        stack.vhost = "%2f".to_owned();
        stack.bus = Bus::of(cluster.urls());
        stack.url = Some(cluster.url());
        stack
    }

    /// Clusters of all three, whose addresses the caller gives to its workers: no Redis of the stack's own runs.
    pub async fn on_clusters(rabbit: &RabbitCluster, postgres: Arc<Postgres>) -> Self {
        let broker = rabbit.nodes[0].clone();
        let mut stack = Self::assemble(broker, postgres, Redis::prepare(), rabbit.turn.clone());
        stack.postgres.add_database(&stack.database).await;
        stack.vhost = "%2f".to_owned();
        stack.bus = Bus::of(rabbit.urls());
        stack.url = Some(rabbit.url());
        stack
    }

    /// The stack's virtual host.
    pub fn vhost(&self) -> &str {
        &self.vhost
    }

    /// The URLs of the three servers over TLS, by a host's name: broker, Redis and database.
    pub fn encrypted_urls(&self, host: &str) -> [String; 3] {
        let (broker, redis) = (self.broker.tls_port, self.redis.tls_port);
        let (postgres, database) = (self.postgres.port, &self.database);
        [
            format!(
                "amqps://guest:guest@{host}:{}/{}",
                broker.unwrap_or(self.broker.port),
                self.vhost
            ),
            format!("rediss://{host}:{}/0", redis.unwrap_or(self.redis.port)),
            format!("postgres://kiln@{host}:{postgres}/{database}"),
        ]
    }

    fn assemble(
        broker: Arc<Broker>,
        postgres: Arc<Postgres>,
        redis: Redis,
        turn: Arc<Turn>,
    ) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let bus = Bus::new(amqp_url(broker.port, &name));
        let pool = lazy_pool(&postgres.url(&name));
        Self {
            broker,
            postgres,
            redis,
            bus,
            vhost: name.clone(),
            url: None,
            database: name,
            pool,
            _turn: turn,
        }
    }

    pub fn amqp_url(&self) -> String {
        let url = self.url.clone();
        url.unwrap_or_else(|| self.amqp_url_at(self.broker.port))
    }

    /// The broker's URL through another port, a proxy's.
    pub fn amqp_url_at(&self, port: u16) -> String {
        amqp_url(port, &self.vhost)
    }

    pub fn database_url(&self) -> String {
        self.postgres.url(&self.database)
    }

    /// The database's URL through another port, a proxy's.
    pub fn database_url_at(&self, port: u16) -> String {
        self.postgres.url_at(port, &self.database)
    }

    /// Settings for a worker on these servers.
    pub fn worker(&self) -> Settings {
        Settings::new(&self.amqp_url(), &self.redis.url(), &self.database_url())
    }

    /// The invalidations that the database knows: namespaces and stamps.
    pub async fn marks(&self) -> Vec<(String, i64)> {
        let marks = sqlx::query_as("SELECT namespace, stamp FROM invalidations ORDER BY namespace");
        marks.fetch_all(&self.pool).await.expect("the table")
    }

    /// Messages of `queue` that wait or that a consumer holds, as the broker counts them every few seconds.
    pub async fn unsettled(&self, queue: &str) -> Option<u64> {
        self.counted(queue, "messages").await
    }

    /// Messages of `queue` that a consumer holds, as the broker counts them every few seconds.
    pub async fn unacknowledged(&self, queue: &str) -> Option<u64> {
        self.counted(queue, "messages_unacknowledged").await
    }

    async fn counted(&self, queue: &str, what: &str) -> Option<u64> {
        let vhost = if self.vhost == "%2f" {
            "/"
        } else {
            &self.vhost
        };
        let listed = self
            .broker
            .ctl(&[
                "list_queues",
                "-p",
                vhost,
                "--no-table-headers",
                "name",
                what,
            ])
            .await;
        let count = listed
            .lines()
            .find_map(|line| line.strip_prefix(queue)?.strip_prefix('\t'));
        count.and_then(|count| count.trim().parse().ok())
    }

    /// All rows of `jobs`, by id; empty while the table or the server is away.
    pub async fn rows(&self) -> Vec<Row> {
        self.query_rows().await.unwrap_or_default()
    }

    /// The row of one job, as soon as there is one.
    pub async fn row(&self, job_id: &str) -> Row {
        eventually(&format!("a row of {job_id}"), PATIENCE, || async {
            self.rows()
                .await
                .into_iter()
                .find(|row| row.job_id == job_id)
        })
        .await
    }

    /// Runs a statement on the stack's database.
    pub async fn execute(&self, statement: &'static str) {
        sqlx::query(statement)
            .execute(&self.pool)
            .await
            .expect("a statement that the database takes");
    }

    /// Keeps everybody from writing rows of jobs until it is dropped.
    pub async fn hold_jobs(&self) -> sqlx::Transaction<'static, sqlx::Postgres> {
        self.hold("LOCK TABLE jobs IN EXCLUSIVE MODE").await
    }

    /// Takes a lock, and has it until it is dropped.
    pub async fn hold(&self, lock: &'static str) -> sqlx::Transaction<'static, sqlx::Postgres> {
        let mut held = self.pool.begin().await.expect("a transaction");
        sqlx::query(lock).execute(&mut *held).await.expect("a lock");
        held
    }

    /// A whole number from the stack's database.
    pub async fn count(&self, statement: &str) -> i64 {
        sqlx::query_scalar(sqlx::AssertSqlSafe(statement.to_owned()))
            .fetch_one(&self.pool)
            .await
            .expect("one number")
    }

    /// A text from the stack's database.
    pub async fn text(&self, statement: &str) -> String {
        sqlx::query_scalar(sqlx::AssertSqlSafe(statement.to_owned()))
            .fetch_one(&self.pool)
            .await
            .expect("one text")
    }

    /// How many rows `jobs` has; 0 while the table or the server is away.
    pub async fn row_count(&self) -> i64 {
        let count = sqlx::query_scalar("SELECT count(*) FROM jobs")
            .fetch_one(&self.pool)
            .await;
        count.unwrap_or_default()
    }

    /// Waits until `jobs` has at least `count` rows.
    pub async fn wait_for_rows(&self, count: usize) {
        eventually(&format!("{count} rows in jobs"), PATIENCE, || async {
            (self.row_count().await >= count as i64).then_some(())
        })
        .await;
    }

    /// Waits until every one of `ids` has its row, and checks that there is no other, and that each says `ok`.
    pub async fn expect_done(&self, mut ids: Vec<String>) {
        ids.sort();
        self.wait_for_rows(ids.len()).await;
        let rows = self.rows().await;
        assert_eq!(
            rows.iter()
                .map(|row| row.job_id.clone())
                .collect::<Vec<_>>(),
            ids,
            "one row for every job, and no other"
        );
        let rejected: Vec<&Row> = rows.iter().filter(|row| row.status != "ok").collect();
        assert!(rejected.is_empty(), "no job was rejected: {rejected:#?}");
    }

    /// Waits until nothing waits in `queue`.
    pub async fn wait_for_empty(&self, queue: &str) {
        eventually_equals(&format!("what waits in {queue}"), PATIENCE, Some(0), || {
            self.bus.waiting(queue)
        })
        .await;
    }

    async fn query_rows(&self) -> sqlx::Result<Vec<Row>> {
        let statement = "SELECT job_id, status, model, version, namespace, hits::int8, misses::int8, results::text, \
                         error::text, finished_at::text FROM jobs ORDER BY job_id COLLATE \"C\"";
        let rows = sqlx::query(statement).fetch_all(&self.pool).await?;
        let json = |text: Option<String>| text.and_then(|text| serde_json::from_str(&text).ok());
        rows.iter()
            .map(|row| {
                Ok(Row {
                    job_id: row.try_get(0)?,
                    status: row.try_get(1)?,
                    model: row.try_get(2)?,
                    version: row.try_get(3)?,
                    namespace: row.try_get(4)?,
                    hits: row.try_get(5)?,
                    misses: row.try_get(6)?,
                    results: json(row.try_get(7)?),
                    error: json(row.try_get(8)?),
                    finished_at: row.try_get(9)?,
                })
            })
            .collect()
    }
}

async fn started_broker() -> Arc<Broker> {
    let broker = Arc::new(Broker::prepare());
    broker.start().await;
    broker
}

async fn started_postgres() -> Arc<Postgres> {
    let postgres = Arc::new(Postgres::prepare());
    postgres.start().await;
    postgres
}

fn amqp_url(port: u16, vhost: &str) -> String {
    format!("amqp://guest:guest@127.0.0.1:{port}/{vhost}")
}

/// Connects on first use, and again after the server was killed.
fn lazy_pool(url: &str) -> PgPool {
    let options = PgPoolOptions::new()
        .max_connections(2)
        .acquire_timeout(Duration::from_secs(3));
    options
        .connect_lazy(url)
        .expect("the harness's own URL is valid")
}
