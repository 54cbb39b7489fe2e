//! IPv4 and TCP headers as bytes, as far as a scripted peer needs them.

use std::net::{Ipv4Addr, SocketAddrV4};

/// No more data from the sender.
pub const FIN: u8 = 0x01;
/// Opens a connection.
pub const SYN: u8 = 0x02;
/// Ends a connection at once.
pub const RST: u8 = 0x04;
/// The acknowledgement number counts.
pub const ACK: u8 = 0x10;

const IP_HEADER: usize = 20;
const TCP_HEADER: usize = 20;
const TCP: u8 = 6;
const NOP: u8 = 1;
const TIMESTAMPS: u8 = 8;

/// A TCP segment with its addresses; options other than timestamps are not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Sender.
    pub from: SocketAddrV4,
    /// Receiver.
    pub to: SocketAddrV4,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// [`FIN`], [`SYN`], [`RST`], [`ACK`].
    pub flags: u8,
    /// The timestamps option: the sender's clock, and the echo of the receiver's.
    pub timestamps: Option<(u32, u32)>,
    /// Bytes of data; encoded as zeros.
    pub data: u16,
}

impl Segment {
    /// Whether all of `flags` are set.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Sequence numbers that the segment takes up.
    pub fn length(&self) -> u32 {
        u32::from(self.data) + u32::from(self.has(SYN)) + u32::from(self.has(FIN))
    }

    /// Reads an IPv4 packet; `None` if it is not a whole TCP segment.
    pub fn decode(packet: &[u8]) -> Option<Self> {
        let ip_len = usize::from(packet.first()? & 0x0f) * 4;
        let total = usize::from(be16(packet, 2)?);
        if packet[0] >> 4 != 4 || *packet.get(9)? != TCP {
            return None;
        }
        let tcp = packet.get(ip_len..total)?;
        let header = usize::from(tcp.get(12)? >> 4) * 4;
        Some(Self {
            from: SocketAddrV4::new(ipv4(packet, 12)?, be16(tcp, 0)?),
            to: SocketAddrV4::new(ipv4(packet, 16)?, be16(tcp, 2)?),
            seq: be32(tcp, 4)?,
            ack: be32(tcp, 8)?,
            flags: *tcp.get(13)?,
            timestamps: timestamps(tcp.get(TCP_HEADER..header)?),
            data: u16::try_from(tcp.len() - header).ok()?,
        })
    }

    /// Writes the segment as an IPv4 packet with both checksums.
    pub fn encode(&self) -> Vec<u8> {
        let mut tcp = Vec::with_capacity(TCP_HEADER + 12);
        tcp.extend(self.from.port().to_be_bytes());
        tcp.extend(self.to.port().to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        let options = if self.timestamps.is_some() { 12 } else { 0 };
        tcp.push(u8::try_from((TCP_HEADER + options) / 4).expect("at most 8") << 4);
        tcp.push(self.flags);
        // Window, checksum, urgent pointer.
        tcp.extend([0xff, 0xff, 0, 0, 0, 0]);
        if let Some((value, echo)) = self.timestamps {
            tcp.extend([NOP, NOP, TIMESTAMPS, 10]);
            tcp.extend(value.to_be_bytes());
            tcp.extend(echo.to_be_bytes());
        }
        tcp.extend(std::iter::repeat_n(0, usize::from(self.data)));

        let total = u16::try_from(IP_HEADER + tcp.len()).expect("segments here are short");
        let mut packet = vec![0x45, 0];
        packet.extend(total.to_be_bytes());
        // Identification, don't fragment, time to live, protocol, checksum.
        packet.extend([0, 0, 0x40, 0, 64, TCP, 0, 0]);
        packet.extend(self.from.ip().octets());
        packet.extend(self.to.ip().octets());
        let sum = checksum(&[&packet]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        let pseudo = [[0, TCP], (total - 20).to_be_bytes()].concat();
        let sum = checksum(&[&packet[12..20], &pseudo, &tcp]);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        packet.extend(tcp);
        packet
    }
}

fn timestamps(mut options: &[u8]) -> Option<(u32, u32)> {
    while let Some((&kind, rest)) = options.split_first() {
        match kind {
            0 => return None,
            NOP => options = rest,
            TIMESTAMPS => return Some((be32(options, 2)?, be32(options, 6)?)),
            _ => options = options.get(usize::from(*rest.first()?).max(2)..)?,
        }
    }
    None
}

/// The Internet checksum (RFC 1071) over parts, of which only the last may be of odd length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

fn ipv4(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(be32(bytes, at)?))
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_survives_encoding_and_its_checksums_are_right() {
        let segment = Segment {
            from: "10.1.0.2:8080".parse().unwrap(),
            to: "10.1.0.1:40000".parse().unwrap(),
            seq: 0xffff_fff0,
            ack: 7,
            flags: FIN | ACK,
            timestamps: Some((1000, 2000)),
            data: 3,
        };
        let packet = segment.encode();
        assert_eq!(Segment::decode(&packet), Some(segment));
        assert_eq!(segment.length(), 4);
        assert_eq!(checksum(&[&packet[..20]]), 0);
        let pseudo = [0, TCP, 0, u8::try_from(packet.len() - 20).unwrap()];
        assert_eq!(checksum(&[&packet[12..20], &pseudo, &packet[20..]]), 0);
    }
}
