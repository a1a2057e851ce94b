//! The window, and what comes out of a set of changes: pure, no I/O and no clock.
