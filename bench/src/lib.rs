//! Benchmarks: what is measured, with which guests, and what is made of the numbers.
//!
//! Every number is a ratio between programs that ran alternately on the same host; absolute numbers are printed for
//! orientation only. [`tiny_kernel`] is a guest for tests as well.
//!
//! - [`contender`] knows the programs, [`job`] what they are told to run;
//! - [`time`] measures how long a guest takes to say something, [`memory`] what a program with a guest has resident;
//! - [`image`] compares what is done with disk images;
//! - [`daemon`] compares daemons that keep definitions, [`network`] their virtual networks;
//! - [`report`] prints and saves the results.

mod command_line;
pub mod contender;
pub mod daemon;
pub mod image;
pub mod job;
pub mod memory;
pub mod network;
mod process;
pub mod report;
pub mod sample;
mod surroundings;
pub mod time;
pub mod tiny_kernel;
