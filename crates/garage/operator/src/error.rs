//! What can go wrong while a Garage object is made what it should be. May not print the cause: the
//! chain is printed once, by the runner.

use crate::admin;

/// The result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One failure, in terms of what we were doing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Between us and the apiserver.
    #[error("the Kubernetes API")]
    Kubernetes(#[from] gatewright_controller::Error),
    /// Between us and Garage.
    #[error("Garage's Admin API")]
    Garage(#[source] Box<admin::Error>),
    /// The system gives no random bytes.
    #[error("cannot get random bytes for a new key or token")]
    Random(#[source] getrandom::Error),
    /// A step is about something that was not seen.
    #[error("cannot {action}: it is gone; trying again with what there is now")]
    Gone {
        /// Verb and object.
        action: String,
    },
}

impl From<admin::Error> for Error {
    fn from(source: admin::Error) -> Self {
        Self::Garage(Box::new(source))
    }
}

impl Error {
    pub(crate) fn read(action: String, source: kube::Error) -> Self {
        Self::Kubernetes(gatewright_controller::Error::api(&action, source))
    }

    /// A word for metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Kubernetes(error) => error.category(),
            Self::Garage(error) if error.is_stale_layout_version() => "garage_stale",
            Self::Garage(error) if error.is_quorum_lost() => "garage_quorum",
            Self::Garage(error) if error.is_transient() => "garage_transient",
            Self::Garage(_) => "garage",
            Self::Random(_) => "random",
            Self::Gone { .. } => "gone",
        }
    }

    /// Whether somebody else was faster, so that looking again is all there is to do.
    #[must_use]
    pub fn is_race(&self) -> bool {
        match self {
            Self::Kubernetes(error) => error.is_conflict() || error.is_not_holder(),
            Self::Garage(error) => error.is_stale_layout_version(),
            Self::Gone { .. } => true,
            Self::Random(_) => false,
        }
    }

    /// The whole chain in one line, for a status.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}
