//! Pure: the arithmetic of port blocks: which one a session prefers, which come next, and how children share one.

use crate::executor::provision::options::{self, OptionError};
use crate::executor::provision::path_rules::digest;
use crate::executor::provision::provider::{Child, Object};

/// The last port there is.
const LAST_PORT: i64 = 65_535;

/// The layout of all blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    base_port: i64,
    block_size: i64,
    block_count: i64,
    primary_offset: i64,
}

/// A layout or a share that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// An option has the wrong form.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The last block would lie beyond the last port.
    #[error(
        "basePort {base_port} + blockSize {block_size} × blockCount {block_count} goes beyond port 65535"
    )]
    TooLarge {
        /// The first port.
        base_port: i64,
        /// Ports per block.
        block_size: i64,
        /// Blocks.
        block_count: i64,
    },
    /// The primary port would lie outside its block.
    #[error("primaryPortOffset {offset} must be below blockSize {block_size}")]
    PrimaryOutside {
        /// The offset.
        offset: i64,
        /// Ports per block.
        block_size: i64,
    },
    /// More children than ports.
    #[error("the port range {start}-{end} cannot be split among {count} children")]
    TooManyChildren {
        /// First port of the parent.
        start: u16,
        /// Last port of the parent.
        end: u16,
        /// How many children share it.
        count: u32,
    },
}

/// One block of ports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Block {
    /// Which block of its layout.
    pub index: u32,
    /// First port.
    pub start: u16,
    /// Last port.
    pub end: u16,
    /// The one to offer first.
    pub primary: u16,
}

impl Block {
    /// Returns the name of the file that takes this block.
    pub fn lock_name(&self) -> String {
        format!("{}-{}.lock", self.start, self.end)
    }

    /// Says whether the two have a port in common.
    pub fn overlaps(&self, start: u16, end: u16) -> bool {
        self.start <= end && start <= self.end
    }
}

/// Reads the ports out of a lock's file name, whoever made it; an only child's has a mark in it.
pub fn ports_of_lock_name(name: &str) -> Option<(u16, u16)> {
    let (start, end) = name.strip_suffix(".lock")?.trim_end_matches(".child").split_once('-')?;
    let (start, end) = (start.parse().ok()?, end.parse().ok()?);
    (start <= end).then_some((start, end))
}

impl Layout {
    /// Reads `basePort` (36000), `blockSize` (32), `blockCount` (512) and `primaryPortOffset` (0).
    ///
    /// # Errors
    /// [`PortError`] names the option, or the three numbers that do not fit.
    pub fn from_options(options: &Object) -> Result<Self, PortError> {
        let base_port = options::integer(options, "basePort", 1, 36_000)?;
        let block_size = options::integer(options, "blockSize", 1, 32)?;
        let block_count = options::integer(options, "blockCount", 1, 512)?;
        let offset = options::integer(options, "primaryPortOffset", 0, 0)?;
        let too_large = PortError::TooLarge { base_port, block_size, block_count };
        match block_size.checked_mul(block_count).and_then(|ports| ports.checked_add(base_port - 1)) {
            Some(last) if last <= LAST_PORT => {}
            Some(_) | None => return Err(too_large),
        }
        if offset >= block_size {
            return Err(PortError::PrimaryOutside { offset, block_size });
        }
        Ok(Self { base_port, block_size, block_count, primary_offset: offset })
    }

    /// Returns the first port of all, the ports per block, and the number of blocks.
    pub fn numbers(&self) -> (i64, i64, i64) {
        (self.base_port, self.block_size, self.block_count)
    }

    /// Returns every block once, starting with the one that the session prefers.
    pub fn ring(&self, session_id: &str) -> impl Iterator<Item = Block> + use<> {
        let [a, b, c, d, ..] = digest(session_id);
        let layout = *self;
        let preferred = i64::from(u32::from_be_bytes([a, b, c, d])) % layout.block_count;
        (0..layout.block_count).filter_map(move |step| layout.block((preferred + step) % layout.block_count))
    }

    /// Says whether these ports are one of its blocks.
    pub fn has(&self, start: u16, end: u16) -> bool {
        let (start, end) = (i64::from(start), i64::from(end));
        let from_base = start - self.base_port;
        from_base % self.block_size == 0
            && (0..self.block_count).contains(&(from_base / self.block_size))
            && end == start + self.block_size - 1
    }

    /// Returns one block; `None` beyond the last.
    pub fn block(&self, index: i64) -> Option<Block> {
        if !(0..self.block_count).contains(&index) {
            return None;
        }
        let start = self.base_port + index * self.block_size;
        Some(Block {
            index: u32::try_from(index).ok()?,
            start: u16::try_from(start).ok()?,
            end: u16::try_from(start + self.block_size - 1).ok()?,
            primary: u16::try_from(start + self.primary_offset).ok()?,
        })
    }
}

