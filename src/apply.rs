//! From decisions to the target's rows: batches, SQL, sessions, progress.
