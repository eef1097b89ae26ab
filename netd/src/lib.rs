//! The daemon netd: configuration, the worker that owns the device, the control thread that serves clients.

#![forbid(unsafe_code)]

pub mod command;
pub mod config;
pub mod control;
pub mod daemon;
pub mod device;
mod names;
pub mod worker;
