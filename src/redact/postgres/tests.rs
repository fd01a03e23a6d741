//! What is said of errors of the server, and of values that the client can't take.

use super::*;

const CANARY: &str = "anna.private@example.org";

fn error<'a>(code: &'a str, text: &'a str, names: [Option<&'a str>; 4]) -> ServerError<'a> {
    let [column, table, constraint, kind] = names;
    ServerError {
        severity: "",
        code,
        text,
        names: [
            ("column", column),
            ("table", table),
            ("constraint", constraint),
            ("type", kind),
        ],
        position: ", character 8 of the statement".to_owned(),
        is_pointed: true,
        has_context: false,
        is_raised: false,
        is_own: false,
    }
}

fn said(code: &str, text: &str, names: [Option<&str>; 4]) -> String {
    error(code, text, names).to_string()
}

/// Of an error that points at nothing.
fn pointless(code: &str, text: &str) -> String {
    let error = ServerError {
        is_pointed: false,
        position: String::new(),
        ..error(code, text, [None; 4])
    };
    error.to_string()
}

#[test]
fn a_server_s_text_is_replaced_by_what_its_code_means() {
    let none = [None; 4];
    let cast = format!("invalid input syntax for type integer: \"{CANARY}\"");
    assert_eq!(
        said("22P02", &cast, none),
        "a text can't be read as the type that it is to be (SQLSTATE 22P02 invalid_text_representation, \
         character 8 of the statement)"
    );
    let unique = [None, Some("users"), Some("users_mail_key"), None];
    assert_eq!(
        said("23505", "duplicate key value", unique),
        "a unique constraint refuses the row, table `users`, constraint `users_mail_key` (SQLSTATE 23505 \
         unique_violation, character 8 of the statement)"
    );
    let column = "column \"rats\" does not exist";
    assert!(said("42703", column, none).contains("no such column, name `rats` ("));
    // Double quotes where single ones were meant.
    let literal = format!("column \"{CANARY}\" does not exist");
    assert!(said("42703", &literal, none).starts_with("there is no such column (SQLSTATE"));
    let timeout = "canceling statement due to statement timeout";
    assert!(said("57014", timeout, none).starts_with(timeout));
    for code in [
        "22001", "22003", "22012", "P0001", "XX000", "99999", "", "2", "é",
    ] {
        for text in [cast.as_str(), CANARY] {
            assert!(!said(code, text, none).contains("anna"), "{code}");
        }
    }
    let other = "FEHLER: »anna.private@example.org« gibt’s nicht";
    assert!(!said("3D000", other, none).contains("anna"));
}

#[test]
fn a_value_that_the_client_cannot_take_is_not_shown() {
    let decode = Error::Decode(format!("expected a day, found {CANARY}").into());
    let column = Error::ColumnDecode {
        index: "\"mail\"".into(),
        source: format!("no number: {CANARY}").into(),
    };
    let encode = Error::Encode(CANARY.into());
    for error in [decode, column, encode, Error::Protocol(CANARY.into())] {
        assert!(!any(&error).contains("anna"), "{error}");
    }
    let column = Error::ColumnDecode {
        index: "mail".into(),
        source: "unexpected null; try decoding as an `Option`".into(),
    };
    assert_eq!(
        any(&column),
        "column mail can't be read: unexpected null; try decoding as an `Option`"
    );
}

#[test]
fn what_a_function_says_is_not_the_server_s_text() {
    assert!(is_raised(Some("exec_stmt_raise"), Some("pl_exec.c")));
    assert!(is_raised(None, Some("../src/pl/plpython/plpy_elog.c")));
    assert!(!is_raised(Some("ProcessInterrupts"), Some("postgres.c")));
    assert!(!is_raised(Some("standard_planner"), Some("planner.c")));
    let hidden = "anna.private.4711";
    for code in [
        "55000", "40001", "28000", "57014", "42703", "P0001", "3D000",
    ] {
        let fields = [Some(hidden), Some(hidden), Some(hidden), Some(hidden)];
        for names in [fields, [None; 4]] {
            for text in [hidden, "no \"anna.private.4711\""] {
                let raised = ServerError {
                    is_raised: true,
                    ..error(code, text, names)
                };
                let said = raised.to_string();
                assert!(!said.contains("anna") && said.contains(code), "{said}");
            }
        }
    }
    // Of a statement that a function puts together.
    let missing = "column \"anna.private.4711\" does not exist";
    let put_together = ServerError {
        has_context: true,
        ..error("42703", missing, [None; 4])
    };
    assert!(!put_together.to_string().contains("anna"));
    // Of a name that a function is asked for, as a cast to `regclass` is.
    for (code, text) in [
        ("42P01", "relation \"anna.private.4711\" does not exist"),
        (
            "42704",
            "unrecognized configuration parameter \"anna.private.4711\"",
        ),
        ("42883", "function \"anna.private.4711\" does not exist"),
        ("3D000", "database \"anna.private.4711\" does not exist"),
        ("3F000", "schema \"anna.private.4711\" does not exist"),
        (
            "58P01",
            "could not open file \"anna.private.4711\" for reading: No such file or directory",
        ),
    ] {
        let said = pointless(code, text);
        assert!(!said.contains("anna"), "{said}");
    }
    let file = "could not open file \"base/5/16384\": No such file or directory";
    assert!(pointless("58P01", file).starts_with(file));
    let login = ServerError {
        severity: "FATAL, ",
        ..error("3D000", "database \"shop\" does not exist", [None; 4])
    };
    assert!(
        login
            .to_string()
            .starts_with("database \"shop\" does not exist (FATAL")
    );
}

