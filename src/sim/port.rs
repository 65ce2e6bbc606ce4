//! A TCP port that stays ours while nobody listens on it.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// Pending connections the kernel keeps for us; more than any test opens at once.
const BACKLOG: u32 = 1024;

/// A reserved address. Connections are refused until [`Port::listen`], and again once its listener is dropped.
pub(crate) struct Port {
    addr: SocketAddr,
    /// Bound, never listening: keeps the kernel from lending the port to somebody's outgoing connection.
    _reserve: TcpSocket,
}

impl Port {
    /// Reserves `addr`; port 0 picks a free one.
    pub(crate) fn reserve(addr: SocketAddr) -> io::Result<Self> {
        let reserve = bound(addr)?;
        Ok(Self { addr: reserve.local_addr()?, _reserve: reserve })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Must be called within a Tokio runtime.
    pub(crate) fn listen(&self) -> io::Result<TcpListener> {
        bound(self.addr)?.listen(BACKLOG)
    }
}

fn bound(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Both sockets need it to share the port; it also lets us come back past connections in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}
