//! Mesa's stub devices: drivers that believe their GPU is there. The compiler is the real one; dispatches do nothing.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::row::Row;
use porism_gpu_compilers::variants::variants;

/// Longest wait for one pipeline before the compiler counts as hanging.
const PATIENCE: Duration = Duration::from_secs(180);

/// A stub.
pub struct Stub {
    /// As in the rows.
    pub name: &'static str,
    /// Library that stands for the kernel's part of the driver.
    shim: &'static str,
    /// Manifest of the driver.
    driver: &'static str,
    /// Which GPU: a variable and its value.
    environment: &'static [(&'static str, &'static str)],
    /// Part of the quick set.
    pub quick: bool,
    /// Whether wgpu lists it.
    pub wgpu: bool,
}

macro_rules! stub {
    ($name:literal, $shim:literal, $driver:literal, [$($environment:expr),*], $quick:literal, $wgpu:literal) => {
        Stub {
            name: $name,
            shim: concat!("lib", $shim, "_noop_drm_shim.so"),
            driver: concat!($driver, "_icd.json"),
            environment: &[$($environment),*],
            quick: $quick,
            wgpu: $wgpu,
        }
    };
}

const BROKEN: (&str, &str) = ("NVK_I_WANT_A_BROKEN_VULKAN_DRIVER", "1");

/// Every stub there is. `unchecked` is the device without any check of indices, as NVIDIA's own driver has it.
pub const STUBS: &[Stub] = &[
    stub!("amd:navi31", "amdgpu", "radeon", [("AMDGPU_GPU_ID", "navi31")], true, true),
    stub!("amd:navi21", "amdgpu", "radeon", [("AMDGPU_GPU_ID", "navi21")], false, true),
    stub!("amd:gfx1201", "amdgpu", "radeon", [("AMDGPU_GPU_ID", "gfx1201")], false, true),
    stub!("amd:vega10", "amdgpu", "radeon", [("AMDGPU_GPU_ID", "vega10")], false, true),
    stub!("nv:turing", "nouveau", "nouveau", [("NOUVEAU_CHIPSET", "162"), BROKEN], false, true),
    stub!("nv:ampere", "nouveau", "nouveau", [("NOUVEAU_CHIPSET", "172"), BROKEN], false, true),
    stub!("nv:hopper", "nouveau", "nouveau", [("NOUVEAU_CHIPSET", "180"), BROKEN], true, false),
    stub!("nv:hopper:unchecked", "nouveau", "nouveau", [("NOUVEAU_CHIPSET", "180"), BROKEN], true, false),
    stub!("nv:ada", "nouveau", "nouveau", [("NOUVEAU_CHIPSET", "192"), BROKEN], false, true),
    stub!("apple:m1", "asahi", "asahi", [], true, true),
    stub!("adreno:740", "freedreno", "freedreno", [("FD_GPU_ID", "740")], false, true),
    stub!("intel:dg2", "intel", "intel", [("INTEL_STUB_GPU_PLATFORM", "dg2")], false, true),
    stub!("intel:bmg", "intel", "intel", [("INTEL_STUB_GPU_PLATFORM", "bmg")], false, true),
];

impl Stub {
    /// Whether `root` has what it needs; why not, otherwise.
    pub fn missing(&self, root: &Path) -> Option<String> {
        let libraries = libraries(root);
        if !loader(root).exists() {
            return Some("no Mesa with stubs here: setup.sh could not fetch it".into());
        }
        let missing = |what: &str| format!("{what} is not in {}", root.display());
        if !libraries.join(self.shim).exists() {
            return Some(missing(self.shim));
        }
        (!root.join("icd").join(self.driver).exists()).then(|| missing(self.driver))
    }

    /// This program in a process that sees the stub and nothing else.
    fn command(&self, root: &Path, arguments: &[&str]) -> Result<Command> {
        let libraries = libraries(root);
        let scratch = root.join("scratch");
        std::fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
        // The root's own loader and C library: nothing is installed, and no privilege is needed.
        let mut command = Command::new(loader(root));
        command.arg("--library-path").arg(&libraries).arg("--preload").arg(libraries.join(self.shim));
        command.arg(std::env::current_exe().context("the path of this program")?).args(arguments);
        command.env_clear().env("HOME", &scratch).env("XDG_RUNTIME_DIR", &scratch);
        command.env("MESA_SHADER_CACHE_DISABLE", "true");
        command.env("VK_DRIVER_FILES", root.join("icd").join(self.driver));
        command.envs(self.environment.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Ok(command)
    }

    /// A row per variant. A compiler that crashes or hangs is an error of the variant that it was given.
    pub fn compile(&self, root: &Path, listings: Option<&Path>) -> Result<Vec<Row>> {
        let all = variants();
        let mut rows: Vec<Row> = Vec::new();
        while rows.len() < all.len() {
            let from = rows.len().to_string();
            let mut arguments = vec!["on-stub", "compile", self.name, &from];
            let folder = listings.map(|folder| folder.display().to_string());
            arguments.extend(folder.as_deref());
            let (more, end) = rows_of(self.command(root, &arguments)?)?;
            let compiler = more.last().or(rows.last()).and_then(|row| row.compiler.clone());
            rows.extend(more);
            if let Some(variant) = all.get(rows.len()) {
                let mut row = Row::new(variant.kernel.name, &variant.name(), self.name, compiler.as_deref());
                row.error = Some(format!("the compiler {end}"));
                rows.push(row);
            }
        }
        Ok(rows)
    }

    /// A row per pipeline that wgpu makes, all test cases' too.
    pub fn through_wgpu(&self, root: &Path) -> Result<Vec<Row>> {
        let name = format!("{}:wgpu", self.name);
        let (mut rows, end) = rows_of(self.command(root, &["on-stub", "wgpu", &name])?)?;
        if !end.is_empty() {
            let mut row = Row { device: name, ..Row::default() };
            row.error = Some(format!("after {} pipelines wgpu {end}", rows.len()));
            rows.push(row);
        }
        Ok(rows)
    }
}

fn libraries(root: &Path) -> PathBuf {
    root.join("usr/lib/x86_64-linux-gnu")
}

fn loader(root: &Path) -> PathBuf {
    libraries(root).join("ld-linux-x86-64.so.2")
}

/// A program of the root, e.g. `tint`.
pub fn program(root: &Path, name: &str) -> Option<Command> {
    let file = root.join("usr/bin").join(name);
    (file.exists() && loader(root).exists()).then(|| {
        let mut command = Command::new(loader(root));
        command.arg("--library-path").arg(libraries(root)).arg(file);
        command
    })
}

/// Ends a child whichever way this function's caller goes on.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It has ended already, or nobody waits for it any more.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The rows a child prints, and how it ended in words; empty where it ended well.
fn rows_of(mut command: Command) -> Result<(Vec<Row>, String)> {
    let mut child = Ended(command.spawn().context("starting the stub's process")?);
    let out = BufReader::new(child.0.stdout.take().expect("piped"));
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    let mut rows = Vec::new();
    loop {
        match receive.recv_timeout(PATIENCE) {
            Ok(line) => rows.push(serde_json::from_str(&line).with_context(|| format!("not a row: {line}"))?),
            Err(RecvTimeoutError::Timeout) => {
                return Ok((rows, format!("gave no pipeline within {} s", PATIENCE.as_secs())));
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = child.0.wait().context("waiting for the stub's process")?;
                return Ok((rows, ended(status)));
            }
        }
    }
}

fn ended(status: ExitStatus) -> String {
    if status.success() { String::new() } else { format!("ended with {status}") }
}
