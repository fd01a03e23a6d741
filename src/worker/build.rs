//! The only place where the worker's parts are wired together: what there is, what the HTTP port is given, which tasks run.
//! Nothing runs yet when this is done, and no server has been asked anything.

use super::{
    cancelled::CancelledRuns,
    intake,
    lane_session::LaneSessions,
    process::JobProcessor,
    settle::Settler,
    supervisor::{Stage, Supervisor},
    suspects::{Program, Suspects},
    switch::Switch,
    tasks::{self, controls::Controls, depths::DepthWatch, invalidations::Remover},
};
use crate::{
    amqp::{
        connection::Broker,
        lane_depths::LaneDepths,
        publisher::{self, Publisher, PublisherStatus, PublisherTask},
        topology::Topology,
    },
    cache::{Cache, MemoryCache, RedisCache},
    config::{self, Settings},
    health::{Health, Part},
    heat::Heat,
    http::ApiState,
    pipeline::{Engine, EngineParts, Shadows, insight::Insight},
    store::{News, Paused, PostgresStore, Removable, Store},
    telemetry::{
        metrics::Metrics,
        otlp,
        trace::{Traced, Tracer},
        worker_name,
    },
    warm::{carry::Carrier, folder::Folder},
};
use kiln_model::Registry;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::{mpsc, watch};

/// What the settings name, opened: connections are made when they are first used.
pub(super) struct Servers {
    pub broker: Broker,
    pub store: PostgresStore,
    pub redis: RedisCache,
}

/// A worker's parts. What a task alone needs is held by the closure that runs it.
pub(super) struct Worker {
    settings: Arc<Settings>,
    broker: Broker,
    pub store: PostgresStore,
    registry: Arc<Registry>,
    engine: Arc<Engine>,
    health: Health,
    metrics: Metrics,
    topology: Arc<Topology>,
    publisher: Publisher,
    publisher_task: Arc<PublisherTask>,
    replies_task: Arc<PublisherTask>,
    /// Whether replies get to the broker.
    replies: watch::Receiver<PublisherStatus>,
    settler: Settler,
    suspects: Program,
    lane_depths: LaneDepths,
    heat: Arc<Heat>,
    insight: Arc<Insight>,
    folder: Arc<Mutex<Folder>>,
    tracer: Tracer,
    traced: Option<Arc<Traced>>,
    controls: Arc<Controls>,
    cancelled: CancelledRuns,
    paused: watch::Receiver<Vec<Paused>>,
    pause: Switch,
    invalid: mpsc::Sender<Removable>,
    invalidated: tasks::invalidations::Named,
    news: Arc<watch::Sender<Option<Arc<News>>>>,
}

impl Worker {
    /// Wires a worker.
    pub(super) fn build(
        settings: Arc<Settings>,
        servers: Servers,
        registry: Arc<Registry>,
        suspects: Program,
        health: Health,
        metrics: Metrics,
    ) -> Self {
        let Servers {
            broker,
            store,
            redis,
        } = servers;
        let memory = MemoryCache::new(settings.cache.memory_mib);
        let cache = if settings.cache.enabled {
            Cache::redis(redis.hearing(&store), memory, metrics.clone())
        } else {
            Cache::off(metrics.clone())
        };
        let (heat, insight) = (Arc::new(Heat::default()), Arc::new(Insight::default()));
        let parts = EngineParts {
            registry: registry.clone(),
            cache,
            store: Store::Postgres(store.clone()),
            health: health.clone(),
            metrics: metrics.clone(),
            heat: Some(heat.clone()),
            insight: Some(insight.clone()),
            shadows: Shadows::new(&settings.models.shadow),
        };
        let engine = Arc::new(Engine::new(parts, &settings));
        let topology = Arc::new(Topology::new(&settings.queues, &settings.retry));
        let max = config::ms(settings.amqp.max_backoff_ms);
        let (publisher, publisher_task) =
            publisher::must_arrive(broker.clone(), max, metrics.clone());
        let patience = config::ms(settings.reply.timeout_ms);
        let (replies, replies_task) =
            publisher::replies(broker.clone(), patience, max, metrics.clone());
        let replies_status = replies.status();
        let cancelled = CancelledRuns::default();
        let (controls, paused, pause) = tasks::controls::channels(cancelled.clone());
        let (tracer, traced) = tracer(&settings, &metrics);
        let (invalid, invalidated) = tasks::invalidations::channel();
        Self {
            settler: Settler::new(
                publisher.clone(),
                replies,
                settings.reply.max_bytes,
                topology.clone(),
                metrics.clone(),
            ),
            folder: Arc::new(Mutex::new(Folder::new(&settings.warm.dir))),
            publisher_task: Arc::new(publisher_task),
            replies_task: Arc::new(replies_task),
            replies: replies_status,
            controls: Arc::new(controls),
            cancelled,
            settings,
            broker,
            store,
            registry,
            engine,
            health,
            metrics,
            topology,
            publisher,
            suspects,
            lane_depths: LaneDepths::default(),
            heat,
            insight,
            tracer,
            traced,
            paused,
            pause,
            invalid,
            invalidated,
            news: Arc::new(watch::Sender::new(None)),
        }
    }

