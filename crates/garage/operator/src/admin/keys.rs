//! Calls about access keys. It may not keep a secret longer than the answer lives.

use gatewright_garage::admin::{ImportKey, KeyChange, KeyInfo, KeyListItem};
use serde::de::IgnoredAny;

use super::{Client, Error};

impl Client {
    /// All keys.
    pub async fn list_keys(&self) -> Result<Vec<KeyListItem>, Error> {
        self.get("ListKeys", &[]).await
    }

    /// All about the key `id` but its secret.
    pub async fn get_key_info(&self, id: &str) -> Result<KeyInfo, Error> {
        self.get("GetKeyInfo", &[("id", id)]).await
    }

    /// All about the key `id`, its secret included (`showSecretKey`).
    pub async fn get_key_info_with_secret(&self, id: &str) -> Result<KeyInfo, Error> {
        let query = [("id", id), ("showSecretKey", "true")];
        self.get("GetKeyInfo", &query).await
    }

    /// Makes a key; the answer holds its secret.
    pub async fn create_key(&self, key: &KeyChange) -> Result<KeyInfo, Error> {
        self.post("CreateKey", &[], key).await
    }

    /// Takes over a key. HTTP 409 if its id was ever used, also by a key that is deleted.
    pub async fn import_key(&self, key: &ImportKey) -> Result<KeyInfo, Error> {
        self.post("ImportKey", &[], key).await
    }

    /// Changes the key `id`.
    pub async fn update_key(&self, id: &str, change: &KeyChange) -> Result<KeyInfo, Error> {
        self.post("UpdateKey", &[("id", id)], change).await
    }

    /// Deletes the key `id` with all its rights and local aliases. Its id can never be used again.
    pub async fn delete_key(&self, id: &str) -> Result<(), Error> {
        let _: IgnoredAny = self.post_nothing("DeleteKey", &[("id", id)]).await?;
        Ok(())
    }
}
