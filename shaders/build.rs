//! Links every kernel (WESL imports and `@if` features), validates each linked variant with naga for SPIR-V, MSL
//! and HLSL, and writes what callers need as Rust: `Params`, bindings, override constants and constants of each kernel
//! (`interfaces.rs`), and the table of all of them (`table.rs`). A bad shader fails `cargo check`, and so does a wrong call.

use std::collections::{BTreeMap, BTreeSet};
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
/// `Constants::MAX`
const MAX_OVERRIDES: usize = 6;

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
    let mut pieces = BTreeMap::new();
    let mut table = String::from(
        "// Written by build.rs.\n/// Every kernel, in alphabetical order.\npub static KERNELS: &[Kernel] = &[\n",
    );
    for (index, name) in names.iter().enumerate() {
        let kernel = build(name, &mut pieces);
        features.extend(kernel.features);
        out.push_str(&kernel.interface);
        table.push_str(&kernel.entry);
        let id = name.to_uppercase();
        writeln!(out, "/// Index of `{name}` in [`KERNELS`].\npub const {id}: KernelId = KernelId({index});")
            .unwrap();
    }
    table.push_str("];\n");
    out.push_str("/// Constants of the pieces that kernels share.\npub mod lib {\n");
    for (piece, constants) in &pieces {
        writeln!(out, "/// Of `lib/{piece}.wgsl`.\npub mod {piece} {{").unwrap();
        constants.values().for_each(|constant| out.push_str(constant));
        out.push_str("}\n");
    }
    out.push_str("}\n");
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
    let folder = env::var("OUT_DIR").unwrap();
    fs::write(Path::new(&folder).join("interfaces.rs"), out).unwrap();
    fs::write(Path::new(&folder).join("table.rs"), table).unwrap();
}

/// Constants as Rust by name, of each piece in `lib/`.
type Pieces = BTreeMap<String, BTreeMap<String, String>>;

struct Built {
    features: Vec<String>,
    interface: String,
    entry: String,
}

fn build(name: &str, pieces: &mut Pieces) -> Built {
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
        let mut this = validate(name, &on, &wgsl, pieces);
        match &mut reflected {
            None => reflected = Some(this),
            Some(first) => {
                // A constant that differs between variants is nobody else's business.
                first.constants.retain(|name, text| this.constants.get(name) == Some(text));
                this.constants.clone_from(&first.constants);
                assert!(*first == this, "{name}: bindings, overrides or Params differ between variants");
            }
        }
        let on: String =
            on.iter().map(|feature| format!(".with(Features::{})", feature.to_uppercase())).collect();
        writeln!(variants, "        Variant {{ features: Features::NONE{on}, wgsl: r####\"{wgsl}\"#### }},")
            .unwrap();
    }
    let reflected = reflected.unwrap();
    let bindings: String = reflected
        .bindings
        .iter()
        .map(|(name, writes)| format!("Binding {{ name: {name:?}, writes: {writes} }}, "))
        .collect();
    let overrides: String = reflected
        .overrides
        .iter()
        .map(|(name, default)| format!("Override {{ name: {name:?}, default: {default} }}, "))
        .collect();
    let entry = format!(
        "    Kernel {{ name: {name:?}, bindings: &[{bindings}], overrides: &[{overrides}], params_bytes: {}, \
         variants: &[\n{variants}    ], twin: crate::kernels::{name}::twin, cases: crate::kernels::{name}::cases }},\n",
        reflected.params_bytes,
    );
    Built { features, interface: reflected.interface(name), entry }
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

/// What whoever calls a kernel has to know.
#[derive(PartialEq)]
struct Reflected {
    /// Names, and whether they are written.
    bindings: Vec<(String, bool)>,
    /// Names and defaults.
    overrides: Vec<(String, u32)>,
    /// The fields of `Params`.
    fields: String,
    /// What has to hold for them.
    asserts: String,
    params_bytes: u32,
    /// The shader's own constants by name, as Rust.
    constants: BTreeMap<String, String>,
}

