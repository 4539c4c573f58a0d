//! Every kernel on every adapter against its host twin, on all its cases: a new kernel needs no new test. Software adapters run
//! them twice, with the features that they get and with those of a GPU.

use libtest_mimic::{Arguments, Failed, Trial};
use porism_runtime::device::run_case;
use porism_runtime::gpu::{GpuExecutor, open};
use porism_runtime::host::HostExecutor;
use porism_shaders::{CaseBuffer, KERNELS, KernelId, Tolerance};
use porism_tests::{compare, every_adapter, run_as_gpu, shaped_as, short_name};

fn main() {
    let arguments = Arguments::from_args();
    let adapters = every_adapter();
    let trials = adapters
        .iter()
        .enumerate()
        .flat_map(|(index, adapter)| {
            let name = short_name(adapter);
            (0..KERNELS.len()).flat_map(move |kernel| {
                let title = format!("{}::{name}", KERNELS[kernel].name);
                let as_gpu = (shaped_as().is_none() && KERNELS[kernel].variants.len() > 1).then(|| {
                    let (gpu, title) = (format!("{title}::as-gpu"), title.clone());
                    Trial::test(gpu, move || run_as_gpu(&title))
                });
                let test = Trial::test(title, move || agrees_with_its_twin(KernelId(kernel as u16), index));
                std::iter::once(test).chain(as_gpu)
            })
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

fn agrees_with_its_twin(id: KernelId, adapter: usize) -> Result<(), Failed> {
    let kernel = id.kernel();
    let mut gpu = GpuExecutor::new(open(adapter).map_err(|e| e.to_string())?);
    let mut host = HostExecutor::twins();
    for case in (kernel.cases)() {
        let expected = run_case(&mut host, id, &case).map_err(|e| e.to_string())?;
        let found = run_case(&mut gpu, id, &case).map_err(|e| e.to_string())?;
        for (number, buffer) in case.buffers.iter().enumerate() {
            let name = kernel.bindings[number].name;
            let fail =
                |what: String| Failed::from(format!("{} / {} / `{name}`: {what}", kernel.name, case.name));
            match buffer {
                CaseBuffer::OutF32(_) => {
                    let found: &[f32] = &floats(&found[number]);
                    let expected: Vec<f64> =
                        floats(&expected[number]).iter().map(|v| f64::from(*v)).collect();
                    compare(found, &expected, case.tolerance).map_err(fail)?;
                    if let Some((binding, reference, tolerance)) = &case.reference
                        && *binding == number
                    {
                        compare(found, reference, *tolerance)
                            .map_err(|what| fail(format!("against f64: {what}")))?;
                    }
                }
                CaseBuffer::OutU32(_) => {
                    let found: Vec<f32> = words(&found[number]);
                    let expected: Vec<f64> = words(&expected[number]).iter().map(|v| f64::from(*v)).collect();
                    compare(&found, &expected, Tolerance::EXACT).map_err(fail)?;
                }
                CaseBuffer::In(bytes) => {
                    if *bytes != found[number] {
                        return Err(fail("an input was changed".into()));
                    }
                }
                CaseBuffer::Scratch(_) => {}
            }
        }
    }
    Ok(())
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect()
}

/// Integers as floats for the report, split in halves so that none is rounded.
fn words(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(2).map(|b| f32::from(u16::from_le_bytes(b.try_into().expect("2 bytes")))).collect()
}
