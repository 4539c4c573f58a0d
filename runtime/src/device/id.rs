//! Devices by number.

use serde::Serialize;

/// A device by the number `porism devices` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceId {
    /// An adapter.
    Adapter(usize),
    /// The CPU.
    Host,
}

impl DeviceId {
    /// The name of a device of this number, which tells equal ones apart.
    pub fn named(self, name: &str) -> String {
        match self {
            DeviceId::Adapter(index) => format!("{index}: {name}"),
            DeviceId::Host => name.to_owned(),
        }
    }
}

impl Serialize for DeviceId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            DeviceId::Adapter(index) => serializer.serialize_u64(*index as u64),
            DeviceId::Host => serializer.serialize_str("host"),
        }
    }
}

/// A device and the memory that may be used of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceSpec {
    /// Which. An adapter may be named twice: it is then two devices that share its memory.
    pub index: DeviceId,
    /// Bytes; `None`: as many as it has.
    pub budget: Option<u64>,
}

impl From<DeviceId> for DeviceSpec {
    fn from(index: DeviceId) -> Self {
        DeviceSpec { index, budget: None }
    }
}
