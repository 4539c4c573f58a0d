//! Links every kernel (WESL imports and `@if` features), validates each linked variant with naga for SPIR-V, MSL
//! and HLSL, reflects its bindings and `Params`, and writes `kernels.rs`: a bad shader fails `cargo check`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use naga::valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};

/// WebGPU gives `var<immediate>` 128 bytes on every back end we ship to.
const MAX_IMMEDIATE_BYTES: u32 = 128;
/// The smallest workgroup memory of the adapters we support; wgpu does not check it, so we do.
const MAX_WORKGROUP_BYTES: u32 = 32 * 1024;
/// WebGPU promises 8 storage buffers per shader stage. No kernel has needed more than 7, so that one is left.
const MAX_BINDINGS: usize = 7;

fn main() {
    println!("cargo:rerun-if-changed=src/kernels");
    println!("cargo:rerun-if-changed=src/lib");
    let mut names: Vec<String> = fs::read_dir("src/kernels")
        .expect("src/kernels")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|file| file.strip_suffix(".wgsl").map(str::to_owned))
        .collect();
    names.sort();

    let mut out = String::from("// Written by build.rs.\n");
    let mut features = BTreeSet::new();
    let mut table =
        String::from("/// Every kernel, in alphabetical order.\npub static KERNELS: &[Kernel] = &[\n");
    for name in &names {
        let kernel = build(name);
        features.extend(kernel.features);
        out.push_str(&kernel.params);
        table.push_str(&kernel.entry);
    }
    table.push_str("];\n");
    out.push_str(&table);
    for (index, name) in names.iter().enumerate() {
        writeln!(
            out,
            "/// Index of `{name}` in [`KERNELS`].\npub const {}: KernelId = KernelId({index});",
            name.to_uppercase()
        )
        .unwrap();
    }
    let list: String =
        features.iter().map(|name| format!("({name:?}, Features::{}), ", name.to_uppercase())).collect();
    writeln!(out, "const FEATURES: &[(&str, Features)] = &[{list}];").unwrap();
    out.push_str("impl Features {\n");
    for (bit, feature) in features.iter().enumerate() {
        let name = feature.to_uppercase();
        writeln!(out, "    /// `@if({feature})`\n    pub const {name}: Features = Features(1 << {bit});")
            .unwrap();
    }
    out.push_str("}\n");
    fs::write(Path::new(&env::var("OUT_DIR").unwrap()).join("kernels.rs"), out).unwrap();
}

struct Built {
    features: Vec<String>,
    params: String,
    entry: String,
}

fn build(name: &str) -> Built {
    let source = fs::read_to_string(format!("src/kernels/{name}.wgsl")).unwrap();
    let features = features_of(&source);
    let mut variants = String::new();
    let mut reflected: Option<Reflected> = None;
    for mask in 0..1u32 << features.len() {
        let on: Vec<&str> = features
            .iter()
            .enumerate()
            .filter(|(bit, _)| mask & (1 << bit) != 0)
            .map(|(_, f)| f.as_str())
            .collect();
        let wgsl = link(name, &features, &on);
        let this = validate(name, &on, &wgsl);
        match &reflected {
            None => reflected = Some(this),
            Some(first) => assert!(
                first.interface() == this.interface(),
                "{name}: bindings or Params differ between variants"
            ),
        }
        let on: String =
            on.iter().map(|feature| format!(".with(Features::{})", feature.to_uppercase())).collect();
        writeln!(variants, "        Variant {{ features: Features::NONE{on}, wgsl: r####\"{wgsl}\"#### }},")
            .unwrap();
    }
    let reflected = reflected.unwrap();
    let entry = format!(
        "    Kernel {{ name: {name:?}, bindings: &[{}], overrides: &{:?}, params_bytes: {}, variants: &[\n{variants}    ], \
         twin: crate::kernels::{name}::twin, cases: crate::kernels::{name}::cases }},\n",
        reflected.bindings, reflected.overrides, reflected.params_bytes,
    );
    Built { features, params: reflected.params, entry }
}

/// Names used in `@if(...)`, here and in the imported pieces.
fn features_of(source: &str) -> Vec<String> {
    let mut all = source.to_owned();
    for file in fs::read_dir("src/lib").into_iter().flatten().flatten() {
        let stem = file.path().file_stem().unwrap().to_string_lossy().into_owned();
        if source.contains(&format!("lib::{stem}")) {
            all.push_str(&fs::read_to_string(file.path()).unwrap());
        }
    }
    let mut found = BTreeSet::new();
    for part in all.split("@if(").skip(1) {
        let condition = part.split(')').next().unwrap();
        for word in condition.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty()) {
            found.insert(word.to_owned());
        }
    }
    found.into_iter().collect()
}

