# `make demo` shows it, `make test` proves it. Both install the PostgreSQL server binaries (and what else they need)
# where they can: as root on Debian and Ubuntu. Elsewhere they say what to install.

.PHONY: demo test check unit servers bench needs-demo needs-test

demo: needs-demo
	cargo build --release
	target/release/pgconcord demo $(DEMO)

test: check unit servers

# Formatting and lints; a warning is an error.
check: needs-test
	cargo fmt --check
	cargo clippy --all-targets -- --deny warnings

# What needs no server.
unit: needs-test
	cargo test --lib --bins

# What needs real servers. One cluster runs at a time; all of it takes a quarter of an hour.
servers: needs-test
	cargo test --test main $(TEST)

# pgconcord beside the server's own logical replication: make bench BENCH='--workloads a1,a4 --runs 5'.
bench: needs-demo
	cargo bench --bench replication -- $(BENCH)

needs-demo:
	@.ci/install demo

needs-test:
	@.ci/install test
