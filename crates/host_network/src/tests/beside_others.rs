//! Docker, firewalld and administrators.
