//! What the daemon tells over HTTP: health, status, metrics.
