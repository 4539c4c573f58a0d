//! What a device is: its number and its class, what it is expected to do in a second, how kernels are shaped for it, what it
//! takes of memory, and the trait through which one is driven, be it an adapter or the CPU.

pub mod description;
pub mod executor;
pub mod id;
pub mod nominal;
pub mod open;
pub mod profile;
pub mod staging;
pub mod tuning;

pub use description::Device;
pub use executor::{Executor, run_case};
pub use id::{DeviceId, DeviceSpec};
pub use nominal::{Class, Kernels, Rates};
pub use open::OpenDevice;
pub use profile::{Card, DeviceProfile, Limits, SelfTest, Verdict};
pub use staging::Staging;
pub use tuning::{Shape, Tuning};
