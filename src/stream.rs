//! From bytes to whole transactions: source, decode, assemble, spill.
