//! What is said of an error of Redis: its code, and its text where that is the server's own and quotes nothing but names.

use kiln_contract::redact::names_only;
use redis::{ErrorKind, RedisError, ServerError};

/// Codes whose text is fixed, but for names of commands, users and hosts.
const FIXED: [&str; 24] = [
    "ASK",
    "BUSY",
    "CLUSTERDOWN",
    "CROSSSLOT",
    "DENIED",
    "EXECABORT",
    "INPROG",
    "IOERR",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "MOVED",
    "NOAUTH",
    "NOMASTERLINK",
    "NOPERM",
    "NOPROTO",
    "NOREPLICAS",
    "NOSCRIPT",
    "OOM",
    "READONLY",
    "TRYAGAIN",
    "UNKILLABLE",
    "WRONGPASS",
    "WRONGTYPE",
];

/// How texts with the code `ERR` begin that are fixed too. Others quote arguments, or are a script's own.
const HEADS: [&str; 16] = [
    "AUTH ",
    "Client sent AUTH",
    "DB index is out of range",
    "No such master with that name",
    "Protocol error",
    "SELECT is not allowed in cluster mode",
    "This instance has cluster support disabled",
    "invalid DB index",
    "invalid expire time",
    "invalid password",
    "max number of clients reached",
    "syntax error",
    "unknown command",
    "unknown subcommand",
    "value is not an integer or out of range",
    "wrong number of arguments",
];

/// What such an error says; of many refusals at once the first one says enough.
pub(super) fn any(error: &RedisError) -> String {
    let refusals = error.clone().into_server_errors();
    if let Some((_, first)) = refusals.as_ref().and_then(|all| all.first()) {
        return refusal(first);
    }
    match error.kind() {
        ErrorKind::UnexpectedReturnType => "the answer is of another type than expected".into(),
        ErrorKind::Parse => "the answer can't be read".into(),
        // The client's own words, or the system's.
        _ => error.to_string(),
    }
}

fn refusal(error: &ServerError) -> String {
    let code = error.code();
    let Some(text) = error.details() else {
        return names_only(code);
    };
    let is_fixed = FIXED.contains(&code)
        || code == "ERR" && HEADS.iter().any(|head| text.trim_start().starts_with(head));
    if !is_fixed {
        return format!("{}: its text isn't shown", names_only(code));
    }
    // What an unknown command was given.
    let text = text.split(", with args").next().unwrap_or_default();
    format!("{code}: {}", names_only(text))
}
