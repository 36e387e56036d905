//! What a Garage cluster should be: CRD types, `garage.toml`, planners. Pure: no client, no clock, no
//! randomness; facts, times and seeds are arguments.

pub mod admin;
pub mod cluster;
pub mod identity;
pub mod layout;
pub mod quantity;
pub mod secret;

pub mod admission;
pub mod api;
pub mod bucket;
pub mod config;
pub mod key;
pub mod node;
pub mod objects;
pub mod tenant;
pub mod token;
