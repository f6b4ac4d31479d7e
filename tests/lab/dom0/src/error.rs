// SPDX-License-Identifier: GPL-2.0-only
//! One error type for the whole laboratory: what was being done, and what went wrong underneath.
//!
//! A laboratory error is always read by a person, so it is a chain of sentences and not an enum to match on.

use std::error::Error as StdError;
use std::fmt;

/// What was being done when it failed, and why it failed.
#[derive(Debug)]
pub struct Error {
    what: String,
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

/// A result of the laboratory.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with no deeper cause.
    pub fn new(what: impl Into<String>) -> Self {
        Error {
            what: what.into(),
            cause: None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.cause {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {}

/// Adds what was being done to an error on its way up.
pub trait Context<T> {
    /// Wraps the error, if there is one; `what` is only evaluated then.
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: StdError + Send + Sync + 'static> Context<T> for std::result::Result<T, E> {
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|cause| Error {
            what: what().into(),
            cause: Some(Box::new(cause)),
        })
    }
}

impl<T> Context<T> for Option<T> {
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.ok_or_else(|| Error::new(what()))
    }
}
