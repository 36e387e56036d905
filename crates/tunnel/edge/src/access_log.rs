//! One JSON line for each request. Workers format into a buffer of their own; one thread writes. It
//! may not hold a worker up: when the writer falls behind, lines are dropped and counted.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use crate::config::AccessLogTarget;
use crate::{Error, clock};

/// Bytes that a worker collects before it hands them over.
const BATCH: usize = 32 * 1024;
/// Batches that may wait for the writer.
const WAITING: usize = 64;

/// What a line says. Paths come without their query, which may hold secrets.
pub(crate) struct Line<'a> {
    pub(crate) cluster: &'a str,
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) method: &'a str,
    pub(crate) status: u16,
    pub(crate) duration: Duration,
    pub(crate) bytes: u64,
    pub(crate) client: &'a str,
    pub(crate) error: Option<&'a str>,
}

/// The log; clones of its sender live in the workers.
#[derive(Debug)]
pub(crate) struct AccessLog {
    sender: Option<SyncSender<Vec<u8>>>,
    dropped: Arc<AtomicU64>,
}

thread_local! {
    static BUFFER: RefCell<String> = RefCell::new(String::with_capacity(BATCH + 1024));
}

impl AccessLog {
    /// Opens the target and starts the writer. `dropped` counts the lines that were dropped because
    /// the writer fell behind.
    pub(crate) fn open(target: &AccessLogTarget, dropped: Arc<AtomicU64>) -> Result<Self, Error> {
        let sink: Box<dyn std::io::Write + Send> = match target {
            AccessLogTarget::Off => {
                return Ok(Self {
                    sender: None,
                    dropped,
                });
            }
            AccessLogTarget::Stdout => Box::new(std::io::stdout()),
            AccessLogTarget::File(path) => Box::new(
                std::fs::OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(path)
                    .map_err(|source| Error::AccessLog {
                        path: path.clone(),
                        source,
                    })?,
            ),
        };
        let (sender, receiver) = sync_channel(WAITING);
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_all(&receiver, sink))
            .map_err(Error::Thread)?;
        Ok(Self {
            sender: Some(sender),
            dropped,
        })
    }

    /// Adds a line to this worker's batch.
    pub(crate) fn write(&self, line: &Line<'_>) {
        if self.sender.is_none() {
            return;
        }
        BUFFER.with_borrow_mut(|buffer| {
            format(buffer, clock::unix_micros(), line);
            if buffer.len() >= BATCH {
                self.hand_over(buffer);
            }
        });
    }

    /// Hands over what this worker has collected; called every so often by each worker.
    pub(crate) fn flush(&self) {
        BUFFER.with_borrow_mut(|buffer| {
            if !buffer.is_empty() {
                self.hand_over(buffer);
            }
        });
    }

    fn hand_over(&self, buffer: &mut String) {
        let Some(sender) = &self.sender else { return };
        let batch = std::mem::replace(buffer, String::with_capacity(BATCH + 1024));
        match sender.try_send(batch.into_bytes()) {
            Ok(()) => {}
            Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) => {
                let lines = batch.iter().filter(|byte| **byte == b'\n').count();
                self.dropped.fetch_add(lines as u64, Ordering::Relaxed);
            }
        }
    }
}

fn write_all(batches: &Receiver<Vec<u8>>, mut sink: Box<dyn std::io::Write + Send>) {
    for batch in batches {
        // A log that cannot be written must not stop the gateway; the next batch tries again.
        let _ = sink.write_all(&batch).and_then(|()| sink.flush());
    }
}

fn format(out: &mut String, now_micros: i64, line: &Line<'_>) {
    let micros = line.duration.as_micros();
    out.push_str("{\"ts\":\"");
    push_time(out, now_micros);
    out.push_str("\",\"level\":\"info\",\"msg\":\"request\",\"cluster_uuid\":\"");
    out.push_str(line.cluster);
    out.push_str("\",\"host\":");
    push_json(out, line.host);
    out.push_str(",\"path\":");
    push_json(out, line.path);
    out.push_str(",\"method\":");
    push_json(out, line.method);
    let _ = write!(
        out,
        ",\"status\":{},\"duration_ms\":{}.{:03},\"bytes\":{},\"client\":\"{}\"",
        line.status,
        micros / 1000,
        micros % 1000,
        line.bytes,
        line.client
    );
    if let Some(error) = line.error {
        out.push_str(",\"error\":");
        push_json(out, error);
    }
    out.push_str("}\n");
}

/// RFC 3339 with microseconds.
fn push_time(out: &mut String, micros: i64) {
    thread_local! {
        static SECOND: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
    }
    let second = micros.div_euclid(1_000_000);
    SECOND.with_borrow_mut(|(cached, text)| {
        if *cached != second {
            *cached = second;
            text.clear();
            let time = jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
            let _ = write!(text, "{}", time.strftime("%Y-%m-%dT%H:%M:%S"));
        }
        out.push_str(text);
    });
    let _ = write!(out, ".{:06}Z", micros.rem_euclid(1_000_000));
}

/// A JSON string. Plain text, the ordinary case, is copied in one piece.
fn push_json(out: &mut String, text: &str) {
    if text
        .bytes()
        .all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\')
    {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::Value::from(text).to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_json_whatever_the_client_sends() {
        let mut out = String::new();
        let line = Line {
            cluster: "c",
            host: "a.test",
            path: "/\"quoted\"\\\u{1}",
            method: "GET",
            status: 502,
            duration: Duration::from_micros(1_234_567),
            bytes: 7,
            client: "127.0.0.1",
            error: Some("backend_refused"),
        };
        format(&mut out, 1_700_000_000_000_042, &line);
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(value["ts"], "2023-11-14T22:13:20.000042Z");
        assert_eq!(value["path"], "/\"quoted\"\\\u{1}");
        assert_eq!(value["duration_ms"], 1234.567);
        assert_eq!(value["error"], "backend_refused");
        for key in [
            "level",
            "msg",
            "cluster_uuid",
            "host",
            "path",
            "method",
            "status",
        ] {
            assert!(value.get(key).is_some(), "{key}");
        }
    }
}
