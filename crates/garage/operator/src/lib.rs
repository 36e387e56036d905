//! Makes Garage clusters what they should be: observes, applies, speaks the Admin API. May not decide:
//! what should be is `gatewright-garage`'s to say.
