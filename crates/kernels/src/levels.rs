//! The vector instructions that kernels are written for, and which of them this processor runs.
//!
//! Every level gives the same bits: products of whole numbers are exact, and floats go through the same steps in the same order,
//! with a fused multiply-add wherever one is written and nowhere else.

use super::bytes::{Block, Sums};
#[cfg(target_arch = "x86_64")]
use super::vnni::Vnni256;
#[cfg(all(target_arch = "x86_64", feature = "x86-v4"))]
use super::vnni::Vnni512;
#[cfg(target_arch = "x86_64")]
use super::widening;
use pulp::Arch;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// Instructions that kernels are chosen for, the narrowest first. Not part of the interface: for tests and measurements.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Level {
    /// None beyond the target's own.
    Portable = 1,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// AVX2 and the products of bytes of AVX-VNNI.
    AvxVnni,
    /// AVX-512 without products of bytes.
    Avx512,
    /// AVX-512 and its products of bytes.
    Avx512Vnni,
}

/// All of them.
const ALL: [Level; 5] = [
    Level::Portable,
    Level::Avx2,
    Level::AvxVnni,
    Level::Avx512,
    Level::Avx512Vnni,
];

/// The kernels of one level.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kernels {
    level: Level,
    /// For floats.
    pub arch: Arch,
    /// For bytes.
    pub bytes: ByteKernel,
}

/// What multiplies bytes.
#[derive(Debug, Clone, Copy)]
pub(super) enum ByteKernel {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3),
    #[cfg(target_arch = "x86_64")]
    AvxVnni(Vnni256),
    #[cfg(all(target_arch = "x86_64", feature = "x86-v4"))]
    Avx512Vnni(Vnni512),
}

impl ByteKernel {
    /// The sums of every row of the block, into the first rows of `sums`.
    pub fn multiply(self, block: Block<'_>, sums: &mut Sums) {
        match self {
            ByteKernel::Portable => block.multiply_portably(sums),
            #[cfg(target_arch = "x86_64")]
            ByteKernel::Avx2(simd) if block.small => widening::multiply_small(simd, block, sums),
            #[cfg(target_arch = "x86_64")]
            ByteKernel::Avx2(simd) => widening::multiply(simd, block, sums),
            #[cfg(target_arch = "x86_64")]
            ByteKernel::AvxVnni(simd) => simd.multiply(block, sums),
            #[cfg(all(target_arch = "x86_64", feature = "x86-v4"))]
            ByteKernel::Avx512Vnni(simd) => simd.multiply(block, sums),
        }
    }
}

/// The level that is used instead of the best one; 0 for none.
static FORCED: AtomicU8 = AtomicU8::new(0);

impl Level {
    /// The levels that this processor and this build have, the narrowest first.
    pub fn available() -> Vec<Level> {
        table().iter().map(|kernels| kernels.level).collect()
    }

    /// Has every kernel of this process run at this level from now on; without one, at the best again.
    ///
    /// # Panics
    /// If the level isn't available.
    pub fn force(level: Option<Level>) {
        if let Some(level) = level {
            let is_there = table().iter().any(|kernels| kernels.level == level);
            assert!(is_there, "{level:?} isn't available here");
        }
        FORCED.store(level.map_or(0, |level| level as u8), Ordering::Relaxed);
    }
}

/// The best kernels of this processor, or those of the forced level.
pub(super) fn kernels() -> Kernels {
    let table = table();
    let forced = FORCED.load(Ordering::Relaxed);
    let found = table.iter().find(|kernels| kernels.level as u8 == forced);
    match found.or(table.last()) {
        Some(kernels) => *kernels,
        None => PORTABLE,
    }
}

/// The instructions that floats are computed with.
pub(super) fn arch() -> Arch {
    kernels().arch
}

const PORTABLE: Kernels = Kernels {
    level: Level::Portable,
    arch: Arch::Scalar,
    bytes: ByteKernel::Portable,
};

/// Every level that is there, the best one last.
fn table() -> &'static [Kernels] {
    static TABLE: OnceLock<Vec<Kernels>> = OnceLock::new();
    TABLE.get_or_init(|| ALL.into_iter().filter_map(Kernels::of).collect())
}

impl Kernels {
    #[cfg(target_arch = "x86_64")]
    fn of(level: Level) -> Option<Self> {
        let avx2 = pulp::x86::V3::try_new;
        let (arch, bytes) = match level {
            Level::Portable => return Some(PORTABLE),
            Level::Avx2 => (Arch::V3(avx2()?), ByteKernel::Avx2(avx2()?)),
            Level::AvxVnni => (Arch::V3(avx2()?), ByteKernel::AvxVnni(Vnni256::detect()?)),
            #[cfg(feature = "x86-v4")]
            Level::Avx512 => {
                let floats = Arch::V4(pulp::x86::V4::try_new()?);
                // Where the narrower products of bytes are there, they are the faster ones.
                let bytes = Vnni256::detect().map(ByteKernel::AvxVnni);
                (floats, bytes.unwrap_or(ByteKernel::Avx2(avx2()?)))
            }
            #[cfg(feature = "x86-v4")]
            Level::Avx512Vnni => {
                let floats = Arch::V4(pulp::x86::V4::try_new()?);
                (floats, ByteKernel::Avx512Vnni(Vnni512::detect()?))
            }
            #[cfg(not(feature = "x86-v4"))]
            Level::Avx512 | Level::Avx512Vnni => return None,
        };
        Some(Self { level, arch, bytes })
    }

    /// What the target itself has: no other kernels are written for it.
    #[cfg(not(target_arch = "x86_64"))]
    fn of(level: Level) -> Option<Self> {
        (level == Level::Portable).then(|| Kernels {
            arch: Arch::new(),
            ..PORTABLE
        })
    }
}