impl Reflected {
    /// The Rust module of a kernel.
    fn interface(&self, name: &str) -> String {
        let Reflected { fields, asserts, params_bytes, .. } = self;
        let constants: String = self.constants.values().map(String::as_str).collect();
        let id = name.to_uppercase();
        let count = self.bindings.len();
        let describe = "#[expect(missing_docs, reason = \"described in the shader\")]";
        let list = |names: &[String], with: &dyn Fn(&str) -> String| -> String {
            names.iter().map(|name| with(name)).collect::<Vec<_>>().join(", ")
        };
        let bindings: Vec<String> = self.bindings.iter().map(|(name, _)| name.clone()).collect();
        let overrides: Vec<String> = self.overrides.iter().map(|(name, _)| name.to_lowercase()).collect();
        let defaults: Vec<String> = self
            .overrides
            .iter()
            .map(|(name, default)| format!("{}: {default}", name.to_lowercase()))
            .collect();
        let zeros = self.overrides.iter().all(|(_, default)| *default == 0);
        let default = format!(
            "    impl Default for Overrides {{
        fn default() -> Self {{ Overrides {{ {} }} }}
    }}
",
            defaults.join(", ")
        );
        let default = if zeros { String::new() } else { default };
        let struct_of =
            |names: &[String], ty: &str| list(names, &|name| format!("{describe} pub {name}: {ty}"));
        format!(
            "/// Generated from `{name}.wgsl`.
pub mod {name} {{
    use crate::interface::{{Constants, Interface}};
    /// What `{name}` is told at each dispatch.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
    pub struct Params {{
{fields}    }}
    const _: () = assert!(core::mem::size_of::<Params>() == {params_bytes});
{asserts}
    /// What is bound to `{name}`, in binding order.
    #[derive(Clone, Copy, Debug)]
    pub struct Bindings<T> {{ {bindings_struct} }}
    impl<T> IntoIterator for Bindings<T> {{
        type Item = T;
        type IntoIter = core::array::IntoIter<T, {count}>;
        fn into_iter(self) -> Self::IntoIter {{ [{bindings_self}].into_iter() }}
    }}
    /// The override constants of `{name}`; each combination is compiled by itself.
    #[derive(Clone, Copy, Debug, PartialEq, Eq{derived_default})]
    pub struct Overrides {{ {overrides_struct} }}
{default}    impl Interface for Params {{
        const KERNEL: crate::KernelId = crate::{id};
        type Bindings<T> = Bindings<T>;
        type Overrides = Overrides;
        fn bind<T>(mut all: impl Iterator<Item = T>) -> Option<Bindings<T>> {{
            Some(Bindings {{ {bind} }})
        }}
        fn constants({all_overrides}: Overrides) -> Constants {{ Constants::new(&[{overrides_self}]) }}
        fn overrides({all_constants}: &Constants) -> Overrides {{ Overrides {{ {overrides_from} }} }}
    }}
{constants}}}
",
            bindings_struct = struct_of(&bindings, "T"),
            bindings_self = list(&bindings, &|name| format!("self.{name}")),
            bind = list(&bindings, &|name| format!("{name}: all.next()?")),
            overrides_struct = struct_of(&overrides, "u32"),
            derived_default = if zeros { ", Default" } else { "" },
            all_overrides = if overrides.is_empty() { "_" } else { "of" },
            overrides_self = list(&overrides, &|name| format!("of.{name}")),
            all_constants = if overrides.is_empty() { "_" } else { "of" },
            overrides_from = overrides
                .iter()
                .enumerate()
                .map(|(index, name)| format!("{name}: of.get({index})"))
                .collect::<Vec<_>>()
                .join(", "),
        )
    }
}

