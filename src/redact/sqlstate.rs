//! What PostgreSQL's codes mean (appendix A of its manual), and of which classes its own text may be shown.

/// Codes that operators meet, each with its condition's name and what it means.
const CODES: [(&str, &str, &str); 45] = [
    (
        "21000",
        "cardinality_violation",
        "more than one row, or one row twice, where one was expected",
    ),
    ("22000", "data_exception", "a value can't be used as it is"),
    (
        "22001",
        "string_data_right_truncation",
        "a text is too long for its type",
    ),
    (
        "22003",
        "numeric_value_out_of_range",
        "a number is out of its type's range",
    ),
    (
        "22004",
        "null_value_not_allowed",
        "NULL where a value was expected",
    ),
    (
        "22007",
        "invalid_datetime_format",
        "a text can't be read as a date or time",
    ),
    (
        "22008",
        "datetime_field_overflow",
        "a date or time is out of range",
    ),
    ("22012", "division_by_zero", "division by zero"),
    (
        "22021",
        "character_not_in_repertoire",
        "bytes that are no text in the database's encoding",
    ),
    (
        "22023",
        "invalid_parameter_value",
        "a parameter has a value that isn't allowed",
    ),
    (
        "22025",
        "invalid_escape_sequence",
        "an escape sequence that isn't one",
    ),
    (
        "2201B",
        "invalid_regular_expression",
        "a regular expression that isn't one",
    ),
    (
        "2202E",
        "array_subscript_error",
        "an array has other dimensions than expected",
    ),
    (
        "22030",
        "duplicate_json_object_key_value",
        "JSON has a key twice",
    ),
    ("22032", "invalid_json_text", "a text is not JSON"),
    (
        "22P01",
        "floating_point_exception",
        "a computation with floating point numbers failed",
    ),
    (
        "22P02",
        "invalid_text_representation",
        "a text can't be read as the type that it is to be",
    ),
    (
        "22P03",
        "invalid_binary_representation",
        "a value's bytes aren't of its type",
    ),
    (
        "22P05",
        "untranslatable_character",
        "a character that the other encoding lacks",
    ),
    (
        "23502",
        "not_null_violation",
        "NULL in a column that must have a value",
    ),
    (
        "23503",
        "foreign_key_violation",
        "a foreign key refuses the row",
    ),
    (
        "23505",
        "unique_violation",
        "a unique constraint refuses the row",
    ),
    ("23514", "check_violation", "a check refuses the row"),
    (
        "23P01",
        "exclusion_violation",
        "an exclusion constraint refuses the row",
    ),
    (
        "25006",
        "read_only_sql_transaction",
        "the transaction may only read",
    ),
    ("42501", "insufficient_privilege", "the user lacks a right"),
    ("42601", "syntax_error", "the statement has a syntax error"),
    ("42602", "invalid_name", "a name that isn't one"),
    ("42622", "name_too_long", "a name is too long"),
    ("42701", "duplicate_column", "a column is there twice"),
    (
        "42702",
        "ambiguous_column",
        "a column's name means several columns",
    ),
    ("42703", "undefined_column", "there is no such column"),
    (
        "42704",
        "undefined_object",
        "there is no such type, or other object",
    ),
    (
        "42710",
        "duplicate_object",
        "there is such an object already",
    ),
    (
        "42725",
        "ambiguous_function",
        "a function's name means several functions",
    ),
    (
        "42803",
        "grouping_error",
        "a column is neither grouped by nor aggregated",
    ),
    (
        "42804",
        "datatype_mismatch",
        "values are of types that don't fit together",
    ),
    (
        "42809",
        "wrong_object_type",
        "an object is of another kind than the statement needs",
    ),
    (
        "42846",
        "cannot_coerce",
        "a type can't be cast to the other",
    ),
    (
        "42883",
        "undefined_function",
        "there is no such function or operator for these types",
    ),
    ("42P01", "undefined_table", "there is no such table"),
    ("42P07", "duplicate_table", "there is such a table already"),
    (
        "42P18",
        "indeterminate_datatype",
        "a value's type can't be told",
    ),
    (
        "54000",
        "program_limit_exceeded",
        "a limit of the server is exceeded",
    ),
    (
        "P0001",
        "raise_exception",
        "a function or trigger raised an exception",
    ),
];

/// What a class says of a code that isn't in the list.
const CLASSES: [(&str, &str); 15] = [
    ("0A", "a feature isn't supported"),
    ("21", "a subquery gave more or fewer rows than expected"),
    ("22", "a value can't be used as it is"),
    ("23", "a constraint refuses the row"),
    ("26", "a prepared statement is unknown"),
    ("2B", "other objects depend on the privileges"),
    ("34", "a cursor is unknown"),
    ("38", "a function outside the database failed"),
    ("42", "the statement can't be run"),
    ("44", "a view's check refuses the row"),
    ("54", "a limit of the server is exceeded"),
    ("F0", "the server's settings are wrong"),
    ("HV", "a foreign data source failed"),
    ("P0", "a function or trigger failed"),
    ("XX", "an internal error of the server"),
];

/// Classes whose texts say how the server and the connection are, and quote nothing but names: connections, transactions, logins,
/// resources, states, operators' doings, the system.
const FIXED: [&str; 10] = ["08", "25", "28", "3D", "3F", "40", "53", "55", "57", "58"];

/// Texts of other classes that say more than their code, and quote nothing at all.
const TEXTS: [&str; 4] = [
    "DECLARE CURSOR must not contain data-modifying statements in WITH",
    "DECLARE CURSOR can only be used in transaction blocks",
    "cannot insert multiple commands into a prepared statement",
    "cannot open multi-query plan as cursor",
];

/// Whether the server's own text may be shown, but for quoted parts that are no names.
pub(super) fn is_fixed(code: &str, text: &str) -> bool {
    TEXTS.contains(&text) || FIXED.iter().any(|class| code.starts_with(class))
}

/// Whether a statement can be to blame: the other classes say how the server, the connection and the login are.
pub(super) fn is_of_statement(code: &str) -> bool {
    let others = ["08", "28", "3D", "40", "53", "57", "58"];
    code == "57014" || !others.iter().any(|class| code.starts_with(class))
}

/// What a code means; with its condition's name, where it has one here.
pub(super) fn meaning(code: &str) -> (&'static str, Option<&'static str>) {
    let exact = CODES.iter().find(|(known, _, _)| *known == code);
    if let Some((_, name, meaning)) = exact {
        return (meaning, Some(name));
    }
    let class = CLASSES.iter().find(|(class, _)| code.starts_with(class));
    (
        class.map_or("the server refuses", |(_, meaning)| meaning),
        None,
    )
}
