//! `porism doctor`: why it does not work, and what to do about it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use porism_loader::{Checkpoint, Options, hub_cache};
use porism_runtime::device::Verdict;
use porism_runtime::engine::{Engine, Schedule};
use porism_runtime::{DeviceId, EngineOptions};
use serde::Serialize;
use serde_json::json;

use super::devices::{Tested, test_all, verdicts};
use crate::args::Doctor;
use crate::drivers::{self, Crashing};
use crate::failure::{describe, hint};
use crate::host::{HostProfile, free_space};
use crate::model::Model;
use crate::ui::{self, Mark, Ui};

/// Less free space than this makes downloads and results fail.
const LITTLE_SPACE: u64 = 2 << 30;
/// Tokens of the embedded model that every device computes.
const PROBE_TOKENS: u32 = 24;
/// Devices round differently; a wrong kernel is off by far more.
const PROBE_TOLERANCE: f64 = 1e-3;
/// Weights up to this size are looked through for codes that are not numbers.
const LOOK_THROUGH: u64 = 8 << 30;

/// What was looked at, and what to do about it.
#[derive(Debug, Serialize)]
struct Finding {
    name: String,
    status: &'static str,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn good(&mut self, name: &str, found: impl Into<String>) {
        self.add(name, "ok", found.into(), None);
    }

    fn note(&mut self, name: &str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(name, "note", found.into(), Some(advice.into()));
    }

    fn fault(&mut self, name: &str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(name, "fault", found.into(), Some(advice.into()));
    }

    fn add(&mut self, name: &str, status: &'static str, found: String, advice: Option<String>) {
        self.0.push(Finding { name: name.to_owned(), status, found, advice });
    }

    fn faults(&self) -> usize {
        self.0.iter().filter(|finding| finding.status == "fault").count()
    }
}

pub fn run(args: &Doctor, crashing: &[Crashing], ui: &Ui) -> Result<u8> {
    let mut findings = Findings::default();
    let host = HostProfile::read();
    let tested = test_all();
    for Crashing { file, how } in crashing {
        findings.fault(
            "driver",
            format!("{}: it {how} when its devices are listed; it is left out", file.display()),
            "update or remove it; for other programs, name those that work in VK_DRIVER_FILES",
        );
    }
    adapters(&mut findings, &tested);
    forward_pass(&mut findings, &tested);
    let model = Model::find_or_embedded(args.model.as_deref());
    let weights = match model {
        Ok(model) => check_model(&mut findings, &model),
        Err(error) => {
            let error = error.into();
            findings.fault(
                "model",
                describe(&error),
                hint(&error).unwrap_or_else(|| "check the path".to_owned()),
            );
            None
        }
    };
    memory(&mut findings, &host, weights);
    disk(&mut findings);

    let faults = findings.faults();
    if args.json {
        ui.json(&json!({ "schema": 1, "faults": faults, "findings": findings.0 }))?;
    } else {
        for finding in &findings.0 {
            let mark = match finding.status {
                "ok" => Mark::Good,
                "note" => Mark::Warning,
                _ => Mark::Fault,
            };
            ui.finding(mark, &format!("{}: {}", finding.name, finding.found))?;
            if let Some(advice) = &finding.advice {
                ui.line(&format!("      → {advice}"))?;
            }
        }
        let summary = match faults {
            0 => "no fault found".to_owned(),
            faults => format!("{} found", ui::plural(faults as u64, "fault")),
        };
        ui.line(&format!("\n{summary}"))?;
    }
    Ok(u8::from(faults > 0))
}

