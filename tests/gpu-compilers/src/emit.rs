//! A variant in the languages of the drivers, as wgpu 30 would hand it to them.

use anyhow::{Context as _, Result, anyhow};
use naga::back::{hlsl, spv};
use naga::proc::BoundsCheckPolicy;
use naga::valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};

use porism_gpu_compilers::variants::Variant;

/// What decides which checks are compiled into a shader.
#[derive(Clone, Copy)]
pub struct Checks {
    /// No checks at all, as with wgpu's `create_shader_module_trusted`.
    pub trusted: bool,
    /// The driver checks buffers (`robustBufferAccess2`), so that naga need not.
    pub robust_buffers: bool,
}

/// The variant with its overrides set.
fn module(variant: &Variant) -> Result<(naga::Module, ModuleInfo)> {
    let wgsl = variant.wgsl();
    let parsed =
        naga::front::wgsl::parse_str(wgsl).map_err(|error| anyhow!("{}", error.emit_to_string(wgsl)))?;
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::all());
    validator.subgroup_stages(ShaderStages::all()).subgroup_operations(SubgroupOperationSet::all());
    let info = validator.validate(&parsed).context("naga's validation")?;
    let mut constants = naga::back::PipelineConstants::default();
    for (name, value) in &variant.overrides {
        constants.insert((*name).to_owned(), f64::from(*value));
    }
    let entry = Some((naga::ShaderStage::Compute, "main"));
    let (fixed, info) = naga::back::pipeline_constants::process_overrides(&parsed, &info, entry, &constants)
        .map_err(|error| anyhow!("overrides: {error}"))?;
    Ok((fixed.into_owned(), info.into_owned()))
}

/// Threads of a workgroup, and bytes of its memory.
pub fn workgroup(variant: &Variant) -> Result<(u32, u32)> {
    let (module, _) = module(variant)?;
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).context("layout")?;
    let shared = |space: naga::AddressSpace| matches!(space, naga::AddressSpace::WorkGroup);
    let variables = module.global_variables.iter().filter(|(_, variable)| shared(variable.space));
    let bytes = variables.map(|(_, variable)| layouter[variable.ty].size).sum();
    Ok((module.entry_points[0].workgroup_size.iter().product(), bytes))
}

/// SPIR-V as wgpu-hal writes it: indices clamped, loops bounded, workgroup memory not cleared.
pub fn spirv(variant: &Variant, version: (u8, u8), checks: Checks) -> Result<Vec<u32>> {
    let (module, info) = module(variant)?;
    let mut binding_map = spv::BindingMap::default();
    for binding in module.global_variables.iter().filter_map(|(_, variable)| variable.binding) {
        let at = spv::BindingInfo {
            descriptor_set: binding.group,
            binding: binding.binding,
            binding_array_size: None,
        };
        binding_map.insert(binding, at);
    }
    let policy = |unchecked| {
        if unchecked { BoundsCheckPolicy::Unchecked } else { BoundsCheckPolicy::Restrict }
    };
    let options = spv::Options {
        lang_version: version,
        flags: spv::WriterFlags::LABEL_VARYINGS | spv::WriterFlags::FORCE_POINT_SIZE,
        bounds_check_policies: naga::proc::BoundsCheckPolicies {
            index: policy(checks.trusted),
            buffer: policy(checks.trusted || checks.robust_buffers),
            image_load: BoundsCheckPolicy::Unchecked,
            binding_array: BoundsCheckPolicy::Unchecked,
        },
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: !checks.trusted,
        emit_int_div_checks: !checks.trusted,
        binding_map,
        ..Default::default()
    };
    let entry = spv::PipelineOptions { entry_point: "main".into(), shader_stage: naga::ShaderStage::Compute };
    spv::write_vec(&module, &info, &options, Some(&entry)).context("naga's SPIR-V")
}

/// HLSL for DirectX 12.
pub fn hlsl(variant: &Variant, model: hlsl::ShaderModel) -> Result<String> {
    let (module, info) = module(variant)?;
    let target = |space| Some(hlsl::BindTarget { space, ..Default::default() });
    let options = hlsl::Options {
        shader_model: model,
        fake_missing_bindings: true,
        special_constants_binding: target(2),
        immediates_target: target(1),
        zero_initialize_workgroup_memory: false,
        restrict_indexing: true,
        force_loop_bounding: true,
        ..Default::default()
    };
    let mut text = String::new();
    hlsl::Writer::new(&mut text, &options, &hlsl::PipelineOptions::default())
        .write(&module, &info, None)
        .context("naga's HLSL")?;
    Ok(text)
}
