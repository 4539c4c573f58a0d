//! Why there is no plan, and what would help.

use super::place::Problem;
use crate::device::description::UNLIMITED;
use crate::error::{Error, WayOut};
use crate::model::buffers;
use crate::options::EngineOptions;

impl Problem<'_> {
    /// Why there is no plan, and what would help.
    pub(super) fn refusal(&self) -> Result<Error, Error> {
        let memory = self.memories();
        // The device that could take most; a host before an adapter, since its memory is the larger as a rule.
        let device = (0..memory.len()).max_by_key(|device| memory[*device]).expect("there is a device");
        let works = |extra: u64, options: &EngineOptions| -> Result<bool, Error> {
            let mut memory = memory.clone();
            memory[device] = memory[device].saturating_add(extra).min(UNLIMITED);
            Ok(self.draft(&memory, options)?.is_some())
        };
        let options = self.request;
        if !works(UNLIMITED, options)? {
            let sizes = options.sizes(options.chunks(self.config())?.last().copied().unwrap_or(1));
            return Ok(Error::OutOfMemory {
                device: self.devices[device].name.clone(),
                label: format!("a context of {} tokens", options.context),
                bytes: buffers::bytes(self.config(), sizes).largest_binding,
                limit: format!(
                    "max_storage_buffer_binding_size is {}",
                    self.devices[device].max_binding_bytes
                ),
            });
        }
        let (mut low, mut high) = (0, UNLIMITED);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if works(middle, options)? { high = middle } else { low = middle }
        }
        let mut ways_out = Vec::new();
        if !self.devices.iter().any(|device| device.host) {
            ways_out.push(WayOut::AddHost);
        }
        let mut shorter = options.clone();
        while shorter.context > 256 {
            shorter.context /= 2;
            if works(0, &shorter)? {
                ways_out.push(WayOut::Context(shorter.context));
                break;
            }
        }
        ways_out.push(WayOut::Memory(self.devices[device].name.clone(), high));
        if ways_out.len() < 2 {
            ways_out.push(WayOut::AddDevice);
        }
        Ok(Error::DoesNotFit {
            weights: self.costs[device].whole,
            context: options.context,
            device: self.devices[device].name.clone(),
            shortfall: high,
            ways_out,
        })
    }
}
