//! What was seen of Zammad and of what stands in front of it, and what each leads to.

mod outage;
mod tls;
mod verdicts;
