//! Tests of the link through its public interface: both ends, both carriers, and ends that behave
//! badly. Nothing here leaves the process but loopback sockets.

mod control;
mod dial;
mod drain;
mod exchange;
mod flow;
mod hostile;
mod rig;
