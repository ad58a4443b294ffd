//! Address groups: what an attacker must rent to look like many (design D7, D9, D10).

use core::net::{IpAddr, SocketAddr};

/// The /16 (IPv4) or /32 (IPv6) an address lies in: no two hops of a path, and no two witnesses, share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(pub [u8; 5]);

/// The /24 (IPv4) or /48 (IPv6) an address lies in: positions are derived from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(pub [u8; 7]);

/// An IPv6 address that only wraps an IPv4 one counts as that one.
fn canonical(addr: &SocketAddr) -> IpAddr {
    addr.ip().to_canonical()
}

impl Group {
    /// The group of an address.
    pub fn of(addr: &SocketAddr) -> Self {
        match canonical(addr) {
            IpAddr::V4(ip) => {
                let [a, b, ..] = ip.octets();
                Self([4, a, b, 0, 0])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.octets();
                Self([6, a, b, c, d])
            }
        }
    }
}

impl Prefix {
    /// Before all others.
    pub const FIRST: Self = Self([0; 7]);
    /// Behind all others.
    pub const LAST: Self = Self([u8::MAX; 7]);

    /// The /24 (IPv4) or /32 (IPv6) that counts once wherever relays are weighed (T31). What costs money is a /24, or an allocation
    /// of IPv6: the 65,536 /48s of one cost nothing more.
    pub fn weighed(addr: &SocketAddr) -> Self {
        match canonical(addr) {
            IpAddr::V4(_) => Self::of(addr),
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.octets();
                Self([6, a, b, c, d, 0, 0])
            }
        }
    }

    /// The prefix of an address.
    pub fn of(addr: &SocketAddr) -> Self {
        match canonical(addr) {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Self([4, a, b, c, 0, 0, 0])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, ..] = ip.octets();
                Self([6, a, b, c, d, e, f])
            }
        }
    }
}

/// Whether a relay may advertise this address on the open internet. Loopback, private and other special ranges are for
/// `--local-network` only.
pub fn is_public(addr: &SocketAddr) -> bool {
    if addr.port() == 0 {
        return false;
    }
    match canonical(addr) {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_broadcast()
                || ip.is_documentation()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 198 && (b == 18 || b == 19)))
        }
        // Only global unicast, 2000::/3, less the documentation range 2001:db8::/32.
        IpAddr::V6(ip) => {
            let [a, b, ..] = ip.segments();
            (a & 0xe000) == 0x2000 && !(a == 0x2001 && b == 0x0db8)
        }
    }
}

/// Whether this is an IPv6 address, and no IPv4 one in disguise.
pub fn is_ip6(addr: &SocketAddr) -> bool {
    matches!(canonical(addr), IpAddr::V6(_))
}

/// Whether this address may host shares: IPv6 carries and does not host in release 1 (D9).
pub fn may_host(addr: &SocketAddr) -> bool {
    matches!(canonical(addr), IpAddr::V4(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_prefixes_by_family() {
        let a: SocketAddr = "127.3.0.1:9000".parse().unwrap();
        let b: SocketAddr = "[::ffff:127.3.9.9]:1".parse().unwrap();
        let c: SocketAddr = "[2a00:1:2::1]:1".parse().unwrap();
        assert_eq!(Group::of(&a), Group::of(&b));
        assert_ne!(Prefix::of(&a), Prefix::of(&b));
        assert_ne!(Group::of(&a), Group::of(&c));
        let d: SocketAddr = "[2a00:1:3::1]:1".parse().unwrap();
        assert_ne!(Prefix::of(&c), Prefix::of(&d));
        assert_eq!((Prefix::weighed(&c), Prefix::weighed(&a)), (Prefix::weighed(&d), Prefix::of(&a)));
        assert!(is_ip6(&c) && !is_ip6(&b));
    }

    #[test]
    fn special_ranges_are_not_public() {
        for bad in ["127.0.0.1:1", "10.1.1.1:1", "100.64.0.1:1", "192.168.1.1:1", "[::1]:1", "[fe80::1]:1", "8.8.8.8:0"] {
            assert!(!is_public(&bad.parse().unwrap()), "{bad}");
        }
        for good in ["8.8.8.8:1", "[2a00:1450::1]:443"] {
            assert!(is_public(&good.parse().unwrap()), "{good}");
        }
    }
}
