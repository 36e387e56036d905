//! Collects everything that is wrong with an object instead of stopping at the first thing. Checks values, reads none.

use std::net::SocketAddr;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::check;
use crate::admin::GarageVersion;
use crate::cluster::Problem;
use crate::quantity;

/// What is wrong so far.
pub(super) struct Problems(pub(super) Vec<Problem>);

impl Problems {
    pub(super) fn add(&mut self, field: &str, message: impl Into<String>) {
        self.0.push(Problem {
            field: field.to_owned(),
            message: message.into(),
        });
    }

    pub(super) fn keep<T>(&mut self, field: &str, checked: Result<T, String>) -> Option<T> {
        checked.map_err(|message| self.add(field, message)).ok()
    }

    /// The address of a listener (`field` and then `Address` or `Port` are its fields); a stand-in after a refusal,
    /// which makes the whole result a refusal.
    pub(super) fn listen(&mut self, field: &str, address: Option<&str>, port: i32) -> SocketAddr {
        let stand_in = SocketAddr::from(([0, 0, 0, 0], 0));
        let Some(port) = self.keep(&format!("{field}Port"), check::port(port)) else {
            return stand_in;
        };
        let address = self.keep(&format!("{field}Address"), check::listen(address, port));
        address.unwrap_or(stand_in)
    }

    pub(super) fn size(&mut self, field: &str, quantity: Option<Quantity>) -> Option<u64> {
        let bytes = self.keep(
            field,
            quantity::bytes(&quantity?).map_err(|error| error.to_string()),
        )?;
        if bytes == 0 || i64::try_from(bytes).is_err() {
            self.add(field, "must be from 1 to 8Ei");
        }
        Some(bytes)
    }

    pub(super) fn count(&mut self, field: &str, number: Option<i32>) -> Option<u32> {
        let number = u32::try_from(number?).ok().filter(|number| *number > 0);
        self.keep(field, number.ok_or_else(|| "must be 1 or more".to_owned()))
    }

    pub(super) fn milliseconds(&mut self, field: &str, number: Option<i64>) -> Option<u64> {
        let number = u64::try_from(number?).ok().filter(|number| *number > 0);
        self.keep(
            field,
            number.ok_or_else(|| "must be 1 or more milliseconds".to_owned()),
        )
    }

    pub(super) fn since(
        &mut self,
        version: Option<GarageVersion>,
        image: &str,
        field: &str,
        (major, minor): (u32, u32),
    ) {
        if version.is_some_and(|version| version < GarageVersion::new(major, minor, 0)) {
            self.add(
                field,
                format!(
                    "needs Garage {major}.{minor}, and the image is {image}, which would ignore it"
                ),
            );
        }
    }
}
