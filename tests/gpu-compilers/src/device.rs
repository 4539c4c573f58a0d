//! Every variant on the device at hand: the part that runs inside a stub's process.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use porism_shaders::{Features, KERNELS};

use crate::loops::{self, Counts};
use crate::row::Row;
use crate::vulkan::{Executable, Vulkan};
use porism_gpu_compilers::variants::{Variant, gpu_features, variants};

/// How a driver calls what is wanted, by the first word of the device's name.
fn read(device: &str, variant: &Variant, all: &[Executable], row: &mut Row) {
    // Where a driver made several forms it chooses at dispatch; what is wrong with one of them counts.
    let Some(first) = all.first() else { return };
    let sum = |names: &[&str]| {
        let one = |executable: &Executable| names.iter().filter_map(|name| executable.get(name)).sum::<u64>();
        all.iter().map(one).max()
    };
    let mut listing = None;
    match device.split(':').next().unwrap_or_default() {
        "amd" => {
            row.registers = first.get("VGPRs");
            row.waves = first.get("Subgroups per SIMD");
            row.spills = sum(&["Spilled VGPRs", "Spilled SGPRs"]);
            row.scratch = sum(&["Scratch size"]);
            row.instructions = first.get("Instructions");
            let assembly = first.listings.iter().find(|(name, _)| name == "Assembly");
            listing = assembly.map(|(_, text)| loops::amd(text));
        }
        "nv" => {
            row.registers = first.get("Number of GPRs");
            row.waves = first.get("Max warps/SM");
            row.spills = sum(&["Spills to memory", "Fills from memory"]);
            row.scratch = sum(&["SLM size"]);
            row.instructions = first.get("Instruction count");
            let last = first.listings.iter().rfind(|(_, text)| text.contains("block"));
            listing = last.map(|(_, text)| loops::nvidia(text));
        }
        "intel" => {
            row.registers = first.get("Max live registers");
            row.waves = Some(u64::from(first.subgroup_size));
            row.spills = sum(&["Spills", "Fills"]);
            row.scratch = sum(&["Scratch Memory Size"]);
            row.instructions = first.get("Instructions");
        }
        "apple" => {
            row.registers = first.get("GPRs");
            row.waves = first.get("Threads");
            row.spills = sum(&["Spills", "Fills"]);
            row.scratch = sum(&["Scratch"]);
            row.instructions = first.get("Instructions");
        }
        "adreno" => {
            row.registers = first.get("Registers used");
            row.waves = first.get("Max Waves Per Core");
            row.spills = sum(&["STP Count", "LDP Count"]);
            row.instructions = first.get("Instruction Count");
        }
        _ => {}
    }
    if let (Some(inner), Some(loops)) = (variant.inner, listing)
        && let Some((loads, instructions)) = Counts::per_weight(&loops, inner)
    {
        (row.loads_per_weight, row.instructions_per_weight) = (Some(loads), Some(instructions));
    }
}

/// Compiles every variant from number `from` on, and prints a row each as soon as it is known.
///
/// With `listings`, the driver's listings go to files of that folder.
pub fn compile(device: &str, from: usize, listings: Option<&Path>) -> Result<()> {
    let vulkan = Vulkan::open(device.ends_with(":unchecked"))?;
    for variant in variants().iter().skip(from) {
        let mut row = Row::new(variant.kernel.name, &variant.name(), device, Some(&vulkan.compiler));
        match vulkan.compile(variant) {
            Ok(executables) => {
                read(device, variant, &executables, &mut row);
                if let Some(folder) = listings {
                    save(folder, device, variant, &executables)?;
                }
            }
            Err(error) => row.error = Some(format!("{error:#}")),
        }
        print(&row)?;
    }
    Ok(())
}

