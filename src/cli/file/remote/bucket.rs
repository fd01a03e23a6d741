//! Owns which store an address means, how it is opened, and its lists of files.
//!
//! Refuses addresses with credentials in them: those of the environment are used, and are shown nowhere.

use super::{
    MAX_LISTED, Object,
    http::{Connector, Problem},
    said, wait,
};
use anyhow::{Context, anyhow, bail};
use futures_util::TryStreamExt;
use object_store::{
    BackoffConfig, Error, ObjectMeta, ObjectStore, RetryConfig, aws::AmazonS3Builder,
    azure::MicrosoftAzureBuilder, gcp::GoogleCloudStorageBuilder, http::HttpBuilder,
    path::Path as Key,
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::runtime::Handle;
use url::{Position, Url};

/// A bucket, container or server, and a key in it.
pub(super) struct Bucket {
    pub store: Arc<dyn ObjectStore>,
    pub key: String,
    /// What stands before the key.
    root: String,
    pub problem: Arc<Problem>,
}

impl Bucket {
    /// The store of an address, with the credentials of the environment.
    pub fn of(address: &str) -> anyhow::Result<Self> {
        let (scheme, rest) = address.split_once("://").context("no address")?;
        let (authority, key) = rest.split_once('/').unwrap_or((rest, ""));
        let is_name = |one: char| one.is_ascii_alphanumeric() || "-_.:[]".contains(one);
        if authority.is_empty() || !authority.chars().all(is_name) {
            bail!(
                "an address of a file has no user and password, and names where it is, as {scheme}://NAME/FILE: credentials are taken from the environment"
            );
        }
        let problem = Arc::new(Problem::default());
        let connector = Connector::new(problem.clone())?;
        let root = format!("{scheme}://{authority}/");
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(5),
                base: 2.0,
            },
            max_retries: 6,
            retry_timeout: Duration::from_secs(60),
        };
        let mut key = key.to_owned();
        let store = match scheme {
            "s3" | "gs" | "az" => in_bucket(scheme, &root, connector, retry),
            _ => {
                let url = Url::parse(address).ok();
                let url = url.with_context(|| format!("{root}… is no address"))?;
                let path = Key::from_url_path(url.path()).ok();
                let path = path.with_context(|| format!("{root}… is no address"))?;
                key = path.to_string();
                on_server(&url, connector, retry)
            }
        };
        // What a library says of its settings may be one of them.
        let store = store.map_err(|_| {
            anyhow!("{root} can't be opened: are its variables of the environment complete, as AWS_ACCESS_KEY_ID and AWS_REGION?")
        })?;
        Ok(Self {
            store,
            key,
            root,
            problem,
        })
    }

    /// An address of it, without what may be secret.
    pub fn shown(&self, key: &str) -> String {
        format!("{}{key}", self.root)
    }

    /// A file of it.
    pub fn object(&self, about: ObjectMeta) -> Object {
        Object {
            store: self.store.clone(),
            shown: self.shown(about.location.as_ref()),
            about,
            problem: self.problem.clone(),
            said: Mutex::default(),
            runtime: Handle::current(),
            blocks: Mutex::default(),
        }
    }

    /// The objects of a folder whose keys are wanted, in order.
    pub fn list(&self, folder: &str, wanted: impl Fn(&str) -> bool) -> anyhow::Result<Vec<Object>> {
        let shown = self.shown(folder);
        let prefix =
            Key::parse(folder).map_err(|_| anyhow!("{shown} is no address of a folder"))?;
        let store = self.store.clone();
        let listed = wait(&Handle::current(), async move {
            let prefix = Some(&prefix).filter(|prefix| !prefix.as_ref().is_empty());
            let mut all: Vec<ObjectMeta> = Vec::new();
            let mut each = store.list(prefix);
            while let Some(about) = each.try_next().await? {
                all.push(about);
                if all.len() > MAX_LISTED {
                    break;
                }
            }
            Ok::<_, Error>(all)
        });
        let listed = listed.context("it was given up")?;
        let mut listed = listed
            .map_err(|error| anyhow!("{shown} can't be listed: {}", said(&error, &self.problem)))?;
        if listed.len() > MAX_LISTED {
            bail!("{shown} has more than {MAX_LISTED} files: name fewer");
        }
        listed.retain(|about| about.size > 0 && wanted(about.location.as_ref()));
        listed.sort_unstable_by(|a, b| a.location.cmp(&b.location));
        Ok(listed.into_iter().map(|about| self.object(about)).collect())
    }
}

/// A bucket or container, with the environment's credentials.
fn in_bucket(
    scheme: &str,
    root: &str,
    connector: Connector,
    retry: RetryConfig,
) -> Result<Arc<dyn ObjectStore>, Error> {
    Ok(match scheme {
        "gs" => Arc::new(
            GoogleCloudStorageBuilder::from_env()
                .with_url(root)
                .with_http_connector(connector)
                .with_retry(retry)
                .build()?,
        ),
        "az" => Arc::new(
            MicrosoftAzureBuilder::from_env()
                .with_url(root)
                .with_http_connector(connector)
                .with_retry(retry)
                .build()?,
        ),
        _ => Arc::new(
            AmazonS3Builder::from_env()
                .with_url(root)
                .with_http_connector(connector)
                .with_retry(retry)
                .build()?,
        ),
    })
}

/// A server, asked with what an address is signed with.
fn on_server(
    url: &Url,
    connector: Connector,
    retry: RetryConfig,
) -> Result<Arc<dyn ObjectStore>, Error> {
    let query = url.query().map(|query| format!("/?{query}"));
    let query = query.unwrap_or_default();
    let base = format!("{}{query}", &url[..Position::BeforePath]);
    let server = HttpBuilder::new()
        .with_url(base)
        .with_http_connector(connector)
        .with_retry(retry)
        .build()?;
    Ok(Arc::new(server))
}
