//! Whole daemons and their clients, without root: two netds whose software devices are joined by a wire in this process, one for
//! the clients that are tried, one for their peers.

#![expect(clippy::unwrap_used, reason = "clippy knows tests by their attribute, and these helpers have none")]

mod bounds;
mod examples;
mod hostile;
mod hostile_user;
mod lab;
mod options;
mod restart;
