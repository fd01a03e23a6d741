//! The kernels' calls: the one module with unsafe code.
//!
//! A kernel on the device reads and writes wherever its arguments tell it, and no compiler checks these against what the kernel's source takes:
//! a call can't be safe by itself. Each function here asserts that the buffers are as large as the kernel goes, passes the arguments in the order
//! and the types of its signature in `src/kernels`, and is safe to call. Numbers that index tables (tokens, types, places, texts) lie within them: `Encoder`
//! asserts that before they are copied to the device.
#![allow(unsafe_code)]

mod attention;
mod rows;

use cudarc::driver::{CudaSlice, DeviceRepr, LaunchConfig, PushKernelArg, sys as driver};
use cudarc::nvrtc::sys as compiler;
use kiln_kernels::Finish;

use super::device::{Device, Product};
use super::error::Error;
use super::linear::Linear;
use super::matrix::Matrix;
pub(crate) use attention::{Beside, Heads};
pub(crate) use rows::EmbeddingTables;

/// A pointer to nothing.
const NONE: u64 = 0;
/// Queries that a block of attention's threads takes.
pub(crate) const BLOCK_QUERIES: usize = 64;
/// Queries that a warp takes: `QUERIES` of attention.cu.
pub(crate) const WARP_QUERIES: usize = 16;

/// `Sizes` of product.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Sizes {
    m: i32,
    n: i32,
    k: i32,
    row_a: i32,
    row_w: i32,
    row_c: i32,
    next_a: i64,
    next_w: i64,
    next_c: i64,
    finish: i32,
}

// SAFETY: plain numbers in C's layout, without references.
unsafe impl DeviceRepr for Sizes {}

/// Whether the libraries are there: opening one that isn't would panic.
pub(crate) fn find_libraries() -> Result<(), Error> {
    // SAFETY: they load a library of NVIDIA's by its name, whose initialisers are sound.
    let (driver, compiler) = unsafe { (driver::is_culib_present(), compiler::is_culib_present()) };
    match (driver, compiler) {
        (false, _) => Err(Error::NoDriver),
        (_, false) => Err(Error::NoCompiler),
        _ => Ok(()),
    }
}

/// What a pass knows of its tokens, on the device.
pub(crate) struct Tokens {
    pub count: usize,
    /// Threads of a block of attention's.
    pub in_block: u32,
    pub ids: CudaSlice<u32>,
    pub types: CudaSlice<u32>,
    /// Rows of the position table.
    pub places: CudaSlice<u32>,
    /// Where each stands in its text.
    pub within: CudaSlice<u32>,
    /// Each text's first token, its tokens.
    pub texts: CudaSlice<i32>,
    /// The same with the first query of a block, and nothing.
    pub items: CudaSlice<i32>,
}

/// One of a layer's products with embedded distances, head by head.
pub(crate) struct Heading {
    pub heads: usize,
    /// Numbers of a head.
    pub width: usize,
    /// The first column in `x` and in the distances' rows.
    pub from: usize,
    pub from_rows: usize,
    /// The first row of distances, and how many.
    pub first: usize,
    pub columns: usize,
}

impl Device {
    /// `finish(x · weights + bias)`, times another matrix of that size where there is one.
    pub(crate) fn product(
        &self,
        x: &Matrix,
        layer: &Linear,
        times: Option<&Matrix>,
        into: &mut Matrix,
    ) -> Result<(), Error> {
        let (rows, outputs) = (x.rows, layer.outputs());
        assert_eq!(x.width, layer.inputs(), "numbers of a row");
        assert!(x.numbers.len() >= rows * x.row(), "room of the rows");
        into.resize(&self.stream, rows, outputs)?;
        if let Some(times) = times {
            assert_eq!(
                (times.rows, times.width),
                (rows, outputs),
                "the factor's size"
            );
            assert!(
                times.numbers.len() >= rows * times.row(),
                "room of the factor"
            );
        }
        let sizes = Sizes {
            m: rows as i32,
            n: outputs as i32,
            k: x.width as i32,
            row_a: x.row() as i32,
            row_w: layer.weight.row() as i32,
            row_c: into.row() as i32,
            next_a: 0,
            next_w: 0,
            next_c: 0,
            finish: finish_number(layer.finish),
        };
        let (tiles, config) = self.tiles(rows, outputs, 1);
        let Some(config) = config else {
            return Ok(());
        };
        let mut launch = self.stream.launch_builder(&tiles.kernel);
        launch
            .arg(&x.numbers)
            .arg(&layer.weight.numbers)
            .arg(&layer.bias);
        match times {
            Some(times) => launch.arg(&times.numbers),
            None => launch.arg(&NONE),
        };
        launch.arg(&mut into.numbers).arg(&sizes);
        // SAFETY: the arguments are `product`'s, and all matrices are as large as the sizes say (see above; weights and biases since they were made).
        unsafe { launch.launch(config)? };
        Ok(())
    }

