//! The manual: links lead somewhere, every page is in the summary, and what is generated of the reference is
//! what the code says.

mod configuration;
mod links;
mod reference;
mod source;
