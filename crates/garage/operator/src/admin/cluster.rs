//! Calls about the whole cluster: status, health, layout, admin tokens. It may not decide on a layout.

use gatewright_garage::admin::{
    AdminTokenChange, AdminTokenInfo, ApplyLayout, ClusterHealth, ClusterLayout, ClusterStatus,
    ConnectOutcome, CreatedAdminToken, LayoutApplied, LayoutChange, LayoutHistory, LayoutPreview,
    SkipDeadNodes, SkippedDeadNodes,
};
use http::Method;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::transport::Call;
use super::{Client, Error};

impl Client {
    /// The nodes as the asked one sees them.
    pub async fn get_cluster_status(&self) -> Result<ClusterStatus, Error> {
        self.get("GetClusterStatus", &[]).await
    }

    /// Whether storage nodes are up and partitions have their quorum. Says nothing of gateways.
    pub async fn get_cluster_health(&self) -> Result<ClusterHealth, Error> {
        self.get("GetClusterHealth", &[]).await
    }

    /// The current layout and what is staged.
    pub async fn get_cluster_layout(&self) -> Result<ClusterLayout, Error> {
        self.get("GetClusterLayout", &[]).await
    }

    /// Which layout versions are live.
    pub async fn get_cluster_layout_history(&self) -> Result<LayoutHistory, Error> {
        self.get("GetClusterLayoutHistory", &[]).await
    }

    /// Merges changes into what is staged, node by node; returns the layout with all that is staged.
    pub async fn update_cluster_layout(
        &self,
        change: &LayoutChange,
    ) -> Result<ClusterLayout, Error> {
        self.post("UpdateClusterLayout", &[], change).await
    }

    /// What Apply would do; changes nothing. [`Error::Layout`] where Apply would fail.
    pub async fn preview_cluster_layout_changes(&self) -> Result<LayoutPreview, Error> {
        #[derive(Deserialize)]
        struct Failure {
            error: String,
        }
        let name = "PreviewClusterLayoutChanges";
        let call = Call {
            name,
            method: Method::POST,
            query: &[],
            body: None,
        };
        let answer = self.ask(call).await?;
        match serde_json::from_slice::<Failure>(&answer) {
            Ok(failure) => Err(Error::Layout {
                at: self.at().to_owned(),
                message: self.quotable(&failure.error),
            }),
            Err(_) => self.read(name, &answer),
        }
    }

    /// Makes what is staged the layout `version`, which has to be the current one plus one
    /// ([`Error::is_stale_layout_version`]). With nothing staged it makes a new version all the same.
    pub async fn apply_cluster_layout(&self, version: u64) -> Result<LayoutApplied, Error> {
        let body = ApplyLayout { version };
        self.post("ApplyClusterLayout", &[], &body).await
    }

    /// Forgets all that is staged, whoever staged it.
    pub async fn revert_cluster_layout(&self) -> Result<ClusterLayout, Error> {
        self.post_nothing("RevertClusterLayout", &[]).await
    }

    /// Lets the history go on without the nodes that are down. HTTP 400 when only one version is live.
    pub async fn cluster_layout_skip_dead_nodes(
        &self,
        skip: SkipDeadNodes,
    ) -> Result<SkippedDeadNodes, Error> {
        self.post("ClusterLayoutSkipDeadNodes", &[], &skip).await
    }

    /// Makes the asked node dial `peers` (`<64 hex>@<host>:<port>`), and waits until it has.
    /// [`Error::NotConnected`] when it could not reach all of them.
    pub async fn connect_cluster_nodes(&self, peers: &[String]) -> Result<(), Error> {
        let outcomes: Vec<ConnectOutcome> = self.post("ConnectClusterNodes", &[], &peers).await?;
        let failed: Vec<(String, String)> = peers
            .iter()
            .zip(outcomes)
            .filter(|(_, outcome)| !outcome.success)
            .map(|(peer, outcome)| {
                let why = outcome.error.unwrap_or_else(|| "no reason given".into());
                (peer.clone(), self.quotable(&why))
            })
            .collect();
        if failed.is_empty() {
            return Ok(());
        }
        Err(Error::NotConnected {
            at: self.at().to_owned(),
            asked: peers.len(),
            failed,
        })
    }

    /// All admin tokens, those of the configuration file included.
    pub async fn list_admin_tokens(&self) -> Result<Vec<AdminTokenInfo>, Error> {
        self.get("ListAdminTokens", &[]).await
    }

    /// The token `id`.
    pub async fn get_admin_token_info(&self, id: &str) -> Result<AdminTokenInfo, Error> {
        self.get("GetAdminTokenInfo", &[("id", id)]).await
    }

    /// The token that this client uses. From Garage 2.1.
    pub async fn get_current_admin_token_info(&self) -> Result<AdminTokenInfo, Error> {
        self.get("GetCurrentAdminTokenInfo", &[]).await
    }

    /// Makes a token; the answer is the only one that holds it. Nodes check it against their own copy of
    /// the table: one without a role or without a sync refuses it.
    pub async fn create_admin_token(
        &self,
        token: &AdminTokenChange,
    ) -> Result<CreatedAdminToken, Error> {
        self.post("CreateAdminToken", &[], token).await
    }

    /// Changes the token `id`.
    pub async fn update_admin_token(
        &self,
        id: &str,
        change: &AdminTokenChange,
    ) -> Result<AdminTokenInfo, Error> {
        self.post("UpdateAdminToken", &[("id", id)], change).await
    }

    /// Deletes the token `id`.
    pub async fn delete_admin_token(&self, id: &str) -> Result<(), Error> {
        let _: IgnoredAny = self.post_nothing("DeleteAdminToken", &[("id", id)]).await?;
        Ok(())
    }
}
