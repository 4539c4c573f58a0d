//! The harness of Porism's tests: every adapter there is, and comparisons that say what is wrong.

pub mod circles;
pub mod golden;
pub mod paper;
pub mod reference;
pub mod simt;
pub mod slots;
pub mod synthetic;
pub mod watched;

use porism_runtime::device::DeviceProfile;
use porism_runtime::gpu;
use porism_shaders::Tolerance;

/// All adapters of this machine, software ones included.
///
/// # Panics
/// If there is none: the tests would prove nothing.
pub fn every_adapter() -> Vec<DeviceProfile> {
    let found = gpu::adapters();
    assert!(
        !found.is_empty(),
        "no WebGPU adapter on this machine: run `tests/setup.sh`, which installs two software adapters, and set \
         VK_DRIVER_FILES as it prints"
    );
    found
}

/// What `PORISM_KERNELS` asks for in this process.
pub fn shaped_as() -> Option<porism_runtime::device::Shape> {
    porism_runtime::device::Shape::asked()
}

/// Runs the test `title` of this program again, with kernels shaped for a GPU: an adapter is opened with what the environment
/// asks for, so it takes a process of its own.
///
/// # Errors
/// What that process says, if the test fails there.
pub fn run_as_gpu(title: &str) -> Result<(), libtest_mimic::Failed> {
    let program = std::env::current_exe()?;
    let output = std::process::Command::new(program)
        .args(["--exact", title, "--nocapture"])
        .env("PORISM_KERNELS", "gpu")
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(format!("{text}{}", String::from_utf8_lossy(&output.stderr)).into());
    }
    if !text.contains("1 passed") {
        return Err(format!("`{title}` did not run:\n{text}").into());
    }
    Ok(())
}

/// A short name for an adapter in test names, e.g. `llvmpipe`.
pub fn short_name(profile: &DeviceProfile) -> String {
    let words: String = profile.name.chars().take_while(|c| c.is_alphanumeric() || *c == ' ').collect();
    let version = if profile.driver_info.is_empty() { "" } else { &profile.driver_info };
    let joined = format!("{} {version}", words.trim()).to_lowercase();
    let dashed: Vec<&str> =
        joined.split(|c: char| !c.is_alphanumeric() && c != '.').filter(|w| !w.is_empty()).collect();
    dashed.join("-")
}

/// Whether all of `found` are within `tolerance` of `expected`; if not, a report of the worst and the first difference.
pub fn compare(found: &[f32], expected: &[f64], tolerance: Tolerance) -> Result<(), String> {
    if found.len() != expected.len() {
        return Err(format!("{} values, {} expected", found.len(), expected.len()));
    }
    let mut first = None;
    let mut worst = (0, 0.0f64);
    let mut bad = 0;
    for (index, (a, b)) in found.iter().zip(expected).enumerate() {
        let a = f64::from(*a);
        let allowed = f64::from(tolerance.absolute) + f64::from(tolerance.relative) * b.abs();
        let same = a == *b || (a.is_nan() && b.is_nan());
        let ratio = if same { 0.0 } else { (a - b).abs() / allowed.max(f64::MIN_POSITIVE) };
        if same || ratio <= 1.0 {
            continue;
        }
        bad += 1;
        first.get_or_insert((index, a, *b));
        if ratio > worst.1 || ratio.is_nan() {
            worst = (index, ratio);
        }
    }
    match first {
        None => Ok(()),
        Some((index, a, b)) => Err(format!(
            "{bad} of {} values differ; first [{index}]: {a:e}, expected {b:e}; worst [{}]: {:e}, expected {:e} ({:.1} × the tolerance)",
            found.len(),
            worst.0,
            found[worst.0],
            expected[worst.0],
            worst.1
        )),
    }
}

/// Relative L2 distance and largest absolute difference of two equally long slices.
pub fn distance(found: &[f32], expected: &[f32]) -> (f64, f64) {
    assert!(found.len() == expected.len(), "{} values, {} expected", found.len(), expected.len());
    let (mut difference, mut norm, mut largest) = (0.0f64, 0.0f64, 0.0f64);
    for (a, b) in found.iter().zip(expected) {
        let (a, b) = (f64::from(*a), f64::from(*b));
        difference += (a - b).powi(2);
        norm += b.powi(2);
        largest = if (a - b).is_nan() { f64::INFINITY } else { largest.max((a - b).abs()) };
    }
    if difference.is_nan() { (f64::INFINITY, f64::INFINITY) } else { ((difference / norm).sqrt(), largest) }
}
