//! Checkpoints: files to bytes at the right place.
