//! The operator's I/O against what it speaks to: real Garage, a real apiserver. No fake stands in for either.

mod admin;
mod admin_buckets;
mod admin_failures;
mod admin_layout;
mod admin_nodes;
mod buckets;
mod clusters;
mod facts_configuration;
mod facts_gateway;
mod facts_layout;
mod flaws_admission;
mod flaws_identity;
mod flaws_layout;
mod flaws_lifecycle;
mod flaws_objects;
mod grants;
mod keys;
mod nodes;
mod pods;
mod rig;
mod tokens;
