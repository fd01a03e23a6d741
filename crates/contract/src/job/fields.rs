//! Owns the names of a job's fields, for reading and for writing.

/// The fields of one kind of object.
pub(super) trait Field: Copy + Sized {
    /// All of them, in the contract's order, as messages list them.
    const NAMES: &'static [&'static str];

    /// The field of this name.
    fn find(name: &str) -> Option<Self>;

    /// As it stands in JSON.
    fn as_str(self) -> &'static str;

    /// One bit for each, to notice a repeated one.
    fn bit(self) -> u32;
}

macro_rules! fields {
    ($(#[$about:meta])* $visibility:vis enum $name:ident { $($(#[$doc:meta])* $field:ident = $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $visibility enum $name {
            $($(#[$doc])* $field,)+
        }

        impl Field for $name {
            const NAMES: &'static [&'static str] = &[$($text),+];

            fn find(name: &str) -> Option<Self> {
                match name {
                    $($text => Some(Self::$field),)+
                    _ => None,
                }
            }

            fn as_str(self) -> &'static str {
                match self {
                    $(Self::$field => $text,)+
                }
            }

            fn bit(self) -> u32 {
                1 << self as u32
            }
        }
    };
}

fields! {
    /// A field of a job, in the contract's order.
    pub enum JobField {
        /// The idempotency key.
        JobId = "job_id",
        /// `name` or `name@version`.
        Model = "model",
        /// Groups entries.
        Namespace = "namespace",
        /// What to score.
        Inputs = "inputs",
        /// Whether named entries are kept.
        Named = "named",
        /// The ranking to keep.
        Rank = "rank",
        /// How long entries live, in seconds.
        TtlSeconds = "ttl_seconds",
        /// What one bad input does to its job.
        OnError = "on_error",
        /// Whether results carry every label's probability.
        Detail = "detail",
        /// How new the job's word on its keys is.
        AsOf = "as_of",
        /// Where its end is posted to.
        CallbackUrl = "callback_url",
    }
}

fields! {
    /// A field of an input, in the contract's order.
    pub enum InputField {
        /// Echoed in the result; the name of the named entry.
        Key = "key",
        /// The text.
        Text = "text",
        /// The second text.
        TextPair = "text_pair",
        /// The numbers.
        Features = "features",
        /// Whether what readers find under the key is to go.
        Remove = "remove",
    }
}

fields! {
    /// A field of a ranking, in the contract's order.
    pub(super) enum RankField {
        Key = "key",
        Top = "top",
    }
}
