//! The answers that many routes share, as `/openapi.json` describes them.
//!
//! Owns the description alone: [`Problem`](super::problem::Problem) writes the answers themselves.

use super::problem::ErrorBody;
use std::collections::BTreeMap;
use utoipa::{
    IntoResponses, ToSchema,
    openapi::{
        Ref, RefOr,
        content::ContentBuilder,
        response::{Response, ResponseBuilder},
    },
};

/// Each set says which statuses a route may answer beside its own, and what is said of them.
macro_rules! answers {
    ($($(#[$doc:meta])* $name:ident: $($status:literal $description:literal),+;)+) => {$(
        $(#[$doc])*
        pub(super) enum $name {}

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                errors(&[$(($status, $description)),+])
            }
        }
    )+};
}

answers! {
    /// What any route that asks for a key may say: no key, the wrong one, or too many requests.
    Guarded: "401" "", "403" "", "429" "";
    /// A parameter or a body that can't be taken.
    BadRequest: "400" "";
    /// There is no such thing.
    NotFound: "404" "";
    /// A body over the limit.
    TooLarge: "413" "";
    /// A part of the worker that the route needs doesn't work now.
    Unavailable: "503" "";
    /// A job that would be rejected.
    BadJob: "400" "", "404" "no such model", "413" "";
}

fn errors(statuses: &[(&str, &str)]) -> BTreeMap<String, RefOr<Response>> {
    let body = || {
        let schema = Ref::from_schema_name(ErrorBody::name());
        ContentBuilder::new().schema(Some(schema)).build()
    };
    let described = statuses.iter().map(|(status, description)| {
        let response = ResponseBuilder::new()
            .description(*description)
            .content("application/json", body())
            .build();
        ((*status).to_owned(), response.into())
    });
    described.collect()
}
