//! The command as a user meets it, without anything downloaded.

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_porism-gpu-compilers");
    Command::new(program).args(arguments).output().expect("it starts")
}

#[test]
fn devices_that_cannot_be_had_are_skipped_and_told() {
    let cache = tempfile::tempdir().unwrap();
    let json = cache.path().join("rows.json");
    let output = run(&["--cache", cache.path().to_str().unwrap(), "--json", json.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let rows = std::fs::read_to_string(json).unwrap();
    for device in ["amd:navi31", "nv:hopper", "apple:m1", "dxc:cs_6_6", "tint"] {
        assert!(text.lines().any(|line| line.starts_with(device) && line.contains("skipped")), "{text}");
        let row = rows.lines().find(|row| row.contains(&format!("\"device\":\"{device}\""))).unwrap();
        let row: serde_json::Value = serde_json::from_str(row).unwrap();
        assert!(row["skipped"].is_string() && row["error"].is_null(), "{row}");
    }
}

#[test]
fn an_unknown_device_is_told_with_the_known_ones() {
    let output = run(&["--device", "amd:navi99"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(text.contains("no device `amd:navi99`") && text.contains("amd:navi31, "), "{text}");
}