fn save(folder: &Path, device: &str, variant: &Variant, executables: &[Executable]) -> Result<()> {
    let folder = folder.join(device.replace(':', "-"));
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let stem = format!("{} {}", variant.kernel.name, variant.name()).replace([' ', '='], "_");
    for (index, executable) in executables.iter().enumerate() {
        for (name, text) in &executable.listings {
            let file = folder.join(format!("{stem}.{index}.{}.txt", name.replace([' ', '/'], "_")));
            std::fs::write(&file, text).with_context(|| file.display().to_string())?;
        }
        let told: Vec<String> =
            executable.statistics.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        std::fs::write(folder.join(format!("{stem}.{index}.statistics.txt")), told.concat())?;
    }
    Ok(())
}

/// One row as a line of JSON.
pub fn print(row: &Row) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, row)?;
    out.write_all(b"\n")?;
    out.flush().context("writing a row")
}

/// Makes every pipeline, those of all test cases too, through wgpu itself on its first Vulkan adapter.
pub fn through_wgpu(device: &str) -> Result<()> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    descriptor.backends = wgpu::Backends::VULKAN;
    let instance = wgpu::Instance::new(descriptor);
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::VULKAN));
    let Some(adapter) = adapters.first() else {
        return print(&Row::skipped(device, "wgpu does not list this device"));
    };
    let info = adapter.get_info();
    let compiler = format!("wgpu 30, {} {}", info.driver, info.driver_info);
    let wanted = wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::IMMEDIATES;
    let opened = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        label: None,
        required_features: adapter.features() & wanted,
        required_limits: adapter.limits(),
        experimental_features: wgpu::ExperimentalFeatures::disabled(),
        memory_hints: wgpu::MemoryHints::Performance,
        trace: wgpu::Trace::Off,
    }));
    let (gpu, _queue) = opened.with_context(|| format!("{compiler} opens no device"))?;
    for kernel in KERNELS {
        let mut sets: Vec<Vec<(&'static str, u32)>> = vec![vec![]];
        sets.extend(variants().into_iter().filter(|v| std::ptr::eq(v.kernel, kernel)).map(|v| v.overrides));
        for case in (kernel.cases)() {
            sets.push(kernel.named(&case.constants).collect());
        }
        sets.sort();
        sets.dedup();
        for variant in kernel.variants {
            // Of what GPUs get: all optional features, or none.
            if variant.features != Features::NONE && variant.features != gpu_features(kernel) {
                continue;
            }
            for overrides in &sets {
                let shown =
                    Variant { kernel, features: variant.features, overrides: overrides.clone(), inner: None };
                let mut row = Row::new(kernel.name, &shown.name(), device, Some(&compiler));
                row.error = pipeline(&gpu, kernel, variant.wgsl, overrides);
                print(&row)?;
            }
        }
    }
    Ok(())
}

/// What wgpu has against a pipeline, if anything.
fn pipeline(
    gpu: &wgpu::Device,
    kernel: &porism_shaders::Kernel,
    wgsl: &str,
    overrides: &[(&'static str, u32)],
) -> Option<String> {
    let validation = gpu.push_error_scope(wgpu::ErrorFilter::Validation);
    let internal = gpu.push_error_scope(wgpu::ErrorFilter::Internal);
    let module = gpu.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some(kernel.name),
        source: wgpu::ShaderSource::Wgsl(wgsl.into()),
    });
    let entries: Vec<_> = (0..)
        .zip(kernel.bindings)
        .map(|(binding, described)| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Storage { read_only: !described.writes },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        })
        .collect();
    let bindings =
        gpu.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
    let layout = gpu.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: None,
        bind_group_layouts: &[Some(&bindings)],
        immediate_size: kernel.params_bytes,
    });
    let constants: Vec<(&str, f64)> =
        overrides.iter().map(|(name, value)| (*name, f64::from(*value))).collect();
    let _pipeline = gpu.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(kernel.name),
        layout: Some(&layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            constants: &constants,
            zero_initialize_workgroup_memory: false,
        },
        cache: None,
    });
    let inner = pollster::block_on(internal.pop());
    pollster::block_on(validation.pop()).or(inner).map(|error| error.to_string())
}
