//! What a Garage cluster should be: CRD types, `garage.toml`, planners. Pure: no client, no clock, no
//! randomness; facts, times and seeds are arguments.

pub mod identity;
pub mod quantity;
pub mod secret;
pub mod admin;
pub mod cluster;
pub mod layout;

pub mod admission;
pub mod api;
pub mod config;
pub mod objects;
pub mod bucket;
pub mod key;
pub mod node;
pub mod tenant;
pub mod token;
