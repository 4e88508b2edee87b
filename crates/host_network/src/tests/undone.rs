//! Nothing stays, and what is half done is completed or removed.
