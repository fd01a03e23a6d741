//! A Postgres primary with a standby that streams from it, on private ports and folders.

use std::sync::Arc;

use sqlx::{Connection, Executor, PgConnection, Row};

use crate::harness::postgres::{Postgres, run, server_command};
use crate::harness::{PATIENCE, eventually};

/// Whether a commit waits for the standby.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    Synchronous,
    Asynchronous,
}

/// A primary and its standby. Either may be killed, frozen and started again like any other server of the harness.
pub struct Pair {
    pub primary: Arc<Postgres>,
    pub standby: Arc<Postgres>,
    replication: Replication,
}

impl Pair {
    /// Both run, and the standby streams.
    pub async fn start(replication: Replication) -> Self {
        let (primary, standby) = (Postgres::prepare(), Postgres::prepare());
        primary.start().await;
        let pair = Self {
            primary: Arc::new(primary),
            standby: Arc::new(standby),
            replication,
        };
        pair.follow().await;
        pair
    }

    /// Gives the standby a copy of the primary, and returns when it streams and commits wait for it, if they are to.
    async fn follow(&self) {
        let from = format!(
            "host=127.0.0.1 port={} user=kiln application_name=standby",
            self.primary.port
        );
        let mut copy = server_command("pg_basebackup", self.standby.folder());
        copy.args(["-d", &from, "-R", "-X", "stream", "-c", "fast", "--no-sync"])
            .arg("-D")
            .arg(self.standby.folder().join("data"));
        tokio::task::spawn_blocking(move || run(copy))
            .await
            .expect("the standby's copy");
        self.standby.start().await;
        if self.replication == Replication::Synchronous {
            // The standby's own settings were copied before: once promoted it waits for nobody.
            let all = "ALTER SYSTEM SET synchronous_standby_names = '*'";
            set(&self.primary, all).await;
        }
        self.wait_streaming().await;
    }

    /// Waits until the standby has what the primary has, and is waited for if it is to be.
    pub async fn wait_streaming(&self) {
        let wanted = match self.replication {
            Replication::Synchronous => "sync",
            Replication::Asynchronous => "async",
        };
        eventually("the standby streams", PATIENCE, async || {
            let mut connection = connect(&self.primary).await?;
            let state = "SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'";
            let row = connection.fetch_optional(state).await.ok()??;
            (row.get::<String, _>(0) == wanted).then_some(())
        })
        .await;
    }

    /// Once the standby was promoted and the primary is dead, they change their parts: that one gets a new copy and follows the other.
    pub async fn change_parts(&mut self) {
        std::mem::swap(&mut self.primary, &mut self.standby);
        set(&self.primary, "ALTER SYSTEM RESET ALL").await;
        self.standby.clear();
        self.follow().await;
    }

    /// The URL of a database on whichever of the two takes writes.
    pub fn url(&self, database: &str) -> String {
        let (primary, standby) = (self.primary.port, self.standby.port);
        format!(
            "postgres://kiln@127.0.0.1:{primary},127.0.0.1:{standby}/{database}?sslmode=disable"
        )
    }

    /// Makes the standby take writes, and waits until it does.
    pub async fn promote(&self) {
        let mut connection = connect(&self.standby).await.expect("the standby is up");
        let promoted = connection.fetch_one("SELECT pg_promote()").await;
        assert!(
            promoted.expect("an answer").get::<bool, _>(0),
            "it is promoted"
        );
    }

    /// Has the primary take no writes any more; sessions that are open stay open.
    pub async fn demote(&self) {
        let all = "ALTER SYSTEM SET default_transaction_read_only = on";
        set(&self.primary, all).await;
    }
}

async fn connect(server: &Postgres) -> Option<PgConnection> {
    PgConnection::connect(&server.url("postgres")).await.ok()
}

async fn set(server: &Postgres, setting: &'static str) {
    let mut connection = connect(server).await.expect("it is up");
    connection.execute(setting).await.expect("a setting");
    let reload = connection.execute("SELECT pg_reload_conf()").await;
    reload.expect("it reloads");
}
