// SPDX-License-Identifier: GPL-2.0-only
//! How the one list of all kinds of events becomes their type, their names and their words.

/// Makes the type of all kinds from their one list: a severity, the name as in the JSON, the
/// fields of each, and what it is for people.
macro_rules! kinds {
    ($(
        $(#[$about:meta])*
        $severity:ident $name:literal $variant:ident {
            $( $(#[$field_about:meta])* $field:ident: $type:ty, )*
        } => $text:expr
    )*) => {
        /// What happened.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "kind")]
        pub enum Kind {
            $(
                $(#[$about])*
                #[serde(rename = $name)]
                $variant { $( $(#[$field_about])* $field: $type, )* },
            )*
        }

        /// Every kind there is, as in the JSON.
        pub const KINDS: &[&str] = &[$($name),*];

        impl Kind {
            /// The kind, as in the JSON.
            #[must_use]
            pub fn kind(&self) -> &'static str {
                match self { $( Self::$variant { .. } => $name, )* }
            }

            /// How much it matters.
            #[must_use]
            pub fn severity(&self) -> Severity {
                match self { $( Self::$variant { .. } => Severity::$severity, )* }
            }

            /// What happened, without to whom. Holds whatever text the event holds: print it
            /// by [`plain`](super::describe::plain).
            #[must_use]
            pub fn describe(&self) -> String {
                #[allow(unused_variables)] // no text has all fields
                match self { $( Self::$variant { $( $field, )* } => $text, )* }
            }
        }
    };
}
