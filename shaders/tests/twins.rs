//! Every host twin on all its cases, against the case's own f64 computation; and the cases against their shader.

use std::collections::BTreeSet;

use porism_shaders::{Bound, Call, Case, CaseBuffer, KERNELS, Kernel, Tolerance};
use rayon::prelude::*;

/// The content before the dispatch, aligned.
fn words(buffer: &CaseBuffer) -> Vec<u32> {
    buffer
        .initial()
        .chunks_exact(4)
        .map(|four| u32::from_ne_bytes([four[0], four[1], four[2], four[3]]))
        .collect()
}

/// Runs the kernel's twin on the case; the content of every binding afterwards, as 32-bit words.
fn run_twin(kernel: &Kernel, case: &Case) -> Vec<Vec<u32>> {
    let mut contents: Vec<Vec<u32>> = case.buffers.iter().map(words).collect();
    let bindings = contents
        .iter_mut()
        .zip(kernel.bindings)
        .map(|(words, binding)| {
            if binding.writes {
                Bound::Write(bytemuck::cast_slice_mut(words))
            } else {
                Bound::Read(bytemuck::cast_slice(words))
            }
        })
        .collect();
    (kernel.twin)(&mut Call {
        params: &case.params,
        constants: case.constants,
        groups: case.groups,
        bindings,
    });
    contents
}

fn differs(found: &[f32], expected: &[f64], tolerance: Tolerance) -> Option<String> {
    if found.len() != expected.len() {
        return Some(format!("{} values, the reference has {}", found.len(), expected.len()));
    }
    let allowed = |b: f64| f64::from(tolerance.absolute) + f64::from(tolerance.relative) * b.abs();
    let close = |a: f32, b: f64| {
        let a = f64::from(a);
        a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= allowed(b)
    };
    let mut bad = found.iter().zip(expected).enumerate().filter(|(_, (a, b))| !close(**a, **b));
    let (index, (a, b)) = bad.next()?;
    Some(format!(
        "{} of {} values differ; first [{index}]: {a:e}, expected {b:e}",
        1 + bad.count(),
        found.len()
    ))
}

#[test]
fn every_twin_agrees_with_the_f64_reference_of_each_case() {
    let failures: Vec<String> = KERNELS
        .par_iter()
        .flat_map(|kernel| (kernel.cases)().into_par_iter().map(move |case| (kernel, case)))
        .filter_map(|(kernel, case)| {
            let contents = run_twin(kernel, &case);
            let (binding, reference, tolerance) = case.reference.as_ref()?;
            let what = differs(bytemuck::cast_slice(&contents[*binding]), reference, *tolerance)?;
            Some(format!("{} / {} / `{}`: {what}", kernel.name, case.name, kernel.bindings[*binding].name))
        })
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_twin_changes_what_its_case_calls_an_output() {
    let idle: Vec<String> = KERNELS
        .par_iter()
        .flat_map(|kernel| (kernel.cases)().into_par_iter().map(move |case| (kernel, case)))
        .filter(|(kernel, case)| {
            let before = case.buffers.iter().map(words);
            run_twin(kernel, case).into_iter().zip(before).all(|(after, before)| after == before)
        })
        .map(|(kernel, case)| format!("{} / {}", kernel.name, case.name))
        .collect();
    assert!(idle.is_empty(), "cases without effect:\n{}", idle.join("\n"));
}

#[test]
fn every_kernel_has_cases_that_fit_its_shader() {
    let mut kernels = BTreeSet::new();
    for kernel in KERNELS {
        assert!(kernels.insert(kernel.name), "two kernels are called {}", kernel.name);
        let cases = (kernel.cases)();
        assert!(!cases.is_empty(), "{} has no case", kernel.name);
        let mut names = BTreeSet::new();
        for case in &cases {
            let what = format!("{} / {}", kernel.name, case.name);
            assert!(names.insert(case.name.as_str()), "{what}: the name occurs twice");
            assert!(
                case.params.len() == kernel.params_bytes as usize,
                "{what}: Params of {} bytes",
                case.params.len()
            );
            assert!(
                case.groups.iter().all(|count| (1..=65535).contains(count)),
                "{what}: groups {:?}",
                case.groups
            );
            assert!(case.buffers.len() == kernel.bindings.len(), "{what}: {} buffers", case.buffers.len());
            for (buffer, binding) in case.buffers.iter().zip(kernel.bindings) {
                let bytes = buffer.initial().len();
                assert!(bytes > 0 && bytes % 4 == 0, "{what}: `{}` has {bytes} bytes", binding.name);
                let input = matches!(buffer, CaseBuffer::In(_));
                assert!(input != binding.writes, "{what}: `{}` is an input here or there", binding.name);
            }
            if let Some((binding, _, _)) = case.reference {
                assert!(
                    matches!(case.buffers[binding], CaseBuffer::OutF32(_)),
                    "{what}: the reference is of no f32 output"
                );
            }
        }
    }
}
