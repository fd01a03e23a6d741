//! Owns secrets that lie in files: `KILN_AMQP_URL_FILE=/run/secrets/amqp` instead of the URL itself.

use super::ConfigError;
use crate::redact::Redact;
use std::collections::BTreeMap;

/// What the name of a variable ends with that names a file.
const FILES: [&str; 2] = ["_URL_FILE", "_SECRET_FILE"];
/// Largest such file, in bytes.
const MAX_BYTES: u64 = 64 << 10;

/// Replaces the variables that name files by what the files hold.
pub(super) fn read(variables: &mut BTreeMap<String, String>) -> Result<(), ConfigError> {
    let named: Vec<String> = variables
        .keys()
        .filter(|name| name.starts_with("KILN_") && FILES.iter().any(|end| name.ends_with(end)))
        .cloned()
        .collect();
    for variable in named {
        let wrong = |problem: String| ConfigError::SecretFile {
            variable: variable.clone(),
            problem,
        };
        let Some(path) = variables.remove(&variable) else {
            continue;
        };
        let setting = variable.trim_end_matches("_FILE").to_owned();
        if variables.get(&setting).is_some_and(|v| !v.is_empty()) {
            return Err(wrong(format!("{setting} is set, too; which one counts?")));
        }
        let size =
            std::fs::metadata(&path).map_err(|e| wrong(format!("{path}: {}", e.redacted())))?;
        if size.len() > MAX_BYTES {
            return Err(wrong(format!("{path} is larger than a secret can be")));
        }
        let text = std::fs::read_to_string(&path)
            .map_err(|e| wrong(format!("{path}: {}", e.redacted())))?;
        let text = text.trim();
        if text.is_empty() {
            return Err(wrong(format!("{path} is empty")));
        }
        variables.insert(setting, text.to_owned());
    }
    Ok(())
}
