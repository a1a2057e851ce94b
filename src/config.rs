//! `pgconcord.toml`: what the user typed, checked whole, then converted once into what the program works with.
