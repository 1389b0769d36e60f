//! Edge: where the registry goes when a mission asks for it, and where it must not.
//!
//! Whoever may have a mission run may name an address that is told of its end. The registry stands at another place of the network
//! than they do, and may reach more. So an address that a mission names is looked at twice: as it is written when the mission
//! comes, and as it resolves on every attempt, at the moment of connecting, so that a name cannot change its mind in between.
//!
//! | address | listening to this host only | reachable from other hosts |
//! |---|---|---|
//! | public | yes | yes |
//! | this host | yes: whoever can ask is on it | no |
//! | private networks | yes | no |
//! | link-local (cloud metadata), multicast, unspecified | no | no |
//! | a host named with `--notify-host` | yes | yes |
//!
//! No request of this kind can operate a registry: the guard refuses whatever carries the header of a webhook.

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Which addresses may be told of a mission's end.
#[derive(Debug, Clone)]
pub struct Reach {
    is_open: bool,
    hosts: Arc<[String]>,
}

impl Reach {
    /// Makes the rules; `is_open` says that peers on other hosts can reach us, `hosts` are always allowed.
    pub fn new(is_open: bool, hosts: &[String]) -> Self {
        let hosts = hosts.iter().map(|host| host.trim_matches(['[', ']']).to_ascii_lowercase()).collect();
        Self { is_open, hosts }
    }

    /// Checks an address as it is written; a name is checked again when it has been resolved.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self, url: &str) -> Result<(), String> {
        let parsed = reqwest::Url::parse(url).map_err(|error| format!("is no URL: {error}"))?;
        let host = parsed.host_str().unwrap_or_default();
        match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) if !self.allows(host, address) => Err(refusal(host)),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn allows(&self, host: &str, address: IpAddr) -> bool {
        let host = host.trim_matches(['[', ']']);
        if self.hosts.iter().any(|named| named.eq_ignore_ascii_case(host)) {
            return true;
        }
        match kind(address) {
            Kind::Public => true,
            Kind::Near => !self.is_open,
            Kind::Never => false,
        }
    }
}

fn refusal(host: &str) -> String {
    format!("leads to {host}, where this registry does not go; its operator can allow it with --notify-host")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Public,
    /// This host and private networks.
    Near,
    Never,
}

fn kind(address: IpAddr) -> Kind {
    match address.to_canonical() {
        IpAddr::V4(address) => kind_v4(address),
        IpAddr::V6(address) => match embedded(address) {
            Some(inner) => kind_v4(inner),
            None => kind_v6(address),
        },
    }
}

fn kind_v4(address: Ipv4Addr) -> Kind {
    let [first, second, ..] = address.octets();
    let is_shared = first == 100 && second & 0xc0 == 64;
    if first == 0 || first >= 240 || address.is_link_local() || address.is_multicast() {
        Kind::Never
    } else if address.is_loopback() || address.is_private() || is_shared {
        Kind::Near
    } else {
        Kind::Public
    }
}

fn kind_v6(address: Ipv6Addr) -> Kind {
    if address.is_loopback() || address.is_unique_local() {
        Kind::Near
    } else if address.segments()[0] & 0xe000 == 0x2000 {
        Kind::Public
    } else {
        Kind::Never
    }
}

/// The IPv4 address that a gateway would turn this one into: NAT64 (`64:ff9b::/96`) and 6to4 (`2002::/16`).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [first, second, third, a, b, c, high, low] = address.segments();
    let (high, low) = match (first, second) {
        (0x64, 0xff9b) if [third, a, b, c] == [0; 4] => (high, low),
        (0x2002, _) => (second, third),
        _ => return None,
    };
    Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
}

impl Resolve for Reach {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> =
                found.filter(|address| reach.allows(name.as_str(), address.ip())).collect();
            if allowed.is_empty() {
                return Err(refusal(name.as_str()).into());
            }
            let allowed: Addrs = Box::new(allowed.into_iter());
            Ok(allowed)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_in_any_spelling_is_judged_by_the_address_it_means() {
        let (closed, open) = (Reach::new(false, &[]), Reach::new(true, &[]));
        for near in [
            "http://127.0.0.1:7337/x",
            "http://0x7f.1/",
            "http://2130706433/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[2002:7f00:1::]/",
            "http://10.1.2.3/",
            "http://192.168.0.1/",
            "http://100.64.0.1/",
            "http://[fd00::1]/",
        ] {
            assert_eq!(closed.check(near), Ok(()), "{near}");
            assert!(open.check(near).unwrap_err().contains("--notify-host"), "{near}");
        }
        for never in [
            "http://169.254.169.254/latest",
            "http://0.0.0.0/",
            "http://0/",
            "http://224.0.0.1/",
            "http://255.255.255.255/",
            "http://[fe80::1]/",
            "http://[::]/",
            "http://[ff02::1]/",
        ] {
            assert!(closed.check(never).is_err() && open.check(never).is_err(), "{never}");
        }
        for public in ["https://192.0.32.7/", "https://[2606:4700::1]/", "https://hooks.example/x"] {
            assert!(closed.check(public).is_ok() && open.check(public).is_ok(), "{public}");
        }
        assert!(closed.check("no url").is_err());
    }

    #[test]
    fn a_named_host_is_always_reached() {
        let reach =
            Reach::new(true, &["127.0.0.1".to_owned(), "[::1]".to_owned(), "Hooks.Internal".to_owned()]);
        assert!(reach.check("http://127.0.0.1:1/").is_ok() && reach.check("http://[::1]/").is_ok());
        assert!(reach.check("http://127.0.0.2/").is_err());
        assert!(reach.allows("hooks.internal", "10.0.0.1".parse().unwrap()));
    }

    #[tokio::test]
    async fn a_name_is_judged_by_what_it_resolves_to() {
        let resolve =
            async |reach: &Reach| reach.resolve("localhost".parse().unwrap()).await.map(Iterator::count);
        assert!(resolve(&Reach::new(false, &[])).await.unwrap() > 0);
        assert!(resolve(&Reach::new(true, &[])).await.is_err());
        assert!(resolve(&Reach::new(true, &["localhost".to_owned()])).await.unwrap() > 0);
    }
}
