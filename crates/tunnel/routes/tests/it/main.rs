//! API-level tests.
