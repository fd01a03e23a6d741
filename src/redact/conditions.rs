//! What PostgreSQL's codes mean that say how the server, the connection and the login are (appendix A of its manual).

/// Codes, each with its condition's name and what it means.
pub(super) const OPERATION: [(&str, &str, &str); 42] = [
    (
        "0A000",
        "feature_not_supported",
        "a feature isn't supported",
    ),
    ("08000", "connection_exception", "the connection failed"),
    (
        "08001",
        "sqlclient_unable_to_establish_sqlconnection",
        "a connection can't be made",
    ),
    (
        "08003",
        "connection_does_not_exist",
        "there is no such connection",
    ),
    (
        "08004",
        "sqlserver_rejected_establishment_of_sqlconnection",
        "the server refuses the connection",
    ),
    ("08006", "connection_failure", "the connection broke"),
    ("08P01", "protocol_violation", "the protocol was broken"),
    (
        "25001",
        "active_sql_transaction",
        "not allowed within a transaction",
    ),
    (
        "25P01",
        "no_active_sql_transaction",
        "only allowed within a transaction",
    ),
    (
        "25P02",
        "in_failed_sql_transaction",
        "the transaction has failed before",
    ),
    (
        "25P03",
        "idle_in_transaction_session_timeout",
        "the transaction was idle for too long",
    ),
    (
        "25P04",
        "transaction_timeout",
        "the transaction took too long",
    ),
    (
        "28000",
        "invalid_authorization_specification",
        "the user may not log in",
    ),
    (
        "28P01",
        "invalid_password",
        "the password is wrong, or there is no such user",
    ),
    ("3D000", "invalid_catalog_name", "there is no such database"),
    ("3F000", "invalid_schema_name", "there is no such schema"),
    (
        "40001",
        "serialization_failure",
        "the transaction conflicts with another one",
    ),
    (
        "40003",
        "statement_completion_unknown",
        "whether the statement was carried out isn't known",
    ),
    (
        "40P01",
        "deadlock_detected",
        "a deadlock with another transaction",
    ),
    (
        "53000",
        "insufficient_resources",
        "the server lacks resources",
    ),
    ("53100", "disk_full", "the server's disk is full"),
    ("53200", "out_of_memory", "the server is out of memory"),
    (
        "53300",
        "too_many_connections",
        "the server has too many connections",
    ),
    (
        "53400",
        "configuration_limit_exceeded",
        "a limit of the server's settings is exceeded",
    ),
    (
        "55000",
        "object_not_in_prerequisite_state",
        "an object isn't in the state that the statement needs",
    ),
    ("55006", "object_in_use", "an object is in use"),
    (
        "55P02",
        "cant_change_runtime_param",
        "a setting can't be changed now",
    ),
    ("55P03", "lock_not_available", "a lock can't be had in time"),
    (
        "57000",
        "operator_intervention",
        "an operator, or a limit of the server, intervened",
    ),
    (
        "57014",
        "query_canceled",
        "the statement was cancelled, by its time limit or by a user",
    ),
    (
        "57P01",
        "admin_shutdown",
        "the server shuts down, or an administrator ended the connection",
    ),
    (
        "57P02",
        "crash_shutdown",
        "a process of the server has crashed",
    ),
    (
        "57P03",
        "cannot_connect_now",
        "the server takes no connections now",
    ),
    ("57P04", "database_dropped", "the database was dropped"),
    (
        "57P05",
        "idle_session_timeout",
        "the connection was idle for too long",
    ),
    ("58000", "system_error", "the server's system failed"),
    ("58030", "io_error", "the server can't read or write a file"),
    ("58P01", "undefined_file", "the server misses a file"),
    (
        "58P02",
        "duplicate_file",
        "the server has such a file already",
    ),
    ("XX000", "internal_error", "an internal error of the server"),
    ("XX001", "data_corrupted", "the server's data is damaged"),
    ("XX002", "index_corrupted", "an index is damaged"),
];
