//! What a Garage cluster should be: CRD types, `garage.toml`, planners. Pure: no client, no clock, no
//! randomness; facts, times and seeds are arguments.
