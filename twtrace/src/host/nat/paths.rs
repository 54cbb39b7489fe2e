//! Which way connections leave a network namespace, and whom they meet there: asked of the kernel by a
//! thread inside it, route by route, so that policy routing and all else is the kernel's own answer.

use std::{collections::BTreeMap, io, net::IpAddr};

use netlink_bindings::{rt_link, rt_neigh, rt_route};
use netlink_socket2::{NetlinkSocket, ReplyError};

/// A hardware address.
pub type Hardware = Vec<u8>;

/// Devices of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    names: BTreeMap<u32, String>,
    by_hardware: BTreeMap<Hardware, u32>,
}

/// Where a connection goes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Number of the device it leaves by.
    pub oif: u32,
    /// Hardware address of whoever it is given to, if that is known.
    pub hardware: Option<Hardware>,
}

impl Links {
    /// Those of this thread's namespace.
    ///
    /// # Errors
    /// Netlink failed.
    pub fn read() -> io::Result<Self> {
        let mut socket = NetlinkSocket::new();
        let request = rt_link::Request::new().op_getlink_dump(&rt_link::Ifinfomsg::default());
        let mut replies = socket.request(&request)?;
        let mut links = Self::default();
        while let Some(reply) = replies.recv() {
            let (header, link) = reply.map_err(io::Error::from)?;
            let Ok(index) = u32::try_from(header.ifi_index) else { continue };
            if let Ok(name) = link.get_ifname() {
                links.names.insert(index, name.to_string_lossy().into_owned());
            }
            if let Ok(hardware) = link.get_address()
                && hardware.iter().any(|byte| *byte != 0)
            {
                // A bridge has that of one of its ports, and it is the bridge that routes.
                let is_port = link.get_master().is_ok();
                if !is_port || !links.by_hardware.contains_key(hardware) {
                    links.by_hardware.insert(hardware.to_vec(), index);
                }
            }
        }
        Ok(links)
    }

    /// The device with a hardware address.
    pub fn with(&self, hardware: &[u8]) -> Option<u32> {
        self.by_hardware.get(hardware).copied()
    }

    /// The name of a device.
    pub fn name(&self, index: u32) -> Option<&str> {
        self.names.get(&index).map(String::as_str)
    }
}

/// The answer to where something goes.
struct Route {
    /// Whether it goes on to somebody else.
    leads_on: bool,
    oif: u32,
    gateway: Option<IpAddr>,
}

/// Asks where a packet between these addresses goes: one that comes in by a device, or one that begins
/// here.
fn route(from: IpAddr, to: IpAddr, iif: Option<u32>) -> Result<Route, ReplyError> {
    let bits = if to.is_ipv4() { 32 } else { 128 };
    let header = rt_route::Rtmsg {
        rtm_family: family(to),
        rtm_dst_len: bits,
        rtm_src_len: bits,
        ..Default::default()
    };
    let mut request = rt_route::Request::new().op_getroute_do(&header);
    request.encode().push_dst(to).push_src(from);
    if let Some(iif) = iif {
        request.encode().push_iif(iif);
    }
    let mut socket = NetlinkSocket::new();
    let mut replies = socket.request(&request)?;
    let (header, route) = replies.recv_one()?;
    let via = route.get_gateway().or_else(|_| route.get_via());
    Ok(Route {
        leads_on: header.rtm_type == libc::RTN_UNICAST,
        oif: route.get_oif().unwrap_or_default(),
        gateway: via.ok(),
    })
}

fn family(address: IpAddr) -> u8 {
    (if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

/// Where a connection that begins in this thread's namespace goes next; `None` if it stays here.
///
/// # Errors
/// Netlink failed, or there is no route.
pub fn next_hop(from: IpAddr, to: IpAddr) -> io::Result<Option<Hop>> {
    let route = route(from, to, None)?;
    if !route.leads_on {
        return Ok(None);
    }
    let next = route.gateway.unwrap_or(to);
    let header = rt_neigh::Ndmsg {
        ndm_family: family(next),
        ndm_ifindex: route.oif as i32,
        ..Default::default()
    };
    let mut request = rt_neigh::Request::new().op_getneigh_do(&header);
    request.encode().push_dst(next);
    let mut socket = NetlinkSocket::new();
    let mut replies = socket.request(&request)?;
    // Whoever is not known, or needs no address, is nobody that could be found.
    let reply = replies.recv_one().ok();
    let hardware = reply.and_then(|(_, neighbour)| neighbour.get_lladdr().ok().map(<[u8]>::to_vec));
    Ok(Some(Hop { oif: route.oif, hardware }))
}

/// The device by which this thread's namespace passes on what came in by another one; `None` if it
/// keeps it.
///
/// # Errors
/// As for [`next_hop`].
pub fn way_out(from: IpAddr, to: IpAddr, iif: u32) -> io::Result<Option<u32>> {
    let route = route(from, to, Some(iif))?;
    Ok(route.leads_on.then_some(route.oif))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_devices_and_keeps_what_is_its_own() {
        let links = Links::read().unwrap();
        let index = links.names.iter().find(|(_, name)| *name == "lo").map(|(index, _)| *index);
        assert_eq!(links.name(index.unwrap()), Some("lo"));
        let own = "127.0.0.1".parse().unwrap();
        assert_eq!(next_hop(own, own).unwrap(), None);
    }
}
