//! The wire session: PostgreSQL's protocol 3 over TCP, unix sockets and TLS, shared by source and apply.