fn adapters(findings: &mut Findings, tested: &[Tested]) {
    for problem in driver_files() {
        findings.fault(
            "driver file",
            problem,
            "correct or unset VK_DRIVER_FILES (and VK_ICD_FILENAMES, its old name)",
        );
    }
    if tested.is_empty() {
        no_adapter(findings);
        return;
    }
    for device in tested {
        let profile = &device.profile;
        let DeviceId::Adapter(index) = profile.index else { continue };
        let name = format!("device {index}");
        let found = format!(
            "{} ({}), self-test: {}",
            profile.name,
            format!("{} {}", profile.driver, profile.driver_info).trim(),
            verdicts(device)
        );
        let failed = profile.selftest.iter().any(|test| matches!(test.verdict, Verdict::Fail(_)));
        if device.refused.is_some() {
            findings.fault(
                &name,
                found,
                "update its driver; until then use another device or `--device host`",
            );
        } else if failed {
            findings.note(
                &name,
                found,
                "what failed is switched off, the rest is used; a newer driver may mend it",
            );
        } else {
            findings.good(&name, found);
        }
    }
    if tested.iter().all(|device| device.profile.is_software()) {
        findings.note(
            "GPU",
            "only software adapters, which are slower than the host; `host` is the default",
            format!("if there is a GPU here, its driver is missing: {}", install_advice()),
        );
    }
}

/// Nothing to compute on: which link of the chain is missing.
fn no_adapter(findings: &mut Findings) {
    let works = "models still run, on the host";
    if !cfg!(target_os = "linux") {
        findings.fault("GPU", format!("no adapter; {works}"), install_advice());
        return;
    }
    if find_library("libvulkan.so.1").is_none() {
        let advice = "install it, as in `apt install libvulkan1`, and the GPU's driver";
        findings.fault("GPU", format!("the Vulkan loader, libvulkan.so.1, is missing; {works}"), advice);
        return;
    }
    if let Some(node) = locked_render_node() {
        let found = format!("{} may not be opened by this user; {works}", node.display());
        findings.fault(
            "GPU",
            found,
            "join its group, as in `sudo usermod -aG render $USER`, and log in again",
        );
        return;
    }
    let left = driver_variable();
    if left.as_deref() == Some(drivers::NOTHING) {
        findings.fault(
            "GPU",
            format!("no adapter: every driver is left out; {works}"),
            "install a driver that works, or update the one that is there",
        );
    } else if left.is_some() {
        findings.fault(
            "GPU",
            format!("no adapter, with VK_DRIVER_FILES set; {works}"),
            "unset it, or name a driver that works",
        );
    } else if installed_drivers().is_empty() {
        findings.fault("GPU", format!("no Vulkan driver is installed; {works}"), install_advice());
    } else {
        let drivers = installed_drivers().join(", ");
        let found = format!("no adapter, though these drivers are installed: {drivers}; {works}");
        findings.fault(
            "GPU",
            found,
            "none of them fits a GPU of this machine; in a container, pass the GPU in",
        );
    }
}

fn install_advice() -> String {
    let words = if cfg!(target_os = "linux") {
        "install the Vulkan driver: `apt install mesa-vulkan-drivers` for AMD and Intel, NVIDIA's own for NVIDIA"
    } else if cfg!(target_os = "macos") {
        "Metal comes with macOS; a virtual machine may lack it"
    } else {
        "install the GPU maker's driver"
    };
    words.to_owned()
}

