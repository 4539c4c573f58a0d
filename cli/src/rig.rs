//! Rigs: devices from a file, for planning without the hardware.

use std::path::Path;

use anyhow::Result;
use porism_runtime::device::{Device, nominal};
use serde::Deserialize;

use crate::failure::Failure;
use crate::settings::{parse_size, read_text};

/// A rig has no more devices than this.
const MOST_DEVICES: usize = 256;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rig {
    device: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    memory: String,
    bandwidth: String,
    link: Option<String>,
    compute: Option<String>,
    disk: Option<String>,
    binding: Option<String>,
}

/// The devices of a rig file.
pub fn read(path: &Path) -> Result<Vec<Device>> {
    parse(&read_text(path)?).map_err(|reason| {
        Failure::usage(format!("{}: {reason}", path.display()))
            .hint("a rig is a list of [[device]] tables with name, memory and bandwidth, as in docs/rigs")
            .into()
    })
}

fn parse(text: &str) -> Result<Vec<Device>, String> {
    let rig: Rig = toml::from_str(text).map_err(|error| error.to_string().trim_end().replace('\n', " "))?;
    if rig.device.is_empty() || rig.device.len() > MOST_DEVICES {
        return Err(format!("{} devices, expected 1 to {MOST_DEVICES}", rig.device.len()));
    }
    if rig.device.iter().filter(|entry| is_host(entry)).count() > 1 {
        return Err("two devices named `host`, there is one CPU side".to_owned());
    }
    rig.device.iter().map(device).collect()
}

fn is_host(entry: &Entry) -> bool {
    entry.name.eq_ignore_ascii_case("host")
}

fn device(entry: &Entry) -> Result<Device, String> {
    let of = |key: &str, reason: String| format!("device `{}`, {key}: {reason}", entry.name);
    let memory = parse_size(&entry.memory).map_err(|reason| of("memory", reason))?;
    let bandwidth = parse_rate(&entry.bandwidth).map_err(|reason| of("bandwidth", reason))?;
    let rate = |key: &str, text: &Option<String>| -> Result<Option<f64>, String> {
        text.as_deref().map(parse_rate).transpose().map_err(|reason| of(key, reason))
    };
    let device = if is_host(entry) {
        Device::host(Some(memory), bandwidth)
    } else {
        Device::adapter(&entry.name, Some(memory), bandwidth, nominal::LINK)
    };
    let mut rates = device.nominal;
    rates.link = rate("link", &entry.link)?.unwrap_or(rates.link);
    rates.disk = rate("disk", &entry.disk)?.unwrap_or(rates.disk);
    if let Some(compute) = &entry.compute {
        rates.compute = parse_operations(compute).map_err(|reason| of("compute", reason))?;
    }
    let mut device = device.with(rates);
    if let Some(binding) = &entry.binding {
        device.max_binding_bytes = parse_size(binding).map_err(|reason| of("binding", reason))?;
    }
    Ok(device)
}

/// `960GB/s` → bytes per second.
fn parse_rate(text: &str) -> Result<f64, String> {
    let wrong = || format!("`{text}` is no rate: give a size per second, as in `960GB/s`");
    let size = text.trim().strip_suffix("/s").ok_or_else(wrong)?;
    parse_size(size).map(|bytes| bytes as f64).map_err(|_| wrong())
}

/// `20TFLOPS` → operations per second.
fn parse_operations(text: &str) -> Result<f64, String> {
    let wrong = || format!("`{text}` is no computing rate: give operations per second, as in `20TFLOPS`");
    let upper = text.trim().to_ascii_uppercase();
    let number = upper.strip_suffix("FLOPS").ok_or_else(wrong)?;
    let (number, unit) = match number.chars().last() {
        Some('T') => (&number[..number.len() - 1], 1e12),
        Some('G') => (&number[..number.len() - 1], 1e9),
        _ => return Err(wrong()),
    };
    let number = number.trim_end();
    if number.is_empty() || !number.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(wrong());
    }
    number.parse::<f64>().map(|number| number * unit).ok().filter(|rate| *rate > 0.0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rigs_are_parsed_with_their_units() {
        let text = r#"
            [[device]]
            name = "RX 7900 XTX"
            memory = "24GiB"
            bandwidth = "960GB/s"
            link = "25 GB/s"
            compute = "20.5TFLOPS"
            binding = "2GiB"

            [[device]]
            name = "host"
            memory = "512GB"
            bandwidth = "300GB/s"
            disk = "7GB/s"
        "#;
        let devices = parse(text).unwrap();
        assert_eq!((devices[0].memory, devices[0].rates.bandwidth), (Some(24 << 30), 960e9));
        assert_eq!((devices[0].rates.link, devices[0].rates.compute), (25e9, 20.5e12));
        assert_eq!((devices[0].host, devices[0].max_binding_bytes), (false, 2 << 30));
        assert_eq!((devices[1].host, devices[1].rates.disk), (true, 7e9));
        assert_eq!(devices[1].memory, Some(512_000_000_000));
    }

    #[test]
    fn wrong_rigs_say_where() {
        let entry = |lines: &str| format!("[[device]]\nname = \"X\"\n{lines}");
        let cases = [
            (String::new(), "device"),
            ("device = []".to_owned(), "0 devices"),
            (entry("memory = \"24\"\nbandwidth = \"1GB/s\""), "device `X`, memory"),
            (entry("memory = \"24GB\"\nbandwidth = \"1GB\""), "device `X`, bandwidth"),
            (entry("memory = \"24GB\"\nbandwidth = \"1GB/s\"\nlink = \"fast\""), "device `X`, link"),
            (entry("memory = \"24GB\"\nbandwidth = \"1GB/s\"\ncompute = \"9FLOPS\""), "device `X`, compute"),
            (entry("memory = \"24GB\"\nbandwidth = \"1GB/s\"\nspeed = 3"), "speed"),
            (entry("bandwidth = \"1GB/s\""), "memory"),
        ];
        for (text, expected) in cases {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_rigs_of_the_documentation_are_valid() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rigs");
        let mut seen = 0;
        for entry in folder.read_dir().unwrap() {
            let devices = read(&entry.unwrap().path()).unwrap();
            let model = porism_loader::catalog::find("deepseek-math-v2").unwrap();
            let options = porism_runtime::EngineOptions::new(4096);
            porism_runtime::plan::plan(&model, &devices, &options).unwrap();
            seen += 1;
        }
        assert_eq!(seen, 3);
    }
}