    /// Products of each head's numbers with embedded distances: `[tokens, heads * columns]`.
    pub(crate) fn places(
        &self,
        x: &Matrix,
        distances: &Matrix,
        of: &Heading,
        into: &mut Matrix,
    ) -> Result<(), Error> {
        let hidden = of.heads * of.width;
        assert!(
            of.width.is_multiple_of(4) && of.columns.is_multiple_of(4),
            "multiples of 4"
        );
        assert!(
            of.from + hidden <= x.width && of.from_rows + hidden <= distances.width,
            "columns of heads"
        );
        assert!(
            of.from.is_multiple_of(4) && of.from_rows.is_multiple_of(4),
            "columns of heads"
        );
        assert!(of.first + of.columns <= distances.rows, "rows of distances");
        assert!(x.numbers.len() >= x.rows * x.row(), "room of the rows");
        into.resize(&self.stream, x.rows, of.heads * of.columns)?;
        let sizes = Sizes {
            m: x.rows as i32,
            n: of.columns as i32,
            k: of.width as i32,
            row_a: x.row() as i32,
            row_w: distances.row() as i32,
            row_c: into.row() as i32,
            next_a: of.width as i64,
            next_w: of.width as i64,
            next_c: of.columns as i64,
            finish: finish_number(Finish::Plain),
        };
        let (tiles, config) = self.tiles(x.rows, of.columns, of.heads);
        let Some(config) = config else {
            return Ok(());
        };
        let (from, rows) = (
            x.numbers.slice(of.from..),
            distances
                .numbers
                .slice(of.first * distances.row() + of.from_rows..),
        );
        let mut launch = self.stream.launch_builder(&tiles.kernel);
        launch.arg(&from).arg(&rows).arg(&NONE).arg(&NONE);
        launch.arg(&mut into.numbers).arg(&sizes);
        // SAFETY: the arguments are `product`'s; each head's columns lie within the rows of both factors and of the result (see above).
        unsafe { launch.launch(config)? };
        Ok(())
    }

    /// The largest tiles of which there are enough, and how they are launched; none where there is nothing to do.
    fn tiles(&self, rows: usize, columns: usize, times: usize) -> (&Product, Option<LaunchConfig>) {
        let counted = |tiles: &Product| {
            let down = (rows as u32).div_ceil(tiles.rows);
            let across = (columns as u32).div_ceil(tiles.columns);
            (across, down, times as u32)
        };
        let [large, middle, small] = &self.kernels.products;
        let is_enough = |tiles: &&Product| {
            let (across, down, times) = counted(tiles);
            u64::from(across) * u64::from(down) * u64::from(times) >= u64::from(tiles.enough)
        };
        let tiles = [large, middle].into_iter().find(is_enough).unwrap_or(small);
        let config = LaunchConfig {
            grid_dim: counted(tiles),
            block_dim: (tiles.threads, 1, 1),
            shared_mem_bytes: tiles.shared,
        };
        (tiles, (rows > 0).then_some(config))
    }
}

/// The numbers of common.cu.
fn finish_number(finish: Finish) -> i32 {
    match finish {
        Finish::Plain => 0,
        Finish::Gelu => 1,
        Finish::GeluTanh => 2,
        Finish::Relu => 3,
        Finish::Tanh => 4,
        Finish::Sigmoid => 5,
        Finish::Silu => 6,
    }
}
