//! What is said of one kernel variant on one device.

use serde::{Deserialize, Serialize};

/// One line of the report. A count is null where the compiler does not tell it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Row {
    /// Name of the kernel.
    pub kernel: Option<String>,
    /// Overrides and features; `-` where there are none.
    pub variant: Option<String>,
    /// Which device or compiler, as `--device` takes it.
    pub device: String,
    /// The compiler and its version.
    pub compiler: Option<String>,
    /// Registers that did not fit, each store and each load of one counted.
    pub spills: Option<u64>,
    /// Bytes of memory per thread for spills and private arrays.
    pub scratch: Option<u64>,
    /// Registers of a thread.
    pub registers: Option<u64>,
    /// How many waves, warps or threads fit, in the unit of the compiler.
    pub waves: Option<u64>,
    /// Instructions of the whole kernel.
    pub instructions: Option<u64>,
    /// Loads from buffers per weight in the inner loop.
    pub loads_per_weight: Option<f64>,
    /// Instructions per weight in the inner loop; on AMD those of the vector unit.
    pub instructions_per_weight: Option<f64>,
    /// What went wrong.
    pub error: Option<String>,
    /// Why nothing was compiled.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub skipped: Option<String>,
}

impl Row {
    /// Nothing is known yet.
    pub fn new(kernel: &str, variant: &str, device: &str, compiler: Option<&str>) -> Self {
        Row {
            kernel: Some(kernel.to_owned()),
            variant: Some(variant.to_owned()),
            device: device.to_owned(),
            compiler: compiler.map(str::to_owned),
            ..Row::default()
        }
    }

    /// A device that could not be had.
    pub fn skipped(device: &str, reason: impl Into<String>) -> Self {
        Row { device: device.to_owned(), skipped: Some(reason.into()), ..Row::default() }
    }

    /// Memory is used where registers should be.
    pub fn spills(&self) -> bool {
        self.spills.unwrap_or(0) > 0 || self.scratch.unwrap_or(0) > 0
    }

    /// Kernel, variant and device: what tells rows apart.
    pub fn key(&self) -> (String, String, String) {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        (text(&self.kernel), text(&self.variant), self.device.clone())
    }
}
