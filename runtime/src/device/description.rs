//! A device as far as a plan has to know it.

use super::nominal::{self, Class, Rates};

/// More than any model needs, and far from overflow.
pub(crate) const UNLIMITED: u64 = 1 << 60;

/// A device as a plan sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// For people.
    pub name: String,
    /// The CPU side: its weights are the mapped checkpoint.
    pub host: bool,
    /// Bytes that may be used; `None` if nobody knows.
    pub memory: Option<u64>,
    /// What it is known or expected to do, the same in every run: by this the work is divided.
    pub nominal: Rates,
    /// What it was measured to do, where somebody did: by this times are predicted, and nothing else.
    pub rates: Rates,
    /// Largest binding, in bytes.
    pub max_binding_bytes: u64,
}

impl Device {
    /// An adapter of which the rates of its memory and its link are known.
    pub fn adapter(name: &str, memory: Option<u64>, bandwidth: f64, link: f64) -> Self {
        let rates = nominal::adapter(bandwidth, link);
        Device {
            name: name.into(),
            host: false,
            memory,
            nominal: rates,
            rates,
            max_binding_bytes: (4 << 30) - 4,
        }
    }

    /// The CPU side, of which the rate of its memory is known.
    pub fn host(memory: Option<u64>, bandwidth: f64) -> Self {
        Device::new("host", Class::Host, memory, u64::MAX).with(nominal::host(bandwidth))
    }

    /// A device of which no more is known than what it is.
    pub fn new(name: &str, class: Class, memory: Option<u64>, max_binding_bytes: u64) -> Self {
        let rates = class.rates();
        Device {
            name: name.into(),
            host: class == Class::Host,
            memory,
            nominal: rates,
            rates,
            max_binding_bytes,
        }
    }

    /// The same with rates that are known for good.
    #[must_use]
    pub fn with(self, rates: Rates) -> Self {
        Device { nominal: rates, rates, ..self }
    }

    /// Its share of the work against the others'.
    pub fn weight(&self) -> f64 {
        self.nominal.bandwidth
    }

    pub(crate) fn memory(&self) -> u64 {
        self.memory.map_or(UNLIMITED, |memory| memory.min(UNLIMITED))
    }
}