    /// What the HTTP port works with.
    pub(super) fn state(&self) -> ApiState {
        let budget = self.engine.budget();
        ApiState {
            runtime: tokio::runtime::Handle::current(),
            engine: self.engine.clone(),
            budget: budget.part(budget.max() / 2),
            store: self.store.clone(),
            broker: self.broker.clone(),
            publisher: self.publisher.clone(),
            topology: self.topology.clone(),
            lane_depths: self.lane_depths.clone(),
            settings: self.settings.clone(),
            folder: self.folder.clone(),
            heat: self.heat.clone(),
            insight: self.insight.clone(),
            tracer: self.tracer.clone(),
            rejected: self.settler.rejected(),
            paused: self.paused.clone(),
            invalid: self.invalid.clone(),
        }
    }

    /// Every background task, by the order in which they are stopped. None runs yet.
    pub(super) fn tasks(&self) -> Supervisor {
        let mut tasks = Supervisor::default();
        self.add_intake(&mut tasks);
        self.add_checks(&mut tasks);
        self.add_followers(&mut tasks);
        self.add_heat(&mut tasks);
        let (settings, engine) = (&self.settings, &self.engine);
        let (store, health, metrics) = (&self.store, &self.health, &self.metrics);
        tasks::audit::add(&mut tasks, settings, engine, store, metrics);
        tasks::callbacks::add(&mut tasks, settings, store, health, metrics);
        for (name, task) in [
            ("publisher", self.publisher_task.clone()),
            ("replies", self.replies_task.clone()),
        ] {
            tasks.add(Stage::Output, name, move |stop| task.clone().run(stop));
        }
        if let (Some(traced), Some(endpoint)) = (&self.traced, &self.settings.trace.endpoint) {
            let (traced, endpoint, metrics) =
                (traced.clone(), endpoint.clone(), self.metrics.clone());
            tasks.add(Stage::Output, "traces", move |stop| {
                let (traced, endpoint) = (traced.clone(), endpoint.clone());
                otlp::send(endpoint, worker_name(), traced, metrics.clone(), stop)
            });
        }
        tasks
    }

    /// What takes jobs, and what posts them.
    fn add_intake(&self, tasks: &mut Supervisor) {
        let processor = JobProcessor::new(
            self.engine.clone(),
            self.settler.clone(),
            self.store.clone(),
            self.metrics.clone(),
            self.settings.clone(),
            self.tracer.clone(),
            self.cancelled.clone(),
        );
        let suspects = Suspects::new(processor.clone(), self.suspects.clone());
        let lanes = LaneSessions {
            broker: self.broker.clone(),
            topology: self.topology.clone(),
            processor: processor.clone(),
            suspects: suspects.clone(),
            health: self.health.clone(),
            pause: self.pause.clone(),
        };
        let intake = intake::Intake {
            suspects: suspects.clone(),
            broker: self.broker.clone(),
            topology: self.topology.clone(),
            processor,
            health: self.health.clone(),
            pause: self.pause.clone(),
        };
        tasks.add(Stage::Intake, "intake", move |stop| {
            intake.clone().run(stop)
        });
        tasks.add(Stage::Intake, "lane intake", move |stop| {
            lanes.clone().run(stop)
        });
        tasks.add(Stage::Intake, "suspects", move |stop| {
            suspects.clone().run(stop)
        });
        if self.settings.warm.enabled {
            self.add_warming(tasks);
        }
    }

    /// What posts jobs for readers before they ask.
    fn add_warming(&self, tasks: &mut Supervisor) {
        let carrier = Carrier {
            store: self.store.clone(),
            engine: self.engine.clone(),
            publisher: self.publisher.clone(),
            broker: self.broker.clone(),
            topology: self.topology.clone(),
            settings: self.settings.clone(),
            metrics: self.metrics.clone(),
        };
        let (folder, heat, news) = (&self.folder, &self.heat, &self.news);
        tasks::warming::add(tasks, &carrier, folder, heat, news, &self.health);
    }

    /// What keeps health informed: what asks the servers how they are, and what follows those who know of their own part.
    fn add_checks(&self, tasks: &mut Supervisor) {
        let health = self.health.clone();
        tasks.add_droppable("health", move || tasks::health::beat(health.clone()));
        let publishing = vec![self.publisher.status(), self.replies.clone()];
        let health = self.health.clone();
        tasks.add_droppable("publisher check", move || {
            let (publishing, health) = (publishing.clone(), health.clone());
            let trouble = PublisherStatus::trouble;
            tasks::health::follow(Part::Publisher, publishing, trouble, health)
        });
        let (engine, health) = (self.engine.clone(), self.health.clone());
        let metrics = self.metrics.clone();
        tasks.add_droppable("redis check", move || {
            tasks::health::check_redis(engine.clone(), health.clone(), metrics.clone())
        });
        let (store, health) = (self.store.clone(), self.health.clone());
        let metrics = self.metrics.clone();
        tasks.add_droppable("postgres check", move || {
            tasks::health::check_postgres(store.clone(), metrics.clone(), health.clone())
        });
        tasks::days::add(tasks, &self.store, &self.health);
        self.add_depths(tasks);
    }