fn link(name: &str, features: &[String], on: &[&str]) -> String {
    let mut compiler = wesl::Wesl::new("src");
    compiler.set_mangler(wesl::ManglerKind::Escape);
    for feature in features {
        compiler.set_feature(feature, on.contains(&feature.as_str()));
    }
    let path = format!("package::kernels::{name}").parse().unwrap();
    match compiler.compile(&path) {
        Ok(linked) => with_plain_overrides(name, linked.to_string()),
        Err(error) => panic!("{name} with {on:?} does not link:\n{error}"),
    }
}

/// Overrides of imported pieces under their own names, which is how a pipeline is told their values: linking puts the
/// module's path before them. Their names have no underscore.
fn with_plain_overrides(name: &str, wgsl: String) -> String {
    let declared = wgsl.lines().filter_map(|line| line.split("override ").nth(1)?.split(':').next());
    let mangled: Vec<String> = declared.filter(|n| n.starts_with("package_")).map(str::to_owned).collect();
    mangled.iter().fold(wgsl, |wgsl, mangled| {
        let plain = mangled.rsplit('_').next().unwrap_or(mangled);
        let mut words = wgsl.split(|c: char| !c.is_alphanumeric() && c != '_');
        assert!(!words.any(|word| word == plain), "{name}: `{plain}` of an imported piece is taken");
        wgsl.replace(mangled.as_str(), plain)
    })
}

#[derive(PartialEq)]
struct Reflected {
    bindings: String,
    overrides: Vec<String>,
    params: String,
    params_bytes: u32,
}

impl Reflected {
    fn interface(&self) -> (&str, &str) {
        (&self.bindings, &self.params)
    }
}

fn validate(name: &str, on: &[&str], wgsl: &str) -> Reflected {
    let what = format!("{name} with features {on:?}");
    let module = naga::front::wgsl::parse_str(wgsl)
        .unwrap_or_else(|error| panic!("{what}: {}", error.emit_to_string_with_path(wgsl, name)));
    let mut validator = Validator::new(
        ValidationFlags::all(),
        Capabilities::IMMEDIATES
            | Capabilities::SUBGROUP
            | Capabilities::SUBGROUP_BARRIER
            | Capabilities::SHADER_FLOAT16
            | Capabilities::SHADER_FLOAT16_IN_FLOAT32,
    );
    validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    let info = validator
        .validate(&module)
        .unwrap_or_else(|error| panic!("{what}: {}", error.emit_to_string_with_path(wgsl, name)));
    assert!(module.entry_points.len() == 1, "{what}: one entry point per kernel");
    let entry = &module.entry_points[0];
    assert!(entry.name == "main", "{what}: the entry point is called `main`");

    let constants = naga::back::PipelineConstants::default();
    let (fixed, fixed_info) = naga::back::pipeline_constants::process_overrides(
        &module,
        &info,
        Some((naga::ShaderStage::Compute, "main")),
        &constants,
    )
    .unwrap_or_else(|error| panic!("{what}: {error:?}"));
    emit_all(&what, &fixed, &fixed_info);
    check_workgroup_memory(&what, &fixed);
    reflect(&what, name, &module)
}

fn emit_all(what: &str, module: &naga::Module, info: &naga::valid::ModuleInfo) {
    let spv = naga::back::spv::Options { lang_version: (1, 3), ..Default::default() };
    naga::back::spv::write_vec(module, info, &spv, None)
        .unwrap_or_else(|error| panic!("{what}: SPIR-V: {error}"));

    let mut msl = naga::back::msl::Options { lang_version: (2, 4), ..Default::default() };
    msl.fake_missing_bindings = true;
    naga::back::msl::write_string(module, info, &msl, &naga::back::msl::PipelineOptions::default())
        .unwrap_or_else(|error| panic!("{what}: MSL: {error}"));

    let target = naga::back::hlsl::BindTarget { space: 1, ..Default::default() };
    let hlsl = naga::back::hlsl::Options {
        shader_model: naga::back::hlsl::ShaderModel::V6_2,
        fake_missing_bindings: true,
        special_constants_binding: Some(target),
        immediates_target: Some(target),
        ..Default::default()
    };
    let mut text = String::new();
    let options = naga::back::hlsl::PipelineOptions::default();
    naga::back::hlsl::Writer::new(&mut text, &hlsl, &options)
        .write(module, info, None)
        .unwrap_or_else(|error| panic!("{what}: HLSL: {error}"));
}

