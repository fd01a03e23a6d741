//! What a simulation's stand-ins and the real servers must do alike: the same cases run on both, and what comes of them is written down,
//! line by line. Only in builds with the feature `faults`, for the tests.
//!
//! The lines of the real servers stand in `tests/fixtures/conformance`: a test on these servers holds them to be so, and one without
//! servers holds the stand-ins to the same. `KILN_BLESS=1` has the former write them anew.

mod postgres;
mod rabbitmq;
mod redis;

pub use postgres::postgres;
pub use rabbitmq::rabbitmq;
pub use redis::redis;

/// The lines of a server that stand in the repository.
pub fn expected(server: &str) -> String {
    let path = path(server);
    std::fs::read_to_string(&path).unwrap_or_else(|error| format!("{}: {error}", path.display()))
}

/// Where they stand.
pub fn path(server: &str) -> std::path::PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/conformance");
    std::path::Path::new(folder).join(format!("{server}.txt"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        amqp::simulated::SimulatedBroker,
        cache::simulated::Server,
        secret::Secret,
        simulated::Chance,
        store::{Store, simulated::SimulatedStore},
    };

    fn calm() -> Chance {
        let chance = Chance::new(0);
        chance.calm();
        chance
    }

    #[tokio::test]
    async fn the_stand_in_of_postgres_does_what_postgres_does() {
        let store = Store::Simulated(SimulatedStore::new(&calm()));
        assert_eq!(postgres(&store).await, expected("postgres"));
    }

    #[tokio::test]
    async fn the_stand_in_of_redis_does_what_redis_does() {
        let url = "redis://conformance/0";
        Server::new(&calm(), None).listen(&Secret::new(url));
        assert_eq!(redis(url).await, expected("redis"));
    }

    #[tokio::test]
    async fn the_stand_in_of_rabbitmq_does_what_rabbitmq_does() {
        let broker = SimulatedBroker::new(&calm(), Box::new(|_| {}));
        let found = rabbitmq::simulated(broker).await;
        assert_eq!(found, expected("rabbitmq"));
    }
}
