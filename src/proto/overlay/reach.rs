//! Whether others reach a relay where it says that it is, by what its witnesses say. A relay that nobody reaches is of no use to
//! anybody, and cannot see that by itself.

use crate::base::Wall;
use crate::proto::event::count;
use crate::proto::overlay::Overlay;
use core::net::SocketAddr;

/// So many witnesses in a row that were asked and did not come back mean that none can. One refuses for many reasons: it dialled
/// this address within the hour, or its neighbours too often.
const IN_VAIN: u32 = 3;
/// The same while receipts of earlier days still count: more, for each restart asks once more.
const IN_VAIN_AFTER: u32 = 8;
/// A receipt of so many hours shows by itself that the relay was reached lately: its hour may have just begun.
const LATELY_HOURS: u32 = 2;

/// What witnesses say of where a relay is. For its operator only: it holds addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reach {
    /// Whether enough of them reached it there, and nothing newer speaks against that.
    pub holds: bool,
    /// Whether they were asked, and do not reach it.
    pub fails: bool,
    /// Witnesses that came back and whose word counts still.
    pub came_back: u32,
    /// How many are needed.
    pub needed: u32,
    /// Times that a witness was asked and did not come back, since the last that did.
    pub in_vain: u32,
    /// The address that others use, the first of those advertised: no other is tried.
    pub address: SocketAddr,
    /// Where one found it instead, if it did.
    pub elsewhere: Option<SocketAddr>,
}

impl Overlay {
    /// What witnesses say of where this relay is; `None` for a client.
    pub fn reach(&self, wall: Wall) -> Option<Reach> {
        let address = *self.config.profile.as_ref()?.addrs.first()?;
        let (came_back, newest) = self.receipts.counted(wall.hour());
        // Alone, or in a network of one group, one is all there can be.
        let needed = u32::try_from(self.view.needed().max(1)).unwrap_or(u32::MAX);
        let in_vain = self.receipts.in_vain();
        let lately = newest.is_some_and(|hour| hour.saturating_add(LATELY_HOURS) >= wall.hour());
        let holds = came_back >= needed && (lately || in_vain < IN_VAIN_AFTER);
        let fails = !holds && in_vain >= IN_VAIN;
        Some(Reach { holds, fails, came_back, needed, in_vain, address, elsewhere: self.receipts.elsewhere() })
    }

    /// A witness was asked, and did not come back.
    pub(super) const fn asked_in_vain(&mut self) {
        self.receipts.vain();
    }
}

impl Reach {
    /// What is wrong, in words without addresses; `None` if nothing is, or nobody was asked yet.
    pub fn words(&self) -> Option<String> {
        if self.holds {
            return None;
        }
        if !self.fails {
            let relays = count(u64::from(self.needed), "relay");
            return Some(format!("{relays} must reach this one where it says that it is, {} did so far", self.came_back));
        }
        let hint = if self.elsewhere.is_some() {
            "they find it at another address: correct --advertise"
        } else if self.address.is_ipv6() {
            "only relays with IPv6 can reach it. Check that its links leave over IPv6 too, that the address and the port of --advertise \
             are right, and that no firewall drops what comes in"
        } else {
            "check that the address and the port of --advertise are right, that the router forwards that port to the one of --listen, \
             and that no firewall drops what comes in"
        };
        Some(format!(
            "others do not reach this relay where it says that it is ({} of {} that are needed came back, and the last {} that were \
             asked did not), so they do not use it: {hint}. After a correction it may take an hour until they come again",
            self.came_back, self.needed, self.in_vain
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_what_to_check_and_no_address() {
        let reach = Reach {
            holds: false,
            fails: true,
            came_back: 0,
            needed: 3,
            in_vain: 3,
            address: "20.1.2.3:7443".parse().unwrap(),
            elsewhere: None,
        };
        for (reach, tells) in [
            (reach, "router forwards"),
            (Reach { elsewhere: Some("20.1.2.4:7443".parse().unwrap()), ..reach }, "another address"),
            (Reach { address: "[2001:67c::1]:7443".parse().unwrap(), ..reach }, "IPv6"),
            (Reach { fails: false, in_vain: 0, ..reach }, "3 relays must reach"),
        ] {
            let words = reach.words().unwrap();
            assert!(words.contains(tells) && !words.contains("20.1") && !words.contains("2001:"), "{words}");
        }
        assert_eq!(Reach { holds: true, ..reach }.words(), None);
    }
}