fn check_workgroup_memory(what: &str, module: &naga::Module) {
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).unwrap();
    let bytes: u32 = module
        .global_variables
        .iter()
        .filter(|(_, variable)| variable.space == naga::AddressSpace::WorkGroup)
        .map(|(_, variable)| layouter[variable.ty].size)
        .sum();
    assert!(
        bytes <= MAX_WORKGROUP_BYTES,
        "{what}: {bytes} bytes of workgroup memory, {MAX_WORKGROUP_BYTES} are portable"
    );
}

fn reflect(what: &str, name: &str, module: &naga::Module) -> Reflected {
    let mut bindings = Vec::new();
    let mut params = None;
    for (_, variable) in module.global_variables.iter() {
        match variable.space {
            naga::AddressSpace::Storage { access } => {
                let at = variable.binding.as_ref().unwrap();
                assert!(at.group == 0, "{what}: bindings are in group 0");
                let writes = access.contains(naga::StorageAccess::STORE);
                bindings.push((at.binding, variable.name.clone().unwrap(), writes));
            }
            naga::AddressSpace::Immediate => params = Some(variable.ty),
            naga::AddressSpace::WorkGroup | naga::AddressSpace::Private => {}
            other => panic!("{what}: address space {other:?} is not used in this project"),
        }
    }
    bindings.sort();
    assert!(
        bindings.len() <= MAX_BINDINGS,
        "{what}: {} storage buffers, at most {MAX_BINDINGS} are bound",
        bindings.len()
    );
    for (position, binding) in bindings.iter().enumerate() {
        assert!(binding.0 as usize == position, "{what}: bindings are numbered 0, 1, 2, …");
    }
    let bindings: String = bindings
        .iter()
        .map(|(_, name, writes)| format!("Binding {{ name: {name:?}, writes: {writes} }}, "))
        .collect();
    let mut overrides: Vec<String> = module.overrides.iter().filter_map(|(_, o)| o.name.clone()).collect();
    overrides.sort();
    let (params, params_bytes) = match params {
        Some(ty) => params_struct(what, name, module, ty),
        None => (String::new(), 0),
    };
    Reflected { bindings, overrides, params, params_bytes }
}

/// `Params` as Rust: only 4-byte scalars and vec4 (the layouts on which WGSL, MSL and HLSL root constants agree).
fn params_struct(
    what: &str,
    name: &str,
    module: &naga::Module,
    ty: naga::Handle<naga::Type>,
) -> (String, u32) {
    let naga::TypeInner::Struct { members, span } = &module.types[ty].inner else {
        panic!("{what}: var<immediate> must be a struct");
    };
    assert!(
        *span <= MAX_IMMEDIATE_BYTES,
        "{what}: Params has {span} bytes, at most {MAX_IMMEDIATE_BYTES} are portable"
    );
    let mut fields = String::new();
    let mut asserts = String::new();
    let mut offset = 0;
    for member in members {
        let field = member.name.as_ref().unwrap();
        let (rust, size) = match &module.types[member.ty].inner {
            naga::TypeInner::Scalar(scalar) => (scalar_name(what, scalar).to_owned(), 4),
            naga::TypeInner::Vector { size: naga::VectorSize::Quad, scalar } => {
                (format!("[{}; 4]", scalar_name(what, scalar)), 16)
            }
            other => panic!("{what}: Params.{field} is {other:?}; use u32, i32, f32 or vec4 of them"),
        };
        assert!(member.offset == offset, "{what}: put the vec4 fields of Params first ({field} is padded)");
        offset += size;
        writeln!(fields, "        #[expect(missing_docs, reason = \"described in the shader\")]\n        pub {field}: {rust},").unwrap();
        writeln!(
            asserts,
            "    const _: () = assert!(core::mem::offset_of!(Params, {field}) == {});",
            member.offset
        )
        .unwrap();
    }
    let mut padding = String::new();
    if *span > offset {
        let words = (*span - offset) / 4;
        writeln!(padding, "        #[doc(hidden)]\n        pub _padding: [u32; {words}],").unwrap();
    }
    let text = format!(
        "/// Generated from `{name}.wgsl`.\npub mod {name} {{\n    /// What `{name}` is told at each dispatch.\n    #[repr(C)]\n    \
         #[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]\n    pub struct Params {{\n{fields}{padding}    }}\n    \
         const _: () = assert!(core::mem::size_of::<Params>() == {span});\n{asserts}}}\n"
    );
    (text, *span)
}

fn scalar_name(what: &str, scalar: &naga::Scalar) -> &'static str {
    match (scalar.kind, scalar.width) {
        (naga::ScalarKind::Uint, 4) => "u32",
        (naga::ScalarKind::Sint, 4) => "i32",
        (naga::ScalarKind::Float, 4) => "f32",
        other => panic!("{what}: {other:?} in Params"),
    }
}
