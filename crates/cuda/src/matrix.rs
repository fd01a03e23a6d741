//! Numbers on the device.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream};

use super::error::Error;

/// Rows of numbers, each padded with zeros to a multiple of four: that many are copied at once.
pub(crate) struct Matrix {
    pub numbers: CudaSlice<f32>,
    pub rows: usize,
    pub width: usize,
}

impl Matrix {
    /// One without rows.
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self, Error> {
        Ok(Self {
            numbers: stream.alloc_zeros(4)?,
            rows: 0,
            width: 0,
        })
    }

    /// Rows one after the other, copied to the device.
    pub fn of(stream: &Arc<CudaStream>, numbers: &[f32], width: usize) -> Result<Self, Error> {
        assert!(
            width > 0 && numbers.len().is_multiple_of(width),
            "rows of {width}"
        );
        let row = padded(width);
        let numbers = if row == width {
            stream.clone_htod(numbers)?
        } else {
            let mut rows = vec![0.0; numbers.len() / width * row];
            for (into, from) in rows.chunks_exact_mut(row).zip(numbers.chunks_exact(width)) {
                into.iter_mut()
                    .zip(from)
                    .for_each(|(into, from)| *into = *from);
            }
            stream.clone_htod(&rows)?
        };
        Ok(Self {
            rows: numbers.len() / row,
            numbers,
            width,
        })
    }

    /// Numbers from one row to the next.
    pub fn row(&self) -> usize {
        padded(self.width)
    }

    /// Makes it so many rows, whose numbers are any. It keeps its room where that is enough.
    pub fn resize(
        &mut self,
        stream: &Arc<CudaStream>,
        rows: usize,
        width: usize,
    ) -> Result<(), Error> {
        let count = rows * padded(width);
        // No rows, should there be no room.
        self.rows = 0;
        if count > self.numbers.len() {
            // What was there goes first: both may be more than there is room for.
            self.numbers = stream.alloc_zeros(4)?;
            self.numbers = stream.alloc_zeros(count + count / 4)?;
        }
        (self.rows, self.width) = (rows, width);
        Ok(())
    }

    /// Makes it the same as another one.
    pub fn copy(&mut self, stream: &Arc<CudaStream>, from: &Self) -> Result<(), Error> {
        self.resize(stream, from.rows, from.width)?;
        let count = from.rows * from.row();
        let from = from.numbers.slice(..count);
        stream.memcpy_dtod(&from, &mut self.numbers.slice_mut(..count))?;
        Ok(())
    }

    /// Its numbers, row after row, without what the rows are padded with. Waits for all work before.
    pub fn read(&self, stream: &Arc<CudaStream>) -> Result<Vec<f32>, Error> {
        let count = self.rows * self.row();
        if count == 0 {
            return Ok(Vec::new());
        }
        let mut numbers = stream.clone_dtoh(&self.numbers.slice(..count))?;
        stream.synchronize()?;
        if self.row() != self.width {
            let (row, width) = (self.row(), self.width);
            let rows = numbers.chunks_exact(row);
            numbers = rows
                .flat_map(|row| row.iter().take(width))
                .copied()
                .collect();
        }
        Ok(numbers)
    }
}

/// A width with what it is padded with.
pub(crate) fn padded(width: usize) -> usize {
    width.next_multiple_of(4)
}
