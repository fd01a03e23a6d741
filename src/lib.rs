//! Kiln keeps scores hot.
pub mod model;