/// VK_DRIVER_FILES or its old name.
fn driver_variable() -> Option<String> {
    ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

/// What is wrong with the files VK_DRIVER_FILES names: a missing file silently leaves its GPU out.
fn driver_files() -> Vec<String> {
    let Some(value) = driver_variable() else { return Vec::new() };
    let mut problems = Vec::new();
    for path in std::env::split_paths(&value) {
        if path.is_dir() || path == Path::new(drivers::NOTHING) {
            continue;
        }
        match std::fs::read(&path) {
            Err(error) => problems.push(format!("{}: {error}", path.display())),
            Ok(text) => problems.extend(driver_file_problem(&path, &text)),
        }
    }
    problems
}

fn driver_file_problem(path: &Path, text: &[u8]) -> Option<String> {
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(text) else {
        return Some(format!("{}: it is not JSON", path.display()));
    };
    let Some(library) = json["ICD"]["library_path"].as_str() else {
        return Some(format!("{}: it names no `library_path`", path.display()));
    };
    // A bare name is looked up by the system, anything else beside the file.
    let found = match library.contains('/') {
        true => path.parent().unwrap_or(Path::new(".")).join(library).exists(),
        false => find_library(library).is_some() || !cfg!(target_os = "linux"),
    };
    (!found).then(|| format!("{}: its library {library} does not exist", path.display()))
}

fn installed_drivers() -> Vec<String> {
    let name = |file: PathBuf| Some(file.file_name()?.to_str()?.to_owned());
    let mut names: Vec<String> = drivers::driver_files().into_iter().filter_map(name).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// A shared library where the dynamic linker usually looks.
fn find_library(name: &str) -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::var_os("LD_LIBRARY_PATH")
        .map(|paths| std::env::split_paths(&paths).collect())
        .unwrap_or_default();
    for root in ["/usr/lib", "/lib", "/usr/lib64", "/lib64", "/usr/local/lib", "/run/opengl-driver/lib"] {
        folders.push(root.into());
    }
    let arch = std::env::consts::ARCH;
    for root in ["/usr/lib", "/lib", "/usr/local/lib"] {
        folders.push(format!("{root}/{arch}-linux-gnu").into());
    }
    folders.into_iter().map(|folder| folder.join(name)).find(|path| path.exists())
}

/// A GPU's device file that this user may not open.
fn locked_render_node() -> Option<PathBuf> {
    let nodes = Path::new("/dev/dri").read_dir().ok()?.flatten().map(|entry| entry.path());
    let mut render = nodes.filter(|path| path.to_string_lossy().contains("renderD"));
    render.find(|path| {
        let opened = std::fs::OpenOptions::new().read(true).write(true).open(path);
        opened.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    })
}

/// Lets every device compute the same few tokens with the embedded model.
fn forward_pass(findings: &mut Findings, tested: &[Tested]) {
    let checkpoint = match Model::Embedded.checkpoint(Options::default()) {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            findings.fault("embedded model", error.to_string(), "this program is damaged: install it again");
            return;
        }
    };
    let expected = match probe(&checkpoint, DeviceId::Host) {
        Ok(logits) => logits,
        Err(error) => {
            let advice = "this is a defect of Porism: please report it with this output";
            findings.fault("embedded model on host", describe(&error.into()), advice);
            return;
        }
    };
    findings.good("embedded model on host", format!("{PROBE_TOKENS} tokens computed"));
    for device in tested.iter().filter(|device| device.refused.is_none()) {
        let DeviceId::Adapter(index) = device.profile.index else { continue };
        let name = format!("embedded model on device {index}");
        match probe(&checkpoint, device.profile.index) {
            Ok(logits) => {
                let distance = relative_distance(&logits, &expected);
                let found = format!(
                    "{PROBE_TOKENS} tokens computed, logits differ by {distance:.1e} of their size from the host's"
                );
                if passes(distance) {
                    findings.good(&name, found);
                } else {
                    findings.fault(
                        &name,
                        found,
                        "its driver computes wrongly: update it, or use `--device host`",
                    );
                }
            }
            Err(error) => {
                findings.fault(&name, describe(&error.into()), "update its driver, or use `--device host`");
            }
        }
    }
}

fn probe(checkpoint: &Checkpoint, device: DeviceId) -> Result<Vec<f32>, porism_runtime::Error> {
    let mut engine =
        Engine::open(checkpoint, &[device.into()], &EngineOptions::new(PROBE_TOKENS as usize), &mut |_| {
            Ok(())
        })?;
    let vocab_size = checkpoint.config().vocab_size;
    let ids: Vec<u32> = (0..PROBE_TOKENS).map(|token| token * 37 % vocab_size).collect();
    Ok(engine.logits(&ids, Schedule::Prefill, false)?.logits)
}

/// NaN does not.
fn passes(distance: f64) -> bool {
    distance < PROBE_TOLERANCE
}

