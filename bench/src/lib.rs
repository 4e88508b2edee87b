//! Benchmarks: what is measured, with which guests, and what is made of the numbers.
//!
//! Every number is a ratio between programs that ran alternately on the same host; absolute times are printed for
//! orientation only. [`tiny_kernel`] is a guest for tests as well.

pub mod contender;
pub mod sample;
pub mod start;
pub mod tiny_kernel;
