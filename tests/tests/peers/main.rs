//! netd among real programs of Debian: servers that give addresses, servers that know names (and, behind them, TLS) or the time, programs that
//! carry bytes, and the kernel as router. netd runs on the software device with a tap as its link, as an unprivileged user, and tshark judges
//! every capture.

mod addresses;
mod by_name;
mod captures;
mod clock;
mod frames;
mod metrics;
mod names;
mod programs;
mod published;
mod routes;
mod trust;