fn validate(name: &str, on: &[&str], wgsl: &str, pieces: &mut Pieces) -> Reflected {
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
    reflect(&what, &module, pieces)
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

/// The name of something in the shader: what is imported from `lib/PIECE.wgsl` is called `package_lib_PIECE_NAME` there.
fn own_name(name: &str) -> (Option<String>, &str) {
    let Some(rest) = name.strip_prefix("package_lib_") else { return (None, name) };
    let piece = fs::read_dir("src/lib")
        .expect("src/lib")
        .filter_map(|file| Some(file.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .find(|piece| rest.strip_prefix(piece.as_str()).is_some_and(|rest| rest.starts_with('_')));
    let piece = piece.unwrap_or_else(|| panic!("`{name}` is of no file in src/lib"));
    let name = &rest[piece.len() + 1..];
    // A name with underscores is preceded by their number: `_1REDUCE_LANES`.
    let name = match name.strip_prefix('_') {
        Some(counted) => counted.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => name,
    };
    (Some(piece), name)
}

fn reflect(what: &str, module: &naga::Module, pieces: &mut Pieces) -> Reflected {
    let mut bindings = Vec::new();
    let mut params = None;
    for (_, variable) in module.global_variables.iter() {
        match variable.space {
            naga::AddressSpace::Storage { access } => {
                let at = variable.binding.as_ref().unwrap();
                assert!(at.group == 0, "{what}: bindings are in group 0");
                let writes = access.contains(naga::StorageAccess::STORE);
                bindings.push((at.binding, own_name(variable.name.as_ref().unwrap()).1.to_owned(), writes));
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
    let bindings = bindings.into_iter().map(|(_, name, writes)| (name, writes)).collect();
    let mut overrides = Vec::new();
    for (_, constant) in module.overrides.iter() {
        let name = constant.name.as_ref().unwrap();
        let default = constant.init.and_then(|init| literal(module, init));
        let Some(Value::U32(default)) = default else {
            panic!("{what}: override {name} is no u32 with a default")
        };
        overrides.push((name.clone(), default));
    }
    overrides.sort();
    assert!(
        overrides.len() <= MAX_OVERRIDES,
        "{what}: {} overrides, at most {MAX_OVERRIDES}",
        overrides.len()
    );
    let mut constants = BTreeMap::new();
    for (_, constant) in module.constants.iter() {
        let Some((name, value)) = constant.name.as_ref().zip(literal(module, constant.init)) else {
            continue;
        };
        let (piece, name) = own_name(name);
        let text = match value {
            Value::U32(value) => {
                format!("    #[doc = \"`{name}` of the shader.\"]\n    pub const {name}: u32 = {value};\n")
            }
            Value::F32(value) => {
                format!("    #[doc = \"`{name}` of the shader.\"]\n    pub const {name}: f32 = {value:?};\n")
            }
        };
        match piece {
            None => {
                constants.insert(name.to_owned(), text);
            }
            Some(piece) => {
                let known = pieces.entry(piece).or_default().entry(name.to_owned()).or_insert(text.clone());
                // One that a feature changes is left out.
                if *known != text {
                    known.clear();
                }
            }
        }
    }
    let params = params.unwrap_or_else(|| panic!("{what}: `Params` is a var<immediate>"));
    let (fields, asserts, params_bytes) = params_struct(what, module, params);
    Reflected { bindings, overrides, fields, asserts, params_bytes, constants }
}

enum Value {
    U32(u32),
    F32(f32),
}

/// What a constant expression is, if it is a number.
fn literal(module: &naga::Module, expression: naga::Handle<naga::Expression>) -> Option<Value> {
    match module.global_expressions[expression] {
        naga::Expression::Literal(naga::Literal::U32(value)) => Some(Value::U32(value)),
        naga::Expression::Literal(naga::Literal::F32(value)) => Some(Value::F32(value)),
        naga::Expression::Constant(constant) => literal(module, module.constants[constant].init),
        _ => None,
    }
}

/// `Params` as Rust: only 4-byte scalars and vec4 (the layouts on which WGSL, MSL and HLSL root constants agree). Its fields,
/// what has to hold for them, and its size in bytes.
fn params_struct(what: &str, module: &naga::Module, ty: naga::Handle<naga::Type>) -> (String, String, u32) {
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
    if *span > offset {
        let words = (*span - offset) / 4;
        writeln!(fields, "        #[doc(hidden)]\n        pub _padding: [u32; {words}],").unwrap();
    }
    (fields, asserts, *span)
}

fn scalar_name(what: &str, scalar: &naga::Scalar) -> &'static str {
    match (scalar.kind, scalar.width) {
        (naga::ScalarKind::Uint, 4) => "u32",
        (naga::ScalarKind::Sint, 4) => "i32",
        (naga::ScalarKind::Float, 4) => "f32",
        other => panic!("{what}: {other:?} in Params"),
    }
}