#[test]
fn a_server_that_speaks_another_language_is_understood() {
    for (code, text, said) in [
        (
            "28P01",
            "Passwort-Authentifizierung für Benutzer »jörg« fehlgeschlagen",
            "the password is wrong, or there is no such user (SQLSTATE 28P01 invalid_password)",
        ),
        (
            "28P01",
            "password authentication failed for user \"jörg\"",
            "the password is wrong, or there is no such user (SQLSTATE 28P01 invalid_password)",
        ),
        (
            "53100",
            "konnte Datei »base/5/16384« nicht erweitern: Auf dem Gerät ist kein Speicherplatz mehr verfügbar",
            "the server's disk is full (SQLSTATE 53100 disk_full)",
        ),
        (
            "57P99",
            "é",
            "an operator, or a limit of the server, intervened (SQLSTATE 57P99)",
        ),
    ] {
        assert_eq!(pointless(code, text), said);
    }
    for class in ["08", "25", "28", "3D", "3F", "40", "53", "55", "57", "58"] {
        let said = pointless(&format!("{class}Z99"), "é");
        assert!(!said.starts_with("the server refuses"), "{said}");
    }
}

#[test]
fn what_is_not_allowed_or_not_there_is_named() {
    for (code, text, named) in [
        (
            "42501",
            "permission denied for table orders",
            ", table `orders` (",
        ),
        (
            "42501",
            "permission denied for schema public",
            ", schema `public` (",
        ),
        (
            "42501",
            "must be owner of materialized view days",
            ", materialized view `days` (",
        ),
        (
            "0A000",
            "extension \"pgcrypto\" is not available",
            ", extension `pgcrypto` (",
        ),
        (
            "XX001",
            "invalid page in block 7 of relation base/5/16384",
            ", relation `base/5/16384` (",
        ),
        (
            "XX001",
            "missing chunk number 0 for toast value 9 in pg_toast_2619",
            ", table `pg_toast_2619` (",
        ),
        (
            "XX002",
            "index \"jobs_pkey\" contains unexpected zero page at block 3",
            ", index `jobs_pkey` (",
        ),
        (
            "42P07",
            "relation \"jobs\" already exists",
            ", name `jobs` (",
        ),
    ] {
        let said = pointless(code, text);
        assert!(said.contains(named), "{said}");
    }
    let function = "function digest(text, unknown) does not exist";
    assert!(said("42883", function, [None; 4]).contains(", function `digest` ("));
    let odd = format!("permission denied for table {CANARY}");
    assert!(!pointless("42501", &odd).contains("anna"));
}

#[test]
fn what_scripts_of_kiln_raise_is_shown_and_what_others_do_is_not() {
    for own in [
        "PL/pgSQL function inline_code_block line 13 at RAISE",
        "PL/pgSQL function kiln_add_job_day(date) line 9 at RAISE\nSQL statement \"SELECT 1\"",
        "PL/pgSQL-Funktion public.kiln_drop_job_day(date) Zeile 4 bei RAISE",
    ] {
        assert!(is_own_script(Some(own)), "{own}");
    }
    for other in [
        "PL/pgSQL function lookup(text) line 3 at RAISE\nPL/pgSQL function kiln_note_jobs() line 2 at SQL statement",
        "",
    ] {
        assert!(!is_own_script(Some(other)), "{other}");
    }
    assert!(!is_own_script(None));
    let text = "view seen: made on the table jobs";
    let raised = ServerError {
        is_raised: true,
        is_pointed: false,
        has_context: true,
        position: String::new(),
        ..error("2BP01", text, [None; 4])
    };
    assert!(!raised.to_string().contains("seen"), "{raised}");
    let own = ServerError {
        is_own: true,
        ..raised
    };
    assert!(own.to_string().starts_with(text), "{own}");
}
