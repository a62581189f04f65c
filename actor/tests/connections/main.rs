//! The actor's connections: subscription, reports and insertion, over real sockets.

mod roles;
mod support;
mod weights;
