//! The kernels that take row by row.

use cudarc::driver::{CudaSlice, DeviceRepr, LaunchConfig, PushKernelArg};

use super::{NONE, Tokens};
use crate::device::Device;
use crate::error::Error;
use crate::linear::{Norm, rows_of_block};
use crate::matrix::{Matrix, padded};

/// `Norm` of rows.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Rows {
    width: i32,
    row: i32,
    eps: f32,
    rows: i32,
}

// SAFETY: plain numbers in C's layout, without references.
unsafe impl DeviceRepr for Rows {}

/// The embedding tables on the device, of rows of one width.
pub(crate) struct EmbeddingTables {
    pub words: CudaSlice<f32>,
    pub positions: Option<CudaSlice<f32>>,
    pub types: Option<CudaSlice<f32>>,
    pub norm: Norm,
}

impl Device {
    /// Every token's embedding, normed.
    pub(crate) fn embed(
        &self,
        tokens: &Tokens,
        tables: &EmbeddingTables,
        into: &mut Matrix,
    ) -> Result<(), Error> {
        let (count, width) = (tokens.count, tables.norm.width());
        into.resize(&self.stream, count, width)?;
        for numbers in [&tokens.ids, &tokens.types, &tokens.places] {
            assert_eq!(numbers.len(), count, "numbers of the tokens");
        }
        let (rows, config) = rows_config(count, width, tables.norm.eps, into.row());
        let mut launch = self.stream.launch_builder(&self.kernels.embed);
        launch.arg(&mut into.numbers);
        launch
            .arg(&tokens.ids)
            .arg(&tokens.types)
            .arg(&tokens.places)
            .arg(&tables.words);
        for table in [&tables.types, &tables.positions] {
            match table {
                Some(table) => launch.arg(table),
                None => launch.arg(&NONE),
            };
        }
        launch
            .arg(&tables.norm.weight)
            .arg(&tables.norm.bias)
            .arg(&rows);
        // SAFETY: the arguments are `embed`'s; tokens, types and places lie within the tables (see the module).
        unsafe { launch.launch(config)? };
        Ok(())
    }

    /// `x = norm(x + added)`; or where sums are kept, `sums += added` and `x = norm(sums)`.
    pub(crate) fn add_norm(
        &self,
        x: &mut Matrix,
        added: &Matrix,
        sums: Option<&mut Matrix>,
        norm: &Norm,
    ) -> Result<(), Error> {
        let size = (x.rows, norm.width());
        assert_eq!((x.rows, x.width), size, "the norm's width");
        assert_eq!((added.rows, added.width), size, "what is added");
        assert!(
            x.numbers.len().min(added.numbers.len()) >= x.rows * x.row(),
            "room of the rows"
        );
        let (rows, config) = rows_config(x.rows, x.width, norm.eps, x.row());
        let mut launch = self.stream.launch_builder(&self.kernels.add_norm);
        launch.arg(&mut x.numbers).arg(&added.numbers);
        match sums {
            Some(sums) => {
                assert_eq!((sums.rows, sums.width), size, "the sums");
                assert!(
                    sums.numbers.len() >= sums.rows * sums.row(),
                    "room of the sums"
                );
                launch.arg(&mut sums.numbers)
            }
            None => launch.arg(&NONE),
        };
        launch.arg(&norm.weight).arg(&norm.bias).arg(&rows);
        // SAFETY: the arguments are `add_norm`'s, and all matrices have these rows.
        unsafe { launch.launch(config)? };
        Ok(())
    }

    /// One vector a text: the mean of its tokens after the first `skipped`, or the first one's where that is none.
    pub(crate) fn pool(
        &self,
        x: &Matrix,
        tokens: &Tokens,
        skipped: Option<usize>,
        into: &mut Matrix,
    ) -> Result<(), Error> {
        let texts = tokens.texts.len() / 2;
        assert_eq!(x.rows, tokens.count, "rows of the tokens");
        assert!(x.numbers.len() >= x.rows * x.row(), "room of the rows");
        into.resize(&self.stream, texts, x.width)?;
        let (width, row, row_out) = (x.width as i32, x.row() as i32, into.row() as i32);
        let skipped = skipped.map_or(-1, |skipped| skipped.min(i32::MAX as usize) as i32);
        let mut launch = self.stream.launch_builder(&self.kernels.pool);
        launch
            .arg(&mut into.numbers)
            .arg(&x.numbers)
            .arg(&tokens.texts);
        launch.arg(&width).arg(&row).arg(&row_out).arg(&skipped);
        let config = LaunchConfig {
            grid_dim: (texts as u32, 1, 1),
            block_dim: (128, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the arguments are `pool`'s; the texts' rows lie within the tokens'.
        unsafe { launch.launch(config)? };
        Ok(())
    }
}

fn rows_config(rows: usize, width: usize, eps: f32, row: usize) -> (Rows, LaunchConfig) {
    debug_assert_eq!(row, padded(width), "a row's room");
    let (in_block, shared) = rows_of_block(width);
    let of = Rows {
        width: width as i32,
        row: row as i32,
        eps,
        rows: rows as i32,
    };
    let config = LaunchConfig {
        grid_dim: ((rows as u32).div_ceil(in_block), 1, 1),
        block_dim: (in_block * 32, 1, 1),
        shared_mem_bytes: shared,
    };
    (of, config)
}
