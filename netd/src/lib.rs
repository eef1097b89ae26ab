//! The daemon netd: configuration, worker loops, the control thread that serves clients.

#![forbid(unsafe_code)]

pub mod command;
pub mod control;
