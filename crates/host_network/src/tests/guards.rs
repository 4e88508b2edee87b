//! Guests that pretend to be others.
