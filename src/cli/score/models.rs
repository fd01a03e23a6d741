//! Owns opening the models, and what scores with them: an engine over the file of scores, or a fleet.

use super::{
    JobArguments,
    fleet::{Fleet, Opening, RunMark, known_costs},
    manifest::Manifest,
    render::Layout,
    scorer::Scorer,
};
use crate::{
    clock,
    config::Settings,
    parts::{self, Embedded},
    pipeline::Engine,
};
use anyhow::{Context, bail};
use indicatif::ProgressBar;
use kiln_model::Registry;
use std::{collections::BTreeMap, path::Path, sync::Arc};

/// The models, and where they score.
pub(super) enum Models {
    Here {
        engine: Arc<Engine>,
        embedded: Embedded,
    },
    Fleet {
        /// What this machine knows of them.
        registry: Arc<Registry>,
        /// The versions that are active in the fleet, by model, where the database says so: also of models that this machine doesn't have.
        active: BTreeMap<String, String>,
    },
}

/// What is wanted of a run.
pub(super) struct Wanted<'a> {
    pub settings: &'a Settings,
    /// How jobs are posted, over the fleet.
    pub jobs: Option<&'a JobArguments>,
    pub layout: &'a Layout,
    /// The output, where the same run is found again, be it to begin anew.
    pub output: Option<&'a Path>,
    /// The output, where a run that is killed goes on with what is there of it.
    pub resumable: Option<&'a Path>,
    pub quarantine: Option<&'a Path>,
    pub bar: &'a ProgressBar,
}

impl Models {
    /// Opens those of the settings; the versions that the fleet has active are those that bare names mean there.
    pub async fn open(settings: &Settings, is_fleet: bool) -> anyhow::Result<Self> {
        if !is_fleet {
            let embedded = parts::embedded(settings, said_once()).await?;
            let engine = Arc::new(embedded.engine(settings)?);
            return Ok(Self::Here { engine, embedded });
        }
        let registry = parts::open_registry(settings)?;
        let mut active = BTreeMap::new();
        if settings.database.url.is_some() {
            let store = parts::postgres(settings)?;
            active = match store.active_models().await {
                Ok(active) => active,
                Err(error) => {
                    // Before the first migration nothing is chosen. Otherwise this machine's own defaults would be taken for the fleet's.
                    let asked = store.ping().await.map_err(|_| error);
                    asked.context("which versions are active can't be asked")?;
                    BTreeMap::new()
                }
            };
            registry.choose(active.clone());
        }
        Ok(Self::Fleet { registry, active })
    }

    /// What is known of them.
    pub fn registry(&self) -> &Registry {
        match self {
            Self::Here { engine, .. } => engine.registry(),
            Self::Fleet { registry, .. } => registry,
        }
    }

    /// The versions that are active in the fleet; none for what is scored here.
    pub fn active(&self) -> BTreeMap<String, String> {
        match self {
            Self::Here { .. } => BTreeMap::new(),
            Self::Fleet { active, .. } => active.clone(),
        }
    }

    /// What scores with them. A run over the fleet is given its name, where it goes on with none, and that is kept before anything is posted.
    pub async fn scorer(
        self,
        wanted: &Wanted<'_>,
        manifest: &mut Manifest,
    ) -> anyhow::Result<Scorer> {
        let registry = match self {
            Self::Here { engine, embedded } => {
                let store = embedded.store;
                return Ok(Scorer::Here { engine, store });
            }
            Self::Fleet { registry, .. } => registry,
        };
        check_table(&registry, manifest.model.as_deref(), wanted.layout)?;
        let mark = match manifest.fleet.take() {
            Some(mark) => mark,
            None => begin(&registry, manifest.model.as_deref(), wanted.settings).await,
        };
        let usual = JobArguments::default();
        let opening = Opening {
            settings: wanted.settings,
            registry,
            arguments: wanted.jobs.unwrap_or(&usual),
            mark: &mark,
            resumable: wanted.resumable,
            kept: manifest.end,
            bar: wanted.bar.clone(),
        };
        let fleet = Fleet::open(opening).await?;
        eprintln!(
            "run {}: `kiln jobs run {0}` says how far it is, `kiln jobs cancel --run {0}` cancels it",
            mark.name
        );
        manifest.fleet = Some(mark);
        if let Some(output) = wanted.output {
            let kept = manifest.keep(output, wanted.quarantine);
            kept.context("the manifest can't be written")?;
        }
        Ok(Scorer::Fleet(fleet))
    }
}

/// Refuses a table whose columns can't be known, since its model isn't.
fn check_table(registry: &Registry, model: Option<&str>, layout: &Layout) -> anyhow::Result<()> {
    let Some(model) = model.filter(|_| layout.shape.is_some()) else {
        return Ok(());
    };
    if registry.resolve(model).is_err() {
        bail!(
            "the columns of a table follow from its model, and `{model}` isn't in this machine's models folder: write --format jsonl"
        );
    }
    Ok(())
}

/// Begins a run of a model, as far as that is known.
async fn begin(registry: &Registry, model: Option<&str>, settings: &Settings) -> RunMark {
    let model = model.and_then(|model| registry.resolve(model).ok());
    let store = parts::postgres(settings).ok();
    let costs = match model {
        Some(model) => known_costs(store.as_ref(), &model).await,
        None => Vec::new(),
    };
    let at = clock::now().format("%Y%m%d-%H%M%S");
    RunMark {
        name: format!("run-{at}-{:08x}", rand::random::<u32>()),
        costs,
    }
}

/// Says once that the file's scores are brought into a new form.
fn said_once() -> impl FnMut(u64, u64) + Send + 'static {
    let mut is_said = false;
    move |_, all| {
        if !std::mem::replace(&mut is_said, true) {
            eprintln!("brings {all} scores of an earlier release into a new form, once");
        }
    }
}
