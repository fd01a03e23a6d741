//! The stand-ins of the simulation are held to the real servers: the same cases run here on these, and there on those.

use crate::harness::stack::Stack;
use kiln::{
    conformance,
    secret::Secret,
    store::{PostgresStore, Store},
};

/// Holds what a real server did to what stands in the repository, or has it stand there.
fn is_expected(server: &str, found: &str) {
    if std::env::var_os("KILN_BLESS").is_some() {
        let path = conformance::path(server);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, found).expect("a file");
    }
    assert_eq!(found, conformance::expected(server));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_does_what_its_stand_in_is_held_to() {
    let stack = Stack::shared().await;
    let url = Secret::new(stack.database_url());
    let store = PostgresStore::new(&url, &kiln::config::Database::default()).expect("a URL");
    store.migrate().await.expect("tables");
    let found = conformance::postgres(&Store::Postgres(store)).await;
    is_expected("postgres", &found);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_does_what_its_stand_in_is_held_to() {
    let stack = Stack::shared().await;
    let found = conformance::redis(&stack.redis.url()).await;
    is_expected("redis", &found);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_does_what_its_stand_in_is_held_to() {
    let stack = Stack::shared().await;
    let found = conformance::rabbitmq(&stack.amqp_url()).await;
    is_expected("rabbitmq", &found);
}
