//! Signs S3 requests (AWS Signature Version 4). It may not be a client: no retries, no multipart, no XML.
//!
//! Source: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};

use super::hex;
use crate::http::{Connection, Response};

/// An access key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// `GK...`.
    pub id: String,
    /// Its secret.
    pub secret: String,
}

impl Credentials {
    /// From the answer of `CreateKey`.
    pub fn of(key: &serde_json::Value) -> Self {
        let text = |name: &str| key[name].as_str().unwrap_or_default().to_owned();
        Self {
            id: text("accessKeyId"),
            secret: text("secretAccessKey"),
        }
    }
}

/// Sends one signed request; `None` if nobody answers.
pub(super) async fn request(
    address: SocketAddr,
    credentials: &Credentials,
    method: &str,
    path: &str,
    body: &[u8],
) -> Option<Response> {
    let host = address.to_string();
    let headers = sign(credentials, method, &host, path, body, now());
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Content-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    let mut connection = Connection::connect(address).await.ok()?;
    connection
        .send([head.as_bytes(), body].concat())
        .await
        .ok()?;
    connection.read_response().await.ok()
}

/// The three header lines that sign a request to region `garage`, `since_epoch` after 1970. `path` has no
/// query and needs no encoding.
pub fn sign(
    credentials: &Credentials,
    method: &str,
    host: &str,
    path: &str,
    body: &[u8],
    since_epoch: Duration,
) -> String {
    let time = timestamp(since_epoch.as_secs());
    let day = &time[..8];
    let content = hex(&Sha256::digest(body));
    let names = "host;x-amz-content-sha256;x-amz-date";
    let canonical = format!(
        "{method}\n{path}\n\nhost:{host}\nx-amz-content-sha256:{content}\nx-amz-date:{time}\n\n\
         {names}\n{content}"
    );
    let scope = format!("{day}/garage/s3/aws4_request");
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{time}\n{scope}\n{}",
        hex(&Sha256::digest(canonical))
    );
    let mut key = format!("AWS4{}", credentials.secret).into_bytes();
    for part in [day, "garage", "s3", "aws4_request"] {
        key = hmac(&key, part.as_bytes()).to_vec();
    }
    let signature = hex(&hmac(&key, to_sign.as_bytes()));
    format!(
        "Authorization: AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, \
         Signature={signature}\r\nx-amz-content-sha256: {content}\r\nx-amz-date: {time}\r\n",
        credentials.id
    )
}

/// HMAC-SHA256 (RFC 2104).
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message);
    let outer = Sha256::new()
        .chain_update(pad(0x5c))
        .chain_update(inner.finalize());
    outer.finalize().into()
}

/// Signatures are good for minutes: the only place where the testkit reads the clock of the wall.
#[expect(clippy::disallowed_methods, reason = "S3 signatures name the time")]
fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock past 1970")
}

/// `20260131T235959Z`.
fn timestamp(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's civil_from_days: years begin in March, so that leap days are last.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let date = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}{month:02}{date:02}T{:02}{:02}{:02}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_s3_wants_them() {
        for (seconds, want) in [
            (0, "19700101T000000Z"),
            (951_827_696, "20000229T123456Z"),
            (1_709_251_199, "20240229T235959Z"),
            (1_709_251_200, "20240301T000000Z"),
            (4_102_444_800, "21000101T000000Z"),
        ] {
            assert_eq!(timestamp(seconds), want);
        }
    }

    #[test]
    fn the_keyed_hash_is_that_of_rfc_4231() {
        let want = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hex(&hmac(b"Jefe", b"what do ya want for nothing?")), want);
        let want = "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54";
        let message = b"Test Using Larger Than Block-Size Key - Hash Key First";
        assert_eq!(hex(&hmac(&[0xaa; 131], message)), want);
    }
}
