//! Edge: the TCP ports of this host that something listens on.
//!
//! Linux is asked for its listening sockets alone (`sock_diag(7)`, some ten microseconds). Its table in `/proc/net/tcp`
//! says the same after a walk over all connections, which takes tens of milliseconds where there are thousands.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

/// Returns every TCP port that something listens on, on any address; nothing where the system does not say.
#[cfg(target_os = "linux")]
pub fn all() -> Option<BTreeSet<u16>> {
    use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6};
    let mut ports = BTreeSet::new();
    for family in [AF_INET, AF_INET6] {
        netlink::collect(family, &mut ports).ok()?;
    }
    Some(ports)
}

/// Returns every TCP port that something listens on, on any address; nothing where the system does not say.
#[cfg(not(target_os = "linux"))]
pub fn all() -> Option<BTreeSet<u16>> {
    None
}

/// Says whether somebody could listen on this port now, on every address: tries to, for an instant.
///
/// Nobody can where somebody does, nor where a connection of that port was closed less than a minute ago.
pub fn is_free(port: u16) -> bool {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)) {
        Ok(_given_back) => true,
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => false,
        // No IPv6 here.
        Err(_other) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok(),
    }
}

#[cfg(target_os = "linux")]
mod netlink {
    use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
    use netlink_packet_sock_diag::SockDiagMessage;
    use netlink_packet_sock_diag::constants::IPPROTO_TCP;
    use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
    use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
    use std::collections::BTreeSet;
    use std::io;

    /// Larger than any datagram of a dump, which the kernel makes at most 32 KiB long.
    const DATAGRAM_BYTES: usize = 64 << 10;

    /// Asks for the listening sockets of one address family.
    pub(super) fn collect(family: u8, ports: &mut BTreeSet<u16>) -> io::Result<()> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let request = InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::LISTEN,
            socket_id: SocketId::new_v4(),
        };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        socket.send(&bytes, 0)?;
        // The kernel answers a dump in the calls that ask and read: no read waits, and the last message is `Done`.
        let mut datagram = vec![0; DATAGRAM_BYTES];
        loop {
            let size = socket.recv(&mut &mut datagram[..], 0)?;
            let mut rest = datagram.get(..size).unwrap_or_default();
            if rest.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            while !rest.is_empty() {
                let message =
                    NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
                let length = usize::try_from(message.header.length).map_err(io::Error::other)?;
                match message.payload {
                    NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(socket)) => {
                        ports.insert(socket.header.socket_id.source_port);
                    }
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(refused) => return Err(refused.to_io()),
                    NetlinkPayload::Overrun(_) => return Err(io::ErrorKind::OutOfMemory.into()),
                    NetlinkPayload::Noop | NetlinkPayload::InnerMessage(_) | _ => {}
                }
                // Messages are aligned to four bytes.
                rest = rest.get(length.next_multiple_of(4).max(4)..).unwrap_or_default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_any_address_is_seen() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                println!("skipped: {address} cannot be listened on here");
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            assert!(!is_free(port));
            if let Some(all) = all() {
                assert!(all.contains(&port), "{address}");
                drop(listener);
                assert!(!super::all().unwrap().contains(&port));
                assert!(is_free(port));
            } else {
                println!("skipped: this system does not say who listens");
            }
        }
    }
}
