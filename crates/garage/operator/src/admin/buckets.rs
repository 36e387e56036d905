//! Calls about buckets, their names and the rights of keys on them. It may not decide who may what.

use gatewright_garage::admin::{
    AliasChange, BucketAlias, BucketInfo, BucketKeyChange, BucketListItem, BucketPermissions,
    BucketUpdate, CleanupUploads, CreateBucket, UploadsCleaned,
};
use serde::de::IgnoredAny;

use super::{Client, Error};

/// How a bucket is named in `GetBucketInfo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketSelector<'a> {
    /// By its whole id.
    Id(&'a str),
    /// By a name in the cluster.
    GlobalAlias(&'a str),
    /// By the beginning of its id, or a name; HTTP 400 unless one bucket fits.
    Search(&'a str),
}

impl Client {
    /// All buckets with their names.
    pub async fn list_buckets(&self) -> Result<Vec<BucketListItem>, Error> {
        self.get("ListBuckets", &[]).await
    }

    /// All about one bucket.
    pub async fn get_bucket_info(&self, bucket: BucketSelector<'_>) -> Result<BucketInfo, Error> {
        let query = match bucket {
            BucketSelector::Id(id) => ("id", id),
            BucketSelector::GlobalAlias(alias) => ("globalAlias", alias),
            BucketSelector::Search(text) => ("search", text),
        };
        self.get("GetBucketInfo", &[query]).await
    }

    /// Makes a bucket. HTTP 409 when the global alias is taken.
    pub async fn create_bucket(&self, bucket: &CreateBucket) -> Result<BucketInfo, Error> {
        self.post("CreateBucket", &[], bucket).await
    }

    /// Changes settings. [`Error::Dropped`] when Garage is too old for one of them: the others are set.
    pub async fn update_bucket(
        &self,
        id: &str,
        update: &BucketUpdate,
    ) -> Result<BucketInfo, Error> {
        let bucket = self.post("UpdateBucket", &[("id", id)], update).await?;
        let settings = update.dropped_by(&bucket);
        if settings.is_empty() {
            return Ok(bucket);
        }
        Err(Error::Dropped {
            at: self.at().to_owned(),
            settings,
        })
    }

    /// Deletes an empty bucket. HTTP 409 when it is not empty.
    pub async fn delete_bucket(&self, id: &str) -> Result<(), Error> {
        let _: IgnoredAny = self.post_nothing("DeleteBucket", &[("id", id)]).await?;
        Ok(())
    }

    /// Gives the bucket one more name. HTTP 400 when the name is taken.
    pub async fn add_bucket_alias(
        &self,
        id: &str,
        alias: BucketAlias,
    ) -> Result<BucketInfo, Error> {
        self.post("AddBucketAlias", &[], &change(id, alias)).await
    }

    /// Takes a name from the bucket. HTTP 400 when it is the last one.
    pub async fn remove_bucket_alias(
        &self,
        id: &str,
        alias: BucketAlias,
    ) -> Result<BucketInfo, Error> {
        self.post("RemoveBucketAlias", &[], &change(id, alias))
            .await
    }

    /// Adds the rights that are `true`.
    pub async fn allow_bucket_key(
        &self,
        id: &str,
        access_key_id: &str,
        permissions: BucketPermissions,
    ) -> Result<BucketInfo, Error> {
        let body = rights(id, access_key_id, permissions);
        self.post("AllowBucketKey", &[], &body).await
    }

    /// Takes away the rights that are `true`.
    pub async fn deny_bucket_key(
        &self,
        id: &str,
        access_key_id: &str,
        permissions: BucketPermissions,
    ) -> Result<BucketInfo, Error> {
        let body = rights(id, access_key_id, permissions);
        self.post("DenyBucketKey", &[], &body).await
    }

    /// Aborts multipart uploads that began more than so many seconds ago.
    pub async fn cleanup_incomplete_uploads(
        &self,
        id: &str,
        older_than_secs: u64,
    ) -> Result<UploadsCleaned, Error> {
        let body = CleanupUploads {
            bucket_id: id.to_owned(),
            older_than_secs,
        };
        self.post("CleanupIncompleteUploads", &[], &body).await
    }
}

fn change(id: &str, alias: BucketAlias) -> AliasChange {
    AliasChange {
        bucket_id: id.to_owned(),
        alias,
    }
}

fn rights(id: &str, access_key_id: &str, permissions: BucketPermissions) -> BucketKeyChange {
    BucketKeyChange {
        bucket_id: id.to_owned(),
        access_key_id: access_key_id.to_owned(),
        permissions,
    }
}
