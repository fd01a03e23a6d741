//! The kernels of attention.

use cudarc::driver::{CudaFunction, CudaSlice, DeviceRepr, LaunchConfig, PushKernelArg};

use super::{NONE, Tokens};
use crate::device::Device;
use crate::error::Error;
use crate::matrix::Matrix;

/// `Heads` of attention.cu.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Heads {
    pub row: i32,
    pub row_out: i32,
    pub hidden: i32,
    pub width: i32,
    pub scale: f32,
    pub reach: i32,
    pub columns: i32,
    pub row_places: i32,
    pub first: i32,
    pub span: i32,
    pub last_step: i32,
}

// SAFETY: plain numbers in C's layout, without references.
unsafe impl DeviceRepr for Heads {}

/// What attention reads beside queries, keys and values.
#[derive(Clone, Copy, Default)]
pub(crate) struct Beside<'a> {
    pub biases: Option<&'a CudaSlice<f32>>,
    /// Products of queries and of keys with embedded distances, and the distances' steps.
    pub places: Option<(&'a Matrix, &'a Matrix, &'a CudaSlice<i32>)>,
}

impl Device {
    /// Attends within each text; `qkv` holds queries, keys and values side by side.
    pub(crate) fn attend(
        &self,
        kernel: &CudaFunction,
        qkv: &Matrix,
        tokens: &Tokens,
        (heads, beside): (Heads, Beside<'_>),
        into: &mut Matrix,
    ) -> Result<(), Error> {
        let (hidden, width) = (heads.hidden as usize, heads.width as usize);
        assert_eq!(
            (qkv.rows, qkv.width),
            (tokens.count, 3 * hidden),
            "queries, keys and values"
        );
        assert!(
            qkv.numbers.len() >= qkv.rows * qkv.row(),
            "room of the rows"
        );
        into.resize(&self.stream, qkv.rows, hidden)?;
        let count = hidden / width;
        let heads = Heads {
            row: qkv.row() as i32,
            row_out: into.row() as i32,
            row_places: beside
                .places
                .map_or(0, |(queries, ..)| queries.row() as i32),
            ..heads
        };
        let mut launch = self.stream.launch_builder(kernel);
        launch
            .arg(&qkv.numbers)
            .arg(&tokens.items)
            .arg(&mut into.numbers);
        match beside.biases {
            Some(biases) => {
                let distances = 2 * heads.reach as usize + 1;
                assert_eq!(biases.len(), count * distances, "biases");
                launch.arg(biases)
            }
            None => launch.arg(&NONE),
        };
        match beside.places {
            Some((queries, keys, steps)) => {
                let size = (tokens.count, count * heads.columns as usize);
                assert_eq!((queries.rows, queries.width), size, "places of queries");
                assert_eq!((keys.rows, keys.width), size, "places of keys");
                assert_eq!(steps.len(), heads.last_step as usize + 1, "steps");
                launch.arg(&queries.numbers).arg(&keys.numbers).arg(steps)
            }
            None => launch.arg(&NONE).arg(&NONE).arg(&NONE),
        };
        launch.arg(&heads);
        let config = LaunchConfig {
            grid_dim: ((tokens.items.len() / 4) as u32, count as u32, 1),
            block_dim: (tokens.in_block, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the arguments are `attend`'s; the items' rows lie within the matrices, and what is beside is as large as it goes (see above). Which rows of
        // embedded distances a text needs is within `columns`: `Encoder` takes those of the longest text.
        unsafe { launch.launch(config)? };
        Ok(())
    }

    /// Turns queries and keys by their places in the text. `turns` are `[tokens][half]` pairs of cosine and sine.
    pub(crate) fn turn(
        &self,
        qkv: &mut Matrix,
        tokens: &Tokens,
        (hidden, width): (usize, usize),
        turns: &CudaSlice<f32>,
    ) -> Result<(), Error> {
        assert_eq!(
            (qkv.rows, qkv.width),
            (tokens.count, 3 * hidden),
            "queries, keys and values"
        );
        assert!(
            qkv.numbers.len() >= qkv.rows * qkv.row(),
            "room of the rows"
        );
        assert_eq!(tokens.within.len(), tokens.count, "places of the tokens");
        let (row, hidden, width) = (qkv.row() as i32, hidden as i32, width as i32);
        let count = tokens.count as i32;
        let pairs = tokens.count as u64 * hidden as u64 / 2;
        let mut launch = self.stream.launch_builder(&self.kernels.turn);
        launch
            .arg(&mut qkv.numbers)
            .arg(&row)
            .arg(&hidden)
            .arg(&width);
        launch.arg(&tokens.within).arg(turns).arg(&count);
        let config = LaunchConfig {
            grid_dim: (pairs.div_ceil(256) as u32, 1, 1),
            block_dim: (256, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the arguments are `turn`'s; places lie within the turns (see the module).
        unsafe { launch.launch(config)? };
        Ok(())
    }
}
