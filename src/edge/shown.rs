//! A text that status shows and a reload may change. Clones are handles to the same.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Serialize, Serializer};

/// See the module. Displays and serialises as the text that it is at that moment.
#[derive(Clone, Debug, Default)]
pub struct Shown(Arc<RwLock<String>>);

impl Shown {
    /// Shows this from the beginning.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Arc::new(RwLock::new(text.into())))
    }

    /// From now on this is shown.
    pub fn set(&self, text: impl Into<String>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = text.into();
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}
