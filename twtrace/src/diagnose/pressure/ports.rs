//! A set of port numbers.

/// Some ports.
#[derive(Clone, Debug, Default)]
pub struct Ports(Vec<u64>);

impl Ports {
    /// Adds one; false if it was there.
    pub fn add(&mut self, port: u16) -> bool {
        self.0.resize(1024, 0);
        let (word, bit) = (usize::from(port) / 64, 1_u64 << (port % 64));
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    /// How many lie within a range.
    pub fn within(&self, (low, high): (u16, u16)) -> u64 {
        let has = |port: &u16| {
            self.0.get(usize::from(*port) / 64).is_some_and(|word| word >> (port % 64) & 1 != 0)
        };
        (low..=high).filter(has).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_counts_once_and_where_it_lies() {
        let mut ports = Ports::default();
        assert_eq!(ports.within((0, u16::MAX)), 0);
        assert!(ports.add(80) && !ports.add(80) && ports.add(u16::MAX));
        assert_eq!((ports.within((79, 81)), ports.within((81, u16::MAX))), (1, 1));
    }
}
