//! Opens the source of a schedule. What is hot is asked of Redis, where workers tell each other. Keys without their inputs, which another Redis
//! counts, get the inputs that readers were last served under them.

use super::{
    schedule::{Keep, Schedule},
    source::{
        Changes, ChangesSource, HotInputs, Member, RedisSource, Reported, RowSource, SourceError,
        SourceSpec,
    },
};
use crate::{
    cache::RedisCache,
    clock,
    config::Settings,
    heat::{HeatScope, Hot, SharedHeat},
    store::PostgresStore,
};

/// The source of a schedule.
pub async fn open(
    schedule: &Schedule,
    settings: &Settings,
    store: &PostgresStore,
    redis: Option<&RedisCache>,
) -> Result<Box<dyn RowSource>, SourceError> {
    let space = HeatScope {
        namespace: schedule.namespace().to_owned(),
        model: schedule.model_name().to_owned(),
    };
    let spec = match &schedule.source {
        SourceSpec::Heat(spec) => spec,
        SourceSpec::Redis(spec) if spec.member == Member::Key => {
            let (read, bad) = RedisSource::new(spec, settings)?.names().await?;
            let hot = Hot {
                scope: space,
                ..Hot::default()
            };
            let (read, bad) = (Some(read), Some(bad));
            let reported = Reported { hot, read, bad };
            return Ok(Box::new(HotInputs::new(store.clone(), reported, spec.top)));
        }
        SourceSpec::Changes(spec) => {
            let stored = store.followed_to(&schedule.name).await;
            let stored = stored.map_err(|e| SourceError(e.to_string()))?;
            let stored = stored.filter(|stored| stored.is_of(&spec.digest()));
            let stored = stored.map(|stored| stored.position);
            let changes = Changes::new(spec, settings)?;
            return Ok(Box::new(ChangesSource::new(changes, spec.from, stored)));
        }
        other => return other.open(settings),
    };
    let unheard = || SourceError("redis, where workers tell what is hot, doesn't answer".into());
    let redis = redis.ok_or_else(unheard)?;
    let now_ms = clock::now().timestamp_millis();
    let heat = SharedHeat::new(redis);
    let hot = heat.hot(&space, now_ms).await.ok_or_else(unheard)?;
    let read = if schedule.keep == Keep::Named {
        let read = heat.read(&space.namespace, now_ms).await;
        Some(read.ok_or_else(unheard)?)
    } else {
        None
    };
    let reported = Reported {
        hot,
        read,
        bad: None,
    };
    Ok(Box::new(HotInputs::new(store.clone(), reported, spec.top)))
}
