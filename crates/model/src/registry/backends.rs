//! What each model runs on: the backends that the settings name, opened once.

use std::collections::BTreeMap;
use std::sync::Arc;

use kiln_kernels::ThreadPool;

use crate::error::{LoadError, OpenError};
use crate::hardware::{Hardware, HardwareError};
use crate::settings::{Backend, ModelSettings};

/// The backends in use.
pub(super) struct Backends {
    /// What each one runs on, or why it doesn't.
    opened: BTreeMap<Backend, Result<Arc<Hardware>, HardwareError>>,
    by_model: BTreeMap<String, Backend>,
    default: Backend,
    /// What was asked for and isn't what runs, and why, a sentence for each.
    replaced: Vec<String>,
}

impl Backends {
    /// Opens what the settings name.
    ///
    /// # Errors
    /// If the default one doesn't work; any other costs the models that are to run on it.
    pub fn open(settings: &ModelSettings, threads: &Arc<ThreadPool>) -> Result<Self, OpenError> {
        let open = |backend| Hardware::open(backend, Arc::clone(threads)).map(Arc::new);
        let mut opened = BTreeMap::new();
        let mut replaced = Vec::new();
        for backend in settings.backends.values().chain([&settings.backend]) {
            if opened.contains_key(backend) {
                continue;
            }
            if *backend == Backend::Flex {
                tracing::warn!(
                    "the backend `flex` is burn's graph on the processor; what was called so in 0.1.0 is `cpu`, which is faster"
                );
            }
            let hardware = match open(*backend) {
                Err(error) if settings.fall_back => {
                    let (reason, instead) = (error.to_string(), Backend::default().as_str());
                    tracing::warn!(reason, instead, "a backend is replaced");
                    let asked = backend.as_str();
                    replaced.push(format!(
                        "the backend \"{asked}\" is replaced by \"{instead}\": {reason}"
                    ));
                    open(Backend::default())
                }
                hardware => hardware,
            };
            if let (Err(error), true) = (&hardware, *backend == settings.backend) {
                return Err(OpenError::Setting {
                    field: "backend",
                    message: error.to_string(),
                });
            }
            opened.insert(*backend, hardware);
        }
        Ok(Self {
            opened,
            by_model: settings.backends.clone(),
            default: settings.backend,
            replaced,
        })
    }

    /// Which backends aren't what the settings ask for, and why.
    pub fn replaced(&self) -> &[String] {
        &self.replaced
    }

    /// Why nothing works any more on a device that models run on, if so.
    pub fn lost(&self) -> Option<String> {
        let mut opened = self.opened.iter();
        opened.find_map(|(backend, hardware)| {
            let reason = hardware.as_ref().ok()?.lost()?;
            Some(format!(
                "the device of the backend \"{}\" is lost: {reason}",
                backend.as_str()
            ))
        })
    }

    /// What a model runs on.
    pub fn of(&self, model: &str) -> Result<Arc<Hardware>, LoadError> {
        let refuse = |message: &str| LoadError::field("settings models.backends", message);
        let backend = self.by_model.get(model).unwrap_or(&self.default);
        match self.opened.get(backend) {
            Some(Ok(hardware)) => Ok(Arc::clone(hardware)),
            Some(Err(error)) => Err(refuse(&error.to_string())),
            None => Err(refuse("names no backend")),
        }
    }
}
