//! The daemon netd: configuration, the worker that owns the device, the control thread that serves clients.

#![forbid(unsafe_code)]

pub mod audit;
pub mod capture;
pub mod command;
pub mod config;
pub mod control;
pub mod daemon;
pub mod device;
mod disposal;
pub mod limits;
pub mod log;
mod names;
pub mod policy_files;
pub mod reload;
pub mod rules;
pub mod store;
pub mod worker;
