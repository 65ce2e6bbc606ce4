//! What must hold whatever fails.

mod backlog;
mod chaos;