/// Returns a child's part of its parent's ports: equal parts, the last one takes the rest; the primary is the parent's,
/// clamped into the part.
///
/// # Errors
/// [`PortError::TooManyChildren`] names the range.
pub fn share(start: u16, end: u16, primary: u16, child: Child) -> Result<Block, PortError> {
    let too_many = PortError::TooManyChildren { start, end, count: child.count() };
    let ports = (u32::from(end) + 1).saturating_sub(u32::from(start));
    let size = ports / child.count();
    if size == 0 {
        return Err(too_many);
    }
    let first = u32::from(start) + size * child.index();
    let last = if child.index() + 1 == child.count() { u32::from(end) } else { first + size - 1 };
    let (Ok(first), Ok(last)) = (u16::try_from(first), u16::try_from(last)) else {
        return Err(too_many);
    };
    Ok(Block { index: 0, start: first, end: last, primary: primary.clamp(first, last) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use std::collections::BTreeSet;

    fn layout(value: impl Into<serde_json::Value>) -> Result<Layout, PortError> {
        let value = value.into();
        Layout::from_options(value.as_object().unwrap())
    }

    #[test]
    fn the_defaults_are_those_of_the_contract() {
        let layout = layout(json!({})).unwrap();
        assert_eq!(layout.numbers(), (36_000, 32, 512));
        let last = layout.block(511).unwrap();
        assert_eq!((last.start, last.end, last.primary), (52_352, 52_383, 52_352));
        assert_eq!(layout.block(512), None);
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused_with_all_three() {
        assert!(layout(json!({"basePort": 65_535, "blockSize": 1, "blockCount": 1})).is_ok());
        let error =
            layout(json!({"basePort": 65_000, "blockSize": 100, "blockCount": 7})).unwrap_err().to_string();
        assert!(["65000", "100", "7"].iter().all(|number| error.contains(number)), "{error}");
        assert!(layout(json!({"blockSize": i64::MAX, "blockCount": i64::MAX})).is_err());
        for bad in [
            json!({"basePort": 0}),
            json!({"blockSize": 0}),
            json!({"blockCount": -1}),
            json!({"basePort": "x"}),
        ] {
            assert!(layout(bad.clone()).is_err(), "{bad}");
        }
        assert!(layout(json!({"primaryPortOffset": 32})).is_err());
        assert!(layout(json!({"primaryPortOffset": -1})).is_err());
    }

    #[test]
    fn lock_names_are_read_back() {
        let block = layout(json!({})).unwrap().block(3).unwrap();
        assert_eq!(block.lock_name(), "36096-36127.lock");
        assert_eq!(ports_of_lock_name(&block.lock_name()), Some((36_096, 36_127)));
        for other in ["36096-36127", "a-b.lock", "2-1.lock", "1-70000.lock", ".gitignore"] {
            assert_eq!(ports_of_lock_name(other), None, "{other}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn the_ring_visits_every_block_once_and_no_port_twice(
            session in ".{0,20}", base in 1i64..60_000, size in 1i64..40, count in 1i64..100, offset in 0i64..40,
        ) {
            let options = json!({"basePort": base, "blockSize": size, "blockCount": count, "primaryPortOffset": offset % size});
            let layout = layout(options).unwrap();
            let blocks: Vec<Block> = layout.ring(&session).collect();
            prop_assert_eq!(blocks.len(), usize::try_from(count).unwrap());
            let ports: BTreeSet<u16> = blocks.iter().flat_map(|b| b.start..=b.end).collect();
            prop_assert_eq!(ports.len(), usize::try_from(size * count).unwrap());
            prop_assert!(blocks.iter().all(|b| (b.start..=b.end).contains(&b.primary)));
            let again: Vec<Block> = layout.ring(&session).collect();
            prop_assert_eq!(&blocks, &again);
        }

        #[test]
        fn children_share_every_port_exactly_once(start in 1u16..60_000, size in 1u16..500, count in 1u32..600, primary in 0u16..500) {
            let end = start + size - 1;
            let primary = start + primary % size;
            let shares: Vec<_> = (0..count)
                .map(|index| share(start, end, primary, Child::new(index.into(), count.into()).unwrap()))
                .collect();
            if u32::from(size) < count {
                let refused = shares.iter().all(|s| matches!(s, Err(PortError::TooManyChildren { .. })));
                prop_assert!(refused);
            } else {
                let shares: Vec<Block> = shares.into_iter().collect::<Result<_, _>>().unwrap();
                let ports: Vec<u16> = shares.iter().flat_map(|b| b.start..=b.end).collect();
                prop_assert_eq!(ports, (start..=end).collect::<Vec<_>>());
                prop_assert!(shares.iter().all(|b| (b.start..=b.end).contains(&b.primary)));
                prop_assert_eq!(shares.iter().filter(|b| b.primary == primary).count(), 1);
            }
        }
    }
}
