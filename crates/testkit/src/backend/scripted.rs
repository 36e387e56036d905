//! A backend that sends exactly the bytes a test wants, also those that no HTTP server would. It may not parse more than a head's end.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A listener whose connections each run the test's script. Dropping it ends them.
#[derive(Debug)]
pub struct Scripted {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    _server: JoinSet<()>,
}

impl Scripted {
    /// Reads one request head from each connection, then runs `script` with the connection.
    pub async fn start<F, Fut>(script: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .unwrap_or_else(|e| panic!("the scripted backend cannot listen: {e}"));
        let address = listener
            .local_addr()
            .unwrap_or_else(|e| panic!("the scripted backend does not know its address: {e}"));
        let heads = Arc::new(Mutex::new(Vec::new()));
        let mut server = JoinSet::new();
        server.spawn(accept(listener, Arc::clone(&heads), script));
        Self {
            address,
            heads,
            _server: server,
        }
    }

    /// Answers each connection's first request with `bytes`, then closes it: its own side at once, the other
    /// when the client does. A close with a body unread would be a reset, which may overtake the answer (RFC
    /// 9112, section 9.6).
    pub async fn answering(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes: Arc<[u8]> = bytes.into().into();
        Self::start(move |mut stream| {
            let bytes = Arc::clone(&bytes);
            async move {
                // The other side may have gone; what it saw is the test's question.
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            }
        })
        .await
    }

    /// Sends `bytes`, then resets the connection (RST instead of FIN).
    pub async fn resetting_after(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes: Arc<[u8]> = bytes.into().into();
        Self::start(move |mut stream| {
            let bytes = Arc::clone(&bytes);
            async move {
                let _ = stream.write_all(&bytes).await;
                let _ = stream.set_zero_linger();
            }
        })
        .await
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The request heads that arrived, byte for byte up to the empty line (invalid UTF-8 replaced).
    pub fn heads(&self) -> Vec<String> {
        lock(&self.heads).clone()
    }
}

fn lock(heads: &Mutex<Vec<String>>) -> std::sync::MutexGuard<'_, Vec<String>> {
    heads.lock().unwrap_or_else(|poison| poison.into_inner())
}

async fn accept<F, Fut>(listener: TcpListener, heads: Arc<Mutex<Vec<String>>>, script: F)
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((mut stream, _)) = accepted else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        if let Some(head) = read_head(&mut stream).await {
            lock(&heads).push(head);
            connections.spawn(script(stream));
        }
    }
}

/// One byte at a time, so that nothing of the body is taken from the script.
async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}
