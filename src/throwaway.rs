//! Throwaway PostgreSQL servers on this machine, for the demo and the tests.
