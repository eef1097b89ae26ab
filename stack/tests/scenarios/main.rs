//! The stack as its caller sees it: two stacks on a wire, or one stack and a peer that says what a test writes.

mod dhcp;
mod hostile;
mod limits;
mod link;
mod support;
mod tcp;
