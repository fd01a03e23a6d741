//! What operators see: metrics, a day's figures, and logs.

pub mod causes;
pub mod metrics;
pub mod trace;
pub mod window;
