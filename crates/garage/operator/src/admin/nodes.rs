//! Calls that one node passes on to others. It may not choose the node.

use std::collections::BTreeMap;

use gatewright_garage::admin::{
    BlockError, BlocksRetried, GarageVersion, MultiResponse, NodeInfo, NodeStatistics, RepairType,
};
use gatewright_garage::identity::NodeId;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::json;

use super::{Client, Error};

/// For which node a call is. The asked node passes it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// The asked one itself.
    Asked,
    /// This one: HTTP 400 unless it is up or in the layout.
    Id(NodeId),
}

impl Node {
    fn query(self) -> String {
        match self {
            Self::Asked => "self".to_owned(),
            Self::Id(id) => id.to_string(),
        }
    }
}

impl Client {
    /// Who the node is and which Garage it runs. [`Node::Asked`] is how an unknown node tells its id.
    pub async fn get_node_info(&self, node: Node) -> Result<NodeInfo, Error> {
        let call = "GetNodeInfo";
        let answer = self.get(call, &[("node", &*node.query())]).await?;
        self.only(call, answer)
    }

    /// Which Garage the asked node runs; `None` if its build does not say.
    pub async fn garage_version(&self) -> Result<Option<GarageVersion>, Error> {
        Ok(self.get_node_info(Node::Asked).await?.version())
    }

    /// How full the node's tables are. Works for gateways too.
    pub async fn get_node_statistics(&self, node: Node) -> Result<NodeStatistics, Error> {
        let call = "GetNodeStatistics";
        let answer = self.get(call, &[("node", &*node.query())]).await?;
        self.only(call, answer)
    }

    /// How full the tables of all nodes are that are up or in the layout.
    pub async fn get_node_statistics_of_all(&self) -> Result<MultiResponse<NodeStatistics>, Error> {
        self.get("GetNodeStatistics", &[("node", "*")]).await
    }

    /// Starts a repair; it goes on in the background.
    pub async fn launch_repair_operation(
        &self,
        node: Node,
        repair: RepairType,
    ) -> Result<(), Error> {
        let body = json!({ "repairType": repair });
        let _: IgnoredAny = self.post_to("LaunchRepairOperation", node, &body).await?;
        Ok(())
    }

    /// Copies the node's metadata to its snapshot folder; answers when that is done.
    pub async fn create_metadata_snapshot(&self, node: Node) -> Result<(), Error> {
        let call = "CreateMetadataSnapshot";
        let query = [("node", &*node.query())];
        let answer: MultiResponse<IgnoredAny> = self.post_nothing(call, &query).await?;
        self.only(call, answer).map(|_| ())
    }

    /// The node's worker variables, or one of them.
    pub async fn get_worker_variable(
        &self,
        node: Node,
        variable: Option<&str>,
    ) -> Result<BTreeMap<String, String>, Error> {
        let body = json!({ "variable": variable });
        self.post_to("GetWorkerVariable", node, &body).await
    }

    /// Sets one of the node's worker variables (`scrub-tranquility`, `resync-worker-count`, ...).
    pub async fn set_worker_variable(
        &self,
        node: Node,
        variable: &str,
        value: &str,
    ) -> Result<(), Error> {
        let body = json!({ "variable": variable, "value": value });
        let _: IgnoredAny = self.post_to("SetWorkerVariable", node, &body).await?;
        Ok(())
    }

    /// Blocks that the node could not get.
    pub async fn list_block_errors(&self, node: Node) -> Result<Vec<BlockError>, Error> {
        let call = "ListBlockErrors";
        let answer = self.get(call, &[("node", &*node.query())]).await?;
        self.only(call, answer)
    }

    /// Lets the node try all those blocks again at once.
    pub async fn retry_block_resync(&self, node: Node) -> Result<BlocksRetried, Error> {
        let body = json!({ "all": true });
        self.post_to("RetryBlockResync", node, &body).await
    }

    async fn post_to<T: DeserializeOwned>(
        &self,
        call: &'static str,
        node: Node,
        body: &serde_json::Value,
    ) -> Result<T, Error> {
        let answer = self.post(call, &[("node", &*node.query())], body).await?;
        self.only(call, answer)
    }

    /// The answer of the one node that was asked for.
    fn only<T>(&self, call: &'static str, answers: MultiResponse<T>) -> Result<T, Error> {
        let at = self.at().to_owned();
        if let Some((_, answer)) = answers.success.into_iter().next() {
            return Ok(answer);
        }
        Err(match answers.error.into_iter().next() {
            Some((node, message)) => Error::Node {
                call,
                at,
                node,
                message: self.quotable(&message),
            },
            None => Error::NoNode { call, at },
        })
    }
}
