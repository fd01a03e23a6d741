//! The error responses that many routes share, as `/openapi.json` describes them.
//!
//! Owns the description only: [`Problem`](super::problem::Problem) writes the responses themselves.

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

/// Each type stands for some statuses, with a description of each.
macro_rules! responses {
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

responses! {
    /// Of every route that takes a key: no or an unknown key, a missing scope, or too many requests.
    Guarded: "401" "", "403" "", "429" "";
    /// An invalid parameter or body.
    BadRequest: "400" "";
    /// No such resource.
    NotFound: "404" "";
    /// A body over the limit, or that isn't JSON.
    TooLarge: "413" "", "415" "";
    /// A part of the worker that the route needs doesn't work at the moment, or it has no room for the request.
    Unavailable: "503" "something needed doesn't work now, or there is no room: `Retry-After` says when to ask again";
    /// A job that would be rejected.
    BadJob: "400" "", "404" "no such model", "413" "", "415" "";
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
