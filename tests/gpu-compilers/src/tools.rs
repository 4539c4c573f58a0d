//! Compilers that need no device: DXC for DirectX 12, and Tint, Chrome's.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use naga::back::hlsl::ShaderModel;
use porism_shaders::KERNELS;

use crate::emit;
use crate::row::Row;
use crate::stubs;
use porism_gpu_compilers::variants::variants;

/// The profiles that DXC is asked for.
pub const PROFILES: [(&str, &str, ShaderModel); 2] =
    [("dxc:cs_6_0", "cs_6_0", ShaderModel::V6_0), ("dxc:cs_6_6", "cs_6_6", ShaderModel::V6_6)];

/// Every variant's HLSL through DXC: `folder` has its library and the small program that calls it.
pub fn dxc(
    folder: &Path,
    scratch: &Path,
    (device, profile, model): (&str, &str, ShaderModel),
) -> Result<Vec<Row>> {
    let (driver, library) = (folder.join("dxc"), folder.join("libdxcompiler.so"));
    if !driver.exists() || !library.exists() {
        return Ok(vec![Row::skipped(device, "no DXC here: setup.sh could not fetch or build it")]);
    }
    let version = std::fs::read_to_string(folder.join("version")).unwrap_or_default();
    let compiler = format!("DXC of compushady {}", version.trim());
    let mut rows = Vec::new();
    for variant in variants() {
        let mut row = Row::new(variant.kernel.name, &variant.name(), device, Some(&compiler));
        row.error = match emit::hlsl(&variant, model) {
            Err(error) => Some(format!("{error:#}")),
            Ok(text) => {
                let file = scratch.join(format!("{profile}.hlsl"));
                std::fs::write(&file, text).with_context(|| file.display().to_string())?;
                wrong(Command::new(&driver).arg(&library).arg(profile).arg(&file))?
            }
        };
        rows.push(row);
    }
    Ok(rows)
}

/// Every linked source through Tint, whose analysis knows which control flow is uniform.
pub fn tint(root: &Path, scratch: &Path) -> Result<Vec<Row>> {
    if stubs::program(root, "tint").is_none() {
        return Ok(vec![Row::skipped("tint", "no Tint here: setup.sh could not fetch it")]);
    }
    let compiler = std::fs::read_to_string(root.join("tint-version")).unwrap_or_default();
    let mut rows = Vec::new();
    for kernel in KERNELS {
        for variant in kernel.variants {
            let features: Vec<String> = variant.features.names().map(|f| format!("@{f}")).collect();
            let name = if features.is_empty() { "-".to_owned() } else { features.join(" ") };
            let mut row = Row::new(kernel.name, &name, "tint", Some(compiler.trim()));
            // naga refuses the directive that Tint wants.
            let enable = if variant.wgsl.contains("subgroup") { "enable subgroups;\n" } else { "" };
            let file = scratch.join("tint.wgsl");
            std::fs::write(&file, format!("{enable}{}", variant.wgsl))
                .with_context(|| file.display().to_string())?;
            for format in ["wgsl", "spirv"] {
                let Some(mut command) = stubs::program(root, "tint") else { continue };
                command.args(["--format", format, "-o", "/dev/null"]).arg(&file);
                row.error = row.error.take().or(wrong(&mut command)?);
            }
            rows.push(row);
        }
    }
    Ok(rows)
}

/// The first line with an error of a command that fails.
fn wrong(command: &mut Command) -> Result<Option<String>> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    if output.status.success() {
        return Ok(None);
    }
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| line.contains("error")).or(text.lines().next());
    // Compilers begin with the path of their file.
    let told = line
        .map_or_else(|| output.status.to_string(), |line| line.rsplit('/').next().unwrap_or(line).to_owned());
    Ok(Some(told))
}
