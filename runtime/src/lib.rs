//! The forward pass on one device.
