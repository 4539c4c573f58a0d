//! Whether the rows are as they must be.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::row::Row;
use crate::table;

/// One line of `exceptions.txt`: what is wrong, and known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Exception {
    device: String,
    kernel: String,
    variant: String,
    what: String,
}

impl Exception {
    fn of(row: &Row) -> Option<Self> {
        let what = if row.error.is_some() { "error" } else { "spills" };
        let (kernel, variant, device) = row.key();
        (row.error.is_some() || row.spills()).then(|| Exception {
            device,
            kernel,
            variant,
            what: what.into(),
        })
    }
}

impl std::fmt::Display for Exception {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} | {} | {} | {}", self.device, self.kernel, self.variant, self.what)
    }
}

fn exceptions(text: &str) -> Result<Vec<Exception>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| match line.split('|').map(str::trim).collect::<Vec<_>>()[..] {
            [device, kernel, variant, what @ ("spills" | "error")] => Ok(Exception {
                device: device.into(),
                kernel: kernel.into(),
                variant: variant.into(),
                what: what.into(),
            }),
            _ => bail!("exceptions.txt: `{line}` is not `device | kernel | variant | spills or error`"),
        })
        .collect()
}

/// What is wrong with `rows`, given the exceptions and the table.
fn failures(rows: &[Row], known: &[Exception], before: &[Row], renew: bool) -> Vec<String> {
    let mut failures = Vec::new();
    let compiled: Vec<&Row> = rows.iter().filter(|row| row.skipped.is_none()).collect();
    let wrong: Vec<(Exception, &Row)> =
        compiled.iter().filter_map(|row| Some((Exception::of(row)?, *row))).collect();
    for (exception, row) in &wrong {
        if !known.contains(exception) {
            let detail = row.error.clone().unwrap_or_else(|| {
                let shown =
                    |value: Option<u64>| value.map_or_else(|| "?".to_owned(), |value| value.to_string());
                format!("{} spills, {} bytes of scratch", shown(row.spills), shown(row.scratch))
            });
            failures.push(format!(
                "{} | {} | {}: {detail}",
                exception.device, exception.kernel, exception.variant
            ));
        }
    }
    for exception in known {
        let tried = compiled.iter().any(|row| row.device == exception.device);
        if tried && !wrong.iter().any(|(found, _)| found == exception) {
            failures.push(format!("exceptions.txt: `{exception}` is not needed any more: take it out"));
        }
    }
    if renew {
        return failures;
    }
    let before: BTreeMap<_, &Row> = before.iter().map(|row| (row.key(), row)).collect();
    for row in compiled.iter().filter(|row| row.instructions.is_some()) {
        let (kernel, variant, device) = row.key();
        let name = format!("{device} | {kernel} | {variant}");
        match before.get(&row.key()) {
            None => failures.push(format!("{name}: docs/gpu-kernels.md does not have it: renew the table")),
            Some(before) if before.compiler == row.compiler => {
                let worse = table::worse(row, before).into_iter();
                failures
                    .extend(worse.map(|what| format!("{name}: {what}: mend the kernel or renew the table")));
            }
            // Another compiler's figures may be better or worse.
            Some(_) => {}
        }
    }
    for (key, row) in &before {
        let tried = compiled.iter().any(|other| other.device == row.device);
        if tried && !compiled.iter().any(|other| other.key() == *key) {
            let (kernel, variant, device) = key;
            failures.push(format!(
                "docs/gpu-kernels.md: {device} | {kernel} | {variant} is no variant any more: renew the table"
            ));
        }
    }
    failures
}

/// Prints a line per device and what is wrong; with `renew` writes the table.
pub fn judge(root: &Path, rows: &[Row], renew: bool) -> Result<ExitCode> {
    let mut devices: Vec<&str> = rows.iter().map(|row| row.device.as_str()).collect();
    devices.dedup();
    for device in devices {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.device == device).collect();
        if let Some(reason) = &rows[0].skipped {
            println!("{device:22} skipped: {reason}");
            continue;
        }
        let errors = rows.iter().filter(|row| row.error.is_some()).count();
        let spills = rows.iter().filter(|row| row.spills()).count();
        let compiler = rows.iter().find_map(|row| row.compiler.as_deref()).unwrap_or("?");
        println!(
            "{device:22} {:3} pipelines, {errors} errors, {spills} with spills  ({compiler})",
            rows.len()
        );
    }
    let list = root.join("tests/gpu-compilers/exceptions.txt");
    let known = exceptions(&std::fs::read_to_string(&list).with_context(|| list.display().to_string())?)?;
    let page = root.join("docs/gpu-kernels.md");
    let before = std::fs::read_to_string(&page).unwrap_or_default();
    if renew {
        std::fs::write(&page, table::write(rows, &before)?).with_context(|| page.display().to_string())?;
    }
    let failures = failures(rows, &known, &table::read(&before), renew);
    for failure in &failures {
        eprintln!("gpu-compilers: {failure}");
    }
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(spills: u64) -> Row {
        let mut row = Row::new("matmul", "-", "apple:m1", Some("Honeykrisp"));
        (row.spills, row.instructions) = (Some(spills), Some(100));
        row
    }

    #[test]
    fn spills_fail_unless_they_are_known() {
        let known = exceptions("# why\napple:m1 | matmul | - | spills\n").unwrap();
        assert_eq!(
            failures(&[row(3)], &[], &[row(3)], false),
            ["apple:m1 | matmul | -: 3 spills, ? bytes of scratch"]
        );
        assert!(failures(&[row(3)], &known, &[row(3)], false).is_empty());
    }

    #[test]
    fn an_exception_that_is_not_needed_fails() {
        let known = exceptions("apple:m1 | matmul | - | spills").unwrap();
        assert_eq!(failures(&[row(0)], &known, &[row(0)], false).len(), 1);
        let other = Row { device: "nv:ada".into(), ..row(0) };
        let rows = [other];
        assert!(failures(&rows, &known, &rows, false).is_empty(), "that device was not tried");
        assert!(failures(&[Row::skipped("apple:m1", "no network")], &known, &[], false).is_empty());
    }

    #[test]
    fn figures_are_compared_for_the_same_compiler_only() {
        let mut now = row(0);
        now.instructions = Some(120);
        let mut rows = [now];
        assert_eq!(failures(&rows, &[], &[row(0)], false).len(), 1);
        assert!(failures(&rows, &[], &[row(0)], true).is_empty(), "the table is being renewed");
        rows[0].compiler = Some("Honeykrisp of next year".into());
        assert!(failures(&rows, &[], &[row(0)], false).is_empty());
    }

    #[test]
    fn a_table_without_a_variant_or_with_one_too_many_fails() {
        assert_eq!(failures(&[row(0)], &[], &[], false).len(), 1);
        let gone = Row { variant: Some("SWIGLU=1".into()), ..row(0) };
        assert_eq!(failures(&[row(0)], &[], &[row(0), gone], false).len(), 1);
    }
}
