//! The stack as its caller sees it: two stacks on a wire, or one stack and a peer that says what a test writes.

mod support;
mod tcp;
