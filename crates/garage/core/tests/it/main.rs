//! The Garage kinds as documents and as a real apiserver understands them.

mod contract;
mod goldens;
mod real_garage;
mod rules;
