//! `porism devices`: adapters and the host, with what the self-test says of each.

use anyhow::Result;
use porism_runtime::DeviceId;
use porism_runtime::device::{DeviceProfile, Verdict};
use porism_runtime::gpu;
use porism_runtime::measure;
use serde_json::{Map, Value, json};

use crate::args::Devices;
use crate::host::HostProfile;
use crate::ui::{self, Ui};

/// An adapter after its self-test.
pub struct Tested {
    pub profile: DeviceProfile,
    /// Why it cannot be used, where it cannot.
    pub refused: Option<porism_runtime::Error>,
}

/// Opens every adapter, which runs its self-test.
pub fn test_all() -> Vec<Tested> {
    gpu::adapters()
        .into_iter()
        .map(|profile| match profile.index {
            DeviceId::Adapter(index) => match gpu::open(index) {
                Ok(gpu) => Tested { profile: gpu.profile, refused: None },
                Err(error) => Tested { profile, refused: Some(error) },
            },
            DeviceId::Host => Tested { profile, refused: None },
        })
        .collect()
}

pub fn run(args: &Devices, ui: &Ui) -> Result<u8> {
    let tested = test_all();
    let host = HostProfile::read();
    let bandwidth = |index| -> Result<Option<f64>> {
        if args.bench { Ok(Some(measure::read_bandwidth(index)?)) } else { Ok(None) }
    };
    let mut rates = Vec::new();
    for device in &tested {
        rates.push(if device.refused.is_none() { bandwidth(device.profile.index)? } else { None });
    }
    let host_rate = bandwidth(DeviceId::Host)?;

    if args.json {
        let mut devices = Vec::new();
        for (device, rate) in tested.iter().zip(&rates) {
            let Value::Object(mut object) = serde_json::to_value(&device.profile)? else {
                unreachable!("a struct")
            };
            object.insert("software".into(), device.profile.is_software().into());
            object.insert("error".into(), device.refused.as_ref().map(ToString::to_string).into());
            insert_rate(&mut object, *rate);
            devices.push(Value::Object(object));
        }
        let Value::Object(mut object) = host_json(&host) else { unreachable!("an object") };
        insert_rate(&mut object, host_rate);
        devices.push(Value::Object(object));
        ui.json(&json!({ "schema": 1, "devices": devices }))?;
        return Ok(0);
    }

    for (device, rate) in tested.iter().zip(&rates) {
        print_adapter(ui, device, *rate)?;
    }
    print_host(ui, &host, host_rate)?;
    if tested.is_empty() {
        ui.note("\nno GPU was found; models run on the host. `porism doctor` finds out why");
    }
    Ok(0)
}

fn insert_rate(object: &mut Map<String, Value>, rate: Option<f64>) {
    if let Some(rate) = rate {
        object.insert("read_gb_per_second".into(), rate.into());
    }
}

/// The host with the fields every device has.
fn host_json(host: &HostProfile) -> Value {
    json!({
        "index": "host",
        "name": host.name,
        "backend": "host",
        "device_type": "cpu",
        "driver": "porism",
        "driver_info": env!("CARGO_PKG_VERSION"),
        "memory_bytes": host.memory_bytes,
        "limits": {
            "cores": host.cores,
            "memory_bytes": host.memory_bytes,
            "available_bytes": host.available_bytes,
        },
        "features": host.features,
        "selftest": [],
        "software": true,
        "error": null,
    })
}

fn print_adapter(ui: &Ui, device: &Tested, rate: Option<f64>) -> Result<()> {
    let profile = &device.profile;
    let DeviceId::Adapter(index) = profile.index else { return Ok(()) };
    ui.heading(&format!("{index:<5} {}", profile.name))?;
    let driver = format!("{} {}", profile.driver, profile.driver_info);
    ui.line(&format!("      {} over {}, driver {}", kind(profile), profile.backend, driver.trim()))?;
    let memory = match profile.memory_bytes {
        Some(bytes) if profile.is_software() => {
            format!("{} of memory by its word, the host's", ui::bytes(bytes))
        }
        Some(bytes) => format!("{} of memory", ui::bytes(bytes)),
        None => "memory unknown: give it a budget, as in `--device 0:8GiB`".to_owned(),
    };
    ui.line(&format!("      {memory}"))?;
    let limits = &profile.limits;
    let buffers = format!(
        "buffers up to {}, bindings up to {}, {} bindings per stage",
        ui::bytes(limits.max_buffer_size),
        ui::bytes(limits.max_storage_buffer_binding_size),
        limits.max_storage_buffers_per_shader_stage
    );
    ui.line(&format!("      {buffers}"))?;
    if !profile.features.is_empty() {
        ui.line(&format!("      {}", profile.features.join(", ")))?;
    }
    ui.line(&format!("      self-test: {}", verdicts(device)))?;
    for test in &profile.selftest {
        if let Verdict::Fail(reason) = &test.verdict {
            ui.line(&format!("        {} fails and is switched off: {reason}", test.name))?;
        }
    }
    print_rate(ui, rate)?;
    ui.line("")?;
    Ok(())
}

fn print_host(ui: &Ui, host: &HostProfile, rate: Option<f64>) -> Result<()> {
    ui.heading(&format!("host  {}", host.name))?;
    let cores = ui::plural(host.cores as u64, "core");
    let (all, free) = (ui::bytes(host.memory_bytes), ui::bytes(host.available_bytes));
    ui.line(&format!("      {cores}, {all} of memory, {free} of it available"))?;
    if !host.features.is_empty() {
        ui.line(&format!("      {}", host.features.join(", ")))?;
    }
    print_rate(ui, rate)
}

fn print_rate(ui: &Ui, rate: Option<f64>) -> Result<()> {
    if let Some(rate) = rate {
        ui.line(&format!("      reads its memory at {rate:.1} GB/s"))?;
    }
    Ok(())
}

fn kind(profile: &DeviceProfile) -> &str {
    match profile.device_type.as_str() {
        "discrete-gpu" => "GPU",
        "integrated-gpu" => "integrated GPU",
        "virtual-gpu" => "virtual GPU",
        "cpu" => "software (slower than `host`)",
        _ => "device",
    }
}

/// The self-test in a line: what passed, what the adapter lacks, and whether it can be used at all.
pub fn verdicts(device: &Tested) -> String {
    if let Some(error) = &device.refused {
        return format!("not usable: {error}");
    }
    if device.profile.selftest.is_empty() {
        return "none".to_owned();
    }
    let named = |wanted: fn(&Verdict) -> bool| -> Vec<&str> {
        device.profile.selftest.iter().filter(|test| wanted(&test.verdict)).map(|test| test.name).collect()
    };
    let passed = named(|verdict| *verdict == Verdict::Pass);
    let absent = named(|verdict| *verdict == Verdict::Absent);
    let failed = named(|verdict| matches!(verdict, Verdict::Fail(_)));
    let mut parts = vec![if passed.is_empty() {
        "nothing passed".to_owned()
    } else {
        format!("{} pass", passed.join(", "))
    }];
    if !absent.is_empty() {
        parts.push(format!("{} absent", absent.join(", ")));
    }
    if !failed.is_empty() {
        parts.push(format!("{} FAIL", failed.join(", ")));
    }
    parts.join("; ")
}
