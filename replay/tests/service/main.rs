//! The service over real connections: one binary, since what each of these files instantiates of the gRPC
//! library takes longer to compile than all of them together to run.

mod admin;
mod common;
mod durability;
mod faults;
mod refusals;
mod shards;
mod streams;
mod tables;