fn relative_distance(found: &[f32], expected: &[f32]) -> f64 {
    let square = |value: f64| value * value;
    let difference: f64 =
        found.iter().zip(expected).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let size: f64 = expected.iter().map(|b| square(f64::from(*b))).sum();
    (difference / size).sqrt()
}

/// Opens a model's files; its weights' bytes where they can be used.
fn check_model(findings: &mut Findings, model: &Model) -> Option<u64> {
    let label = model.label();
    let checkpoint = match model.checkpoint(Options::default()) {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            let advice = "download the named file again, or give another model";
            findings.fault("model", format!("{label}: {error}"), advice);
            return None;
        }
    };
    let bytes = checkpoint.weight_bytes();
    let shards = ui::plural(checkpoint.shards().len() as u64, "shard");
    let checked = if bytes <= LOOK_THROUGH {
        if let Err(error) = checkpoint.check_all_numbers(|_| {}) {
            let advice = "the file is damaged: download it again (`--allow-nan` uses it as it is)";
            findings.fault("model", format!("{label}: {error}"), advice);
            return None;
        }
        "complete, all weights are numbers"
    } else {
        "complete"
    };
    findings.good("model", format!("{label}: {shards}, {} of weights, {checked}", ui::bytes(bytes)));
    match model.tokenizer() {
        Ok(tokenizer) => {
            findings.good("tokenizer", format!("{} tokens", ui::count(tokenizer.vocab_size().into())));
            match model
                .chat_template()
                .and_then(|template| template.ensure_vocabulary(&tokenizer).map(|()| template))
            {
                Ok(template) => findings.good("chat template", template.file().unwrap_or("built in")),
                Err(error) => {
                    findings.note("chat template", error.to_string(), "`--raw` takes a prompt as it is")
                }
            }
        }
        Err(error) => {
            findings.note("tokenizer", error.to_string(), "`run --ids` and `logits` work without one")
        }
    }
    Some(bytes)
}

fn memory(findings: &mut Findings, host: &HostProfile, weights: Option<u64>) {
    let found = format!(
        "{}, {} of memory, {} of it available",
        ui::plural(host.cores as u64, "core"),
        ui::bytes(host.memory_bytes),
        ui::bytes(host.available_bytes)
    );
    match weights {
        Some(weights) if weights > host.available_bytes => {
            let advice = format!(
                "the {} of weights are more: what of them no GPU keeps will be read from disk again and again, which is slow",
                ui::bytes(weights)
            );
            findings.note("host", found, advice);
        }
        _ => findings.good("host", found),
    }
}

/// Free space where models are kept, and for results here.
fn disk(findings: &mut Findings) {
    let mut places: Vec<(&str, PathBuf)> = vec![("disk, this folder", PathBuf::from("."))];
    if let Some(cache) = hub_cache(|name| std::env::var_os(name)).filter(|cache| cache.is_dir()) {
        places.push(("disk, Hugging Face cache", cache));
    }
    for (name, place) in places {
        // A system that does not tell is not at fault.
        let Some(free) = free_space(&place) else { continue };
        let found = format!("{} free", ui::bytes(free));
        if free < LITTLE_SPACE {
            findings.note(name, found, "make room before results or models are written there");
        } else {
            findings.good(name, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_file_must_name_a_library_that_exists() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("icd.json");
        let problem = |text: &str| driver_file_problem(&path, text.as_bytes());
        assert!(problem("{").unwrap().contains("not JSON"));
        assert!(problem("{}").unwrap().contains("library_path"));
        let relative = r#"{"ICD": {"library_path": "./libdriver.so"}}"#;
        assert!(problem(relative).unwrap().contains("does not exist"));
        std::fs::write(folder.path().join("libdriver.so"), "").unwrap();
        assert_eq!(problem(relative), None);
    }

    #[test]
    fn a_distance_of_nan_is_no_pass() {
        assert!(passes(relative_distance(&[1.0, 2.0], &[1.0, 2.0])));
        assert!(!passes(relative_distance(&[f32::NAN, 2.0], &[1.0, 2.0])));
    }
}