    /// What shows how much waits in the queues and in the lanes.
    fn add_depths(&self, tasks: &mut Supervisor) {
        let watch = DepthWatch {
            broker: self.broker.clone(),
            topology: self.topology.clone(),
            engine: self.engine.clone(),
            lanes: self.lane_depths.clone(),
            metrics: self.metrics.clone(),
            health: self.health.clone(),
            pause: self.pause.clone(),
        };
        tasks.add_droppable("queue depths", move || tasks::depths::watch(watch.clone()));
        tasks::lanes::add(tasks, &self.engine, &self.metrics, self.named_namespaces());
    }

    /// The namespaces that the settings name.
    fn named_namespaces(&self) -> BTreeSet<String> {
        self.settings.namespaces.keys().cloned().collect()
    }

    /// What keeps the worker as the models' folder and the database want it.
    fn add_followers(&self, tasks: &mut Supervisor) {
        let unused_for = Duration::from_secs(self.settings.models.unload_after_seconds);
        let (registry, health, metrics) = (
            self.registry.clone(),
            self.health.clone(),
            self.metrics.clone(),
        );
        tasks.add_droppable("models folder", move || {
            let (registry, health) = (registry.clone(), health.clone());
            tasks::models::rescan(registry, health, metrics.clone(), unused_for)
        });
        let (news, store, engine) = (self.news.clone(), self.store.clone(), self.engine.clone());
        let health = self.health.clone();
        tasks.add_droppable("news", move || {
            tasks::news::ask(news.clone(), store.clone(), engine.clone(), health.clone())
        });
        let (registry, metrics) = (self.registry.clone(), self.metrics.clone());
        let heard = self.news.subscribe();
        tasks.add_droppable("model choice", move || {
            tasks::models::follow_choice(registry.clone(), heard.clone(), metrics.clone())
        });
        let (controls, metrics) = (self.controls.clone(), self.metrics.clone());
        let heard = self.news.subscribe();
        tasks.add_droppable("controls", move || {
            tasks::controls::follow(controls.clone(), heard.clone(), metrics.clone())
        });
        tasks::costs::add(tasks, &self.registry, &self.store, &self.health);
        tasks::shadow::add(tasks, &self.engine, &self.metrics);
        let (engine, insight, paused) = (&self.engine, &self.insight, &self.paused);
        tasks::fleet::add(tasks, engine, insight, &self.store, &self.health, paused);
        self.add_invalidations(tasks);
    }

    /// What brings invalidations to their end.
    fn add_invalidations(&self, tasks: &mut Supervisor) {
        let (named, heard) = (self.invalidated.clone(), self.news.subscribe());
        let remover = Remover {
            engine: self.engine.clone(),
            store: self.store.clone(),
            metrics: self.metrics.clone(),
            most_ms: self.settings.redis.cooldown_ms,
        };
        tasks.add_droppable("invalidations", move || {
            tasks::invalidations::remove(named.clone(), heard.clone(), remover.clone())
        });
    }

    /// What knows and learns what is asked for.
    fn add_heat(&self, tasks: &mut Supervisor) {
        let known = self.named_namespaces();
        let (heat, engine, metrics) =
            (self.heat.clone(), self.engine.clone(), self.metrics.clone());
        tasks.add_droppable("heat", move || {
            let (heat, engine) = (heat.clone(), engine.clone());
            tasks::heat::report(heat, engine, metrics.clone(), worker_name(), known.clone())
        });
        let (heat, broker, topology) = (
            self.heat.clone(),
            self.broker.clone(),
            self.topology.clone(),
        );
        let (metrics, health) = (self.metrics.clone(), self.health.clone());
        tasks.add_droppable("hints", move || {
            let (heat, broker, topology) = (heat.clone(), broker.clone(), topology.clone());
            tasks::hints::follow(heat, broker, topology, metrics.clone(), health.clone())
        });
    }
}

/// What draws jobs to trace, and where they wait to be sent; nothing waits where nothing is traced.
fn tracer(settings: &Settings, metrics: &Metrics) -> (Tracer, Option<Arc<Traced>>) {
    if settings.trace.endpoint.is_none() {
        return (Tracer::off(metrics.clone()), None);
    }
    let (tracer, traced) = Tracer::new(settings.trace.share, metrics.clone());
    (tracer, Some(Arc::new(traced)))
}
