//! The manual: links lead somewhere, and every page is in the summary.

mod links;
